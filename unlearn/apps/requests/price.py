"""What it took to take the records of a request out, and what it left of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from unlearn.provenance.lineage import Lineage

__all__ = ["Price"]


@dataclass(frozen=True)
class Price:
    """What a run took; None for what nobody knows.

    Attributes:
        method: by which it took records out.
        budget: rows that trained the new weights, relative to the original training's; None for a
            method that does not train anew.
        of_retraining: all that was computed, relative to training again on all kept records.
        kept_loss: of the new adapter on the kept records that are watched, in nats a token.
        target: the loss that it was to reach.
    """

    method: str
    budget: float | None = None
    of_retraining: float | None = None
    kept_loss: float | None = None
    target: float | None = None

    @classmethod
    def of(cls, line: Lineage, retraining: float | None = None) -> Price:
        """Read it from the lineage of what a run made.

        Args:
            line: the lineage.
            retraining: tokens of retraining, where they are known.

        Returns:
            The price.
        """
        used, losses = line.budget.get("used"), line.budget.get("kept_loss") or {}
        part = (line.budget.get("cost") or {}).get("of_retraining")
        tokens = line.cost.get("tokens")
        if part is None and used is not None:
            part = used  # the whole recipe, and nothing tried beside it
        elif part is None and tokens and retraining:
            part = round(tokens / retraining, 4)
        return cls(line.method, used, part, losses.get("new"), losses.get("target"))

    @classmethod
    def noted(cls, facts: Mapping[str, Any]) -> Price | None:
        """Return what the ledger holds of a request's; None before a run."""
        known = facts.get("price")
        return None if known is None else cls(**{k: v for k, v in known.items() if k != "run"})

    def as_dict(self, run: str) -> dict[str, Any]:
        """Return what the ledger holds of it, with the id of the run."""
        return {"run": run, **asdict(self)}

    @property
    def words(self) -> str:
        """Say it in a line."""
        parts = [self.method]
        if self.budget is not None:
            parts.append(f"budget {self.budget:.2g} of the original training")
        if self.of_retraining is not None:
            parts.append(f"{self.of_retraining:.2g} of retraining with all that was tried")
        if self.kept_loss is not None:
            wanted = "" if self.target is None else f", to be near {self.target:.2f}"
            parts.append(f"loss on kept records {self.kept_loss:.2f}{wanted}")
        return "; ".join(parts)
