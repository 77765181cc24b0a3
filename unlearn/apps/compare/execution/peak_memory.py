"""The most memory that a piece of work takes, beyond what was in use before it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Peak", "peak"]


class Peak:
    """The most memory of a piece of work.

    Attributes:
        bytes: on the CUDA device that is used, else of the process; None where neither tells.
    """

    bytes: int | None = None


@contextlib.contextmanager
def peak(device: torch.device) -> Iterator[Peak]:
    """Measure what a block takes at most, beyond what is in use when it begins.

    On a CUDA device by PyTorch's own count; else by the resident memory of the process, which
    Linux counts anew on request.

    Args:
        device: where the work is done.

    Yields:
        What holds the number after the block.
    """
    import torch

    measured = Peak()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        yield measured
        measured.bytes = torch.cuda.max_memory_allocated(device) - start
        return
    start_now = _reset()
    yield measured
    highest = _status("VmHWM")
    if start_now is not None and highest is not None:
        measured.bytes = max(0, highest - start_now)


def _reset() -> int | None:
    """Forget the highest resident size so far, and return the one now."""
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what the last block left counts as this one's otherwise
    try:
        # 5: forget the peak (proc_pid_clear_refs(5))
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(key: str) -> int | None:
    """Return a size from the process's status, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return 1024 * int(sizes[0]) if sizes else None
