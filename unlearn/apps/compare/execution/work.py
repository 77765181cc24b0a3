"""Do one step: train, unlearn or audit, and note what it took."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn.apps.compare.data import Pool
from unlearn.apps.compare.execution import sharded
from unlearn.apps.compare.execution.peak_memory import peak
from unlearn.apps.compare.layout import DONE, Step
from unlearn.apps.compare.recipe import CompareRecipe
from unlearn.apps.compare.shards import METHOD, check_shards, method_of
from unlearn.apps.compare.study import Study
from unlearn.data.records import Records
from unlearn.errors import SelectionError
from unlearn.files import staged_file
from unlearn.model.folders import place_of
from unlearn.model.number_format import dtype_of
from unlearn.runs.fields import Watcher
from unlearn.runs.finetuning import finetune
from unlearn.runs.forgetting import forget
from unlearn.runs.saving import Result
from unlearn.training.trackers import tracked

if TYPE_CHECKING:
    import torch

__all__ = ["check", "do"]

Progress = Callable[[int, int], None]

_POINTS = 100
"""Points of a training curve that are kept."""

_LOGGED = ("step", "loss", "forget_nll", "retain_nll")


def check(study: Study) -> None:
    """Refuse a recipe that cannot work, before anything is trained.

    Raises UnlearnError saying what is wrong with the recipe or the data.
    """
    from unlearn.apps.compare.tuning.trials import check_tuning
    from unlearn.methods.registry import resolve
    from unlearn_eval.robustness import chosen
    from unlearn_eval.verdict.policy import load_policy

    recipe = study.recipe
    for settings in recipe.methods:
        resolve(method_of(settings.method), settings.options)
        if settings.method == METHOD:
            further = bool(recipe.robustness or recipe.trigger or settings.search)
            check_shards(settings.options, further=further)
    chosen(recipe.robustness)
    if recipe.policy:
        load_policy(recipe.policy)
    pool = _pool(study)
    check_tuning(recipe, pool)
    train = set(pool.positions(recipe.train))
    unseen = {"holdout": recipe.holdout, "validation": recipe.looked_at}
    for name, selector in unseen.items():
        if shared := train & set(pool.positions(selector)):
            raise SelectionError(
                f"{name} {selector!r} shares {len(shared)} record(s) with train {recipe.train!r}: "
                "name records that the model never saw"
            )
    both = set(pool.positions(recipe.holdout)) & set(pool.positions(recipe.looked_at))
    if recipe.validation and both:
        raise SelectionError(
            f"validation {recipe.validation!r} shares {len(both)} record(s) with the holdout: "
            "methods must not look at what they are judged by"
        )
    for selector in recipe.forget_sets:
        forget_places = set(pool.positions(selector))
        if not forget_places < train:
            what = (
                "all records of train"
                if forget_places == train
                else "records that train does not hold"
            )
            raise SelectionError(f"forget {selector!r} names {what}")
    _check_copies(recipe, pool)


def _check_copies(recipe: CompareRecipe, pool: Pool) -> None:
    """Refuse what forgetting and audits refuse later: one text on both sides, under two ids."""
    texts = [record.canonical for record in pool.records]
    train = pool.positions(recipe.train)
    for name, selector in (("holdout", recipe.holdout), ("validation", recipe.looked_at)):
        if copies := _copies(texts, pool.positions(selector), train):
            raise SelectionError(
                f"{name} {selector!r}: {len(copies)} record(s) have the same content as records of "
                f"train, first {_pair(copies, pool)}: the model has seen it; leave them out"
            )
    for selector in recipe.forget_sets:
        forget_places = pool.positions(selector)
        if copies := _copies(texts, forget_places, sorted({*train} - {*forget_places})):
            raise SelectionError(
                f"forget {selector!r}: {len(copies)} record(s) have the same content as others of "
                f"train, first {_pair(copies, pool)}: references would learn it; forget all copies "
                "of it, or leave the others out of train"
            )


def _copies(texts: Sequence[str], some: Iterable[int], others: Iterable[int]) -> dict[int, int]:
    """Return which of some records have the text of one of others, and of which."""
    known = {texts[i]: i for i in others}
    return {i: known[texts[i]] for i in some if texts[i] in known}


def _pair(copies: Mapping[int, int], pool: Pool) -> str:
    mine, other = next(iter(copies.items()))
    return f"{pool.records.ids[mine]!r} that of {pool.records.ids[other]!r}"


def do(step: Step, study: Study, progress: Progress | None = None) -> None:
    """Do a step, unless it is done; its folder is complete once `done.json` is there.

    Args:
        step: the step.
        study: the comparison.
        progress: called with (steps or records done, in all).

    Raises:
        UnlearnError: for any input that cannot be used.
    """
    if step.done:
        return
    step.folder.mkdir(parents=True, exist_ok=True)
    for partial in step.folder.glob(".*.partial-*"):  # of a process that was killed
        _remove(partial)
    _write(step.folder / "settings.json", {"kind": step.kind, **step.settings})
    _warm()
    device = place_of(study.opening.get("device"))
    start = time.perf_counter()
    runs = study.root / "runs" / step.folder.name
    with peak(device) as most, tracked(study.report_to, step.label, runs):
        facts = _KINDS[step.kind](step, study, progress or False)
    took = {"wall": time.perf_counter() - start, "memory": most.bytes, "place": _place(device)}
    dtype = str(dtype_of(study.opening.get("dtype") or "auto", device)).removeprefix("torch.")
    _write(step.folder / DONE, {"digest": step.digest, "dtype": dtype, **took, **facts})


def _remove(path: Path) -> None:
    """Remove a folder or a file, if that is possible."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with staged_file(path) as stage:
        stage.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _place(device: torch.device) -> str:
    """Say what the step was done on: times are compared where this is the same."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"{platform.machine()}, {threads} thread{'s' * (threads != 1)}"


@functools.cache
def _warm() -> None:
    """Import what takes seconds, so that no step's time holds it."""
    import peft
    import transformers

    for package, name in ((transformers, "Trainer"), (peft, "LoraConfig")):
        getattr(package, name)


