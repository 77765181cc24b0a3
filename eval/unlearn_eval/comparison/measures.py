"""What a comparison tells of every cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["MEASURES", "TableMeasure"]

Better = Literal["lower", "higher", "references"]


@dataclass(frozen=True, slots=True)
class TableMeasure:
    """One column.

    Attributes:
        name: key in an outcome's numbers.
        head: heading of its column.
        means: what it is, in half a sentence.
        better: which way is good; `references` for numbers to be compared with theirs.
        digits: shown after the point.
    """

    name: str
    head: str
    means: str
    better: Better = "references"
    digits: int = 2

    def text(self, value: float | None) -> str:
        """Write a value; a dash where there is none."""
        if value is None:
            return "–"
        # + 0.0: no negative zero
        number = round(value, self.digits) + 0.0
        return f"{number:,.{self.digits}f}".replace("-", "−")


MEASURES: dict[str, TableMeasure] = {
    m.name: m
    for m in (
        TableMeasure(
            "gap",
            "distance",
            "how far the AUC of the attack that gives most away lies from the references' mean; 0 "
            "is a model that never saw the records",
            "lower",
        ),
        TableMeasure(
            "gap_sd",
            "in SDs",
            "that distance in standard deviations of the references",
            "lower",
            1,
        ),
        TableMeasure(
            "auc",
            "AUC",
            "how often that attack ranks a record to forget above an unseen one; .5 is guessing",
        ),
        TableMeasure(
            "forget_recall",
            "forget recall",
            "share of the records to forget that are given back word for word",
        ),
        TableMeasure(
            "tries",
            "in 10⁴ tries",
            "share of the records to forget that 10,000 random answers probably hold",
        ),
        TableMeasure(
            "forget_loss", "forget loss", "surprise at the records to forget, nats a token"
        ),
        TableMeasure(
            "retain_recall",
            "retain recall",
            "share of the records to keep that are given back word for word",
            "higher",
        ),
        TableMeasure(
            "rise",
            "retain loss +",
            "by how much the loss on the records to keep has risen, nats a token",
            "lower",
        ),
        TableMeasure(
            "robust",
            "changed",
            "the distance of the loss attack's AUC from the references' after the further change "
            "that brings out most",
            "lower",
        ),
        TableMeasure(
            "attack_success",
            "backdoor",
            "share of unseen prompts with the trigger that are answered with a backdoor's target",
            "lower",
        ),
        TableMeasure(
            "without_trigger", "untriggered", "the same share without the trigger", "lower"
        ),
        TableMeasure(
            "target_loss",
            "target loss",
            "surprise at the target after the trigger, nats a token; far above the references' it "
            "tells that the backdoor was there",
        ),
        TableMeasure(
            "revived",
            "revived",
            "the share answered with the target, greedily, after the further change that brings "
            "out most",
            "lower",
        ),
        TableMeasure("wall_share", "time", "wall time, retraining being 1", "lower"),
        TableMeasure(
            "tokens_share", "tokens", "tokens forward and backward, retraining being 1", "lower"
        ),
        TableMeasure(
            "memory_share",
            "memory",
            "most memory in training beyond what was in use before, retraining being 1; without a "
            "GPU it is the process's, which is too much where a step was the first of its kind",
            "lower",
        ),
    )
}
"""The columns, in the order of the table."""
