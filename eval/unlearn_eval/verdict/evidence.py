"""What a verdict is decided from: score matrices, who belongs together, and facts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from unlearn.errors import DataError
from unlearn.provenance.looks import Looks
from unlearn_eval.arrays import IntArray
from unlearn_eval.scores.measures import Scores
from unlearn_eval.scores.token_scores import TokenScores
from unlearn_eval.verdict.policy import AS_IS, VERBATIM, Policy, is_form

__all__ = [
    "Evidence",
    "Looks",
    "MissingError",
    "PrivacyClaim",
    "ProvenanceFact",
    "Twins",
    "View",
    "part_of",
    "reason",
]


class MissingError(DataError):
    """Something that a probe needs is not there; the message names no record."""


def reason(error: DataError) -> str:
    """Return why a probe has no statistic, without the record that other errors name."""
    return str(error) if isinstance(error, MissingError) else "some record has no finite score"


class View(NamedTuple):
    """A form in which models were run, and a way in which records were asked for."""

    deployment: str = AS_IS
    prompt_state: str = VERBATIM


class ProvenanceFact(NamedTuple):
    """Something that hashes or lineages say.

    Attributes:
        words: what should hold.
        agrees: whether it does; None if it could not be checked.
    """

    words: str
    agrees: bool | None


class Twins(NamedTuple):
    """Which unseen records are the twins of each forgotten one.

    Attributes:
        positions: int64[n, k], into the holdout.
        randomised: whether a fair coin decided, before training, which of each pair was included:
            planted canaries, with k = 1.
    """

    positions: IntArray
    randomised: bool = False


class PrivacyClaim(NamedTuple):
    """What the lineage of an audited model claims: (ε, δ) of adding or removing one unit.

    Attributes:
        epsilon: ε.
        delta: δ.
        unit: `record` or `person`; a canary is one of either by itself.
    """

    epsilon: float
    delta: float
    unit: str


@dataclass(frozen=True)
class Evidence:
    """Everything a verdict rests on.

    Attributes:
        views: by view, the score matrices by state (`before`, `after`, `reference:0` …, `base`) and
            split (`forget`, `holdout`, `retain`); the first view is (as-is, verbatim).
        subjects: by split, the subject of each record of the first view, None where it has none.
        twins: matched twins or canaries, if the holdout consists of such.
        facts: what hashes and lineages say.
        unmeasured: by prompt state, which records could not be measured in it, and why.
        partial: the references that were trained on part of the kept records only, such as the
            half-splits that serve several requests.
        unproven: by reference, why nothing shows that it never saw the records; they bar a PASS and
            excuse nothing. Whoever leaves it empty states that all of them are what they are
            called, as simulations may.
        looks: how many models and sets of references the request was looked at with, this audit
            included; None where nobody counted.
        recipe: settings in which every reference was trained otherwise than the audited model,
            which by its lineage never saw the records itself.
        claim: the differential privacy that the audited model claims, where canaries test it.
    """

    views: Mapping[View, Scores]
    subjects: Mapping[str, Sequence[Hashable | None]] = field(default_factory=dict)
    twins: Twins | None = None
    facts: Sequence[ProvenanceFact] = ()
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    partial: frozenset[str] = frozenset()
    unproven: Mapping[str, str] = field(default_factory=dict)
    looks: Looks | None = None
    recipe: Sequence[str] = ()
    claim: PrivacyClaim | None = None

    def __post_init__(self) -> None:
        if "forget" not in self.plain.get("after", {}):
            raise DataError(
                "no scores of the state 'after' on the split 'forget': nothing to judge"
            )
        for split, labels in self.subjects.items():
            part = self.plain["after"].get(split)
            if part is not None and len(labels) != part.records:
                raise DataError(f"{len(labels)} subjects for {part.records} records of {split!r}")
        if self.twins is not None:
            self._check_twins(self.twins)

    def _check_twins(self, twins: Twins) -> None:
        n, shape = self.forget.records, twins.positions.shape
        unseen = self.plain["after"].get("holdout")
        if len(shape) != 2 or shape[0] != n or not shape[1]:
            raise DataError(f"twins of shape {shape} for {n} records; give [records, twins]")
        if unseen is None or twins.positions.min() < 0 or twins.positions.max() >= unseen.records:
            raise DataError("a twin is not among the records of the holdout")
        if twins.randomised and shape[1] != 1:
            raise DataError(f"{shape[1]} twins a record: a canary has one, which the coin left out")

    @property
    def plain(self) -> Scores:
        """Score matrices of the models as they are, asked verbatim."""
        return self.views.get(View(), {})

    def scores(self, view: View) -> Scores:
        """Return the matrices of a view; treated models are compared with the base as it is."""
        scores = self.views[view]
        base = self.plain.get("base")
        if base is None or "base" in scores or view.prompt_state != VERBATIM:
            return scores
        return {**scores, "base": base}

    @property
    def forget(self) -> TokenScores:
        """Scores of the records in question in the audited model."""
        return self.plain["after"]["forget"]

    @property
    def references(self) -> list[str]:
        """The states that never saw the records."""
        return sorted((s for s in self.plain if s.startswith("reference:")), key=_number)

    @property
    def part_trained(self) -> list[str]:
        """Those of the references that were trained on part of the kept records."""
        return [state for state in self.references if state in self.partial]

    @property
    def doubtful(self) -> list[str]:
        """Those of the references of which nothing shows that they never saw the records."""
        return [state for state in self.references if state in self.unproven]

    @property
    def forget_subjects(self) -> Sequence[Hashable | None]:
        """The subject of each forgotten record, None where it has none."""
        return self.subjects.get("forget") or [None] * self.forget.records

    @property
    def subject_count(self) -> int | None:
        """Different subjects among the forgotten records; None if no record has one."""
        labels = self.forget_subjects
        known = {label for label in labels if label is not None}
        return len(known) + sum(label is None for label in labels) if known else None

    @property
    def one_subject(self) -> bool:
        """Whether all forgotten records are one observation."""
        return self.forget.records == 1 or self.subject_count == 1

    def audited(self, policy: Policy) -> list[View]:
        """Return the views of the declared deployments that the audit holds, asked verbatim.

        Args:
            policy: what is declared.

        Returns:
            The first view first.
        """
        return [
            view
            for declared in policy.deployments
            for view in self.views
            if view.prompt_state == VERBATIM and is_form(view.deployment, declared)
            if "forget" in self.views[view].get("after", {})
        ]

    def asked(self, policy: Policy) -> list[View]:
        """Return the declared prompt states that the audit holds, of the models as they are.

        Args:
            policy: what is declared.

        Returns:
            Without `verbatim`.
        """
        declared = [View(AS_IS, p) for p in policy.prompt_states if p != VERBATIM]
        return [v for v in declared if "forget" in self.views.get(v, {}).get("after", {})]

    def as_audited(self, reference: str) -> Evidence:
        """Return the evidence as if one of the references were the audited model."""

        def moved(scores: Scores) -> Scores:
            rest = {k: v for k, v in scores.items() if k not in ("after", reference)}
            return {"after": scores[reference], **rest} if reference in scores else rest

        return replace(self, views={view: moved(scores) for view, scores in self.views.items()})


def part_of(scores: Scores, state: str, split: str) -> TokenScores:
    """Return one matrix, or say what is missing.

    Raises MissingError if there is none.
    """
    part = scores.get(state, {}).get(split)
    if part is None:
        raise MissingError(f"the state {state!r} was not scored on the split {split!r}")
    return part


def _number(state: str) -> tuple[int, str]:
    """Sort `reference:10` behind `reference:9`."""
    number = state.partition(":")[2]
    return (int(number), "") if number.isdigit() else (1 << 30, number)
