"""Everything that an audit measures of one model state, in one visit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unlearn.data.tokenization import Example
from unlearn.model.generation import end_tokens
from unlearn.model.scoring import TOKEN_BUDGET, score_examples
from unlearn.provenance.lineage import Lineage
from unlearn_eval.arrays import FloatArray, IntArray
from unlearn_eval.passes.base import Planned, View
from unlearn_eval.scores.cache import Cache, examples_digest, pack, unpack
from unlearn_eval.scores.continuations import continue_examples
from unlearn_eval.scores.measures import Measure
from unlearn_eval.scores.model_scores import score_model
from unlearn_eval.scores.processes import sharded
from unlearn_eval.scores.token_scores import SAMPLERS, TokenScores
from unlearn_eval.utility import rouge
from unlearn_eval.utility.drift import Anchor
from unlearn_eval.utility.repetition import distinct, repetition

__all__ = ["Look"]

# Records of each split on which drift is measured: their hidden states are kept in memory.
_DRIFTED = 64


class Look:
    """Everything that is measured of each state, as it passes by."""

    def __init__(
        self,
        examples: Mapping[str, Sequence[Example]],
        tokenizer: Any,
        generate: int,
        progress: Callable[[int, int], None] | None,
        stamps: Mapping[str, str],
        cache: Cache,
        listen: bool,
        passes: Sequence[Planned] = (),
        further: int = 0,
    ) -> None:
        self._examples = examples
        self._tokenizer = tokenizer
        self._sample = {key: _spread(len(part), generate) for key, part in examples.items()}
        self._anchors = {
            key: Anchor(_spread(len(part), _DRIFTED).tolist(), [e.targets for e in part])
            for key, part in examples.items()
        }
        self._cache = cache
        self._listen = listen
        self._passes = passes
        self._names = {key: examples_digest(part) for key, part in examples.items()}
        self._before = stamps.get("before", "")
        # of states yet to come: the first one must be looked at again where one is missing
        self._drift = {
            (state, split): self._kept_drift(stamp, split)
            for state, stamp in stamps.items()
            if "before" in stamps and state != "before"
            for split in examples
        }
        self._progress = progress
        self._done = 0
        per_state = sum(map(len, examples.values())) + sum(map(len, self._sample.values()))
        per_state += sum(planned.records for planned in passes)
        self._total = len(stamps) * per_state + further
        self.scores: dict[str, dict[str, TokenScores]] = {}
        self.measures: dict[str, dict[str, list[Measure]]] = {}
        self.prompted: dict[str, dict[str, TokenScores]] = {}
        self.digests: dict[str, str] = {}
        self.training: dict[str, dict[str, Any]] = {}
        self.shadows: list[dict[str, TokenScores]] = []
        """Scores of shadow models, in the order they passed by."""
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
            scores, drift = self._scored(view, split, part)
            self.scores[view.key][split] = scores
            found = self.measures[view.key][split] = []
            if drift is not None:
                positions = self._anchors[split].positions
                found.append(Measure("utility.drift", "mean", positions, drift))
            found += self._continued(view, split, part)
        self.prompted[view.key] = {}
        for planned in self._passes:
            more = planned.run(view, self.scores[view.key], self._cache)
            for split, measures in more.measures.items():
                self.measures[view.key][split] += measures
            self.prompted[view.key] |= more.prompted
            self.count(planned.records)

    def shadow(self, view: View) -> None:
        """Score a shadow model on every split, and nothing else of it."""
        splits = self._examples.items()
        self.shadows.append({split: self._scored(view, split, part)[0] for split, part in splits})

    def _scored(
        self, view: View, split: str, part: Sequence[Example]
    ) -> tuple[TokenScores, FloatArray | None]:
        """Score a split in one pass, which also shows how far predictions have moved."""
        anchor, moved = self._anchors[split], dict[int, float]()
        observe, compared = None, False
        drift = self._drift.get((view.key, split))
        if view.key == "before":
            if any(kept is None for (_, name), kept in self._drift.items() if name == split):
                observe = anchor.remember(view.head)
        elif (view.key, split) in self._drift and drift is None:
            observe, moved = anchor.compare(view.head)
            compared = True
        facts = ("scores", view.stamp, self._names[split], SAMPLERS, TOKEN_BUDGET)
        scores = unpack(self._cache.read(*facts), part)
        if scores is None:
            scores = score_model(view.model, view.head, part, progress=self.count, observe=observe)
            self._cache.write(pack(scores), *facts)
        else:
            if observe is not None:
                _watch(view, part, anchor.positions, observe)
            self.count(len(part))
        if compared:
            known = sharded(lambda mine: [moved.get(i, np.nan) for i in mine], len(part))
            drift = anchor.values(dict(enumerate(known)))
            self._cache.write({"drift": drift}, *self._drift_facts(view.stamp, split))
        return scores, drift

    def _kept_drift(self, stamp: str, split: str) -> FloatArray | None:
        kept = self._cache.read(*self._drift_facts(stamp, split))
        return kept["drift"] if kept else None

    def _drift_facts(self, stamp: str, split: str) -> tuple[Any, ...]:
        return ("drift", self._before, stamp, self._names[split], _DRIFTED, TOKEN_BUDGET)

    def _continued(self, view: View, split: str, part: Sequence[Example]) -> list[Measure]:
        """Let the state continue some records, and measure what it writes."""
        chosen = self._sample[split]
        if not chosen.size:
            return []
        examples = [part[i] for i in chosen]
        ends = end_tokens(view.model, self._tokenizer).tolist()
        facts = ("continued", view.stamp, examples_digest(examples), ends, TOKEN_BUDGET)
        aloud = self._listen and split == "forget"  # a text is in no cache
        found = None if aloud else self._cache.read(*facts)
        if found is None:
            said = continue_examples(view.model, self._tokenizer, examples, progress=self.count)
            if aloud:
                self.said[view.key] = {int(i): c.shown for i, c in zip(chosen, said, strict=True)}
            overlap = rouge.score([c.text for c in said], [c.truth for c in said])
            tokens = [c.tokens.tolist() for c in said]
            found = {
                "recall": overlap.recall,
                "f1": overlap.f1,
                "repetition": repetition(tokens),
                "distinct": distinct(tokens),
            }
            self._cache.write(found, *facts)
        else:
            self.count(len(chosen))
        return [
            Measure("utility.rouge", "recall", chosen, found["recall"]),
            Measure("utility.rouge", "f1", chosen, found["f1"]),
            Measure("utility.repetition", "mean", chosen, found["repetition"], {"n": 4}),
            Measure("utility.distinct", "mean", chosen, found["distinct"], {"n": 2}),
        ]


def _watch(
    view: View,
    part: Sequence[Example],
    positions: IntArray,
    observe: Callable[[Sequence[int], Any], None],
) -> None:
    """Run some records again for their hidden states alone, each where it was run before."""

    def share(mine: list[int]) -> list[None]:
        chosen = np.intersect1d(positions, mine).tolist()

        def shifted(batch: Sequence[int], hidden: Any) -> None:
            observe([chosen[i] for i in batch], hidden)

        score_examples(view.model, view.head, [part[i] for i in chosen], observe=shifted)
        return [None] * len(mine)

    sharded(share, len(part))


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
