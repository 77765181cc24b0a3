"""Retraining with a budget: a fresh adapter from fewer rows, in smaller steps at a higher rate.

The weights are a function of the kept records, the base, the shape, the seed, and the settings of
the original training. With `budget=auto` one more number enters: the loss of the old adapter on the
kept records that are watched, rounded to `ROUNDED` decimals, which says when to stop; where that
adapter was retrained so itself, the drift that its lineage names is taken off. The records to
forget never enter, and nothing else of the old adapter does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unlearn.errors import OptionError
from unlearn.processes import world_size
from unlearn.training.options import TrainingOptions, total_steps

__all__ = [
    "BY_HEART",
    "FACTORS",
    "FIRST_SHARE",
    "LOW",
    "MOST",
    "PASSES",
    "ROUNDED",
    "Budget",
    "Recipe",
    "budget_of",
    "path_length",
    "probe_share",
    "rows_of",
    "watched",
]

FIRST_SHARE = 0.25
"""Part of the rows of retraining with which `auto` begins; a further stage at most doubles it."""

FACTORS = (5.0, 2.0, 0.75)
"""Lengths of path to choose among, as multiples of the original's; the first where none is
tried. 5 is what brought a quarter of the rows to the quality of the whole on SmolLM2-135M."""

MOST = 1.1
"""What `auto` costs at most, relative to retraining."""

BY_HEART = 0.25
"""Part of the loss before any training below which the old adapter's says that it knew the kept
records by heart."""

PASSES = 10.0
"""Passes over the records in the first stage from which on it can teach them by heart; with fewer,
`auto` trains as the original did. On the embedded model a quarter of 20 epochs brought .74 nats
where the old adapter had .03, and a quarter of 40 brought .10 where it had .01."""

LOW = 0.5
"""Loss in nats a token above which nothing is known by heart, so that the other need not be
measured."""

ROUNDED = 2
"""Decimals of the one number of the old adapter that enters."""

_HIGHEST = 20.0  # rates above this multiple of the original's are not tried,
_CEILING = 1e-2  # nor are rates above this, unless the original's was: adapters break there
_PROBES = 1 / 30  # part of retraining that all candidates may cost before the winner's run
_LEAST_PROBE = 8  # steps below which a candidate shows nothing
_FEW_STEPS = 64  # steps below which batches of 4 become batches of 2
_WARMUP, _LONGEST_WARMUP = 0.1, 20


@dataclass(frozen=True)
class Budget:
    """How much of the original training a retraining may take.

    Attributes:
        share: part of its rows, in (0, 1]; None for `auto`.
        quality: how far the loss on kept records may be from the old adapter's for `auto`, in
            nats a token, both ways.
    """

    share: float | None
    quality: float

    @property
    def asked(self) -> float | Literal["auto"]:
        """What was asked for, as it is written."""
        return "auto" if self.share is None else self.share

    @property
    def first(self) -> float:
        """Part of the rows that the first stage takes: all that is given, or a quarter."""
        return FIRST_SHARE if self.share is None else self.share

    @property
    def most(self) -> float:
        """Part of the rows that it may take in the end."""
        return 1.0 if self.share is None else self.share

    @property
    def whole(self) -> bool:
        """Whether the recipe is the original's."""
        return self.share == 1.0


def budget_of(options: Mapping[str, Any]) -> Budget:
    """Read the options `budget` and `quality` of a method.

    Args:
        options: the method's own.

    Returns:
        The budget.

    Raises:
        OptionError: for a budget outside (0, 1], or a quality that is not positive.
    """
    asked, quality = options["budget"], options["quality"]
    try:
        share = None if asked == "auto" else float(asked)
        allowed = float(quality)
    except (TypeError, ValueError):
        raise OptionError(
            f"retrain: budget is a number above 0 and at most 1, or auto, and quality a number of "
            f"nats; not {asked!r} and {quality!r}"
        ) from None
    if share is not None and not 0 < share <= 1:
        raise OptionError(f"retrain: budget must be above 0 and at most 1, or auto; not {asked!r}")
    if not 0 < allowed < math.inf:
        raise OptionError(f"retrain: quality must be a positive number of nats, not {quality!r}")
    return Budget(share, allowed)


def rows_of(training: TrainingOptions, records: int) -> int:
    """Return the rows that a training on so many records goes through, repeats counted."""
    return total_steps(training, records) * training.batch_size


