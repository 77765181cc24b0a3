"""The loss of records that a model never saw: what a method's forget records should come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unlearn.data.tokenization import Example
from unlearn.model.scoring import TokenStatistics, score_examples
from unlearn.model.state import ModelState

__all__ = ["Level", "level_of", "mean_loss", "record_losses", "sample", "unseen_level"]

# Records looked at where a mean is wanted: enough for one, few enough to be free.
_SAMPLE = 64

# Unseen records of which the mean gain is taken: it varies far less than their losses.
_GAIN_SAMPLE = 32


@dataclass(frozen=True)
class Level:
    """The loss that records should have which a model never saw.

    Attributes:
        loss: in nats a token.
        source: where it comes from, for the report.
        trained: loss of the same records under the model that saw them.
        scored: tokens that went forward to know it.
    """

    loss: float
    source: str
    trained: float
    scored: int = 0


def level_of(
    base: npt.NDArray[np.float64],
    unseen_now: npt.NDArray[np.float64],
    unseen_base: npt.NDArray[np.float64],
) -> float:
    """Return the mean loss that records would have under an adapter that never saw them.

    Formula: ℓ = (1/F) Σ_f l_base(f) + (1/H) Σ_h (l_now(h) − l_base(h)): how hard the records are
    for the base, plus what the adapter gains on records that it never saw. Unlike the mean loss of
    the unseen records it does not take them to be as hard as the others.

    Args:
        base: mean token losses of the forget records under the base, nats, [F].
        unseen_now: of records that neither saw, under the adapter, [H].
        unseen_base: of the same under the base, [H].

    Returns:
        ℓ in nats a token.
    """
    return float(base.mean() + (unseen_now - unseen_base).mean())


def unseen_level(
    state: ModelState, forget: Sequence[Example], holdout: Sequence[Example]
) -> Level | None:
    """Measure the loss that forget records would have had they never been seen, before training.

    With an adapter and a holdout it is `level_of`; for want of a holdout, the base's loss on the
    forget records; for a full fine-tune, whose base is not at hand, the holdout's mean loss.

    Args:
        state: the model as it was given.
        forget: the forget records; at most 64 of them are looked at.
        holdout: records that no model saw; at most 32 where their gain is wanted.

    Returns:
        The level; None for a full fine-tune without holdout.
    """
    some = sample(forget)
    if not state.stack:
        if not holdout:
            return None
        scored = _tokens(some) + _tokens(holdout)
        loss = mean_loss(state, holdout)
        return Level(loss, "the mean of the holdout", mean_loss(state, some), scored)
    unseen = sample(holdout, _GAIN_SAMPLE)
    now = _losses(state, [*some, *unseen])
    with state.reference("base") as (base, head):
        before = record_losses(*score_examples(base, head, [*some, *unseen]))
    n, scored = len(some), 2 * (_tokens(some) + _tokens(unseen))
    trained = float(now[:n].mean())
    if not unseen:
        source = "the base model's on these records, for want of a holdout"
        return Level(float(before.mean()), source, trained, scored)
    effect = float((now[n:] - before[n:]).mean())
    source = f"the base's {before[:n].mean():.2f} and {effect:+.2f}, the effect on the holdout"
    return Level(level_of(before[:n], now[n:], before[n:]), source, trained, scored)


def record_losses(
    statistics: TokenStatistics, offsets: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return each record's mean token loss −(1/|y|) Σ_t log p_t, in nats, float64 [R]."""
    total = np.add.reduceat(statistics.log_prob.double().numpy(), offsets[:-1])
    loss: npt.NDArray[np.float64] = -total / np.diff(offsets)
    return loss


def sample(examples: Sequence[Example], most: int = _SAMPLE) -> list[Example]:
    """Return at most so many examples, by default 64, evenly spread."""
    n = min(len(examples), most)
    return [examples[i] for i in np.linspace(0, len(examples) - 1, n).round().astype(int)]


def mean_loss(state: ModelState, examples: Sequence[Example]) -> float:
    """Return the mean over records of their mean token loss, in nats."""
    return float(_losses(state, examples).mean())


def _losses(state: ModelState, examples: Sequence[Example]) -> npt.NDArray[np.float64]:
    return record_losses(*score_examples(state.model, state.head, examples))


def _tokens(examples: Sequence[Example]) -> int:
    return sum(len(example.ids) for example in examples)
