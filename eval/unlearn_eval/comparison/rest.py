"""What became of the records to keep, beside models that never saw the forgotten ones.

The model before is no measure of it: retraining without some records moves the loss on the others,
too, and what retraining does is no damage. Both directions count: a model that knows the rest worse
than references do is damaged, one that gives more of it away exposes others.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from unlearn_eval.comparison.outcomes import Outcome

__all__ = ["DAMAGE", "EXPOSES", "HARMED", "allowed_rise", "beside_references", "rest_of"]

DAMAGE = 0.1
"""Distance of the retain loss, in nats a token, that never matters: 10 % of perplexity."""

RECALL = 0.05
"""Share of the records to keep that may come out more than from any reference."""

HARMED, EXPOSES = "damaged", "exposes others"


def beside_references(loss: float, references: Sequence[float]) -> tuple[float, float]:
    """Return how far a loss lies above references, and how far off it may be.

    Args:
        loss: on the records to keep, nats a token.
        references: that of each reference; at least one.

    Returns:
        (loss − m, max(`DAMAGE`, max_j |loss_j − m|)), m being the references' mean.
    """
    mean = fmean(references)
    return loss - mean, max(DAMAGE, *(abs(each - mean) for each in references))


def allowed_rise(outcomes: Sequence[Outcome]) -> float:
    """Return the rise from before up to which a model is not damaged, by references.

    Args:
        outcomes: of references on one forget set.

    Returns:
        The mean of their rises plus what `beside_references` allows; `DAMAGE` without any.
    """
    rises = [o.numbers["rise"] for o in outcomes if "rise" in o.numbers]
    if not rises:
        return DAMAGE
    above, most = beside_references(0.0, rises)
    return most - above


def rest_of(cells: Sequence[Outcome], references: Sequence[Outcome]) -> str:
    """Say what became of the records to keep, over the cells of a method.

    Damaged: the loss on them lies above the references' mean, cell by cell, by more than it may be
    off (`beside_references`; of both the mean over cells is taken). Exposes others: it lies below
    by as much, or more of them come out word for word than from any reference, by more than a
    twentieth of all. Without references of its forget set a cell is compared with the model before,
    and can only be damaged.

    Args:
        cells: of one method.
        references: of the comparison.

    Returns:
        `damaged`, `exposes others`, or nothing.
    """
    above, most, more = [], [], []
    for cell in cells:
        numbers = cell.numbers
        theirs = [o.numbers for o in references if o.forget == cell.forget]
        losses = [each["retain_loss"] for each in theirs if "retain_loss" in each]
        recalls = [each["retain_recall"] for each in theirs if "retain_recall" in each]
        if losses and "retain_loss" in numbers:
            distance, allowed = beside_references(numbers["retain_loss"], losses)
            above.append(distance)
            most.append(allowed)
        elif "rise" in numbers:
            above.append(max(numbers["rise"], 0.0))
            most.append(DAMAGE)
        if recalls and "retain_recall" in numbers:
            more.append(numbers["retain_recall"] - max(recalls))
    if above and fmean(above) > fmean(most):
        return HARMED
    if (above and fmean(above) < -fmean(most)) or (more and fmean(more) > RECALL):
        return EXPOSES
    return ""
