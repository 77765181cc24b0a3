"""The sum of clipped gradients: each unit's norm is bounded before they are added."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearn.data.batching import collate
from unlearn.data.tokenization import Example
from unlearn.errors import TrainingError
from unlearn.losses import TokenView
from unlearn.model.frozen import whole_pass
from unlearn.model.scoring import log_prob, target_positions, token_values
from unlearn.model.state import ModelState

__all__ = ["UnitGradients", "unit_gradients"]

Units = Sequence[Sequence[Example]]


@dataclass(frozen=True)
class UnitGradients:
    """Gradients of units, by Opacus' hooks on the linear layers that train.

    Attributes:
        state: the opened model.
        weights: what trains, in the order of flat gradients.
        rows: records of one pass at most.
    """

    state: ModelState
    weights: Sequence[nn.Parameter]
    rows: int

    def clipped_sum(self, units: Units, clip: float) -> Tensor:
        """Return Σ_u g_u · min(1, C/‖g_u‖), g_u = Σ_r ∇ l_r over the records r of unit u.

        l_r is the mean of −log p over the target tokens of a record: a mean over the tokens of the
        whole step, as without privacy, would let one record change the weight of another.

        Args:
            units: records of each that takes part.
            clip: C.

        Returns:
            float32 [weights], flat; zeros where no unit takes part.

        Raises:
            TrainingError: if a gradient is not finite, or a weight has none of each record.
        """
        size = sum(weight.numel() for weight in self.weights)
        total = torch.zeros(size, device=self.weights[0].device)
        for group in self._groups(units):
            gradients = self.of(group)
            norms = gradients.norm(dim=1)
            if not bool(torch.isfinite(norms).all()):
                raise TrainingError(
                    "a gradient is not finite: lower learning_rate; nothing was saved"
                )
            total += (clip / norms.clamp(min=clip)) @ gradients
        return total

    def of(self, units: Units) -> Tensor:
        """Return the gradient of each unit, float32 [units, weights]."""
        rows = [(owner, example) for owner, unit in enumerate(units) for example in unit]
        parts = [rows[i : i + self.rows] for i in range(0, len(rows), self.rows)]
        total: Tensor | None = None
        for part in parts:
            owners = torch.tensor([owner for owner, _ in part])
            each = self._each([example for _, example in part])
            if total is None:
                total = each.new_zeros(len(units), each.shape[1])
            total.index_add_(0, owners.to(each.device), each)
        assert total is not None, "units without records"
        return total

    def _groups(self, units: Units) -> Iterator[Units]:
        """Yield units a few at a time, so that the gradients of all are never held at once."""
        filled = itertools.accumulate(map(len, units))
        for _, group in itertools.groupby(
            zip(units, filled, strict=True), lambda pair: (pair[1] - 1) // self.rows
        ):
            yield [unit for unit, _ in group]

    def _each(self, examples: Sequence[Example]) -> Tensor:
        """Return the gradient of each record, float32 [records, weights]."""
        batch = {k: v.to(self.state.device) for k, v in collate(examples).items()}
        hidden = whole_pass(self.state.model, batch)
        row, position, target = target_positions(batch)
        values, _ = token_values(log_prob, self.state.head, hidden[row, position], target)
        # summed over records: each has its own gradient, whatever the others are
        loss = -TokenView(values, row, len(examples)).per_record_mean().sum()
        torch.autograd.backward(loss)
        flat = []
        for weight in self.weights:
            sample = getattr(weight, "grad_sample", None)
            if not isinstance(sample, Tensor) or sample.shape[0] != len(examples):
                raise TrainingError(
                    f"--dp: a weight of shape {tuple(weight.shape)} has no gradient of each record "
                    "by itself: choose linear layers inside the blocks as target_modules"
                )
            flat.append(sample.detach().float().flatten(1))
            setattr(weight, "grad_sample", None)  # noqa: B010, where Opacus keeps it
            weight.grad = None
        return torch.cat(flat, 1)


@contextlib.contextmanager
def unit_gradients(state: ModelState, rows: int) -> Iterator[UnitGradients]:
    """Attach hooks that keep the gradient of each record, and take them off again.

    Args:
        state: an opened state with a LoRA adapter that trains.
        rows: records of one pass at most.

    Yields:
        What computes gradients; the model is in training mode.
    """
    from opacus.grad_sample.grad_sample_module import GradSampleHooks

    weights = [weight for weight in state.model.parameters() if weight.requires_grad]
    state.model.train()
    hooks = GradSampleHooks(state.model, batch_first=True, loss_reduction="sum", strict=True)
    try:
        with warnings.catch_warnings():
            # the first layers train, and what goes into them does not
            warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
            yield UnitGradients(state, weights, rows)
    finally:
        hooks.cleanup()
        state.model.eval()
