"""The result of an audit: tidy rows, and the score matrices that they were made from."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from unlearn.provenance.lineage import now
from unlearn_eval.results.shadows import Shadows
from unlearn_eval.scores.measures import Measurements, Prompted, Scores
from unlearn_eval.statistics import Interval

__all__ = ["Audit", "AuditRow", "row_of", "value_range"]


_SHARES = (
    "backdoor.",
    "extraction.",
    "membership.",
    "utility.calibration",
    "utility.distinct",
    "utility.repetition",
    "utility.rouge",
    "utility.truth_ratio",
)
_NEVER_NEGATIVE = ("extraction.exposure", "privacy.", "utility.loss", "utility.drift")


def value_range(probe: str, metric: str) -> tuple[float, float]:
    """Return between which values a metric lies, whatever is measured.

    Shares lie in [0, 1], and so does R; bits, nats and ε in [0, ∞); differences of shares in
    [−1, 1].

    Args:
        probe: `package.file` of the probe.
        metric: of the probe.

    Returns:
        (least, most), infinite where there is no bound.
    """
    bounds = (-math.inf, math.inf)
    if metric.startswith("R["):
        bounds = (0.0, 1.0)
    elif metric.startswith("excess["):
        shares = value_range(metric.removeprefix("excess[").removesuffix("]"), "mean")
        bounds = (-1.0, 1.0) if shares == (0.0, 1.0) else bounds
    elif probe.startswith(_NEVER_NEGATIVE):
        bounds = (0.0, math.inf)
    elif probe.startswith(_SHARES):
        bounds = (0.0, 1.0)
    return bounds


@dataclass(frozen=True)
class AuditRow:
    """One number of an audit: a probe's metric on one split of one state, with its interval.

    Attributes:
        state: `before`, `after`, `reference:0` …, `base`.
        split: `forget`, `retain`, `neighbour`, `holdout`; `triggered`, `untriggered` and
            `near_miss` for prompts of a backdoor.
        probe: `package.file` of the probe.
        metric: `auc`, `tpr@fpr=0.01`, `rate`, `mean`.
        value: the estimate; None where it was refused, with the reason in `note`.
        low: lower limit, None if there is none.
        high: upper limit, None if there is none.
        n: records it rests on.
        level: confidence level of the interval.
        interval: how it was made.
        clusters: distinct subjects among the records, where subjects are known.
        prompt_state: how the record was prompted.
        deployment: the form in which the model was run.
        params: the probe's parameters.
        note: what a reader must know besides.
    """

    state: str
    split: str
    probe: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    level: float
    interval: str
    clusters: int | None = None
    prompt_state: str = "verbatim"
    deployment: str = "as-is"
    params: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def limits(self) -> tuple[float, float] | None:
        """The interval without values that cannot be, which takes no coverage from it.

        A mean of shares has a t interval that knows nothing of 0 and 1.
        """
        if self.low is None or self.high is None:
            return None
        least, most = value_range(self.probe, self.metric)
        return max(self.low, least), min(self.high, most)


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        model: the base as named.
        states: weights digest of each state.
        rows: the numbers.
        scores: the score matrices they were made from.
        measures: what was measured of records beside likelihoods.
        prompted: score matrices of the forget records when prompted otherwise, where they fit.
        treated: score matrices of treated states, by state, deployment and split.
        shadows: what models that saw some of the records say about them, for attacks that compare;
            None without any.
        training: for each state with a lineage, how it was made: `method`, `seconds`, `tokens`,
            `seed`.
        subjects: by split, the subject of each record, None where it has none.
        said: by state, what it wrote when it continued forget records, by position; empty unless
            the user asked for text.
        notes: what the user should know.
        unmeasured: by prompt state, which records do not fit in the model's context.
        files: digests of the files that decide what the unlearned state computes, by name.
        records: keyed digests of the records to forget, see
            `unlearn_eval.audit.lineages.LineageFacts`.
        references: by state, what the lineage of a reference says.
        policy: `name`, `sha256`, `chosen` (ISO time), `power` and `content` of the policy that was
            fixed before any score existed; None without one.
        canaries: `sha256` of their file, pairs `planted`, `pairs` by id, included to left out, and
            the `privacy` that the model claims, if it does, where they were measured instead of
            records.
        backdoor: what was planted (`style`, `triggers`, `target`, `seed`) and how many `prompts`
            were asked, where a backdoor was measured.
        looks: how many models and sets of references the request was looked at with, by the fields
            of `unlearn.provenance.looks.Looks`; None in an audit from before they were counted.
    """

    model: str
    states: Mapping[str, str]
    rows: Sequence[AuditRow]
    scores: Scores = field(repr=False)
    measures: Measurements = field(default_factory=dict, repr=False)
    prompted: Prompted = field(default_factory=dict, repr=False)
    treated: Mapping[str, Scores] = field(default_factory=dict, repr=False)
    shadows: Shadows | None = field(default=None, repr=False)
    training: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    subjects: Mapping[str, Sequence[Hashable | None]] = field(default_factory=dict, repr=False)
    said: Mapping[str, Mapping[int, str]] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    records: Mapping[str, Any] = field(default_factory=dict, repr=False)
    references: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    policy: Mapping[str, Any] | None = None
    canaries: Mapping[str, Any] | None = None
    backdoor: Mapping[str, Any] | None = None
    looks: Mapping[str, Any] | None = None

    def get(
        self,
        state: str,
        split: str,
        probe: str,
        metric: str,
        prompt_state: str = "verbatim",
        deployment: str = "as-is",
    ) -> AuditRow:
        """Return one row.

        Raises KeyError if the audit has no such row.
        """
        wanted = (state, split, probe, metric, prompt_state, deployment)
        for row in self.rows:
            name = (row.state, row.split, row.probe, row.metric, row.prompt_state, row.deployment)
            if name == wanted:
                return row
        raise KeyError(wanted)

    def as_json(self) -> str:
        """Return the content of `audit.json`, schema 1."""
        return json.dumps(
            {
                "schema": 1,
                "created": now(),
                "model": self.model,
                "states": dict(self.states),
                "files": dict(self.files),
                "records": dict(self.records),
                "references": {state: dict(facts) for state, facts in self.references.items()},
                "training": {state: dict(facts) for state, facts in self.training.items()},
                "notes": list(self.notes),
                "unmeasured": dict(self.unmeasured),
                "policy": None if self.policy is None else dict(self.policy),
                "canaries": None if self.canaries is None else dict(self.canaries),
                "backdoor": None if self.backdoor is None else dict(self.backdoor),
                "looks": None if self.looks is None else dict(self.looks),
                "rows": [asdict(row) for row in self.rows],
            },
            indent=1,
            allow_nan=False,
        )


def row_of(
    state: str,
    split: str,
    probe: str,
    metric: str,
    estimate: Interval,
    params: Mapping[str, Any] | None = None,
) -> AuditRow:
    """Make a row of an estimate.

    Args:
        state: its state.
        split: its split.
        probe: its probe.
        metric: its metric.
        estimate: the estimate; NaN and infinity become None, with a note.
        params: the probe's parameters.

    Returns:
        The row.
    """
    # JSON has neither NaN nor infinity
    value, low, high = (float(x) if math.isfinite(x) else None for x in estimate[:3])
    note = estimate.note
    if math.isinf(estimate.value):
        note = "; ".join(filter(None, ["infinite", note]))
    return AuditRow(
        state=state,
        split=split,
        probe=probe,
        metric=metric,
        value=value,
        low=low,
        high=high,
        n=estimate.n,
        level=estimate.level,
        interval=estimate.method,
        clusters=estimate.clusters,
        params=dict(params or {}),
        note=note,
    )
