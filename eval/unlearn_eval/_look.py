"""Everything that an audit measures of one model state, in one visit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unlearn.batches import Example
from unlearn.lineage import Lineage
from unlearn.models import ModelState
from unlearn.scoring import Head
from unlearn_eval._arrays import IntArray
from unlearn_eval._table import Measure
from unlearn_eval.generation import continue_examples
from unlearn_eval.scores import TokenScores
from unlearn_eval.scoring import score_model
from unlearn_eval.utility import rouge
from unlearn_eval.utility.drift import Anchor
from unlearn_eval.utility.repetition import distinct, repetition

__all__ = ["Look", "View"]

# Records of each split on which drift is measured: their hidden states are kept in memory.
_DRIFTED = 64


@dataclass(frozen=True)
class View:
    """One state, ready to run.

    Attributes:
        key: its name in the audit.
        model: the model.
        head: its projection.
        digest: of its weights.
        folder: what was opened; None for the base.
        state: what was opened, to be treated further; None for the base.
    """

    key: str
    model: Any
    head: Head
    digest: str
    folder: Path | None
    state: ModelState | None = None


class Look:
    """Everything that is measured of each state, as it passes by."""

    def __init__(
        self,
        examples: Mapping[str, Sequence[Example]],
        tokenizer: Any,
        generate: int,
        progress: Callable[[int, int], None] | None,
        states: int,
        further: int = 0,
    ) -> None:
        self._examples = examples
        self._tokenizer = tokenizer
        self._sample = {key: _spread(len(part), generate) for key, part in examples.items()}
        self._anchors = {
            key: Anchor(_spread(len(part), _DRIFTED).tolist(), [e.targets for e in part])
            for key, part in examples.items()
        }
        self._anchored = False
        self._progress = progress
        self._done = 0
        per_state = sum(map(len, examples.values())) + sum(map(len, self._sample.values()))
        self._total = states * per_state + further
        self.scores: dict[str, dict[str, TokenScores]] = {}
        self.measures: dict[str, dict[str, list[Measure]]] = {}
        self.digests: dict[str, str] = {}
        self.training: dict[str, dict[str, Any]] = {}
        self.said: dict[str, dict[int, str]] = {}
        """What each state says when it continues forget records, by position."""

    def count(self, records: int) -> None:
        """Tell the progress that some more records are done."""
        self._done += records
        if self._progress:
            self._progress(self._done, self._total)

    def at(self, view: View) -> None:
        """Measure one state on every split."""
        self.digests[view.key] = view.digest
        self.scores[view.key], self.measures[view.key] = {}, {}
        if facts := _training(view.folder):
            self.training[view.key] = facts
        for split, part in self._examples.items():
            anchor = self._anchors[split]
            moved: dict[int, float] = {}
            observe = None
            if view.key == "before":
                observe = anchor.remember(view.head)
            elif self._anchored:
                observe, moved = anchor.compare(view.head)
            self.scores[view.key][split] = score_model(
                view.model, view.head, part, progress=self.count, observe=observe
            )
            found = self.measures[view.key][split] = []
            if moved:
                found.append(
                    Measure("utility.drift", "mean", anchor.positions, anchor.values(moved))
                )
            found += self._continued(view, split, part)
        self._anchored |= view.key == "before"

    def _continued(self, view: View, split: str, part: Sequence[Example]) -> list[Measure]:
        """Let the state continue some records, and measure what it writes."""
        chosen = self._sample[split]
        if not chosen.size:
            return []
        said = continue_examples(
            view.model, self._tokenizer, [part[i] for i in chosen], progress=self.count
        )
        if split == "forget":
            self.said[view.key] = {int(i): c.shown for i, c in zip(chosen, said, strict=True)}
        overlap = rouge.score([c.text for c in said], [c.truth for c in said])
        tokens = [c.tokens.tolist() for c in said]
        return [
            Measure("utility.rouge", "recall", chosen, overlap.recall),
            Measure("utility.rouge", "f1", chosen, overlap.f1),
            Measure("utility.repetition", "mean", chosen, repetition(tokens), {"n": 4}),
            Measure("utility.distinct", "mean", chosen, distinct(tokens), {"n": 2}),
        ]


def _spread(total: int, wanted: int) -> IntArray:
    """Return at most `wanted` positions, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(total, wanted)).round().astype(np.int64))


def _training(folder: Path | None) -> dict[str, Any]:
    """Say how a state was made, where its lineage tells."""
    line = Lineage.read(folder) if folder else None
    if line is None:
        return {}
    facts: dict[str, Any] = {"method": line.method, "seed": line.seed}
    return facts | {k: line.cost[k] for k in ("seconds", "tokens", "steps") if k in line.cost}
