"""Calibration: is a model right as often as it is sure? Damage often shows here first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unlearn.errors import DataError, OptionError
from unlearn.scoring import Head
from unlearn_eval._arrays import FloatArray
from unlearn_eval._statistics.common import as_values

__all__ = ["Calibration", "TopProbability", "calibration"]

# Tokens projected at once.
_CHUNK = 256


class Calibration(NamedTuple):
    """Calibration of a model's first choices over some tokens.

    Attributes:
        error: expected calibration error, in [0, 1].
        brier: mean (probability of the first choice − whether it is right)², in [0, 1].
        confidence: mean probability of the first choice.
        accuracy: share of tokens whose first choice is right.
        n: tokens.
        bins: bins used; fewer than asked for where tokens are few or confidences repeat.
    """

    error: float
    brier: float
    confidence: float
    accuracy: float
    n: int
    bins: int


def calibration(confidence: npt.ArrayLike, hit: npt.ArrayLike, bins: int = 15) -> Calibration:
    """Return the expected calibration error over bins of equal mass, and the Brier score.

    With tokens sorted by confidence c and cut into B bins of as equal a size as possible,

        ECE = Σ_b (n_b/N) |mean of hit in b − mean of c in b|
        Brier = (1/N) Σ_t (c_t − hit_t)²

    ECE is equation 3 of Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599),
    whose 15 bins are the default; theirs are of equal width, which leaves most of them empty for
    language models: equal mass is from Nguyen and O'Connor (arXiv 1508.05154, "adaptive binning").
    The Brier score is of the first choice alone, not of the whole distribution.

    Limits: tokens of equal confidence share a bin, so that the result does not depend on their
    order; one bin gives |accuracy − mean confidence|; with a token a bin it is the mean of
    |c − hit|. With few tokens a bin the error is biased upwards: compare it between models on the
    same tokens only.

    Args:
        confidence: probability of the model's first choice, [N], in [0, 1].
        hit: whether that is the true token, bool [N].
        bins: B.

    Returns:
        The numbers.

    Raises:
        DataError: if there are no tokens, lengths differ, or a confidence is no probability.
        OptionError: if there is not at least one bin.
    """
    if bins < 1:
        raise OptionError(f"{bins} bins; give 1 or more, 15 is usual")
    c, right = as_values(confidence, "confidence"), as_values(hit, "hit")
    if c.shape != right.shape:
        raise DataError(f"{len(c)} confidences for {len(right)} hits; give one each a token")
    # float32 rounding lifts a probability of 1 a little above it
    if c.min() < 0 or c.max() > 1 + 1e-6:
        raise DataError("a confidence is not between 0 and 1; give probabilities, not logarithms")
    if not np.isin(right, (0.0, 1.0)).all():
        raise DataError("hits must be yes/no (1 or 0)")
    order = np.argsort(c, kind="stable")
    # a value belongs to the bin of its first occurrence
    _, first, which = np.unique(c[order], return_index=True, return_inverse=True)
    place = np.empty(len(c), dtype=np.int64)
    place[order] = (first * bins // len(c))[which]
    gaps = np.bincount(place, right - c)
    return Calibration(
        error=float(np.abs(gaps).sum()) / len(c),
        brier=float(np.mean((c - right) ** 2)),
        confidence=float(c.mean()),
        accuracy=float(right.mean()),
        n=len(c),
        bins=len(np.unique(place)),
    )


class TopProbability:
    """The probability of a model's first choice at every target token.

    Score matrices do not hold it where the first choice is wrong. This watches the scoring pass
    (`observe` of `score_model`), at the price of projecting the hidden states once more, and of no
    forward pass.

    Args:
        head: the model's projection.
        targets: target tokens of every record, in order.
    """

    def __init__(self, head: Head, targets: Sequence[int]) -> None:
        self._head = head
        self._offsets = np.concatenate([[0], np.cumsum(targets)]).astype(np.int64)
        self._values = np.full(int(self._offsets[-1]), np.nan)

    @torch.no_grad()
    def observe(self, batch: Sequence[int], hidden: Tensor) -> None:
        """Take in one batch.

        Args:
            batch: positions of its records.
            hidden: the hidden states that predict their target tokens, record after record.
        """
        top = torch.cat(
            [self._head(part).log_softmax(-1).amax(-1) for part in torch.split(hidden, _CHUNK)]
        )
        where = np.concatenate([np.arange(self._offsets[i], self._offsets[i + 1]) for i in batch])
        self._values[where] = top.double().exp().cpu().numpy()

    @property
    def values(self) -> FloatArray:
        """float64[N], laid out like `TokenScores.log_prob`; NaN where no pass has been watched."""
        return self._values
