"""Ask for kernels that give the same result each time, so that a training can be repeated."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["deterministic_kernels"]

_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""Without it cuBLAS may add in another order each time (CUDA's documentation)."""


@contextlib.contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """Ask PyTorch for deterministic kernels inside a block; where there is none, it warns.

    New memory is not filled with NaN, as the same switch would do: that finds faults in programs,
    and costs time.

    Args:
        wanted: whether to ask at all.

    Yields:
        Nothing.
    """
    if not wanted:
        yield
        return
    memory: Any = torch.utils.deterministic
    mode, filled = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    workspace = os.environ.get(_WORKSPACE[0])
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    if torch.cuda.is_available():
        os.environ.setdefault(*_WORKSPACE)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        memory.fill_uninitialized_memory = filled
        if workspace is None:
            os.environ.pop(_WORKSPACE[0], None)
