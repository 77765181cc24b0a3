"""Read predictions off intermediate blocks: what the last ones hide, an earlier one may show."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from unlearn.errors import OptionError
from unlearn.model.blocks import block_outputs, blocks_of
from unlearn.model.state import ModelState
from unlearn_eval.robustness.treatments.treated import Examples, Setting, TreatedState, treated_by

__all__ = ["leaving_at", "lens_blocks", "logit_lens"]


def lens_blocks(depth: int) -> list[int]:
    """Return the blocks looked at by default: a quarter, half and three quarters of the way up.

    Args:
        depth: how many blocks the model has.

    Returns:
        Distinct numbers from 0, the last block not among them; none for a model of one block.
    """
    blocks = {max(0, depth * quarter // 4 - 1) for quarter in (1, 2, 3)}
    return sorted(blocks - {depth - 1})


@contextlib.contextmanager
def leaving_at(state: ModelState, block: int) -> Iterator[None]:
    """Let a state predict from the output of one block, through its own final norm and projection.

    What comes out of the last block is replaced by what came out of that one, so all that the
    architecture does between the last block and the logits is done to it.

    Raises OptionError if there is no such block.
    """
    blocks = blocks_of(state.model)
    if not 0 <= block < len(blocks):
        raise OptionError(f"logit lens: no block {block}; the model has 0 to {len(blocks) - 1}")
    with block_outputs(state.model, [block]) as outputs:

        def replace(_: nn.Module, args: Any, output: Any) -> Any:
            early = outputs[block]
            return (early, *output[1:]) if isinstance(output, tuple) else early

        handle = blocks[-1].register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()


def logit_lens(
    state: ModelState, examples: Examples, setting: Setting, blocks: Sequence[int] | None = None
) -> Iterator[TreatedState]:
    """Score the predictions of intermediate blocks.

    A lens without a trained translator sees little in the early blocks of most models, of the
    references as well; that is why only the difference to them counts.

    Args:
        state: the state, as before afterwards.
        examples: the records.
        setting: not used.
        blocks: which; by default those of `lens_blocks`.

    Yields:
        A treated state a block.
    """
    depth = len(blocks_of(state.model))
    for block in lens_blocks(depth) if blocks is None else blocks:
        params = {"block": block, "blocks": depth}
        name = f"logit lens block={block}"
        yield treated_by(leaving_at(state, block), state, examples, name, params)