def watched(records: int) -> list[int]:
    """Return the positions of the kept records whose loss is watched, evenly spread.

    A sixth of them, at least 8 and at most 32: all that is decided here is decided on these. They
    are trained on like all others, by the old adapter and the new one, so that their losses
    compare.
    """
    count = min(records, max(8, min(32, records // 6)))
    return [int(i) for i in np.linspace(0, records - 1, count).round()]


def path_length(training: TrainingOptions, steps: int) -> float:
    """Return Σ_t η_t, the sum of the learning rates of all steps.

    AdamW moves a weight by about the rate a step, whatever the gradient: two trainings with one
    sum can take the weights equally far.
    """
    assert training.learning_rate is not None
    warmup = min(training.warmup_steps, steps)
    after = steps - warmup
    shape = after if training.schedule == "constant" else (after + 1) / 2
    return training.learning_rate * (max(0, warmup - 1) / 2 + shape)


@dataclass(frozen=True)
class Recipe:
    """What trains at a reduced budget, derived from the original training.

    Attributes:
        whole: the original training.
        records: kept records.
        share: part of its rows of the first stage, which decides the batch.
    """

    whole: TrainingOptions
    records: int
    share: float

    @property
    def rows(self) -> int:
        """Rows of the original training on the kept records."""
        return rows_of(self.whole, self.records)

    @property
    def batch_size(self) -> int:
        """Records a step: 4, or 2 where 4 would leave fewer than 64 steps; at most the original's.

        Several processes have one record each at least.
        """
        small = 4 if self.share * self.rows >= 4 * _FEW_STEPS else 2
        batch = min(small, self.whole.batch_size)
        return max(1, round(batch / world_size())) * world_size()

    def stage(self, share: float, factor: float) -> TrainingOptions:
        """Return how a stage is trained: AdamW, a short warm-up, linearly to zero, clipped at 1.

        Its rate makes the sum of rates over its steps `factor` times that of the original training,
        but is no more than 20 times the original rate, nor more than 1e-2 where that was less.

        Args:
            share: its rows, as a part of those of the original training.
            factor: a length of path, as a multiple of the original's.

        Returns:
            Its options; how long is given in epochs, so that it fits any number of records.
        """
        whole, batch = self.whole, self.batch_size
        assert whole.learning_rate is not None
        steps = max(1, math.floor(share * self.rows / batch + 1e-9))
        micro = whole.micro_batch_size
        update: dict[str, Any] = {
            "max_steps": None,
            "epochs": steps * batch / self.records,
            "batch_size": batch,
            "micro_batch_size": micro if micro and batch % (micro * world_size()) == 0 else None,
            "schedule": "linear",
            "warmup_steps": min(_LONGEST_WARMUP, int(_WARMUP * steps)),
            "optimizer": "adamw",
            "momentum": 0.9,
            "max_grad_norm": 1.0,
            "save_steps": None,
        }
        shape = path_length(whole.model_copy(update=update | {"learning_rate": 1.0}), steps)
        original = path_length(whole, total_steps(whole, self.records))
        highest = min(_HIGHEST * whole.learning_rate, max(whole.learning_rate, _CEILING))
        rate = min(factor * original / shape, highest)
        return whole.model_copy(update=update | {"learning_rate": rate})

    def candidate(self, share: float, factor: float) -> TrainingOptions:
        """Return how a few rows are trained to see what the rate of the first stage does.

        Args:
            share: rows to try it on, as a part of those of the original training.
            factor: of the first stage.

        Returns:
            Its options.
        """
        rate = self.stage(self.share, factor).learning_rate
        return self.stage(share, factor).model_copy(update={"learning_rate": rate})

    def further(
        self, first: TrainingOptions, share: float, factor: float, pace: float = 1.0
    ) -> TrainingOptions:
        """Return how a stage after the first one is trained: no faster, slower where it is shorter.

        Args:
            first: how the first one was trained.
            share: rows of this one, as a part of those of the original training.
            factor: of the first one.
            pace: part of the rate that it would have.

        Returns:
            Its options.
        """
        training = self.stage(share, factor)
        assert training.learning_rate is not None
        assert first.learning_rate is not None
        highest = first.learning_rate * min(1.0, share / self.share)
        rate = pace * min(training.learning_rate, highest)
        return training.model_copy(update={"learning_rate": rate})


def probe_share(recipe: Recipe) -> float | None:
    """Return the rows on which each candidate is tried, as a part of those of the original.

    All of `FACTORS` together take a thirtieth of retraining at most; None where that is too little
    for 8 steps each, so that the first factor is taken untried.
    """
    share = _PROBES / len(FACTORS)
    enough = share * recipe.rows >= _LEAST_PROBE * recipe.batch_size
    return share if enough and share < recipe.share else None
