"""Tasks of lm-evaluation-harness on an opened model: they need the extra `lm-eval`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unlearn.errors import DataError, OptionError
from unlearn.model.state import ModelState
from unlearn_eval.statistics import Interval, mean_interval, proportion_interval
from unlearn_eval.statistics.common import no_interval

__all__ = ["HarnessOptions", "evaluate_tasks"]

_NOT_METRICS = ("name", "alias", "sample_len", "sample_count")


@dataclass(frozen=True)
class HarnessOptions:
    """How tasks are run.

    Attributes:
        folder: task files (YAML) of your own, to use instead of the harness's tasks.
        shots: examples shown before each question; by default what the task says.
        limit: the first so many documents of each task only.
        batch_size: rows of a batch.
        seed: of examples drawn at random.
    """

    folder: str | Path | None = None
    shots: int | None = None
    limit: int | None = None
    batch_size: int = 8
    seed: int = 0


def evaluate_tasks(
    state: ModelState,
    tasks: Sequence[str],
    options: HarnessOptions | None = None,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Run tasks of the harness on a model that is in memory, with its adapters as they are.

    Where a metric is the mean over the documents its interval is this package's own, from one value
    a document: exact for yes/no values, Student's t for others. Gao et al., "A framework for
    few-shot language model evaluation" (doi 10.5281/zenodo.10256836). The harness sets the global
    seeds of random, numpy and torch.

    Args:
        state: the opened model; its mode is restored afterwards.
        tasks: names of tasks or groups.
        options: how they are run.
        level: confidence level.

    Returns:
        By `TASK.METRIC` (`TASK.METRIC.FILTER` where the harness filters answers), the value.

    Raises:
        OptionError: if the harness is not installed, or knows no such task.
        DataError: if a task's data cannot be had.
    """
    _check_installed()
    mode = state.model.training
    try:
        results = _results(state, tasks, options or HarnessOptions())
    except KeyError as error:
        raise OptionError(f"lm-evaluation-harness: {error.args[0]}") from error
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"the data of a task cannot be had: {reason}") from error
    finally:
        state.model.train(mode)
    return {
        name: interval
        for task, values in results["results"].items()
        for name, interval in _task(task, values, results, level).items()
    }


def _check_installed() -> None:
    try:
        import lm_eval.models.huggingface
        import lm_eval.tasks  # noqa: F401
    except ImportError as error:
        raise OptionError(
            "tasks of lm-evaluation-harness need it installed: in a clone of unlearn, "
            "pip install '.[lm-eval]'"
        ) from error


def _results(state: ModelState, tasks: Sequence[str], options: HarnessOptions) -> Mapping[str, Any]:
    """Return what the harness says."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(
        pretrained=state.model,
        tokenizer=state.tokenizer,
        max_length=state.max_length,
        batch_size=options.batch_size,
    )
    manager = TaskManager(
        include_path=None if options.folder is None else str(options.folder),
        include_defaults=options.folder is None,
    )
    seeds = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    results: Mapping[str, Any] = lm_eval.simple_evaluate(
        model,
        tasks=list(tasks),
        task_manager=manager,
        num_fewshot=options.shots,
        limit=options.limit,
        bootstrap_iters=0,
        **dict.fromkeys(seeds, options.seed),
    )
    return results


def _task(
    task: str, values: Mapping[str, Any], results: Mapping[str, Any], level: float
) -> dict[str, Interval]:
    """Return every metric of one task."""
    documents = results["samples"].get(task, [])
    count = int(results["n-samples"].get(task, {}).get("effective", len(documents)))
    result = {}
    for key, value in values.items():
        metric, _, kind = key.partition(",")
        if key in _NOT_METRICS or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        name = f"{task}.{metric}" if kind in {"", "none"} else f"{task}.{metric}.{kind}"
        each = [d[metric] for d in documents if d.get("filter", kind) == kind and metric in d]
        result[name] = _interval(float(value), each, count, level)
    return result


def _interval(value: float, each: Sequence[Any], count: int, level: float) -> Interval:
    """Return a metric's interval where it is the mean of one number a document."""
    plain = bool(each) and all(isinstance(x, (bool, int, float, np.number)) for x in each)
    if not plain or not math.isclose(float(np.mean(each)), value, abs_tol=1e-9):
        note = "no mean over documents: given without an interval"
        return no_interval(value, count, level, None, note)
    numbers = np.array(each, dtype=np.float64)
    yes_no = np.isin(numbers, (0.0, 1.0)).all()
    return (proportion_interval if yes_no else mean_interval)(numbers, level)
