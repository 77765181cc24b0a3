"""Whether a run computes the frozen blocks below those that train once for each record."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn.data.tokenization import Example
from unlearn.losses import HiddenLoss
from unlearn.model.blocks import blocks_of
from unlearn.model.frozen import FrozenLower, Kept, first_trained_block, frozen_lower, whole_pass
from unlearn.model.frozen_outputs import OUTPUTS, digest_of, lower_key
from unlearn.model.lm_head import unwrapped
from unlearn.model.state import ModelState
from unlearn.processes import weights_are_split
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions
from unlearn.training.wrappers import Wrappers

__all__ = ["Passes", "Run", "frozen_once"]

MEMORY = 1 << 30
"""Bytes in memory for what comes out of frozen blocks; the rest is on disk."""

_FULL = (
    "the disk was full: what came out of frozen blocks for some records was computed in every pass"
)

Run = Callable[..., Tensor]
"""Runs (model, batch, view) up to the output projection, see `unlearn.model.frozen.whole_pass`."""


@dataclass(frozen=True)
class Passes:
    """How a run goes through the model.

    Attributes:
        note: what the user should know of it, if anything.
        lower: the blocks that are computed once; None where all are computed in every pass.
    """

    note: str | None = None
    lower: FrozenLower | None = None

    @property
    def run(self) -> Run:
        """What runs the model."""
        return self.lower.hidden_states if self.lower else whole_pass

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of what was done so far."""
        full = (_FULL,) if self.lower and self.lower.kept.full else ()
        return (self.note, *full) if self.note else full


@contextlib.contextmanager
def frozen_once(
    state: ModelState,
    training: TrainingOptions,
    objective: Objective,
    wrappers: Wrappers | None,
    seen: Sequence[tuple[Sequence[Example], int]],
) -> Iterator[Passes]:
    """Say how a run goes through the model.

    What it keeps in memory is there for the next run on the same base and records
    (`unlearn.model.frozen_outputs`); what is on disk is gone afterwards, also after an error.

    Args:
        state: the model, with only those weights trainable that the run trains.
        training: options; `cache_frozen`.
        objective: the terms, and the blocks they look at.
        wrappers: what changes the gradient, if anything does.
        seen: examples, and how many of them (with repeats) the run sees.

    Yields:
        What runs the model, and what the user should know.
    """
    first = 0 if training.cache_frozen == "off" else first_trained_block(state.model)
    if not first or not any(count > len(examples) > 0 for examples, count in seen):
        yield Passes()
        return
    blocks = f"the lowest {first} of {len(blocks_of(state.model))} blocks, which are frozen,"
    reason = _reason(first, objective, wrappers)
    if reason is None:
        apart = not state.stack or _adapters_below(state.model, first)
        rows = [torch.from_numpy(e.ids).long() for examples, _ in seen for e in examples]
        key = None if apart else _key(state.model, first, rows)
        with OUTPUTS.opened(key, lambda: Kept(MEMORY)) as kept:
            lower = frozen_lower(state.model, rows, kept, apart=apart)
            if not isinstance(lower, str):
                note = (
                    f"what comes out of {blocks} was computed once for each record (cache_frozen)"
                )
                yield Passes(note, lower)
                return
        reason = lower
    yield Passes(f"{blocks} were computed in every pass: {reason}")


def _key(model: Any, first: int, rows: Sequence[Tensor]) -> Hashable | None:
    """Return all that decides what comes out of the blocks below for these rows."""
    lower = lower_key(model, first)
    unlike = sorted({row.numpy().tobytes() for row in rows})
    return None if lower is None else ("training", lower, digest_of(unlike))


def _reason(first: int, objective: Objective, wrappers: Wrappers | None) -> str | None:
    """Return what of a run itself needs the blocks below."""
    if weights_are_split():
        return "weights are split over processes"
    if any(isinstance(loss, HiddenLoss) and loss.layer < first for _, loss, _ in objective.terms()):
        return "a loss looks at what comes out of one of them"
    if wrappers is not None and wrappers.latent is not None and wrappers.latent.layer < first:
        return "what comes out of one of them is disturbed"
    return None


def _adapters_below(model: Any, first: int) -> bool:
    """Whether an adapter acts outside the blocks that are computed in every pass."""
    net = unwrapped(model)
    above = {id(m) for block in blocks_of(net)[first:] for m in block.modules()}
    return any(hasattr(m, "_disable_adapters") and id(m) not in above for m in net.modules())
