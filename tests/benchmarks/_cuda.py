"""A step on a GPU in absolute numbers: tokens a second, memory, share of the matrix ceiling."""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from _measure import interleaved, peak_bytes
from _steps import NPO, Setting, opened, product
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from unlearn.training.objective import Objective

GPU = Setting(
    vocabulary=128_000,
    length=512,
    hidden=2048,
    intermediate=5632,
    layers=16,
    heads=16,
    dtype=torch.bfloat16,
    device="cuda",
)
"""1.3 billion parameters, of which the embedding and the projection are .26 each."""


class _Operations(TorchDispatchMode):
    """Adds up the operations of matrix products; torch's own counter cannot see into our head."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func._overloadpacket.__name__ == "gemm_4bit":  # of rows with a matrix of these codes
            rows, _, shape, *_ = args
            self.total += 2 * rows.numel() * shape[0]
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **kwargs, out_val=out)
        return out


def report(
    setting: Setting, rounds: int = 10, ceiling_size: int = 8192, objective: Objective = NPO
) -> dict[str, Any]:
    """Measure a step, by default of NPO + NLL, on a model of its own.

    The share of the ceiling is (operations of all matrix products of a step, counted as they are
    dispatched, recomputed ones included) ÷ seconds ÷ the rate of one large square product.

    Args:
        setting: model and rows.
        rounds: steps that are timed.
        ceiling_size: side of the square matrices that give the ceiling.
        objective: what the step minimises.

    Returns:
        The numbers, by name.
    """
    with opened(setting) as state:
        made: list[Any] = []

        def action() -> None:
            made.append(product(state, setting, objective))
            made[0]()
            made[0]()

        peak = peak_bytes(action, setting.device)
        step = made[0]
        with _Operations() as counter:
            step()
        seconds = statistics.median(interleaved({"step": step}, rounds, setting.device)["step"])
        parameters = sum(_numbers(p) for p in state.model.parameters())
        held = sum(p.numel() * p.element_size() for p in state.model.parameters())
    tokens = (2 if objective.forget else 1) * setting.rows * setting.length
    rate = counter.total / seconds
    ceiling = matrix_ceiling(setting, ceiling_size, rounds)
    name = torch.cuda.get_device_name() if setting.device == "cuda" else "CPU"
    return {
        "device": name,
        "parameters": parameters,
        "MiB of the loaded model": held / 2**20,
        "tokens a second": tokens / seconds,
        "peak MiB above the loaded model": peak / 2**20,
        "operations of a step": counter.total,
        "ceiling, operations a second": ceiling,
        "share of the ceiling": rate / ceiling,
    }


def _numbers(parameter: torch.nn.Parameter) -> int:
    """Return how many numbers a parameter stands for, of codes of four bits too."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def matrix_ceiling(setting: Setting, size: int, rounds: int) -> float:
    """Return 2·size³ ÷ the median seconds of a square product in the setting's dtype."""
    a, b, out = (
        torch.randn(size, size, dtype=setting.dtype, device=setting.device) for _ in range(3)
    )

    def multiply() -> None:
        torch.mm(a, b, out=out)

    seconds = interleaved({"mm": multiply}, rounds, setting.device)["mm"]
    return 2 * size**3 / statistics.median(seconds)
