"""Run a published protocol on a model from end to end."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.errors import OptionError, did_you_mean
from unlearn.model.state import ModelState, open_model, swap_adapters
from unlearn.provenance.lineage import library_versions, now
from unlearn_eval.benchmarks import Benchmark, get_benchmark
from unlearn_eval.benchmarks.muse import evaluate_muse, load_muse, muse_metrics
from unlearn_eval.benchmarks.tofu import evaluate_tofu, load_tofu, tofu_metrics
from unlearn_eval.benchmarks.wmdp import evaluate_wmdp, load_wmdp, wmdp_accuracy
from unlearn_eval.statistics import Interval

__all__ = ["BenchmarkResult", "run_benchmark"]


@dataclass(frozen=True)
class BenchmarkResult:
    """What a protocol gave.

    Attributes:
        benchmark: which.
        subset: which part of it.
        data: where the questions came from.
        limit: the first so many rows of each table only; None for all.
        template: how questions were written, where the user said so.
        model: the base as named.
        states: weights digest of the model, and of `retrained` where there is one.
        metrics: the numbers.
        seconds: how long it took.
    """

    benchmark: str
    subset: str
    data: str
    limit: int | None
    template: str | None
    model: str
    states: Mapping[str, str]
    metrics: Mapping[str, Interval]
    seconds: float

    def as_json(self) -> str:
        """Return the content of a result file, schema 1; NaN is null."""
        numbers = {
            name: {
                "value": _finite(found.value),
                "low": _finite(found.low),
                "high": _finite(found.high),
                "n": found.n,
                "level": found.level,
                "interval": found.method,
                "clusters": found.clusters,
                "note": found.note,
            }
            for name, found in self.metrics.items()
        }
        facts = {key: value for key, value in vars(self).items() if key != "metrics"}
        return json.dumps(
            {
                "schema": 1,
                "created": now(),
                **facts,
                "states": dict(self.states),
                "versions": library_versions(),
                "metrics": numbers,
            },
            indent=1,
            allow_nan=False,
        )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def run_benchmark(
    name: str,
    model: str | Path,
    *,
    adapter: str | Path | Sequence[str | Path] | None = None,
    retrained: str | Path | None = None,
    data: str | Path | None = None,
    subset: str | None = None,
    template: str | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **opening: Any,
) -> BenchmarkResult:
    """Run a protocol on a model, and on a retrained one to compare with where it asks for one.

    Args:
        name: `tofu`, `muse` or `wmdp`.
        model: base model; without `adapter`, the model under test itself.
        adapter: adapters on it, the last one under test.
        retrained: an adapter on the same base (or a full model) that never saw the forget records.
        data: a hub dataset, or a folder of tables; by default the published dataset.
        subset: part of the benchmark; by default its first.
        template: how a question becomes text (TOFU only); by default the tokenizer's chat template,
            or `qa`.
        limit: the first so many rows of each table only.
        progress: called with (rows done, rows in all), the latter 0 where it is not known.
        **opening: `dtype`, `device`, `trust_remote_code`, `load_in_4bit` of `open_model`.

    Returns:
        The result.

    Raises:
        UnlearnError: for any input that cannot be used.
    """
    benchmark = get_benchmark(name)
    part = _subset(benchmark, subset)
    if template is not None and name != "tofu":
        raise OptionError(f"--template: {name} says itself how its questions are written")
    if retrained is not None and not benchmark.compares:
        raise OptionError(f"--retrained: {name} compares with no retrained model")
    source = benchmark.data[part] if data is None else data
    protocol = _protocol(name, source, part, template, limit, progress)
    stack = [adapter] if isinstance(adapter, (str, Path)) else list(adapter or ())
    start = time.perf_counter()
    state = open_model(model, stack, **opening)
    states, scores = {"model": state.digest()}, [protocol.evaluate(state)]
    if retrained is not None:
        if stack:
            other = swap_adapters(state, [*stack[:-1], retrained])
        else:
            del state  # never two models at a time
            other = open_model(retrained, **opening)
        states["retrained"] = other.digest()
        scores.append(protocol.evaluate(other))
    return BenchmarkResult(
        benchmark=name,
        subset=part,
        data=str(source),
        limit=limit,
        template=template,
        model=str(model),
        states=states,
        metrics=protocol.metrics(*scores),
        seconds=time.perf_counter() - start,
    )


@dataclass(frozen=True)
class _Protocol:
    """A protocol with its questions loaded."""

    evaluate: Callable[[ModelState], Any]
    metrics: Callable[..., Mapping[str, Interval]]


def _protocol(
    name: str,
    source: str | Path,
    subset: str,
    template: str | None,
    limit: int | None,
    progress: Callable[[int, int], None] | None,
) -> _Protocol:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, 0)

    if name == "tofu":
        questions = load_tofu(source, subset, limit)
        return _Protocol(
            lambda state: evaluate_tofu(state, questions, template=template, progress=progress),
            tofu_metrics,
        )
    if name == "muse":
        corpus = load_muse(source, limit)
        return _Protocol(lambda state: evaluate_muse(state, corpus, progress=count), muse_metrics)
    hazards = load_wmdp(source, subset, limit)
    return _Protocol(
        lambda state: evaluate_wmdp(state, hazards, subset, progress=count),
        lambda scores: {"accuracy": wmdp_accuracy(scores)},
    )


def _subset(benchmark: Benchmark, subset: str | None) -> str:
    if subset is None:
        return next(iter(benchmark.data))
    if subset not in benchmark.data:
        raise OptionError(
            f"--subset: {benchmark.name} has no {subset!r}{did_you_mean(subset, benchmark.data)}; "
            f"there are {', '.join(benchmark.data)}"
        )
    return subset
