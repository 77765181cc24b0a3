"""What a loss gets to see, and what it says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from unlearn.model.scoring import TokenStatistic

__all__ = ["HiddenLoss", "Loss", "Need", "TokenView", "Unit"]

Need = Literal[
    "reference_log_probs",
    "before_logits",
    "base_logits",
    "teacher_logits",
    "before_hidden",
    "alternates",
]
Unit = Literal["tokens", "records", "alternate_tokens"]


@dataclass(frozen=True)
class TokenView:
    """The target tokens of one role's records, without prompt and without padding.

    Tokens are ragged: `values[i]` belongs to record `record[i]`. There is no mask to forget,
    so no reduction can depend on padding.

    Attributes:
        values: the loss's own statistic of each token, float32 [N]; by default log p.
        record: which record each token belongs to, int64 [N], values in [0, records).
        records: R, how many records there are.
        reference_log_probs: Σ_t log p of each record under the reference, float32 [R].
        alternate: the same of the answers to give instead, record by record; [R] of them.
    """

    values: Tensor
    record: Tensor
    records: int
    reference_log_probs: Tensor | None = None
    alternate: TokenView | None = None

    def per_record_sum(self) -> Tensor:
        """Return the sum of `values` over each record's tokens, [R]."""
        return self.values.new_zeros(self.records).index_add(0, self.record, self.values)

    def per_record_mean(self) -> Tensor:
        """Return the mean of `values` over each record's tokens, [R]."""
        return self.per_record_sum() / self.record.bincount(minlength=self.records)


class Loss(Protocol):
    """One term of an objective: a frozen dataclass of hyperparameters.

    A loss returns its *sum*; the trainer divides by the number of `unit`s in the whole optimizer
    step, over all accumulated batches and all processes.
    """

    unit: ClassVar[Unit]
    needs: ClassVar[frozenset[Need]]

    @property
    def statistic(self) -> TokenStatistic:
        """What to compute from each target token's logits."""
        ...

    def __call__(self, view: TokenView) -> Tensor:
        """Return the sum of the loss over the view, a float32 scalar to minimise."""
        ...


@runtime_checkable
class HiddenLoss(Protocol):
    """A term on hidden states inside the model, rather than on what it predicts.

    Attributes:
        layer: the block whose output is looked at; the first is 0. −1 leaves the choice to the
            model's depth.
    """

    layer: int

    def hidden_statistic(self, hidden: Tensor, reference: Tensor | None) -> Tensor:
        """Return one value a token.

        Args:
            hidden: output of the block at the target tokens, float32 [n, H].
            reference: the same of the model before, where the loss needs `before_hidden`.

        Returns:
            float32 [n]; row i may depend on row i of the inputs only.
        """
        ...
