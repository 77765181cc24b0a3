"""How far the predictions of each state of an audit moved from those of the state before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unlearn.data.tokenization import Example
from unlearn.model.scoring import TOKEN_BUDGET, score_examples
from unlearn_eval.arrays import FloatArray, IntArray
from unlearn_eval.passes.base import AuditedState
from unlearn_eval.scores.cache import Cache
from unlearn_eval.scores.processes import sharded
from unlearn_eval.utility.drift import Anchor

__all__ = ["DriftMeter", "Observer", "spread"]

Observer = Callable[[Sequence[int], Any], None]

# Records of each split on which drift is measured: their hidden states are kept in memory.
_RECORDS = 64


def spread(total: int, wanted: int) -> IntArray:
    """Return at most `wanted` positions, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(total, wanted)).round().astype(np.int64))


class DriftMeter:
    """Compares hidden states, as these pass by, with those of the state `before`.

    Args:
        examples: encoded records by split.
        digests: of these, by split.
        stamps: what decides the numbers of each state.
        cache: where drift is kept.
    """

    def __init__(
        self,
        examples: Mapping[str, Sequence[Example]],
        digests: Mapping[str, str],
        stamps: Mapping[str, str],
        cache: Cache,
    ) -> None:
        self._examples = examples
        self._digests = digests
        self._cache = cache
        self._anchors = {
            split: Anchor(spread(len(part), _RECORDS).tolist(), [e.targets for e in part])
            for split, part in examples.items()
        }
        self._before = stamps.get("before", "")
        # of states yet to come: `before` must be looked at again where one is missing
        self._values = {
            (state, split): self._cached(stamp, split)
            for state, stamp in stamps.items()
            if "before" in stamps and state != "before"
            for split in examples
        }
        self._moved: dict[tuple[str, str], dict[int, float]] = {}

    def observer(self, audited: AuditedState, split: str) -> Observer | None:
        """Return what has to see the hidden states of a split; None if drift is known already."""
        anchor, where = self._anchors[split], (audited.key, split)
        if audited.key == "before":
            missing = any(v is None for (_, name), v in self._values.items() if name == split)
            return anchor.remember(audited.head) if missing else None
        if where not in self._values or self._values[where] is not None:
            return None
        observe, self._moved[where] = anchor.compare(audited.head)
        return observe

    def values(self, audited: AuditedState, split: str) -> FloatArray | None:
        """Return the drift of the positions in question, after the pass; None of `before`."""
        where = (audited.key, split)
        moved = self._moved.pop(where, None)
        if moved is not None:
            total = len(self._examples[split])
            known = sharded(lambda mine: [moved.get(i, np.nan) for i in mine], total)
            drift = self._anchors[split].values(dict(enumerate(known)))
            self._cache.write({"drift": drift}, *self._facts(audited.stamp, split))
            self._values[where] = drift
        return self._values.get(where)

    def positions(self, split: str) -> IntArray:
        """Return the records on which drift is measured."""
        return self._anchors[split].positions

    def watch(self, audited: AuditedState, split: str, observe: Observer) -> None:
        """Run some records again for their hidden states alone, each where it was run before."""
        part, positions = self._examples[split], self.positions(split)

        def share(mine: list[int]) -> list[None]:
            chosen = np.intersect1d(positions, mine).tolist()

            def shifted(batch: Sequence[int], hidden: Any) -> None:
                observe([chosen[i] for i in batch], hidden)

            rows = [part[i] for i in chosen]
            score_examples(audited.model, audited.head, rows, observe=shifted)
            return [None] * len(mine)

        sharded(share, len(part))

    def _cached(self, stamp: str, split: str) -> FloatArray | None:
        arrays = self._cache.read(*self._facts(stamp, split))
        return arrays["drift"] if arrays else None

    def _facts(self, stamp: str, split: str) -> tuple[Any, ...]:
        return ("drift", self._before, stamp, self._digests[split], _RECORDS, TOKEN_BUDGET)
