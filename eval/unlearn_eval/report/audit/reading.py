"""Read an audit: the few numbers a person asks for first, found among its rows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import NamedTuple

import numpy as np
from scipy import stats

from unlearn.errors import DataError
from unlearn_eval.arrays import FloatArray
from unlearn_eval.membership import ATTACKS, CALIBRATED
from unlearn_eval.results.audit_result import Audit, AuditRow
from unlearn_eval.results.rows import calibration_data, cluster_labels
from unlearn_eval.scores.token_scores import TokenScores
from unlearn_eval.statistics import Interval, auc_interval, paired_difference
from unlearn_eval.utility import loss
from unlearn_eval.verdict.result import Verdict
from unlearn_eval.verdict.tone import Tones, judged, tones_of

__all__ = ["RETURNED", "Game", "Reading", "Return", "Side", "folded"]

WHOLE = ("extraction.verbatim", "rate")
SECRET = ("extraction.secret", "rate")
EXCESS = "excess[utility.loss]"

RETURNED = {
    ("utility.loss", "mean"): (-1, 0.1),
    ("membership.loss", "auc"): (1, 0.05),
}
"""What shows that records return: the sign of the change, and the least one that matters. A tenth
of a nat a token is 10 % of perplexity; a twentieth of the AUC is 5 games of 100 more."""


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
        aucs = [folded(auc) for auc in self.others]
        return (min(aucs), max(aucs)) if aucs else None

    @property
    def open(self) -> bool:
        """Whether the interval reaches what forgetting would give; so does one without limits."""
        aims = self.others or (0.5,)
        return self.span is None or (self.auc.low <= max(aims) and self.auc.high >= min(aims))


class Side(NamedTuple):
    """An attack's scores of the records of one split, and their subjects where these are known."""

    values: FloatArray
    labels: Sequence[Hashable] | None


@dataclass(frozen=True)
class Return:
    """A treatment that brings the records back more than it does in references.

    Attributes:
        deployment: which.
        loss: by how much farther the loss of the records fell than in references, in nats a token.
        games: by how much more an attacker who compares likelihoods gains, in AUC.
        out: share of the forget records given back word for word after it.
        n: of how many.
        others: the largest share given back by a reference after it.
    """

    deployment: str
    loss: float
    games: float
    out: float
    n: int
    others: float


