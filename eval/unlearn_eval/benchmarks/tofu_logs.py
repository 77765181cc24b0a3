"""Recompute TOFU's metrics from published per-record logs, which hold losses and written answers.

The layout is that of `TOFU_EVAL.json`: by metric, `agg_value` and, by record, `value_by_index`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.benchmarks.muse import privacy_leakage
from unlearn_eval.benchmarks.tofu import TofuSplit, forget_quality, tofu_metrics
from unlearn_eval.statistics import auc
from unlearn_eval.utility import rouge

__all__ = ["read_log", "recompute_log", "splits_of_log"]

_PREFIX = {"forget": "forget", "retain": "retain", "real_authors": "ra", "world_facts": "wf"}

# metrics whose value is the mean of a number that the log gives for each record
_MEANS = ("exact_memorization", "extraction_strength")


def read_log(path: str | Path) -> dict[str, Any]:
    """Read a log.

    Args:
        path: `TOFU_EVAL.json`.

    Returns:
        Its content.

    Raises:
        DataError: if it is no such log.
    """
    try:
        log = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot read the log: {error}") from error
    if not isinstance(log, dict) or not isinstance(log.get("forget_Q_A_PERT_Prob"), dict):
        raise DataError(f"{path}: no per-record TOFU log: 'forget_Q_A_PERT_Prob' is missing")
    return log


def splits_of_log(log: Mapping[str, Any]) -> dict[str, TofuSplit]:
    """Return the per-record scores of a log, as `evaluate_tofu` gives them for a model.

    ROUGE-L recall is computed anew from the written answers.

    Args:
        log: of `read_log`.

    Returns:
        The scores by split.

    Raises:
        DataError: naming the metric that is missing or does not fit the others.
    """
    return {name: _split(log, name) for name in _PREFIX}


def _split(log: Mapping[str, Any], name: str) -> TofuSplit:
    prefix = _PREFIX[name]
    answer = _column(log, f"{prefix}_Q_A_Prob", "avg_loss")
    paraphrased = name in {"forget", "retain"}
    truth = _column(log, f"{prefix}_Q_A_PARA_Prob", "avg_loss") if paraphrased else answer
    perturbed = _column(log, f"{prefix}_Q_A_PERT_Prob", "avg_loss")
    written = _column(log, f"{prefix}_Q_A_ROUGE", "generation")
    known = _column(log, f"{prefix}_Q_A_ROUGE", "ground_truth")
    for other in (truth, perturbed, written):
        if list(other) != list(answer):
            raise DataError(f"the log's metrics of {prefix!r} are not of the same records")
    return TofuSplit(
        answer=_numbers(answer),
        paraphrase=_numbers(truth),
        perturbed=tuple(np.array(losses, dtype=np.float64) for losses in perturbed.values()),
        rouge=rouge.score(list(written.values()), list(known.values())).recall,
        written=tuple(written.values()),
    )


def recompute_log(
    log: Mapping[str, Any], retrained: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Compute all metrics of a log anew from its records, under the log's own names.

    Membership scores in a log are losses, smaller = more likely a member. `privleak` compares with
    the retrained model's log; where the published logs have none, they put A = ½ in its place.

    Args:
        log: of `read_log`.
        retrained: the log of a model that never saw the forget records; without it neither
            `forget_quality` nor `privleak` can be computed.

    Returns:
        By metric, its value.

    Raises:
        DataError: naming the metric that is missing or does not fit the others.
    """
    splits = splits_of_log(log)
    numbers = tofu_metrics(splits)
    recomputed = {"model_utility": numbers["model_utility"].value}
    for name, prefix in _PREFIX.items():
        optional = prefix in {"ra", "wf"}
        recomputed[f"{prefix}_Q_A_Prob{'_normalised' if optional else ''}"] = numbers[
            f"{name}.probability"
        ].value
        recomputed[f"{prefix}_Q_A_ROUGE"] = numbers[f"{name}.rouge"].value
        ratio = "forget_truth_ratio" if name == "forget" else f"{prefix}_Truth_Ratio"
        recomputed[ratio] = numbers[f"{name}.truth_ratio"].value
    for metric in _MEANS:
        if metric in log:
            recomputed[metric] = float(_numbers(_column(log, metric, "score")).mean())
    recomputed |= {name: _attack_auc(log, name) for name in log if name.startswith("mia_")}
    if retrained is not None:
        other = _split(retrained, "forget")
        recomputed["forget_quality"] = forget_quality(splits["forget"], other).p_value
        if "mia_min_k" in log and "mia_min_k" in retrained:
            recomputed["privleak"] = privacy_leakage(
                recomputed["mia_min_k"], _attack_auc(retrained, "mia_min_k")
            )
    return recomputed


def _attack_auc(log: Mapping[str, Any], name: str) -> float:
    """Return the AUC of an attack on the forget records against the holdout."""
    sides = [-_numbers(_column(log[name], side, "score")) for side in ("forget", "holdout")]
    return auc(*sides)


def _column(log: Mapping[str, Any], metric: str, key: str) -> dict[str, Any]:
    """Return one value a record of one metric."""
    try:
        rows = log[metric]["value_by_index"]
        return {index: row[key] for index, row in rows.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the log gives no {key!r} for the records of {metric!r}") from error


def _numbers(column: Mapping[str, Any]) -> FloatArray:
    return np.array(list(column.values()), dtype=np.float64)