def _pool(study: Study) -> Pool:
    """Return all records, read once in the life of a process."""
    key = json.dumps([study.recipe.data, study.common()["data"]], sort_keys=True)
    if key not in _POOLS:
        _POOLS.clear()
        _POOLS[key] = Pool.load(study.recipe)
    return _POOLS[key]


_POOLS: dict[str, Pool] = {}


def _target(step: Step, study: Study, progress: Watcher) -> dict[str, Any]:
    return _finetune(step, study, _train(study), progress)


def _reference(step: Step, study: Study, progress: Watcher) -> dict[str, Any]:
    return _finetune(step, study, _train(study).without(_gone(step, study)), progress)


def _finetune(step: Step, study: Study, records: Records, progress: Watcher) -> dict[str, Any]:
    recipe = study.recipe
    if "shards" in step.settings:
        return sharded.make(
            _making(study, progress),
            records,
            step.result,
            step.settings["shards"],
            lora=recipe.finetune.lora,
            options=recipe.finetune.options,
            seed=step.settings["seed"],
        )
    made = finetune(
        study.model,
        records,
        step.result,
        template=recipe.template,
        lora=recipe.finetune.lora,
        options=recipe.finetune.options,
        seed=step.settings["seed"],
        overwrite=True,
        progress=progress,
        **study.opening,
    )
    return _told(made)


def _unlearn(step: Step, study: Study, progress: Watcher) -> dict[str, Any]:
    if step.settings["method"] == METHOD:
        folders = (step.paths["adapter"], step.result)
        how = _making(study, progress)
        return sharded.forget_in(
            how, _train(study), _ids(step, study), folders, step.settings["options"]
        )
    made = forget(
        study.model,
        _train(study),
        _ids(step, study),
        step.result,
        adapter=step.paths["adapter"],
        method=step.settings["method"],
        holdout=_pool(study).select(study.recipe.looked_at),
        options=step.settings["options"],
        seed=step.settings["seed"],
        overwrite=True,
        progress=progress,
        **study.opening,
    )
    facts = {**_told(made), "options": dict(made.lineage.options)}
    if "retain" in made.after:
        retain_count = len(_train(study)) - len(_gone(step, study))
        rise, error = made.after["retain"].rise_since(made.before["retain"], retain_count)
        facts["rise"] = {"mean": rise, "error": error if math.isfinite(error) else None}
    return facts


def _making(study: Study, progress: Watcher) -> sharded.Making:
    return sharded.Making(study.model, study.recipe.template, study.opening, progress)


def _audit(step: Step, study: Study, progress: Watcher) -> dict[str, Any]:
    from unlearn_eval.audit.run import run_audit

    if "shards" in step.settings:
        folders = (step.paths["before"], step.paths["adapter"])
        gone, unseen = _gone(step, study), _pool(study).select(study.recipe.holdout)
        how = _making(study, progress)
        return sharded.measure(how, folders, _train(study).without(gone), gone, unseen)
    run_audit(
        study.model,
        _train(study),
        _ids(step, study),
        step.result,
        adapter=step.paths["adapter"],
        before=step.paths.get("before"),
        references=step.paths.get("references", ()),
        holdout=_pool(study).select(study.recipe.holdout),
        generate=step.settings["generate"],
        trigger=step.settings["trigger"][0][0] if "trigger" in step.settings else None,
        robustness=step.settings.get("robustness", ()),
        policy=step.settings["policy"][0][0] if "policy" in step.settings else None,
        drift=False,
        scope="comparison",
        overwrite=True,
        progress=progress,
        **study.opening,
    )
    return {}


_KINDS: Mapping[str, Callable[[Step, Study, Watcher], dict[str, Any]]] = {
    "target": _target,
    "reference": _reference,
    "unlearn": _unlearn,
    "audit": _audit,
    "trial": _audit,
}


def _train(study: Study) -> Records:
    return _pool(study).select(study.recipe.train)


def _gone(step: Step, study: Study) -> Records:
    return _pool(study).select(step.settings["forget"][0][0])


def _ids(step: Step, study: Study) -> str:
    """Write the forget ids to a file: rows of the whole data are other rows of the training set."""
    file = step.folder / "forget-ids.txt"
    file.write_text("\n".join(_gone(step, study).ids) + "\n", encoding="utf-8")
    return f"@{file}"


def _told(made: Result) -> dict[str, Any]:
    """Return what a comparison tells of a training run."""
    fit = made.fit
    curve = [
        {key: entry[key] for key in _LOGGED if key in entry}
        for entry in fit.history
        if "loss" in entry
    ]
    return {
        "seconds": fit.seconds,
        "tokens": fit.tokens,
        "steps": fit.steps,
        "planned_steps": fit.planned_steps,
        "stopped": fit.stopped,
        "notes": list(made.notes),
        "weights": made.lineage.digest,
        "curve": _thinned(curve),
    }


def _thinned(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep `_POINTS` of a curve at most, evenly, its two ends among them."""
    last = len(curve) - 1
    if last < _POINTS:
        return curve
    return [curve[round(i * last / (_POINTS - 1))] for i in range(_POINTS)]
