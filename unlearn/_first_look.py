"""A first look at some records, before and after: cheap, and with words where it is bad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unlearn.batches import Example
from unlearn.models import ModelState
from unlearn.scoring import score_examples
from unlearn.training import record_losses

__all__ = ["Measured", "measure", "warnings_of"]


@dataclass(frozen=True)
class Measured:
    """A first look at some records: mean token loss, and the share recalled word for word."""

    loss: float
    recall: float
    n: int


# A first look is of 64 records: a change of a tenth is more than its noise.
_WORSE = 0.1


def warnings_of(before: Mapping[str, Measured], after: Mapping[str, Measured]) -> list[str]:
    """Say in words where the first look is bad; silence is not praise."""
    found = []
    if after["forget"].recall > 0:
        found.append(
            f"{after['forget'].recall:.0%} of the forget records are still recalled word for word: "
            "try more epochs, a higher learning_rate, or --method retrain"
        )
    if "retain" in after and before["retain"].recall - after["retain"].recall > _WORSE:
        found.append(
            f"the records to retain suffered: {before['retain'].recall:.0%} of them were recalled "
            f"word for word before, {after['retain'].recall:.0%} now; try a lower learning_rate, "
            "-o retain_ratio=4, or --method retrain"
        )
    unseen = after.get("holdout")
    if unseen and after["forget"].loss > 1.5 * unseen.loss:
        found.append(
            f"the forget records stand out: their loss ({after['forget'].loss:.2f}) is far above "
            f"that of unseen ones ({unseen.loss:.2f}), which gives them away as a low one would"
        )
    return found


def measure(state: ModelState, examples: Sequence[Example]) -> Measured:
    """Score some examples once and summarise them."""
    statistics, offsets = score_examples(state.model, state.head, examples)
    recalled = np.minimum.reduceat(statistics.hit.numpy(), offsets[:-1])
    return Measured(
        loss=float(record_losses(statistics, offsets).mean()),
        recall=float(recalled.mean()),
        n=len(examples),
    )
