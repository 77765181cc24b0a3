"""When to stop: before a method does more harm than good.

The losses watched are those of the training pass itself, so watching costs nothing: each record's
most recent mean token loss. A record's value is at most one epoch old.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Monitor", "StopRules"]

# The retain loss is judged over this many most recent records: one record's noise must not stop.
_WINDOW = 32


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


class Monitor:
    """Keeps the most recent loss of each record, and applies the rules.

    Args:
        rules: the levels.
        n_forget: number of forget records.
    """

    def __init__(self, rules: StopRules, n_forget: int) -> None:
        self.rules = rules
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

    def verdict(self) -> str | None:
        """Return the rule that says stop, in words, or None."""
        level = self.rules.forget_level
        if level is not None and not np.isnan(self._forget).any() and self.forget_loss >= level:
            return (
                f"forget loss {self.forget_loss:.2f} reached {level:.2f} "
                f"({self.rules.forget_source})"
            )
        budget = self.rules.retain_level
        if budget is not None and self._retain and self.retain_loss > budget:
            return f"retain loss {self.retain_loss:.2f} went over its budget of {budget:.2f}"
        return None

    def state(self) -> dict[str, list[float | None]]:
        """Return what a checkpoint must hold."""
        forget = [None if math.isnan(x) else x for x in self._forget.tolist()]
        return {"forget": forget, "retain": list(self._retain)}

    def load(self, state: dict[str, list[float | None]]) -> None:
        """Take up the state of a checkpoint."""
        self._forget = np.array([math.nan if x is None else x for x in state["forget"]])
        self._retain = [x for x in state["retain"] if x is not None]