@dataclass(frozen=True)
class Reading:
    """Questions to an audit.

    Attributes:
        audit: the audit.
    """

    audit: Audit

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict on these scores, by the audit's own policy or else the default one."""
        return judged(self.audit)

    @property
    def tones(self) -> Tones:
        """Which tones words about the audit may have, by its verdict."""
        return tones_of(self.verdict)

    def row(self, state: str, split: str, probe: str, metric: str) -> AuditRow | None:
        """Return one row, or None where the audit has no such row or refused its value."""
        try:
            measured = self.audit.get(state, split, probe, metric)
        except KeyError:
            return None
        return measured if measured.value is not None else None

    def value(self, state: str, split: str, probe: str, metric: str) -> float | None:
        """Return one value, or None."""
        row = self.row(state, split, probe, metric)
        return row.value if row else None

    @property
    def references(self) -> tuple[str, ...]:
        """The states that never saw the records, by name."""
        return tuple(state for state in self.audit.states if state.startswith("reference:"))

    def has(self, state: str) -> bool:
        """Say whether the audit has a state."""
        return state in self.audit.states

    def of_references(self, split: str, probe: str, metric: str) -> list[float]:
        """Return one value for each reference that has it."""
        values = (self.value(state, split, probe, metric) for state in self.references)
        return [value for value in values if value is not None]

    def expected(self, probe: str) -> float:
        """Return the AUC that forgetting would give: the references' mean, else guessing's .5."""
        aucs = self.of_references("forget", probe, "auc")
        return fmean(aucs) if aucs else 0.5

    @property
    def strongest(self) -> str | None:
        """The attack whose AUC after unlearning is farthest from what forgetting would give.

        Of all that were run: those of the usual pass, those that compare with references or with
        the holdout, and those of further passes. None where no attack has an AUC. The first one in
        case of ties.
        """
        best, name = -1.0, None
        for attack in self.attacks:
            off = self._off(attack)
            if off > best + 1e-9:
                best, name = off, attack
        return name

    def _off(self, attack: str) -> float:
        """Return how far an attack's AUC is from what forgetting would give.

        Without references `deviation` counts above ½ alone: that records lie nearer to the middle
        of the unseen ones than these do is no trace of training on them.
        """
        probe = f"membership.{attack}"
        auc = self.value("after", "forget", probe, "auc")
        if auc is None:
            return 0.0
        off = auc - self.expected(probe)
        return max(0.0, off) if attack == "deviation" and not self.references else abs(off)

    @cached_property
    def attacks(self) -> tuple[str, ...]:
        """The attacks that have an AUC after unlearning, by name."""
        return tuple(
            dict.fromkeys(
                row.probe.removeprefix("membership.")
                for row in self.audit.rows
                if (row.state, row.split, row.metric) == ("after", "forget", "auc")
                and (row.prompt_state, row.deployment) == ("verbatim", "as-is")
                and row.probe.startswith("membership.")
                and row.value is not None
            )
        )

    @property
    def tried(self) -> int:
        """How many attacks have an AUC after unlearning."""
        return len(self.attacks)

    def game(self, state: str = "after", level: float = 0.95) -> Game | None:
        """Return how the strongest attack does on a state, allowing for all that were tried.

        Whoever looks for the worst of m attacks finds a chance deviation m times as easily; the
        interval is therefore taken at level 1 − (1 − level)/m (Bonferroni). Holm's procedure would
        give the worst one, which it looks at first, the same interval.

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
        member, nonmember = pair
        labels = (member.labels, nonmember.labels)
        adjusted = 1 - (1 - level) / max(1, self.tried)
        interval = auc_interval(member.values, nonmember.values, adjusted, *labels)
        others = self.of_references("forget", f"membership.{attack}", "auc")
        return Game(attack, interval, tuple(others))

    def attack_scores(self, attack: str, state: str) -> tuple[Side, Side] | None:
        """Return one attack's scores of the forgotten and of the unseen records, if there are any.

        Args:
            attack: its name.
            state: a state of the audit.

        Returns:
            (forget, holdout), or None where the attack does not apply.
        """
        pair = self._scored(attack, state) or self._compared(attack, state)
        if pair is not None:
            labels = (cluster_labels(self.audit.subjects.get(s)) for s in ("forget", "holdout"))
            member, nonmember = (Side(v, c) for v, c in zip(pair, labels, strict=True))
            return member, nonmember
        return self._measured(attack, state)

    def _scored(self, attack: str, state: str) -> tuple[FloatArray, FloatArray] | None:
        """Return scores of an attack that needs the usual pass alone."""
        splits, base = self.audit.scores[state], self.audit.scores.get("base", {})
        chosen = ATTACKS.get(attack)
        if chosen is None or "holdout" not in splits:
            return None
        if chosen.needs_base and (not base or state == "base"):
            return None
        return (
            chosen.score(splits["forget"], base.get("forget")),
            chosen.score(splits["holdout"], base.get("holdout")),
        )

    def _compared(self, attack: str, state: str) -> tuple[FloatArray, FloatArray] | None:
        """Return scores of an attack that compares with references or with the holdout."""
        chosen = CALIBRATED.get(attack)
        if chosen is None or chosen.compare is None:
            return None
        evidence = calibration_data(
            state, self.audit.scores, self.audit.subjects, self.audit.shadows
        )
        try:
            result = chosen.compare(evidence) if evidence else None
        except DataError:  # its rows say why
            return None
        return None if result is None else (result.member, result.nonmember)

    def _measured(self, attack: str, state: str) -> tuple[Side, Side] | None:
        """Return scores of an attack with a pass of its own."""
        sides = []
        for split in ("forget", "holdout"):
            measures = self.audit.measures.get(state, {}).get(split, ())
            measure = next((m for m in measures if m.probe == f"membership.{attack}"), None)
            if measure is None:
                return None
            labels = cluster_labels(self.audit.subjects.get(split))
            chosen = None if labels is None else [labels[i] for i in measure.positions]
            sides.append(Side(measure.values, chosen))
        return sides[0], sides[1]

    @cached_property
    def deployments(self) -> tuple[str, ...]:
        """Treatments of which the audit can say how the references respond, by deployment."""
        return tuple(
            row.deployment
            for row in self.audit.rows
            if row.metric == EXCESS and row.low is not None
        )

    def returns(self, level: float = 0.95) -> list[Return]:
        """Return the treatments that bring the records back more than they do in references.

        That is: the loss of the forget records falls, or the AUC of the loss (their likelihood
        beside that of unseen records) rises, farther than in references, by more than `RETURNED`
        with the interval at 1 − (1 − level)/m for m pairs of treatment and number (Bonferroni),
        and ends beyond the references' mean under the same treatment. The last condition passes
        over records that were pushed away and only come back to where unseen ones are.

        Args:
            level: at which the statements about all treatments hold together.

        Returns:
            The treatments, in the order of the audit.
        """
        names = {f"excess[{probe}]" for probe, _ in RETURNED}
        by_change = {(r.metric, r.deployment): r for r in self.audit.rows if r.metric in names}
        limited = {key: row for key, row in by_change.items() if row.low is not None}
        tail = (1 - level) / (2 * max(1, len(limited)))
        returned = []
        for name in self.deployments:
            if any(self._returned(*number, name, limited, tail) for number in RETURNED):
                loss, games = (by_change.get((f"excess[{probe}]", name)) for probe, _ in RETURNED)
                theirs = [self._treated(s, *WHOLE, name) or 0.0 for s in self.references]
                returned.append(
                    Return(
                        name,
                        -(loss.value or 0.0) if loss else 0.0,
                        (games.value or 0.0) if games else 0.0,
                        self._treated("after", *WHOLE, name) or 0.0,
                        loss.n if loss else 0,
                        max(theirs),
                    )
                )
        return returned

    def _returned(
        self,
        probe: str,
        metric: str,
        deployment: str,
        limited: Mapping[tuple[str, str], AuditRow],
        tail: float,
    ) -> bool:
        """Say whether one number shows a return under one treatment."""
        sign, least = RETURNED[probe, metric]
        row = limited.get((f"excess[{probe}]", deployment))
        now = self._treated("after", probe, metric, deployment)
        others = [self._treated(state, probe, metric, deployment) for state in self.references]
        known = [value for value in others if value is not None]
        if row is None or row.value is None or now is None or not known:
            return False
        half = row.params["standard_error"] * float(stats.t.isf(tail, row.params["freedom"]))
        return sign * row.value - half > least and sign * (now - fmean(known)) > 0

    def _treated(self, state: str, probe: str, metric: str, deployment: str) -> float | None:
        try:
            return self.audit.get(state, "forget", probe, metric, deployment=deployment).value
        except KeyError:
            return None

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
