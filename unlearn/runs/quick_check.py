"""A first look at some records, before and after: cheap, and with words where it is bad."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unlearn.data.tokenization import Example
from unlearn.model.scoring import score_examples
from unlearn.model.state import ModelState
from unlearn.training.fitting import record_losses

__all__ = ["Measured", "measure", "warnings_of"]


@dataclass(frozen=True)
class Measured:
    """A first look at some records: mean token loss, and the share recalled word for word.

    Attributes:
        loss: mean over records, nats a token.
        recall: share of them.
        n: how many records.
        losses: of each record.
    """

    loss: float
    recall: float
    n: int
    losses: tuple[float, ...] = field(default=(), repr=False)

    def rise_since(self, before: Measured, records: int) -> tuple[float, float]:
        """Return how much the mean loss of all records has risen, as far as these tell.

        d̄ = (1/n) Σ dᵢ with dᵢ the difference of record i's losses, and its standard error
        √((1 − n/N) · s²/n) with s² the unbiased variance of d, for n drawn from N records
        (Cochran, Sampling Techniques, section 2.5).

        Args:
            before: the same records before.
            records: N, how many these were taken from.

        Returns:
            (d̄, its standard error), nats a token; the error is infinite for one record of several.
        """
        change = np.subtract(self.losses, before.losses)
        n = len(change)
        if n >= records:
            return float(change.mean()), 0.0
        spread = float(change.var(ddof=1)) if n > 1 else math.inf
        return float(change.mean()), math.sqrt((1 - n / records) * spread / n)


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
    losses = record_losses(statistics, offsets)
    return Measured(
        loss=float(losses.mean()),
        recall=float(recalled.mean()),
        n=len(examples),
        losses=tuple(losses.tolist()),
    )
