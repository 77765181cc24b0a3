"""When to stop: before a method does more harm than good.

The losses watched are those of the training pass itself, so watching costs nothing: each record's
most recent mean token loss. A record's value is up to one epoch old, though, and where losses rise
it is too low: it only tells when to look. What ends a run is the forget records scored anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["WATCHING", "Monitor", "Rescoring", "StopRules"]

WATCHING = 0.1
"""Part of what training takes that scoring forget records anew may take on top."""

# The retain loss is judged over this many most recent records: one record's noise must not stop.
_WINDOW = 32

# Part of the way to the level from which forget records are scored anew: where losses rise evenly
# within the first epoch, the mean of those seen is at half of the way when they are there.
_NEAR = 0.25

# Part of the way from which looks that were saved up are spent, one a step.
_CLOSE = 0.75


@dataclass(frozen=True)
class StopRules:
    """Levels at which training ends; None switches a rule off.

    Attributes:
        forget_level: stop when the forget records' mean loss reaches this, in nats a token.
        forget_source: where that level comes from, for the report.
        retain_level: stop when the retain records' mean loss exceeds this, in nats a token.
    """

    forget_level: float | None = None
    forget_source: str = ""
    retain_level: float | None = None

    def describe(self) -> str:
        """Say in words what will stop the run."""
        parts = []
        if self.forget_level is not None:
            parts.append(f"forget loss ≥ {self.forget_level:.2f} ({self.forget_source})")
        if self.retain_level is not None:
            parts.append(f"retain loss > {self.retain_level:.2f}")
        return " or ".join(parts) if parts else "none: all epochs"


@dataclass(frozen=True)
class Rescoring:
    """How forget records are scored anew.

    Attributes:
        score: returns their mean loss as the model is now, in nats a token.
        start: the same before training.
        every: optimizer steps for each look, at least.
        tokens: tokens that a look takes forward.
    """

    score: Callable[[], float]
    start: float
    every: int = 1
    tokens: int = 0


class Monitor:
    """Keeps the most recent loss of each record, and applies the rules.

    Args:
        rules: the levels.
        n_forget: number of forget records.
        rescoring: how their losses are measured anew before they end a run; None where they cannot
            be, so that those of the training pass decide.
    """

    def __init__(self, rules: StopRules, n_forget: int, rescoring: Rescoring | None = None) -> None:
        self.rules = rules
        self.rescoring = rescoring
        self._steps = self._looked = self._looks = 0
        self._fresh = math.nan
        self._forget: npt.NDArray[np.float64] = np.full(n_forget, np.nan)
        self._retain: list[float] = []

    def update(
        self,
        forget_index: npt.NDArray[np.int64],
        forget_loss: npt.NDArray[np.float64],
        retain_loss: npt.NDArray[np.float64],
    ) -> None:
        """Take in the losses of one optimizer step, of all processes.

        Args:
            forget_index: positions of forget records.
            forget_loss: their mean token losses.
            retain_loss: mean token losses of retain records.
        """
        self._steps += 1
        self._forget[forget_index] = forget_loss
        self._retain = [*self._retain, *retain_loss.tolist()][-_WINDOW:]

    @property
    def forget_loss(self) -> float:
        """Mean of the most recent losses of the forget records seen so far."""
        return float(np.nanmean(self._forget)) if np.isfinite(self._forget).any() else math.nan

    @property
    def retain_loss(self) -> float:
        """Mean of the most recent retain losses."""
        return float(np.mean(self._retain)) if self._retain else math.nan

    @property
    def due(self) -> bool:
        """Whether the forget records are to be scored anew: near the level, and not too often."""
        level, look = self.rules.forget_level, self.rescoring
        if level is None or look is None or (self._looks + 1) * look.every > self._steps:
            return False
        way = level - look.start
        if np.nanmax([self.forget_loss, self._fresh]) >= look.start + _CLOSE * way:
            return True
        rested = self._steps - self._looked >= look.every
        return rested and self.forget_loss >= look.start + _NEAR * way

    def look(self, loss: float) -> None:
        """Take in the forget records' mean loss as it is now."""
        self._looked, self._fresh = self._steps, loss
        self._looks += 1

    def verdict(self) -> str | None:
        """Return the rule that says stop, in words, or None."""
        level, source = self.rules.forget_level, self.rules.forget_source
        if level is not None and self.rescoring is not None:
            if self._looked == self._steps and self._fresh >= level:
                return f"forget loss {self._fresh:.2f}, scored anew, reached {level:.2f} ({source})"
        elif level is not None and not np.isnan(self._forget).any() and self.forget_loss >= level:
            return f"forget loss {self.forget_loss:.2f} reached {level:.2f} ({source})"
        budget = self.rules.retain_level
        if budget is not None and self._retain and self.retain_loss > budget:
            return f"retain loss {self.retain_loss:.2f} went over its budget of {budget:.2f}"
        return None

    def state(self) -> dict[str, list[float | None]]:
        """Return what a checkpoint must hold."""
        forget = [None if math.isnan(x) else x for x in self._forget.tolist()]
        fresh = None if math.isnan(self._fresh) else self._fresh
        looks = [*map(float, (self._steps, self._looked, self._looks)), fresh]
        return {"forget": forget, "retain": list(self._retain), "looks": looks}

    def load(self, state: dict[str, list[float | None]]) -> None:
        """Take up the state of a checkpoint."""
        self._forget = np.array([math.nan if x is None else x for x in state["forget"]])
        self._retain = [x for x in state["retain"] if x is not None]
        *counts, fresh = state.get("looks", [0, 0, 0, None])
        self._steps, self._looked, self._looks = (int(count or 0) for count in counts)
        self._fresh = math.nan if fresh is None else fresh
