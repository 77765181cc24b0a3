"""The rows of an audit that say what became of treated states, and of the unlearned one alone."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unlearn_eval.arrays import IntArray
from unlearn_eval.backdoor.attack_success import (
    GREEDY,
    PROBE,
    SPLITS,
    TRIGGERED,
    greedy,
    success_rates,
)
from unlearn_eval.extraction import PROBES
from unlearn_eval.membership import ATTACKS
from unlearn_eval.results.audit_result import AuditRow, row_of
from unlearn_eval.results.rows import cluster_labels, labels_at
from unlearn_eval.robustness import Treatment, resemblance
from unlearn_eval.robustness.change import (
    Change,
    ChangeComparison,
    auc_change,
    compared,
    excess_interval,
    mean_change,
    resemblance_interval,
)
from unlearn_eval.robustness.treatments.treated import TreatedState
from unlearn_eval.scores.measures import Scores
from unlearn_eval.scores.token_scores import TokenScores
from unlearn_eval.statistics import Interval, auc_interval, mean_interval, proportion_interval
from unlearn_eval.statistics.common import Grouping, group, no_interval
from unlearn_eval.utility import loss

if TYPE_CHECKING:
    from unlearn_eval.robustness.run import TreatmentRuns

__all__ = ["MIN_RECORDS", "robustness_rows"]

MIN_RECORDS = 5
"""Fewest forget records for intervals of R and of the excess: with 4 all of [0, 1] is in them."""

# What is read off the forgotten records of a treated state; of the others, the loss alone.
_PROBES = (("verbatim", "rate"), ("strength", "mean"), ("exact", "mean"))

Subjects = Mapping[str, Sequence[Hashable | None]]


class _Metric(NamedTuple):
    """A number of a treated state: probe and metric."""

    probe: str
    metric: str


@dataclass(frozen=True)
class _Moved:
    """How far one state moved in one metric in one run.

    Attributes:
        change: the change.
        grouping: which records belong together.
        n: forget records.
    """

    change: Change
    grouping: Grouping
    n: int


def robustness_rows(
    runs: TreatmentRuns, scores: Scores, subjects: Subjects, level: float = 0.95
) -> list[AuditRow]:
    """Compute every number of the treated states, and how the unlearned one compares.

    A row of a treated state is named as that of the state itself, with its `deployment`. Runs that
    differ by their seed have rows of their own, and rows of their mean: ± Student's t over seeds,
    method `seeds`, which shows how much the draw matters and nothing of other records.

    Of the unlearned state, `R[probe]` says how alike it and the references move (`resemblance`),
    and `excess[probe]` how much farther it moves, Δ_u − Δ_r, in the metric's own unit; both are
    rows of the treatment's probe, their `params` hold both Δ, that of the references as a mean over
    them. Their intervals allow for records (or subjects, where these can carry it), seeds and
    references; with one reference nothing tells how much references differ.

    Args:
        runs: what the treatments gave.
        scores: of the untreated states, by state and split.
        subjects: by split, the subject of each record, or None where it has none.
        level: confidence level of the intervals.

    Returns:
        The rows, none without treatments.
    """
    rows: list[AuditRow] = []
    # by treatment, deployment and metric: what each state's runs gave
    moved: dict[tuple[Treatment, str, _Metric], dict[str, list[_Moved]]] = {}
    for key, treated_states in runs.treated.items():
        of_state: list[AuditRow] = []
        for treatment, treated in treated_states:
            of_state += _treated_rows(key, treated, scores[key], subjects, level)
            name = treated.across or treated.deployment
            for metric, change in _moves(treated, scores[key], subjects):
                where = (treatment, name, metric)
                moved.setdefault(where, {}).setdefault(key, []).append(change)
        rows += of_state + _means_over_seeds(treated_states, of_state, level)
    for (treatment, name, metric), by_state in moved.items():
        compared_rows = _comparison(metric, by_state, level)
        rows += [
            replace(row_of("after", "forget", treatment.probe, *rest), deployment=name)
            for rest in compared_rows
        ]
    for key, reasons in runs.refused.items():
        for treatment, reason in reasons:
            n = scores[key]["forget"].records
            refused = no_interval(math.nan, n, level, None, f"{treatment.name}: {reason}")
            row = row_of(key, "forget", treatment.probe, treatment.name, refused)
            rows.append(replace(row, deployment=treatment.name))
    return rows


def _treated_rows(
    key: str,
    treated: TreatedState,
    plain: Mapping[str, TokenScores],
    subjects: Subjects,
    level: float,
) -> list[AuditRow]:
    """Return the rows of one treated state."""
    labels = {s: _labels(subjects.get(s), plain[s], part) for s, part in treated.scores.items()}
    return [
        replace(
            row_of(key, split, probe, metric, interval, treated.params),
            deployment=treated.deployment,
        )
        for split, probe, metric, interval in _numbers(treated.scores, labels, level)
    ]


def _numbers(
    splits: Mapping[str, TokenScores],
    labels: Mapping[str, Sequence[Hashable] | None],
    level: float,
) -> Iterator[tuple[str, str, str, Interval]]:
    """Yield (split, probe, metric, estimate) of one state."""
    for split, matrix in splits.items():
        clusters = labels[split]
        yield split, "utility.loss", "mean", mean_interval(loss.score(matrix), level, clusters)
        if split in SPLITS:
            yield from ((split, PROBE, *rate) for rate in success_rates(matrix, level, clusters))
        if split != "forget":
            continue
        for name, metric in _PROBES:
            probe = PROBES[name]
            interval = proportion_interval if metric == "rate" else mean_interval
            values = probe.score(matrix, **probe.metrics[metric])
            yield split, f"extraction.{name}", metric, interval(values, level, clusters)
    if "holdout" in splits:
        attack = ATTACKS["loss"]
        x, y = attack.score(splits["forget"]), attack.score(splits["holdout"])
        area = auc_interval(x, y, level, labels["forget"], labels["holdout"])
        yield "forget", "membership.loss", "auc", area


def _means_over_seeds(
    treated_states: Sequence[tuple[Treatment, TreatedState]],
    rows_of_runs: Sequence[AuditRow],
    level: float,
) -> list[AuditRow]:
    """Return the means of the rows of runs that differ by their seed."""
    across = {t.deployment: t.across for _, t in treated_states if t.across}
    runs: dict[tuple[str, str, str, str], list[AuditRow]] = {}
    for row in rows_of_runs:
        if row.deployment in across:
            where = (across[row.deployment], row.split, row.probe, row.metric)
            runs.setdefault(where, []).append(row)
    rows = []
    for (name, split, probe, metric), several in runs.items():
        values = [row.value for row in several]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            mean = no_interval(math.nan, several[0].n, level, None, "a run gave no value")
        else:
            note = f"over {len(known)} seeds: says nothing of other records"
            mean = mean_interval(known, level)._replace(method="seeds", note=note)
        params = dict(several[0].params) | {"seed": [row.params.get("seed") for row in several]}
        row = row_of(several[0].state, split, probe, metric, mean._replace(n=several[0].n), params)
        rows.append(replace(row, deployment=name))
    return rows


def _moves(
    treated: TreatedState, plain: Mapping[str, TokenScores], subjects: Subjects
) -> Iterator[tuple[_Metric, _Moved]]:
    """Yield how far each metric of the forget records moved."""
    sides = [s for s in ("forget", "holdout", TRIGGERED) if s in treated.scores]
    after = {split: treated.scores[split] for split in sides}
    place = {split: _positions(plain[split], after[split]) for split in sides}
    before = {split: plain[split].take(place[split]) for split in sides}
    labels = {split: cluster_labels(subjects.get(split)) for split in sides}

    def units(of: Sequence[str]) -> tuple[Grouping, tuple[IntArray, ...]]:
        """Judge the records at hand, and number their units as in the whole of their splits."""
        whole = group(*((plain[split].records, labels[split]) for split in of))
        some = group(*((len(place[split]), labels_at(labels[split], place[split])) for split in of))
        chosen = whole if some.method("") == "cluster" else whole.by_record()
        codes = zip(chosen.codes, of, strict=True)
        return some, tuple(code[place[split]] for code, split in codes)

    grouping, (codes,) = units(["forget"])
    n = len(codes)
    yield (
        _Metric("utility.loss", "mean"),
        _Moved(
            mean_change(loss.score(before["forget"]), loss.score(after["forget"]), codes),
            grouping,
            n,
        ),
    )
    for name, metric in _PROBES:
        probe = PROBES[name]
        was, now = (
            probe.score(m["forget"], **probe.metrics[metric]).astype(np.float64)
            for m in (before, after)
        )
        change = mean_change(was, now, codes)
        yield _Metric(f"extraction.{name}", metric), _Moved(change, grouping, n)
    if TRIGGERED in sides:
        asked, (prompts,) = units([TRIGGERED])
        was, now = (greedy(m[TRIGGERED]).astype(np.float64) for m in (before, after))
        moved = _Moved(mean_change(was, now, prompts), asked, len(prompts))
        yield _Metric(PROBE, GREEDY), moved
    if "holdout" in sides:
        grouping, both = units(["forget", "holdout"])
        attack = ATTACKS["loss"]
        was_sides, now_sides = (
            (attack.score(m["forget"]), attack.score(m["holdout"])) for m in (before, after)
        )
        change = auc_change(was_sides, now_sides, (both[0], both[1]))
        yield _Metric("membership.loss", "auc"), _Moved(change, grouping, n)


def _comparison(
    metric: _Metric, by_state: Mapping[str, Sequence[_Moved]], level: float
) -> Iterator[tuple[str, Interval, dict[str, Any]]]:
    """Yield (metric, estimate, params) of R and of the excess."""
    unlearned = by_state.get("after", ())
    references = [runs for state, runs in by_state.items() if state != "after"]
    n = next(move.n for runs in (unlearned, *references) for move in runs)
    params: dict[str, Any] = {"metric": metric.metric, "references": len(references)}
    names = (f"R[{metric.probe}]", f"excess[{metric.probe}]")
    if not unlearned or not references:
        note = (
            "no reference to compare with: pass --reference"
            if unlearned
            else "the unlearned state has no value"
        )
        delta = float(np.mean([m.change.value for m in unlearned])) if unlearned else math.nan
        params |= {"delta": _finite(delta), "delta_reference": None}
        for name in names:
            yield name, no_interval(math.nan, n, level, None, note), params
        return
    grouping = unlearned[0].grouping
    unit = grouping if grouping.method("records") == "cluster" else grouping.by_record()
    changes = compared(
        [move.change for move in unlearned],
        [[move.change for move in runs] for runs in references],
        min(unit.effective) - 1,
    )
    params |= {
        "delta": _finite(changes.unlearned),
        "delta_reference": _finite(changes.reference),
        "seeds": len(unlearned),
    }
    estimates = _estimates(changes, grouping, n, len(references), level)
    for name, (interval, more) in zip(names, estimates, strict=True):
        yield name, interval, params | more


def _estimates(
    changes: ChangeComparison, grouping: Grouping, n: int, references: int, level: float
) -> tuple[tuple[Interval, dict[str, float]], tuple[Interval, dict[str, float]]]:
    """Return R and the excess, each with what else is to be said of it."""
    r = resemblance(changes.unlearned, changes.reference)
    excess = changes.unlearned - changes.reference
    refused = ""
    if not math.isfinite(r):
        refused = "a difference is infinite or undefined"
    elif n < MIN_RECORDS:
        refused = f"an interval needs {MIN_RECORDS} records, and there are {n}"
    elif not (changes.errors[0].uu > 0 and changes.errors[0].rr > 0):
        refused = "all records moved alike, or none: nothing tells how much they vary"
    if refused:
        first, second = (
            no_interval(
                value if math.isfinite(value) else math.nan, n, level, grouping.clusters, refused
            )
            for value in (r, excess)
        )
        return (first, {}), (second, {})
    notes = [grouping.note] if grouping.note else []
    if references == 1:
        notes.append("one reference does not show how much references differ")
    rest = (n, level, grouping.method("records"), grouping.clusters, "; ".join(notes))
    r_low, r_high = resemblance_interval(changes, level)
    low, high, error, freedom = excess_interval(changes, level)
    return (
        (Interval(r, r_low, r_high, *rest), {}),
        (Interval(excess, low, high, *rest), {"standard_error": error, "freedom": freedom}),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _positions(whole: TokenScores, part: TokenScores) -> IntArray:
    at = {name: i for i, name in enumerate(whole.ids)}
    return np.array([at[name] for name in part.ids], dtype=np.int64)


def _labels(
    subjects: Sequence[Hashable | None] | None, whole: TokenScores, part: TokenScores
) -> Sequence[Hashable] | None:
    """Return the clusters of the records that a matrix holds."""
    chosen = labels_at(subjects, _positions(whole, part))
    return cluster_labels(chosen)
