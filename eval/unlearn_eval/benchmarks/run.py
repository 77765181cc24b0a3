"""Run a published protocol on a model from end to end."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.config import called_with
from unlearn.errors import OptionError, did_you_mean
from unlearn.model.folders import resolve_folder, stacked
from unlearn.model.state import ModelState, swap_adapters
from unlearn.provenance.lineage import library_versions, now
from unlearn_eval.benchmarks import Benchmark, get_benchmark
from unlearn_eval.benchmarks.muse import evaluate_muse, load_muse, muse_metrics
from unlearn_eval.benchmarks.options import BenchmarkOptions
from unlearn_eval.benchmarks.tofu import evaluate_tofu, load_tofu, tofu_metrics
from unlearn_eval.benchmarks.wmdp import evaluate_wmdp, load_wmdp, wmdp_accuracy
from unlearn_eval.scores.reading import reading_beside
from unlearn_eval.statistics import Interval

__all__ = ["BenchmarkResult", "benchmarked", "run_benchmark"]


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


def benchmarked(options: BenchmarkOptions) -> BenchmarkResult:
    """Run a protocol on a model, and on a retrained one to compare with where it asks for one.

    Raises UnlearnError for any input that cannot be used.
    """
    name = options.name
    benchmark = get_benchmark(name)
    subset = _subset(benchmark, options.subset)
    if options.template is not None and name != "tofu":
        raise OptionError(f"--template: {name} says itself how its questions are written")
    if options.retrained is not None and not benchmark.compares:
        raise OptionError(f"--retrained: {name} compares with no retrained model")
    source = benchmark.data[subset] if options.data is None else options.data
    protocol = _protocol(options, source, subset)
    stack = stacked(options.adapter)
    start = time.perf_counter()
    state = options.open(options.model, stack)
    note = _read_otherwise(options, state, stack)
    states, scores = {"model": state.digest()}, [protocol.evaluate(state)]
    if options.retrained is not None:
        if stack:
            other = swap_adapters(state, [*stack[:-1], options.retrained])
        else:
            del state  # never two models at a time
            other = options.open(options.retrained)
        states["retrained"] = other.digest()
        scores.append(protocol.evaluate(other))
    metrics = dict(protocol.metrics(*scores))
    if note:
        number = metrics[benchmark.compares]
        whole = "; ".join(filter(None, (number.note, note)))
        metrics[benchmark.compares] = number._replace(note=whole)
    return BenchmarkResult(
        benchmark=name,
        subset=subset,
        data=str(source),
        limit=options.limit,
        template=options.template,
        model=str(options.model),
        states=states,
        metrics=metrics,
        seconds=time.perf_counter() - start,
    )


def _read_otherwise(
    options: BenchmarkOptions, state: ModelState, stack: Sequence[str | Path]
) -> str | None:
    """Say in what the retrained model is asked otherwise; refuse one with another vocabulary.

    Each is asked as it was trained: with its own tokenizer, and its own chat template where the
    protocol uses one.
    """
    if options.retrained is None:
        return None
    assert state.reading is not None
    below = [resolve_folder(path, "adapter") for path in stack[:-1]] if stack else None
    reading = reading_beside(state, options.retrained, below)
    difference = state.reading.differs(reading)
    if difference != "chat template":
        return f"each model is read with its own {difference}" if difference else None
    if options.name != "tofu" or options.template not in (None, "chat"):
        return None
    places = (stack[-1] if stack else options.model, options.retrained)
    asked = ", ".join(
        f"{place} with {'its own chat template' if tokenizer.chat_template else 'qa'}"
        for place, tokenizer in zip(places, (state.tokenizer, reading.tokenizer), strict=True)
    )
    return f"the models are asked otherwise: {asked}; --template qa asks both alike"


run_benchmark = called_with(BenchmarkOptions, benchmarked, "run_benchmark")


@dataclass(frozen=True)
class _Protocol:
    """A protocol with its questions loaded."""

    evaluate: Callable[[ModelState], Any]
    metrics: Callable[..., Mapping[str, Interval]]


def _protocol(options: BenchmarkOptions, source: str | Path, subset: str) -> _Protocol:
    progress, limit = options.progress, options.limit
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, 0)

    if options.name == "tofu":
        questions = load_tofu(source, subset, limit)
        return _Protocol(
            lambda state: evaluate_tofu(
                state, questions, template=options.template, progress=progress
            ),
            tofu_metrics,
        )
    if options.name == "muse":
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
