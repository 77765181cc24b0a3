"""The audit as a tidy table: every number from score matrices alone."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from unlearn.errors import DataError
from unlearn_eval.arrays import IntArray
from unlearn_eval.backdoor.attack_success import PROBE as BACKDOOR
from unlearn_eval.backdoor.attack_success import SPLITS as BACKDOOR_SPLITS
from unlearn_eval.backdoor.attack_success import success_rates
from unlearn_eval.extraction import PROBES
from unlearn_eval.membership import ATTACKS, CALIBRATED, CalibrationData
from unlearn_eval.membership.calibrated.attacks import Sides
from unlearn_eval.results.audit_result import Audit, AuditRow, row_of
from unlearn_eval.results.shadows import Shadows
from unlearn_eval.scores.measures import (
    Measurement,
    Measurements,
    Prompted,
    Scores,
    check_same_records,
)
from unlearn_eval.scores.token_scores import TokenScores
from unlearn_eval.statistics import (
    Interval,
    auc_interval,
    mean_interval,
    proportion_interval,
    tpr_at_fpr,
)
from unlearn_eval.utility import calibration, loss

__all__ = [
    "Audit",
    "AuditRow",
    "Measurement",
    "Measurements",
    "Scores",
    "audit_rows",
    "calibration_data",
    "cluster_labels",
    "labels_at",
    "row_of",
]

T = TypeVar("T")

_FPR = 0.01

MIN_REFERENCES = 2
"""Fewest references of an audit for attacks that compare with references: one shows no spread."""


def audit_rows(
    scores: Scores,
    subjects: Mapping[str, Sequence[Hashable | None]],
    level: float = 0.95,
    measures: Measurements | None = None,
    prompted: Prompted | None = None,
    shadows: Shadows | None = None,
) -> list[AuditRow]:
    """Compute every number of an audit from score matrices.

    Membership compares the forget records (members) with the holdout (non-members) within one
    state; attacks that need the base use the state `base` where there is one. Attacks that need
    references use the states `reference:i`, from two on.

    Args:
        scores: by state and split; every state has the same splits.
        subjects: by split, the subject of each record, or None where it has none.
        level: confidence level of all intervals.
        measures: what was measured beside likelihoods, by state and split.
        prompted: scores of the forget records when prompted otherwise, by state and prompt state.
        shadows: models that LiRA and RMIA compare with besides; they have no rows of their own.

    Returns:
        One row a (state, split, probe, metric).

    Raises:
        DataError: if states were scored on different records.
    """
    check_same_records(scores)
    rows: list[AuditRow] = []
    base = scores.get("base", {})
    for state, splits in scores.items():
        for split, matrix in splits.items():
            clusters = cluster_labels(subjects.get(split))
            interval = mean_interval(loss.score(matrix), level, clusters)
            rows.append(row_of(state, split, "utility.loss", "mean", interval))
            rows += _measures_rows(state, split, (measures or {}).get(state, {}), clusters, level)
            if split in BACKDOOR_SPLITS:
                rows += [
                    row_of(state, split, BACKDOOR, metric, rate)
                    for metric, rate in success_rates(matrix, level, clusters)
                ]
                continue
            if split != "forget" and matrix.top is not None and matrix.records:
                both = calibration.calibration_intervals(matrix, level, clusters)
                rows += [
                    row_of(state, split, "utility.calibration", metric, interval)
                    for metric, interval in both.items()
                ]
            rows += _extraction_rows(state, split, matrix, clusters, level)
        rows += _membership_rows(state, splits, base, subjects, level)
        rows += _calibrated_rows(state, scores, subjects, level, shadows)
        rows += _measured_rows(state, (measures or {}).get(state, {}), subjects, level)
        for prompt_state, matrix in (prompted or {}).get(state, {}).items():
            place = {name: i for i, name in enumerate(splits["forget"].ids)}
            positions = np.array([place[name] for name in matrix.ids], dtype=np.int64)
            clusters = labels_at(cluster_labels(subjects.get("forget")), positions)
            more_rows = _extraction_rows(state, "forget", matrix, clusters, level)
            rows += [replace(row, prompt_state=prompt_state) for row in more_rows]
    return rows


def _measures_rows(
    state: str,
    split: str,
    measures: Mapping[str, Sequence[Measurement]],
    clusters: Sequence[Hashable] | None,
    level: float,
) -> list[AuditRow]:
    """What was measured of a split beside likelihoods: means, and rates of what is yes or no."""
    rows = []
    for measure in measures.get(split, ()):
        if measure.probe.startswith("membership."):
            continue
        interval = proportion_interval if measure.metric.startswith("rate") else mean_interval
        labels = labels_at(clusters, measure.positions)
        estimate = interval(measure.values, level, labels)
        rows.append(row_of(state, split, measure.probe, measure.metric, estimate, measure.params))
    return rows


def _extraction_rows(
    state: str,
    split: str,
    matrix: TokenScores,
    clusters: Sequence[Hashable] | None,
    level: float,
) -> list[AuditRow]:
    """Every metric of every extraction probe on the records that it is for."""
    rows = []
    for probe in PROBES.values():
        part, labels = matrix, clusters
        if probe.applies is not None:
            chosen = np.flatnonzero(probe.applies(matrix))
            if not chosen.size:
                continue
            part, labels = matrix.take(chosen), labels_at(clusters, chosen)
        for metric, options in probe.metrics.items():
            make_interval = proportion_interval if metric.startswith("rate") else mean_interval
            interval = make_interval(probe.score(part, **options), level, labels)
            rows.append(row_of(state, split, f"extraction.{probe.name}", metric, interval, options))
    return rows


def _membership_rows(
    state: str,
    splits: Mapping[str, TokenScores],
    base: Mapping[str, TokenScores],
    subjects: Mapping[str, Sequence[Hashable | None]],
    level: float,
) -> list[AuditRow]:
    """AUC and TPR of every attack on the forget records against the holdout."""
    rows = []
    member, other = splits["forget"], splits.get("holdout")
    clusters = (cluster_labels(subjects.get("forget")), cluster_labels(subjects.get("holdout")))
    for attack in ATTACKS.values():
        probe = f"membership.{attack.name}"
        if attack.needs_base and (state == "base" or not base):
            continue
        if other is None:
            rows.append(_no_holdout(state, probe, member.records, level))
            continue
        x = attack.score(member, base.get("forget"))
        y = attack.score(other, base.get("holdout"))
        rows.append(row_of(state, "forget", probe, "auc", auc_interval(x, y, level, *clusters)))
        tpr = tpr_at_fpr(x, y, _FPR, level)
        rows.append(row_of(state, "forget", probe, f"tpr@fpr={_FPR}", tpr))
    return rows


def _no_holdout(state: str, probe: str, n: int, level: float) -> AuditRow:
    """Say that members were not compared with anything."""
    note = "no records the model never saw: pass --holdout"
    refused = Interval(math.nan, math.nan, math.nan, n, level, "none", None, note)
    return row_of(state, "forget", probe, "auc", refused)


def _measured_rows(
    state: str,
    measures: Mapping[str, Sequence[Measurement]],
    subjects: Mapping[str, Sequence[Hashable | None]],
    level: float,
) -> list[AuditRow]:
    """AUC and TPR of attacks whose scores were measured in a pass of their own."""
    rows = []
    others = {measure.probe: measure for measure in measures.get("holdout", ())}
    for x in measures.get("forget", ()):
        if not x.probe.startswith("membership."):
            continue
        y = others.get(x.probe)
        if y is None:
            rows.append(_no_holdout(state, x.probe, len(x.values), level))
            continue
        clusters = (
            labels_at(cluster_labels(subjects.get("forget")), x.positions),
            labels_at(cluster_labels(subjects.get("holdout")), y.positions),
        )
        interval = auc_interval(x.values, y.values, level, *clusters)
        rows.append(row_of(state, "forget", x.probe, "auc", interval, x.params))
        interval = tpr_at_fpr(x.values, y.values, _FPR, level)
        rows.append(row_of(state, "forget", x.probe, f"tpr@fpr={_FPR}", interval, x.params))
    return rows


def _calibrated_rows(
    state: str,
    scores: Scores,
    subjects: Mapping[str, Sequence[Hashable | None]],
    level: float,
    shadows: Shadows | None,
) -> list[AuditRow]:
    """AUC and TPR of the attacks that compare a state with references and with the holdout."""
    data = calibration_data(state, scores, subjects, shadows)
    if data is None:
        return []
    clusters = (cluster_labels(subjects.get("forget")), cluster_labels(subjects.get("holdout")))
    rows = []
    for attack in CALIBRATED.values():
        probe = f"membership.{attack.name}"
        try:
            attack_scores = attack.compare(data) if attack.compare else None
        except DataError as error:
            n = data.target.member.records
            refused = Interval(math.nan, math.nan, math.nan, n, level, "none", None, str(error))
            rows.append(row_of(state, "forget", probe, "auc", refused))
            continue
        if attack_scores is None:
            continue
        for metric, interval in (
            ("auc", auc_interval(attack_scores.member, attack_scores.nonmember, level, *clusters)),
            (
                f"tpr@fpr={_FPR}",
                tpr_at_fpr(attack_scores.member, attack_scores.nonmember, _FPR, level),
            ),
        ):
            noted = interval._replace(
                note="; ".join(filter(None, [attack_scores.note, interval.note]))
            )
            rows.append(row_of(state, "forget", probe, metric, noted, attack_scores.params))
    return rows


def calibration_data(
    state: str,
    scores: Scores,
    subjects: Mapping[str, Sequence[Hashable | None]],
    shadows: Shadows | None = None,
) -> CalibrationData | None:
    """Return what the attacks in `CALIBRATED` compare a state with.

    References stand for models that saw neither side. One that is itself audited is compared with
    the others. The base was trained otherwise, and is not compared with them.

    Args:
        state: the state under attack.
        scores: by state and split.
        subjects: by split, the subject of each record, or None where it has none.
        shadows: models that saw some of the records, where there are any.

    Returns:
        The evidence; None for the base, and without a holdout.
    """
    if state == "base" or "holdout" not in scores[state]:
        return None
    references = [other for other in scores if other.startswith("reference:")]
    several = references if len(references) >= MIN_REFERENCES else []
    names = subjects.get("holdout") or [None] * scores[state]["holdout"].records
    return CalibrationData(
        target=_sides(scores[state]),
        references=[_sides(scores[other]) for other in several if other != state],
        base=_sides(scores["base"]) if "base" in scores else None,
        groups=[
            ("record", key) if name is None else ("subject", name)
            for name, key in zip(names, scores[state]["holdout"].ids, strict=True)
        ],
        shadows=[_sides(splits) for splits in shadows.scores] if shadows else (),
        member=(shadows.member["forget"], shadows.member["holdout"]) if shadows else None,
    )


def _sides(splits: Mapping[str, TokenScores]) -> Sides:
    """Return the two sides of a membership game in one state."""
    return Sides(splits["forget"], splits["holdout"])


def cluster_labels(labels: Sequence[Hashable | None] | None) -> Sequence[Hashable] | None:
    """Return the subjects of some records as clusters, or None where no record has one.

    Args:
        labels: one subject a record, None where it has none.

    Returns:
        For the statistics' `clusters`.
    """
    known = labels is not None and any(label is not None for label in labels)
    return labels if known else None


def labels_at(labels: Sequence[T] | None, positions: IntArray) -> Sequence[T] | None:
    """Return the labels of some records."""
    return None if labels is None else [labels[i] for i in positions]
