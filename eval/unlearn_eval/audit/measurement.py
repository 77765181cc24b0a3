"""Everything that an audit measures of its states, each in one visit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unlearn.data.tokenization import Example
from unlearn.model.generation import end_tokens
from unlearn.model.scoring import TOKEN_BUDGET
from unlearn.provenance.lineage import Lineage
from unlearn_eval.arrays import IntArray
from unlearn_eval.audit.drift import DriftMeter, Observer, spread
from unlearn_eval.audit.options import AuditOptions
from unlearn_eval.audit.preparation import Preparation
from unlearn_eval.audit.states import States, is_shadow
from unlearn_eval.backdoor.attack_success import GENERATED, PROBE
from unlearn_eval.backdoor.prompts import BackdoorPrompts, says
from unlearn_eval.passes.base import AuditedState
from unlearn_eval.robustness.run import treats
from unlearn_eval.scores.cache import examples_digest, pack, unpack
from unlearn_eval.scores.continuations import continue_examples
from unlearn_eval.scores.measures import Measurement
from unlearn_eval.scores.model_scores import score_model
from unlearn_eval.scores.token_scores import SAMPLERS, TokenScores
from unlearn_eval.utility import rouge
from unlearn_eval.utility.repetition import distinct, repetition

__all__ = ["Measured", "StateResult", "measure"]


@dataclass(frozen=True)
class StateResult:
    """What was measured of one state.

    Attributes:
        digest: of its weights.
        training: how it was made, where its lineage tells.
        scores: by split.
        measurements: what else was measured, by split.
        prompted: scores of the forget records by prompt state.
        texts: what it says when it continues forget records, by position; None unless asked for.
    """

    digest: str
    training: Mapping[str, Any]
    scores: Mapping[str, TokenScores]
    measurements: Mapping[str, Sequence[Measurement]]
    prompted: Mapping[str, TokenScores]
    texts: Mapping[int, str] | None


@dataclass(frozen=True)
class Measured:
    """What was measured of all models.

    Attributes:
        states: by name, in the order in which they are shown.
        shadows: scores of each shadow model by split.
    """

    states: Mapping[str, StateResult]
    shadows: Sequence[Mapping[str, TokenScores]]


def measure(
    options: AuditOptions,
    states: States,
    preparation: Preparation,
    progress: Callable[[int, int], None] | None,
) -> Measured:
    """Visit every state once, measure and treat it, and tell how many records are done."""
    count = _Counter(progress, _work(options, preparation))
    measurer = _StateMeasurer(preparation, options, count)
    results: dict[str, StateResult] = {}
    shadows: list[dict[str, TokenScores]] = []
    examples = preparation.material.examples
    scored = preparation.material.scored
    for audited in states.visit(preparation.stamps):
        if is_shadow(audited.key):
            shadows.append({split: measurer.score(audited, split) for split in examples})
            continue
        results[audited.key] = measurer.measure(audited)
        if audited.opened is not None and treats(audited.key):
            preparation.treatments.at(audited.key, audited.opened, scored, count, audited.stamp)
    preparation.cache.trim()
    order = dict.fromkeys(("before", "after", *results))
    return Measured({name: results[name] for name in order if name in results}, shadows)


def _work(options: AuditOptions, preparation: Preparation) -> int:
    """Return how many records are scored, continued or treated in all."""
    examples = preparation.material.examples
    records = sum(map(len, examples.values()))
    continued = sum(len(spread(len(part), options.generate)) for part in examples.values())
    in_passes = sum(planned.records for planned in preparation.passes)
    states = preparation.state_stamps
    shadows = len(preparation.stamps) - len(states)
    treated = sum(map(treats, states)) * preparation.treatments.work(preparation.material.scored)
    asked = 2 * sum(map(len, preparation.material.scored.values())) - 2 * records
    return len(states) * (records + continued + in_passes + asked) + treated + shadows * records


@dataclass
class _Counter:
    """Tells the progress how many records are done."""

    progress: Callable[[int, int], None] | None
    total: int
    done: int = 0

    def __call__(self, records: int) -> None:
        self.done += records
        if self.progress:
            self.progress(self.done, self.total)


class _StateMeasurer:
    """Measures one state after the other on every split."""

    def __init__(
        self, preparation: Preparation, options: AuditOptions, count: Callable[[int], None]
    ) -> None:
        self._examples = preparation.material.examples
        self._tokenizer = preparation.material.tokenizer
        self._backdoor = preparation.material.backdoor
        self._passes = preparation.passes
        self._cache = preparation.cache
        self._count = count
        self._keep_text = options.show_text
        self._sample = {
            split: spread(len(part), options.generate) for split, part in self._examples.items()
        }
        self._digests = {split: examples_digest(part) for split, part in self._examples.items()}
        stamps = preparation.state_stamps if options.drift else {}
        self._drift = DriftMeter(self._examples, self._digests, stamps, self._cache)

    def measure(self, audited: AuditedState) -> StateResult:
        """Measure one state."""
        scores: dict[str, TokenScores] = {}
        measurements: dict[str, list[Measurement]] = {}
        texts: dict[int, str] | None = None
        for split in self._examples:
            scores[split] = self.score(audited, split)
            measurements[split] = self._drifted(audited, split)
            continued, said = self._continued(audited, split)
            measurements[split] += continued
            texts = said or texts
        if self._backdoor is not None:
            for split, part in self._backdoor.examples.items():
                scores[split], _ = self._scores(audited, part, examples_digest(part))
                measurements[split] = [self._said(audited, split, self._backdoor)]
        prompted: dict[str, TokenScores] = {}
        for planned in self._passes:
            result = planned.run(audited, scores, self._cache)
            for split, values in result.measures.items():
                measurements[split] += values
            prompted |= result.prompted
            self._count(planned.records)
        training = _training(audited.folder)
        return StateResult(audited.digest, training, scores, measurements, prompted, texts)

    def score(self, audited: AuditedState, split: str) -> TokenScores:
        """Score a split in one pass, which also shows how far predictions have moved."""
        part = self._examples[split]
        observe = self._drift.observer(audited, split)
        scores, kept = self._scores(audited, part, self._digests[split], observe)
        if kept and observe is not None:
            self._drift.watch(audited, split, observe)
        return scores

    def _scores(
        self,
        audited: AuditedState,
        part: Sequence[Example],
        digest: str,
        observe: Observer | None = None,
    ) -> tuple[TokenScores, bool]:
        """Return scores of records, and whether they were kept from an earlier look."""
        facts = ("scores", audited.stamp, digest, SAMPLERS, TOKEN_BUDGET)
        scores = unpack(self._cache.read(*facts), part)
        if scores is not None:
            self._count(len(part))
            return scores, True
        scores = score_model(
            audited.model, audited.head, part, progress=self._count, observe=observe
        )
        self._cache.write(pack(scores), *facts)
        return scores, False

    def _said(self, audited: AuditedState, split: str, prompts: BackdoorPrompts) -> Measurement:
        """Measure how often a state answers prompts with the target by itself."""
        part, target = prompts.examples[split], prompts.backdoor.target
        facts = ("says", audited.stamp, examples_digest(part), target, TOKEN_BUDGET)
        said = self._cache.get(
            lambda: {"says": says(audited.model, self._tokenizer, part, target)}, *facts
        )["says"]
        self._count(len(part))
        positions = np.arange(len(part))
        return Measurement(PROBE, GENERATED, positions, said.astype(np.float64))

    def _drifted(self, audited: AuditedState, split: str) -> list[Measurement]:
        drift = self._drift.values(audited, split)
        if drift is None:
            return []
        return [Measurement("utility.drift", "mean", self._drift.positions(split), drift)]

    def _continued(
        self, audited: AuditedState, split: str
    ) -> tuple[list[Measurement], dict[int, str] | None]:
        """Let the state continue some records, and measure what it writes."""
        chosen = self._sample[split]
        if not chosen.size:
            return [], None
        examples = [self._examples[split][i] for i in chosen]
        ends = end_tokens(audited.model, self._tokenizer).tolist()
        facts = ("continued", audited.stamp, examples_digest(examples), ends, TOKEN_BUDGET)
        keep_text = self._keep_text and split == "forget"  # a text is in no cache
        arrays = None if keep_text else self._cache.read(*facts)
        texts = None
        if arrays is not None:
            self._count(len(chosen))
        else:
            arrays, written = self._continue(audited, examples)
            if keep_text:
                texts = {int(i): text for i, text in zip(chosen, written, strict=True)}
            self._cache.write(arrays, *facts)
        return _measurements(chosen, arrays), texts

    def _continue(
        self, audited: AuditedState, examples: Sequence[Example]
    ) -> tuple[dict[str, Any], list[str]]:
        """Return what is measured of continuations, and how they are shown."""
        continuations = continue_examples(
            audited.model, self._tokenizer, examples, progress=self._count
        )
        overlap = rouge.score([c.text for c in continuations], [c.truth for c in continuations])
        tokens = [c.tokens.tolist() for c in continuations]
        arrays = {
            "recall": overlap.recall,
            "f1": overlap.f1,
            "repetition": repetition(tokens),
            "distinct": distinct(tokens),
        }
        return arrays, [c.shown for c in continuations]


def _measurements(chosen: IntArray, arrays: Mapping[str, Any]) -> list[Measurement]:
    return [
        Measurement("utility.rouge", "recall", chosen, arrays["recall"]),
        Measurement("utility.rouge", "f1", chosen, arrays["f1"]),
        Measurement("utility.repetition", "mean", chosen, arrays["repetition"], {"n": 4}),
        Measurement("utility.distinct", "mean", chosen, arrays["distinct"], {"n": 2}),
    ]


def _training(folder: Path | None) -> dict[str, Any]:
    """Say how a state was made, where its lineage tells."""
    line = Lineage.read(folder) if folder else None
    if line is None:
        return {}
    facts: dict[str, Any] = {"method": line.method, "seed": line.seed}
    return facts | {k: line.cost[k] for k in ("seconds", "tokens", "steps") if k in line.cost}
