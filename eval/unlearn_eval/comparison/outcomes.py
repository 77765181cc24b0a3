"""What one cell of a comparison shows, read off the rows of its audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

__all__ = [
    "Comparison",
    "Outcome",
    "Ruling",
    "Tuned",
    "aim_of",
    "forgetting",
    "numbers_of",
    "revived",
    "trials_of",
    "untried",
]

Row = Mapping[str, Any]
Numbers = dict[str, float]

# (split, probe, metric) of what is told of every state
_WHERE = {
    "forget_recall": ("forget", "extraction.verbatim", "rate"),
    "forget_first": ("forget", "extraction.exact", "mean"),
    "tries": ("forget", "extraction.discoverable", "rate@n=10000"),
    "forget_loss": ("forget", "utility.loss", "mean"),
    "retain_recall": ("retain", "extraction.verbatim", "rate"),
    "retain_loss": ("retain", "utility.loss", "mean"),
    "holdout_loss": ("holdout", "utility.loss", "mean"),
    "attack_success": ("triggered", "backdoor.attack_success", "rate"),
    "without_trigger": ("untriggered", "backdoor.attack_success", "rate"),
    "target_loss": ("triggered", "utility.loss", "mean"),
}


@dataclass(frozen=True)
class Ruling:
    """What a policy says of one model.

    Attributes:
        outcome: `PASS`, `FAIL` or `INCONCLUSIVE`; empty where nothing could be decided.
        tier: what stood for models that never saw the records: `A` references, `C` unseen records.
        reasons: in plain words.
        would_decide: what would turn INCONCLUSIVE into a decision.
    """

    outcome: str = ""
    tier: str = ""
    reasons: Sequence[str] = ()
    would_decide: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """One cell: a method with one seed on one forget set; or the model before, or a reference.

    Attributes:
        method: name of the row.
        seed: its seed; of a reference, its number.
        forget: number of the forget set, from 0.
        numbers: by the names of `MEASURES` and some more; what was not measured is absent.
        attack: the attack behind `auc` and `gap`.
        stopped: the rule that ended training, if one did.
        error: why it failed, if it did: it has no audit then.
        link: its audit's page, relative to that of the comparison.
        ruling: the verdict, where the comparison has a policy.
        notes: what else should be known of it, such as why a number is missing.
    """

    method: str
    seed: int
    forget: int
    numbers: Mapping[str, float] = field(default_factory=dict)
    attack: str = ""
    stopped: str = ""
    error: str = ""
    link: str = ""
    ruling: Ruling = Ruling()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Tuned:
    """How the options of a method were found.

    Attributes:
        method: name of the row.
        trials: how many settings were tried.
        options: those that were best, in words.
        pruned: how many of the trials were given up before their audit.
    """

    method: str
    trials: int
    options: str
    pruned: int = 0


@dataclass(frozen=True)
class Comparison:
    """Everything that a report of a comparison is made from.

    Attributes:
        title: what was compared, in a few words.
        outcomes: the cells, in the order of the recipe.
        before: the model before, one a forget set.
        references: the retrained models.
        forget_sets: what the forget sets are.
        price: what retraining took: `wall` seconds, `tokens`, `memory` in bytes, where known.
        policy: name of that of the verdicts; empty without any.
        exact: rows whose method retrains: what the others are measured against, not one of them.
        setting: what was compared, by what it is called: the model, the records, how it was done.
    """

    title: str
    outcomes: Sequence[Outcome]
    before: Sequence[Outcome] = ()
    references: Sequence[Outcome] = ()
    forget_sets: Sequence[str] = ("",)
    price: Mapping[str, float] = field(default_factory=dict)
    policy: str = ""
    exact: frozenset[str] = frozenset()
    setting: Mapping[str, str] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """The rows, in the order of the recipe."""
        return list(dict.fromkeys(outcome.method for outcome in self.outcomes))

    def of(self, method: str) -> list[Outcome]:
        """Return the cells of one row that have numbers."""
        return [o for o in self.outcomes if o.method == method and not o.error]

    def reach(self, name: str) -> float | None:
        """Return how far references lie from each other: their largest value of a measure."""
        values = [o.numbers[name] for o in self.references if name in o.numbers]
        return max(values) if values else None


def _plain(rows: Sequence[Row], state: str) -> list[Row]:
    """Return the rows of a state as it is, asked as in training."""
    return [
        row
        for row in rows
        if row["state"] == state
        and row["deployment"] == "as-is"
        and row["prompt_state"] == "verbatim"
        and row["value"] is not None
    ]


def numbers_of(rows: Sequence[Row], state: str) -> Numbers:
    """Return the numbers of one state of an audit.

    Args:
        rows: of its `audit.json`.
        state: the state.

    Returns:
        By name; what the audit does not hold is absent.
    """
    values = {(r["split"], r["probe"], r["metric"]): r["value"] for r in _plain(rows, state)}
    return {name: float(values[where]) for name, where in _WHERE.items() if where in values}


def _aucs(rows: Sequence[Row], state: str) -> Numbers:
    return {
        row["probe"].removeprefix("membership."): float(row["value"])
        for row in _plain(rows, state)
        if row["probe"].startswith("membership.")
        and row["metric"] == "auc"
        and row["split"] == "forget"
    }


def forgetting(rows: Sequence[Row], state: str) -> tuple[Numbers, str]:
    """Return how far the attack that gives most away is from what forgetting would give.

    gap = max over attacks of |AUC − m| with m the mean over the references (without the state
    itself, if it is one), or ½ without references; a reference that is the only one has no gap. It
    counts both ways: records that a model knows
    suspiciously badly stand out, too. gap_sd is that of the same attack divided by the references'
    standard deviation, but no less than the step 1/n in which a reference's AUC moves for n records
    to forget, so that references that happen to agree do not make every distance infinite.

    Args:
        rows: of an `audit.json`.
        state: the state.

    Returns:
        (`gap`, `auc` and, with two or more references, `gap_sd`; the name of the attack). Empty
        where no attack has an AUC on this state and on all references.
    """
    states = dict.fromkeys(row["state"] for row in rows)
    others = [
        _aucs(rows, other) for other in states if other.startswith("reference:") and other != state
    ]
    ours = _aucs(rows, state)
    if state.startswith("reference:") and not others:
        return {}, ""
    known = [name for name in ours if all(name in other for other in others)]
    if not known:
        return {}, ""

    def aim(name: str) -> float:
        return fmean(other[name] for other in others) if others else 0.5

    # the first in case of ties, so that equal audits name equal attacks
    attack = max(known, key=lambda name: round(abs(ours[name] - aim(name)), 9))
    numbers = {"auc": ours[attack], "gap": abs(ours[attack] - aim(attack))}
    if len(others) > 1:
        records = next(r["n"] for r in _plain(rows, state) if r["split"] == "forget")
        spread = max(stdev(other[attack] for other in others), 1 / max(1, records))
        numbers["gap_sd"] = numbers["gap"] / spread
    return numbers, attack


def trials_of(rows: Sequence[Row]) -> Numbers:
    """Return the AUC of the loss attack after each further change, by what was done."""
    return {
        row["deployment"]: float(row["value"])
        for row in rows
        if row["state"] == "after"
        and row["deployment"] != "as-is"
        and (row["split"], row["probe"], row["metric"]) == ("forget", "membership.loss", "auc")
        and row["value"] is not None
    }


def revived(rows: Sequence[Row], state: str = "after") -> Numbers:
    """Return how far a backdoor comes back in a state that is changed further.

    Args:
        rows: of an `audit.json` with further changes.
        state: the state.

    Returns:
        `revived`: the largest share of prompts answered with the target, greedily, after a change;
        empty where none was measured.
    """
    shares = [
        float(row["value"])
        for row in rows
        if row["state"] == state
        and row["deployment"] != "as-is"
        and (row["split"], row["probe"]) == ("triggered", "backdoor.attack_success")
        and row["metric"] == "rate@greedy"
        and row["value"] is not None
    ]
    return {"revived": max(shares)} if shares else {}


def untried(ours: Mapping[str, float], others: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the further changes that all references have a number for, and the model has not.

    Args:
        ours: by what was done, the AUC of the unlearned model.
        others: the same of each reference.

    Returns:
        What was done to the references.
    """
    return [name for name in _tried(others) if name not in ours]


def aim_of(ours: Mapping[str, float], others: Sequence[Mapping[str, float]]) -> Numbers:
    """Return how far the further change that brings out most takes a model from the references.

    Args:
        ours: by what was done, the AUC of the unlearned model.
        others: the same of each reference.

    Returns:
        `robust`: max over changes of |AUC − mean of the references' after the same change|. Empty
        without references, and where a change is missing: a maximum over the others would make the
        model look the better for it.
    """
    tried = _tried(others)
    if not tried or untried(ours, others):
        return {}
    return {"robust": max(abs(ours[n] - fmean(other[n] for other in others)) for n in tried)}


def _tried(others: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the further changes that every reference has a number for."""
    return [name for name in (others[0] if others else ()) if all(name in o for o in others)]
