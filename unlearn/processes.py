"""Which of the processes this one is that `accelerate launch` or `torchrun` started.

All of this raises an `OptionError` where the environment contradicts itself.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator

from unlearn.errors import OptionError

__all__ = [
    "check_splitting",
    "if_interrupted",
    "is_main",
    "local_rank",
    "portable",
    "rank",
    "splitting",
    "weights_are_split",
    "world_size",
]

# How `accelerate launch` says that no process holds whole weights.
_SPLITTING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}

# Why not all of it can be trained with.
_UNSUPPORTED = {
    "DeepSpeed": "ZeRO 3 lets go of the output projection, which losses use a chunk at a time, and "
    "ZeRO 1 and 2 take gradients away before they are checked",
    "Megatron-LM": "it has model code of its own",
}

_TRUE = frozenset({"1", "true"})

# Set by `accelerate launch`, whatever it starts.
_ACCELERATE = "ACCELERATE_MIXED_PRECISION"
# How MPI says how many processes there are, which numbers them in names of its own.
_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def rank() -> int:
    """Return the number of this process, from 0."""
    return _place()[0]


def world_size() -> int:
    """Return how many processes there are."""
    return _place()[1]


def local_rank() -> int:
    """Return the number of this process among those of its machine, from 0."""
    return _number("LOCAL_RANK") or 0


def is_main() -> bool:
    """Say whether this is the process that speaks and writes."""
    return rank() == 0


def weights_are_split() -> bool:
    """Say whether each process holds a part of the weights only."""
    return splitting() is not None


def splitting() -> str | None:
    """Return the name of what was asked to split the weights over processes; None for nothing."""
    on = (word for name, word in _SPLITTING.items() if os.environ.get(name, "").lower() in _TRUE)
    return next(on, None)


def check_splitting(device: str) -> None:
    """Refuse to split weights over processes where they would not be, or not as they must be.

    Args:
        device: the type of device that the model goes to.

    Raises:
        OptionError: with what to launch instead.
    """
    asked = splitting()
    if asked is None:
        return
    if asked != "FSDP":
        raise OptionError(
            f"accelerate was launched with {asked}, and weights that it splits are not supported: "
            f"{_UNSUPPORTED[asked]}; FSDP2 splits them (`unlearn recipes show accelerate/fsdp2`)"
        )
    if device == "cpu":
        raise OptionError(
            "accelerate was launched with FSDP, and on CPUs it splits nothing and does not say so; "
            "start it with --multi_gpu (plain data parallelism, also on CPUs)"
        )
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise OptionError("of FSDP only its second version is supported: set fsdp_version: 2")
    if os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "").lower() in _TRUE:
        raise OptionError(
            "with fsdp_cpu_ram_efficient_loading only one process would have weights, and all "
            "score records before they train: set it to false"
        )


@contextlib.contextmanager
def if_interrupted(words: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C or SIGTERM carry what becomes of the work inside, as a note on the exception.

    Args:
        words: says it; of blocks in one another the outer one has the last word.

    Yields:
        Nothing.
    """
    try:
        yield
    except (Exception, GeneratorExit):
        raise
    except BaseException as interruption:
        interruption.add_note(words())
        raise


def portable(error: Exception, where: str = "") -> Exception:
    """Return an error as another process can take it: itself where it can, else one like it.

    Args:
        error: what was raised.
        where: written in front of it where it must be replaced.

    Returns:
        The error, or a `RuntimeError` with its words.
    """
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:
        return RuntimeError(f"{where}{type(error).__name__}: {error}")
    return error


def _place() -> tuple[int, int]:
    """Return (rank, world size); a process that took itself for another would write nothing."""
    number, size = _number("RANK"), _number("WORLD_SIZE")
    mend = "start the command with accelerate launch or torchrun, or unset RANK and WORLD_SIZE"
    if number is None and (size or 1) > 1:
        raise OptionError(f"WORLD_SIZE is {size}, but RANK is not set: {mend}")
    if size == 0:
        raise OptionError(f"WORLD_SIZE is 0, which is no number of processes: {mend}")
    if number and size is None:
        raise OptionError(f"RANK is {number}, but WORLD_SIZE is not set: {mend}")
    if (number or 0) >= (size or 1):
        raise OptionError(f"RANK is {number}, but there are {size} process(es), from 0: {mend}")
    if size is None:
        _check_alone()
    return number or 0, size or 1


def _check_alone() -> None:
    """Refuse to be the only process where a launcher was asked for several."""
    several = "accelerate launch --multi_gpu --num_processes N (also on CPUs), or torchrun"
    for name in _MPI:
        if (_number(name) or 1) > 1:
            raise OptionError(
                f"{name} is {os.environ[name]}, but RANK and WORLD_SIZE are not set, and MPI alone "
                f"does not say which process this is: start several with {several}"
            )
    # of one process accelerate tells no address
    if os.environ.get(_ACCELERATE) and os.environ.get("MASTER_ADDR"):
        raise OptionError(
            "accelerate launch was asked for several processes and started one, as it does for "
            f"distributed_type MULTI_CPU without mpirun: start several with {several}"
        )


def _number(name: str) -> int | None:
    """Return what a launcher has put into the environment; None if there is nothing."""
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise OptionError(f"{name} is {text!r}, which is no number: unset it, or use a launcher")
    return int(text)
