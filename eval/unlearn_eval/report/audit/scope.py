"""Say what an audit shows and what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unlearn_eval.report.audit.reading import WHOLE, Reading
from unlearn_eval.report.audit.robustness import treatments

__all__ = ["Scope", "scope"]


@dataclass(frozen=True)
class Scope:
    """What a result covers.

    Attributes:
        shown: what was looked at.
        not_shown: what a reader might think was, and was not.
    """

    shown: Sequence[str]
    not_shown: Sequence[str]


def scope(reading: Reading) -> Scope:
    """Return what an audit covers, from what it has rows for.

    Args:
        reading: the audit.

    Returns:
        Both lists; no entry says that anything is gone.
    """
    forget_row = reading.row("after", "forget", *WHOLE)
    many = forget_row is None or forget_row.n != 1
    subject = f"the {forget_row.n if forget_row else 0} records are" if many else "the record is"
    tries = reading.row("after", "forget", "extraction.discoverable", "rate@n=10000")
    random = ", and the odds of 10,000 random answers" if tries else ""
    own = "their" if many else "its"
    shown = [f"What the model answers when {subject} asked for in {own} own words{random}."]
    attackers = "who see how likely the model finds each word, tell them from unseen records."
    if reading.tried:
        shown.append(f"Whether {reading.tried} known kinds of attackers, {attackers}")
    if reading.row("after", "retain", *WHOLE):
        shown.append("Whether the records to keep are still known.")
    hidden = []
    if forget_row and forget_row.interval == "conditional":
        hidden.append(
            "What would happen with other people's records: these are of "
            f"{forget_row.clusters} people or sources, too few or too unequal to tell, and the "
            "ranges given here may be too narrow for others."
        )
    if not reading.tried:
        hidden.append(
            "Whether attackers could tell: no records that the model never saw were given."
        )
    tried = treatments(reading)
    if tried:
        shown.append(
            f"What comes out when the model is changed further, in {len(tried) - 1} of the ways "
            "there are (listed below)."
        )
    hidden += [
        "What rephrased questions, or other changes to the model than those listed, could bring "
        "out: not tried."
        if tried
        else "What rephrased questions, further training, or somebody who takes the model's files "
        "apart could bring out: not tried.",
        "Whether the training data, backups or older copies of the model still hold the records: "
        "not looked at.",
        "That nothing is left: a stronger attack might find what these did not. This is not legal "
        "proof of erasure.",
    ]
    return Scope(shown, hidden)
