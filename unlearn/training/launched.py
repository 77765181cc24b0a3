"""Whether accelerate set up what a launcher was asked for."""

from __future__ import annotations

from typing import Any

from unlearn.errors import OptionError
from unlearn.processes import world_size

__all__ = ["check_launched"]


def check_launched(accelerator: Any) -> None:
    """Refuse to train with another number of processes than a launcher was asked for.

    Args:
        accelerator: the `accelerate.Accelerator` that trains.

    Raises:
        OptionError: with both numbers.
    """
    if accelerator.num_processes != world_size():
        raise OptionError(
            f"{world_size()} processes were launched, and accelerate set up "
            f"{accelerator.num_processes} (`accelerate env` shows what it finds here)"
        )
