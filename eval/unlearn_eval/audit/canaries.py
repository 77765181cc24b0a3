"""Canaries in an audit: those taken out are its forget split, those left out its holdout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.canaries.pairs import Canaries, as_records, check_planted, joined, still_in
from unlearn.data.records import Records
from unlearn.data.splits import loaded
from unlearn.errors import LineageError, OptionError
from unlearn.model.folders import resolve_folder
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage, Planted, Privacy
from unlearn_eval.results.audit_result import Audit, AuditRow, row_of
from unlearn_eval.statistics import Interval
from unlearn_eval.verdict.load import evidence_of
from unlearn_eval.verdict.tiers.canaries import bound_of

__all__ = ["PlantedSplit", "check_alone", "privacy_rows", "split_canaries"]


@dataclass(frozen=True)
class PlantedSplit:
    """What an audit of canaries measures.

    Attributes:
        forget: the included canaries in question.
        holdout: the other of each pair, in the same order.
        retain: records and canaries that were not taken out.
        planted: what the lineage commits to.
        taken_out: whether those in question were taken out again.
        privacy: what the lineage claims, if anything; nothing once canaries were taken out, as
            what changes weights by records is no part of the promise.
    """

    forget: Records
    holdout: Records
    retain: Records
    planted: Planted
    taken_out: bool
    privacy: Privacy | None = None

    @property
    def note(self) -> str:
        """Say what is measured."""
        which = "that were taken out" if self.taken_out else "of which none was taken out"
        return (
            f"no record was measured, but canaries: {len(self.forget)} of {self.planted.pairs} "
            f"planted ones, {which}, are the forget split, and the other of each pair, which a "
            "coin left out of training, the holdout"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what `audit.json` holds under `canaries`."""
        facts: dict[str, Any] = {
            "sha256": self.planted.sha256,
            "planted": self.planted.pairs,
            "pairs": dict(zip(self.forget.ids, self.holdout.ids, strict=True)),
        }
        if self.privacy is not None:
            claimed = self.privacy.model_dump(include={"epsilon", "delta", "unit"})
            facts["privacy"] = claimed
        return facts


def check_alone(forget: object, holdout: object) -> None:
    """Refuse records beside canaries: an audit is of the ones or of the others.

    Raises OptionError if there are any.
    """
    if forget is not None or holdout is not None:
        other = "--forget" if forget is not None else "--holdout"
        raise OptionError(
            f"--canaries says what was taken out and what was left out: drop {other}, and audit "
            "records by themselves"
        )


def split_canaries(
    file: str | Path, changed: str | Path, records: Records, retain: str | Path | Records | None
) -> PlantedSplit:
    """Choose what an audit of canaries measures.

    In question are all included canaries that were taken out of the adapter, as its lineage says;
    all that were planted, if nothing was. Neither choice looks at the coin.

    Args:
        file: of canaries.
        changed: the adapter (or model) under audit.
        records: of its training.
        retain: the records kept, where they are given.

    Returns:
        The splits; nothing that the lineage calls forgotten is retained.

    Raises:
        UnlearnError: if the file is not the one that the adapter's lineage commits to, or records
            were taken out and no canary.
    """
    key = Key.load()
    folder = resolve_folder(changed, "adapter or model")
    canaries = Canaries.read(file)
    line = check_planted(canaries, file, Lineage.read(folder), key, folder)
    still_included, taken_out = still_in(canaries, line, key)
    pairs = taken_out or still_included
    forgotten = set(line.records.forgotten)
    if forgotten and not taken_out:
        raise LineageError(
            f"records were taken out of {folder}, but no canaries beside them, so these can say "
            "nothing about it: take some out with `unlearn forget --with-canaries`"
        )
    staying = [pair.included for pair in still_included] if taken_out else []
    retained = joined(records if retain is None else loaded(retain), staying)
    retained = retained.take(
        [i for i, record in enumerate(retained) if key.digest(record) not in forgotten]
    )
    return PlantedSplit(
        forget=as_records([pair.included for pair in pairs]),
        holdout=as_records([pair.left_out for pair in pairs]),
        retain=retained,
        planted=canaries.commitment,
        taken_out=bool(taken_out),
        privacy=None if taken_out else line.privacy,
    )


def privacy_rows(audit: Audit, probe: str, level: float) -> list[AuditRow]:
    """Return the lower bound of ε beside the claim, of a model that claims differential privacy.

    Args:
        audit: of canaries, or of records.
        probe: by whose scores is guessed which canary was included.
        level: confidence of the bound.

    Returns:
        One row `privacy.epsilon_lower`; none without a claim.
    """
    evidence = evidence_of(audit) if (audit.canaries or {}).get("privacy") else None
    if evidence is None or evidence.claim is None:
        return []
    claim, n = evidence.claim, evidence.forget.records
    found = bound_of(evidence, probe, claim.delta, level)
    if isinstance(found, str):
        refused = Interval(math.nan, math.nan, math.nan, n, level, "none", None, found)
        return [row_of("after", "forget", "privacy.epsilon_lower", "bound", refused)]
    note = (
        f"claimed: {claim.epsilon:g} for adding or removing one {claim.unit}, δ = "
        f"{claim.delta:.2g}; a lower bound with {level:.0%} confidence, and {n} pairs cannot show "
        f"more than {found.ceiling:.2f}"
    )
    bound = Interval(found.low, found.low, math.inf, n, level, "guesses", None, note)
    params = {
        "probe": probe,
        "right": found.right,
        "guesses": found.guesses,
        "ceiling": found.ceiling,
        **claim._asdict(),
    }
    return [row_of("after", "forget", "privacy.epsilon_lower", "bound", bound, params)]
