"""A policy that was fixed before any score existed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearn.data.records import Records
from unlearn.provenance.lineage import now
from unlearn_eval.verdict.policy import Policy, load_policy
from unlearn_eval.verdict.power import power_statement
from unlearn_eval.verdict.tiers.unseen_groups import unseen_groups

__all__ = ["FixedPolicy"]


@dataclass(frozen=True)
class FixedPolicy:
    """A policy and when it was chosen.

    Attributes:
        name: of the policy.
        policy: its content.
        chosen: ISO time.
        power: what it can decide on the records and references at hand.
        seen: whether the model was looked at before, on the same records and not by this policy.
    """

    name: str
    policy: Policy
    chosen: str
    power: str = ""
    seen: bool = False

    @classmethod
    def now(cls, policy: str | Path) -> FixedPolicy:
        """Load a policy and note the time.

        Raises OptionError if there is no such policy, or it is not valid.
        """
        name, content = load_policy(policy)
        return cls(name, content, now())

    def adds(
        self, robustness: Sequence[str], also: Sequence[str]
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Return what an audit is asked for together with what the policy needs."""
        return (
            list(dict.fromkeys([*robustness, *self.policy.treatments])),
            list(dict.fromkeys([*also, *self.policy.passes])),
        )

    def with_power(
        self, split: Mapping[str, Records], references: int, partial: int = 0
    ) -> FixedPolicy:
        """Return it with its power on these records.

        Args:
            split: records by split.
            references: how many there will be.
            partial: how many of them were trained on part of the kept records only.

        Returns:
            The same policy.
        """
        forget_records = split["forget"]
        labels = [s for s in forget_records.subjects if s is not None]
        loose = len(forget_records) - len(labels)
        subjects = len(set(labels)) + loose if labels else None
        unseen = split.get("holdout")
        twins = 0 if unseen is None else len(unseen)
        if unseen is not None and subjects is not None and subjects < len(forget_records):
            known = [s for s in unseen.subjects if s is not None]
            twins = len(set(known)) + twins - len(known)
        people = unseen_groups(forget_records.subjects, () if unseen is None else unseen.subjects)
        sizes = (len(forget_records), subjects, twins, references, partial, len(people))
        return replace(self, power=power_statement(self.policy, *sizes))

    def as_dict(self) -> dict[str, Any]:
        """Return what `audit.json` holds under `policy`."""
        return {
            "name": self.name,
            "sha256": self.policy.sha256,
            "chosen": self.chosen,
            "power": self.power,
            "seen": self.seen,
            "content": self.policy.content,
        }
