"""Treat the unlearned state and its references alike, and lay the results out as audit rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean

import torch

from unlearn.batches import Example
from unlearn.errors import UnlearnError
from unlearn.models import ModelState
from unlearn.training import sample
from unlearn_eval._cache import Cache
from unlearn_eval._processes import ProcessLostError, everywhere
from unlearn_eval._table import AuditRow, Scores, cluster_labels, row_of
from unlearn_eval.extraction import PROBES
from unlearn_eval.membership import ATTACKS
from unlearn_eval.robustness import Treatment, resemblance
from unlearn_eval.robustness._kept import apply
from unlearn_eval.robustness.treated import Examples, Setting, Treated
from unlearn_eval.scores import TokenScores
from unlearn_eval.statistics import Interval, auc_interval, mean_interval, proportion_interval
from unlearn_eval.utility import loss

__all__ = ["Trial", "robustness_rows", "treats"]

# What is read off the forgotten records of a treated state; of the others, the loss alone.
_PROBES = (("verbatim", "rate"), ("strength", "mean"), ("exact", "mean"))


def treats(key: str) -> bool:
    """Say whether a state of an audit is treated: the unlearned one and the references."""
    return key == "after" or key.startswith("reference:")


@dataclass
class Trial:
    """Treatments of the states of an audit, as these pass by.

    Attributes:
        treatments: which.
        setting: shared by all.
        cache: where what they gave is kept.
        found: by state, what each treatment gave.
        refused: by state, why a treatment was not possible.
    """

    treatments: Sequence[Treatment]
    setting: Setting
    cache: Cache = field(default_factory=Cache)
    found: dict[str, list[tuple[Treatment, Treated]]] = field(default_factory=dict)
    refused: dict[str, list[tuple[Treatment, str]]] = field(default_factory=dict)

    def work(self, examples: Examples) -> int:
        """Return about how many records are scored of each treated state.

        Args:
            examples: encoded records by split.

        Returns:
            What `at` counts in all.
        """
        return sum(self._work(t, _looked_at(examples)) for t in self.treatments)

    def at(
        self,
        key: str,
        state: ModelState,
        examples: Examples,
        count: Callable[[int], None],
        stamp: str = "",
    ) -> None:
        """Apply every treatment to one state, which is left as it was.

        Args:
            key: the state's name in the audit.
            state: the state.
            examples: encoded records by split.
            count: called with the records done after each treatment.
            stamp: digest of all that decides what the state computes; empty keeps nothing.
        """
        some = _looked_at(examples)
        found = self.found.setdefault(key, [])
        for treatment in self.treatments:
            work = partial(apply, treatment, state, some, self.setting, self.cache, stamp)
            try:
                found += [(treatment, t) for t in everywhere(work)]
            except ProcessLostError:
                raise
            except UnlearnError as error:
                self.refused.setdefault(key, []).append((treatment, str(error)))
            except torch.OutOfMemoryError:
                self.refused.setdefault(key, []).append((treatment, "out of memory"))
            count(self._work(treatment, some))

    @staticmethod
    def _work(treatment: Treatment, some: Examples) -> int:
        return treatment.passes * sum(map(len, some.values()))


def _looked_at(examples: Examples) -> dict[str, Sequence[Example]]:
    """Return what is scored: of the retain records a sample, enough to show a model that breaks."""
    return {s: sample(part) if s == "retain" else part for s, part in examples.items()}


def robustness_rows(
    trial: Trial,
    scores: Scores,
    subjects: Mapping[str, Sequence[Hashable | None]],
    level: float = 0.95,
) -> list[AuditRow]:
    """Compute every number of the treated states, and R of the unlearned one.

    A row of a treated state is named as that of the state itself, with its `deployment`. The rows
    of R have the treatment as probe and `R[probe]` as metric; their `params` hold both Δ, that of
    the references as a mean over them.

    Args:
        trial: what the treatments gave.
        scores: of the untreated states, by state and split.
        subjects: by split, the subject of each record, or None where it has none.
        level: confidence level of the intervals.

    Returns:
        The rows, none without treatments.
    """
    rows: list[AuditRow] = []
    # by deployment and metric: Δ of every treated state
    moved: dict[tuple[str, str, str, str], dict[str, float]] = {}
    notes: dict[tuple[str, str, str, str], int] = {}
    for key, treated_states in trial.found.items():
        for treatment, treated in treated_states:
            same = {s: _same(scores[key][s], part) for s, part in treated.scores.items()}
            labels = {s: _labels(subjects.get(s), scores[key][s], part) for s, part in same.items()}
            plain = list(_numbers(same, labels, level))
            after = list(_numbers(treated.scores, labels, level))
            for (split, probe, metric, was), (*_, now) in zip(plain, after, strict=True):
                row = row_of(key, split, probe, metric, now, treated.params)
                rows.append(replace(row, deployment=treated.deployment))
                if split == "forget":
                    where = (treatment.probe, treated.deployment, probe, metric)
                    moved.setdefault(where, {})[key] = now.value - was.value
                    notes[where] = now.n
    rows += [_r(where, by_state, notes[where], level) for where, by_state in moved.items()]
    for key, reasons in trial.refused.items():
        for treatment, reason in reasons:
            n = scores[key]["forget"].records
            refused = _refusal(n, level, f"{treatment.name}: {reason}")
            row = row_of(key, "forget", treatment.probe, treatment.name, refused)
            rows.append(replace(row, deployment=treatment.name))
    return rows


def _r(
    where: tuple[str, str, str, str], moved: Mapping[str, float], n: int, level: float
) -> AuditRow:
    """Compare how far the unlearned state and the references moved in one metric."""
    attack, deployment, probe, metric = where
    others = [delta for key, delta in moved.items() if key != "after"]
    ours = moved.get("after", math.nan)
    if others:
        theirs = fmean(others)
        value = resemblance(ours, theirs)
        note = "" if math.isfinite(value) else "a difference is infinite or undefined"
        found = Interval(value, math.nan, math.nan, n, level, "none", None, note)
    else:
        theirs = math.nan
        found = _refusal(n, level, "no reference to compare with: pass --reference")
    deltas = {"delta": ours, "delta_reference": theirs}
    params = {
        "metric": metric,
        "references": len(others),
        **{key: value if math.isfinite(value) else None for key, value in deltas.items()},
    }
    row = row_of("after", "forget", attack, f"R[{probe}]", found, params)
    return replace(row, deployment=deployment)


def _refusal(n: int, level: float, note: str) -> Interval:
    return Interval(math.nan, math.nan, math.nan, n, level, "none", None, note)


def _numbers(
    splits: Mapping[str, TokenScores],
    labels: Mapping[str, Sequence[Hashable] | None],
    level: float,
) -> Iterator[tuple[str, str, str, Interval]]:
    """Yield (split, probe, metric, estimate) of one state."""
    for split, matrix in splits.items():
        clusters = labels[split]
        yield split, "utility.loss", "mean", mean_interval(loss.score(matrix), level, clusters)
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
        found = auc_interval(x, y, level, labels["forget"], labels["holdout"])
        yield "forget", "membership.loss", "auc", found


def _positions(whole: TokenScores, part: TokenScores) -> list[int]:
    at = {name: i for i, name in enumerate(whole.ids)}
    return [at[name] for name in part.ids]


def _same(whole: TokenScores, part: TokenScores) -> TokenScores:
    """Return the untreated scores of the records that a treated matrix holds."""
    return whole.take(_positions(whole, part))


def _labels(
    subjects: Sequence[Hashable | None] | None, whole: TokenScores, part: TokenScores
) -> Sequence[Hashable] | None:
    """Return the clusters of the records that a matrix holds."""
    chosen = None if subjects is None else [subjects[i] for i in _positions(whole, part)]
    return cluster_labels(chosen)
