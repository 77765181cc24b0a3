"""Read an audit: the few numbers a person asks for first, found among its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from unlearn_eval._arrays import FloatArray
from unlearn_eval._table import Audit, AuditRow, cluster_labels
from unlearn_eval.membership import ATTACKS
from unlearn_eval.scores import TokenScores
from unlearn_eval.statistics import Interval, auc_interval, paired_difference
from unlearn_eval.utility import loss

__all__ = ["Game", "Reading", "folded"]

WHOLE = ("extraction.verbatim", "rate")
SECRET = ("extraction.secret", "rate")


def folded(auc: float) -> float:
    """Return how often an attack is right that may also bet on the opposite: max(a, 1 − a)."""
    return max(auc, 1.0 - auc)


@dataclass(frozen=True)
class Game:
    """How often an attacker names the forgotten record of two, who may bet either way.

    Attributes:
        attack: the attack.
        auc: of one state, unfolded, allowing for all the attacks that were tried.
        others: AUC of the same attack on each reference.
    """

    attack: str
    auc: Interval
    others: tuple[float, ...]

    @property
    def wins(self) -> float:
        """Share of games that are won."""
        return folded(self.auc.value)

    @property
    def span(self) -> tuple[float, float] | None:
        """The shares of games won that the interval allows: never below ½, as a bet may turn."""
        low, high = self.auc.low, self.auc.high
        if not np.isfinite([low, high]).all():
            return None
        ends = folded(low), folded(high)
        return (0.5 if low <= 0.5 <= high else min(ends)), max(ends)

    @property
    def aim(self) -> tuple[float, float] | None:
        """Fewest and most games won against references."""
        found = [folded(auc) for auc in self.others]
        return (min(found), max(found)) if found else None

    @property
    def open(self) -> bool:
        """Whether the interval reaches what forgetting would give; so does one without limits."""
        aims = self.others or (0.5,)
        return self.span is None or (self.auc.low <= max(aims) and self.auc.high >= min(aims))


@dataclass(frozen=True)
class Reading:
    """Questions to an audit.

    Attributes:
        audit: the audit.
    """

    audit: Audit

    def row(self, state: str, split: str, probe: str, metric: str) -> AuditRow | None:
        """Return one row, or None where the audit has no such row or refused its value."""
        try:
            found = self.audit.get(state, split, probe, metric)
        except KeyError:
            return None
        return found if found.value is not None else None

    def value(self, state: str, split: str, probe: str, metric: str) -> float | None:
        """Return one value, or None."""
        found = self.row(state, split, probe, metric)
        return found.value if found else None

    @property
    def references(self) -> tuple[str, ...]:
        """The states that never saw the records, by name."""
        return tuple(state for state in self.audit.states if state.startswith("reference:"))

    def has(self, state: str) -> bool:
        """Say whether the audit has a state."""
        return state in self.audit.states

    def of_references(self, split: str, probe: str, metric: str) -> list[float]:
        """Return one value for each reference that has it."""
        found = (self.value(state, split, probe, metric) for state in self.references)
        return [value for value in found if value is not None]

    def expected(self, probe: str) -> float:
        """Return the AUC that forgetting would give: the references' mean, else guessing's .5."""
        found = self.of_references("forget", probe, "auc")
        return fmean(found) if found else 0.5

    @property
    def strongest(self) -> str | None:
        """The attack whose AUC after unlearning is farthest from what forgetting would give.

        None where no attack has an AUC. The first one in case of ties.
        """
        best, name = -1.0, None
        for attack in ATTACKS:
            probe = f"membership.{attack}"
            found = self.value("after", "forget", probe, "auc")
            if found is not None and abs(found - self.expected(probe)) > best + 1e-9:
                best, name = abs(found - self.expected(probe)), attack
        return name

    @property
    def tried(self) -> int:
        """How many attacks have an AUC after unlearning."""
        found = (self.value("after", "forget", f"membership.{a}", "auc") for a in ATTACKS)
        return sum(auc is not None for auc in found)

    def game(self, state: str = "after", level: float = 0.95) -> Game | None:
        """Return how the strongest attack does on a state, allowing for all that were tried.

        Whoever looks for the worst of m attacks finds a chance deviation m times as easily; the
        interval is therefore taken at level 1 − (1 − level)/m (Bonferroni).

        Args:
            state: a state of the audit.
            level: at which the intervals of all attacks hold together.

        Returns:
            The game, or None where no attack has an AUC.
        """
        attack = self.strongest
        pair = self.attack_scores(attack, state) if attack else None
        if attack is None or pair is None:
            return None
        labels = [cluster_labels(self.audit.subjects.get(s)) for s in ("forget", "holdout")]
        found = auc_interval(*pair, 1 - (1 - level) / max(1, self.tried), *labels)
        others = self.of_references("forget", f"membership.{attack}", "auc")
        return Game(attack, found, tuple(others))

    def attack_scores(self, attack: str, state: str) -> tuple[FloatArray, FloatArray] | None:
        """Return one attack's scores of the forgotten and of the unseen records, if there are any.

        Args:
            attack: its name.
            state: a state of the audit.

        Returns:
            (forget, holdout), or None where the attack does not apply.
        """
        splits, base = self.audit.scores[state], self.audit.scores.get("base", {})
        chosen = ATTACKS[attack]
        if "holdout" not in splits or (chosen.needs_base and (not base or state == "base")):
            return None
        return (
            chosen.score(splits["forget"], base.get("forget")),
            chosen.score(splits["holdout"], base.get("holdout")),
        )

    def losses(self, state: str, split: str) -> FloatArray | None:
        """Return the mean token loss of every record of a split, if the audit has it."""
        matrix: TokenScores | None = self.audit.scores[state].get(split)
        return None if matrix is None else loss.score(matrix)

    def loss_change(self, split: str) -> Interval | None:
        """Return by how much a split's mean loss rose from before to after, record by record."""
        if not self.has("before"):
            return None
        before, after = self.losses("before", split), self.losses("after", split)
        if before is None or after is None or not np.isfinite([*before, *after]).all():
            return None
        return paired_difference(
            after, before, clusters=cluster_labels(self.audit.subjects.get(split))
        )

    def cost(self, states: Sequence[str], what: str = "seconds") -> list[float]:
        """Return what making each of some states cost, where lineage tells."""
        facts = (self.audit.training.get(state, {}).get(what) for state in states)
        return [float(value) for value in facts if value is not None]
