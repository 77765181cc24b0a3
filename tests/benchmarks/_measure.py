"""Clocks and meters of the benchmarks: paired times, and exact peak memory.

Times are paired: the steps to compare run in turn, A B C A B C …, and a ratio is the median over
rounds of the ratio within a round, so that what else the machine does hits both sides alike. With
one thread on a CPU the clock counts the seconds it computes, not those it waits for a core.

Peak memory on a CPU comes from the allocator itself: the profiler of torch records each allocation
and release of tensor memory, those inside operators included, and the peak is the largest running
sum. It starts at 0, hence is memory above what was held before; it does not depend on the clock,
on the operating system or on what other processes do. On CUDA it is the allocator's own
`max_memory_allocated`, also above what was held before.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read once, when torch is loaded

import torch
from torch.profiler import ProfilerActivity, profile

Step = Callable[[], None]


@dataclass(frozen=True)
class Ratio:
    """A row of the table; `target` is the largest value wanted, where one is."""

    name: str
    value: float
    target: float | None = None

    def line(self) -> str:
        wanted = "" if self.target is None else f"{self.target:.2f}"
        missed = self.target is not None and self.value > self.target
        return f"{self.value:6.2f}  {wanted:>6}  {'missed' if missed else '':6}  {self.name}"


def peak_bytes(action: Step, device: str = "cpu") -> int:
    """Return the most tensor memory that an action held at once, above what was held before.

    The collector of Python's reference cycles is off meanwhile: memory that only it would free
    counts as held, and the number does not depend on when it happens to run.
    """
    gc.collect()
    gc.disable()
    try:
        return _peak_of_cuda(action) if device == "cuda" else _peak_of_cpu(action)
    finally:
        gc.enable()


def _peak_of_cpu(action: Step) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        action()
    assert seen.profiler is not None
    events = seen.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), i, e.nbytes()) for i, e in enumerate(events) if _is_memory(e))
    return max(accumulate((size for *_, size in changes), initial=0))


def _is_memory(event: torch._C._autograd._KinetoEvent) -> bool:
    return event.name() == "[memory]"


def _peak_of_cuda(action: Step) -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    action()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def interleaved(
    steps: Mapping[str, Step], rounds: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Time steps in turn, after one unmeasured round; return the seconds of each, by round."""
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            start = clock()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(clock() - start)
    return seconds


def paired_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over rounds of mine ÷ theirs."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
