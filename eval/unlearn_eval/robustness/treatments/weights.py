"""Run a model with its adapters merged and its weights changed, and put the very originals back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.errors import ModelError
from unlearn.model.lm_head import unwrapped
from unlearn.model.state import ModelState

__all__ = ["Change", "rewritten"]

Change = Callable[[nn.Module, str, Tensor], Tensor | None]
"""(module, name of its parameter, merged value in float32) → new value, or None to leave it."""


@contextlib.contextmanager
@torch.no_grad()
def rewritten(state: ModelState, change: Change) -> Iterator[None]:
    """Let a state run as deployed: adapters merged into the base, weights changed.

    Each module gets parameters of its own for the time being: W + ΔW in float32, changed, then cast
    to the dtype in which the model was opened, so that arithmetic is as before. Weights shared by
    several modules (tied embeddings) are thus changed in each by itself. Afterwards the original
    parameters are hung back in: nothing is computed back, so nothing can be off by a bit.

    Memory: a second copy of the parameters that do change, on the same device; those that a change
    leaves as they are cost nothing.

    Args:
        state: the state; its scores differ while the block runs.
        change: what to do to each parameter.

    Yields:
        Nothing.

    Raises:
        ModelError: if weights are packed by a quantiser already, or an adapter changes parameters
            that are not a layer's weight.
    """
    rewritten_blocks: set[int] = set()
    with contextlib.ExitStack() as undo:
        for module, adapter in _deployed(unwrapped(state.model)):
            if id(module) not in rewritten_blocks:  # some models run one block several times
                _rewrite(module, adapter, change, undo)
                rewritten_blocks.add(id(module))
        yield


def _deployed(module: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """Yield every module that holds weights of the running model, with its adapter layer if any."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if isinstance(module, BaseTunerLayer):
        if hasattr(module, "parameter_name"):
            raise ModelError(
                "the adapter changes single parameters (target_parameters): merging it is not "
                "supported here"
            )
        yield module.get_base_layer(), module
    elif isinstance(module, ModulesToSaveWrapper):
        active = [name for name in module.active_adapters if name in module.modules_to_save]
        yield from _deployed(
            module.modules_to_save[active[0]] if active else module.original_module
        )
    else:
        yield module, None
        for child in module.children():
            yield from _deployed(child)


def _rewrite(module: nn.Module, adapter: Any, change: Change, undo: contextlib.ExitStack) -> None:
    """Hang changed parameters into one module, and note how to hang the old ones back."""
    old = dict(module.named_parameters(recurse=False))
    for name, parameter in old.items():
        if not parameter.is_floating_point():
            raise ModelError(
                f"the weights are quantised already ({type(module).__name__}.{name} is "
                f"{parameter.dtype}): open the model without --load-in-4bit to merge or round it"
            )
    if not old:
        return
    undo.callback(_hang, module, old)
    _hang(module, {name: _parameter(value.float()) for name, value in old.items()})
    if adapter is not None:
        adapter.merge()
        # only PEFT's marks: to subtract ΔW again would leave rounding errors
        undo.callback(adapter.merged_adapters.clear)
    new = {}
    for name, was in old.items():
        merged = getattr(module, name).data
        changed = change(module, name, merged)
        value = (merged if changed is None else changed).to(was.dtype)
        new[name] = was if torch.equal(value, was) else _parameter(value)
    _hang(module, new)


def _hang(module: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        setattr(module, name, parameter)


def _parameter(value: Tensor) -> nn.Parameter:
    """Make a frozen parameter that shares no memory with another one."""
    return nn.Parameter(value.detach().clone(), requires_grad=False)
