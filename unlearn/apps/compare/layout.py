"""From a recipe to its steps: what there is to do, in which folder, and what needs what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from unlearn.apps.compare.recipe import CompareRecipe, MethodSettings
from unlearn.apps.compare.shards import METHOD, method_of
from unlearn.apps.compare.study import Study
from unlearn.errors import OptionError, OutputError
from unlearn.strict_json import NotJsonError, read_json_file

__all__ = ["DONE", "Cell", "Kind", "Layout", "Step", "lay_out"]

Kind = Literal["target", "reference", "unlearn", "audit", "trial"]

DONE = "done.json"
"""Written last: a step's folder that holds it is complete."""

_REFERENCE_SEED = 1000
"""Seeds of references are far from those of the cells, so that no reference is a cell's twin."""

_SCHEMA = 2


@dataclass(frozen=True)
class Step:
    """One piece of work, and where its result lies.

    Attributes:
        kind: what is done.
        label: the same for people.
        parent: the folder that holds the step's own.
        name: beginning of the name of the step's folder.
        settings: everything that the result depends on, with digests in place of what it is made
            from.
        paths: where what it is made from lies.
        needs: folders of the steps that must be done before.
    """

    kind: Kind
    label: str
    parent: Path
    name: str
    settings: Mapping[str, Any]
    paths: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[Path, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the settings in hexadecimal."""
        text = json.dumps([_SCHEMA, self.kind, self.settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def folder(self) -> Path:
        """The step's folder, named by its digest."""
        return self.parent / f"{self.name}-{self.digest[:10]}"

    @property
    def result(self) -> Path:
        """The adapter, or the audit, in it."""
        training = self.kind in ("target", "reference", "unlearn")
        return self.folder / ("adapter" if training else "audit")

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return (self.folder / DONE).is_file()

    def facts(self) -> dict[str, Any]:
        """Return what was noted when it was done."""
        file = self.folder / DONE
        try:
            facts = read_json_file(file)
        except (OSError, NotJsonError) as error:
            raise OutputError(f"{file} cannot be read: {error}; delete its folder") from None
        if not isinstance(facts, dict):
            raise OutputError(f"{file} does not hold a JSON object; delete its folder")
        return facts


@dataclass(frozen=True)
class Cell:
    """One method with one seed on one forget set.

    Attributes:
        name: of the row of the table.
        method: the method.
        seed: its seed.
        forget: number of the forget set, from 0.
        unlearn: makes its adapter.
        audit: measures it.
        trial: measures it after further changes, where the recipe asks for that.
        target: trains what it begins with, where that is not the adapter under study.
    """

    name: str
    method: str
    seed: int
    forget: int
    unlearn: Step
    audit: Step
    trial: Step | None = None
    target: Step | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """What there is to do for it alone."""
        own = (self.target, self.unlearn, self.audit, self.trial)
        return tuple(step for step in own if step)


@dataclass(frozen=True)
class Layout:
    """All steps of a comparison.

    Attributes:
        target: trains the adapter under study.
        references: by forget set, the steps that train adapters without it.
        before: by forget set, the audit of the adapter under study beside its references.
        trials: by forget set, the references after further changes.
        cells: the rest.
    """

    target: Step
    references: tuple[tuple[Step, ...], ...]
    before: tuple[Step, ...]
    trials: tuple[tuple[Step, ...], ...]
    cells: tuple[Cell, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step once, what is needed first."""
        once: dict[Path, Step] = {}
        for step in (*self.shared, *(step for cell in self.cells for step in cell.steps)):
            once.setdefault(step.folder, step)
        return tuple(once.values())

    @property
    def shared(self) -> tuple[Step, ...]:
        """The steps that all cells share."""
        trained = [self.target, *(s for group in self.references for s in group)]
        return (*trained, *self.before, *(step for group in self.trials for step in group))

    @cached_property
    def digest(self) -> str:
        """A digest of all steps: two comparisons that share it are the same."""
        text = " ".join(step.digest for step in self.steps)
        return hashlib.sha256(text.encode()).hexdigest()


def lay_out(study: Study) -> Layout:
    """Lay out the steps of a comparison.

    Args:
        study: the recipe with the digests of its inputs.

    Returns:
        The steps; nothing is read and nothing written.

    Raises:
        OptionError: if a method is unknown, or two rows have the same name.
    """
    recipe = study.recipe
    rows = _rows_by_name(recipe)
    target = Step(
        "target",
        "the adapter under study",
        study.root / "shared",
        "target",
        _training(study) | {"seed": 0},
    )
    forget_sets = [_forget_set(study, number, target) for number in range(len(recipe.forget_sets))]
    cells = [
        _cell(study, name, method, seed, forget_set)
        for forget_set in forget_sets
        for name, method in rows.items()
        for seed in recipe.seeds
    ]
    return Layout(
        target,
        tuple(forget_set.references for forget_set in forget_sets),
        tuple(forget_set.before for forget_set in forget_sets),
        tuple(forget_set.trials for forget_set in forget_sets),
        tuple(cells),
    )


@dataclass(frozen=True)
class _ForgetSet:
    """What the cells of one forget set share.

    Attributes:
        number: of the set, from 0.
        label: end of the labels of its steps; empty where there is one set only.
        target: trains the adapter under study.
        references: train adapters without the set.
        before: audits the adapter under study beside them.
        trials: measure the references after further changes.
    """

    number: int
    label: str
    target: Step
    references: tuple[Step, ...]
    before: Step
    trials: tuple[Step, ...]


def _training(study: Study) -> dict[str, Any]:
    """Return the settings of the steps that train from the base model."""
    recipe = study.recipe
    return {
        **study.common(),
        "train": study.chosen(recipe.train),
        "finetune": recipe.finetune.model_dump(),
    }


def _forget_records(study: Study, number: int) -> dict[str, Any]:
    """Return the setting that says which records a forget set holds."""
    return {"forget": study.chosen(study.recipe.forget_sets[number])}


def _measuring(study: Study, number: int) -> dict[str, Any]:
    """Return the settings of the steps that measure an adapter for a forget set."""
    recipe = study.recipe
    return {
        **study.common(),
        **_forget_records(study, number),
        "train": study.chosen(recipe.train),
        "holdout": study.chosen(recipe.holdout),
        "generate": recipe.generate,
        **({"trigger": study.chosen(recipe.trigger)} if recipe.trigger else {}),
    }


def _judging(study: Study, number: int) -> dict[str, Any]:
    """Return the settings of the steps that audit an adapter, and decide by the policy if any."""
    policy = study.recipe.policy
    judged = {"policy": study.chosen(policy)} if policy else {}
    return _measuring(study, number) | judged


def _forget_set(study: Study, number: int, target: Step) -> _ForgetSet:
    """Lay out what is done once for a forget set."""
    recipe, shared = study.recipe, study.root / "shared"
    label = f", set {number}" if len(recipe.forget_sets) > 1 else ""
    training = _training(study) | _forget_records(study, number)
    references = tuple(
        Step(
            "reference",
            f"reference {i + 1} of {recipe.references}{label}",
            shared,
            f"reference{i}",
            training | {"seed": _REFERENCE_SEED + i},
        )
        for i in range(recipe.references)
    )
    judging = _judging(study, number)
    before = _audit(f"audit before{label}", shared, "before", judging, target, references)
    measuring = _measuring(study, number)
    tried = references if recipe.robustness else ()
    trials = tuple(_trial(recipe, measuring, r, r.label, r.folder) for r in tried)
    return _ForgetSet(number, label, target, references, before, trials)


def _cell(
    study: Study, name: str, method: MethodSettings, seed: int, forget_set: _ForgetSet
) -> Cell:
    """Lay out one method with one seed on one forget set."""
    recipe, number, target = study.recipe, forget_set.number, forget_set.target
    label = f"{name}, seed {seed}{forget_set.label}"
    own = _shards(study, method, seed) if method.method == METHOD else None
    target = own or target
    unlearn = Step(
        "unlearn",
        label,
        study.root / "cells",
        # not by the row or the set, which a recipe may rename and put in other orders
        f"{_safe(method.method)}-seed{seed}",
        {
            **study.common(),
            **_forget_records(study, number),
            "train": study.chosen(recipe.train),
            "holdout": study.chosen(recipe.looked_at),
            "target": target.digest,
            "method": method.method,
            "options": method.options,
            "files": {
                value: study.inputs[value]
                for value in (method.method, *method.options.values())
                if isinstance(value, str) and value in study.inputs
            },
            "seed": seed,
        },
        {"adapter": target.result},
        (target.folder,),
    )
    if own is not None:
        asked = _asked(f"audit of {label}", _measuring(study, number), unlearn, own)
        return Cell(name, method.method, seed, number, unlearn, asked, target=own)
    audit = _audit(
        f"audit of {label}",
        unlearn.folder,
        "audit",
        _judging(study, number),
        unlearn,
        forget_set.references,
        forget_set.before,
    )
    trial = None
    if recipe.robustness:
        trial = _trial(recipe, _measuring(study, number), unlearn, label, unlearn.folder)
    return Cell(name, method.method, seed, number, unlearn, audit, trial)


def _shards(study: Study, method: MethodSettings, seed: int) -> Step:
    """Train the shards that a row begins with: each seed its own, as nothing else follows it."""
    facts = {"seed": seed, "shards": method.options}
    shared = study.root / "shared"
    return Step("target", f"shards, seed {seed}", shared, "shards", _training(study) | facts)


def _asked(label: str, measuring: Mapping[str, Any], of: Step, before: Step) -> Step:
    """Ask the shards of a cell, and replay those that were touched."""
    settings = {**measuring, "of": of.digest, "before": before.digest, "shards": True}
    paths = {"adapter": of.result, "before": before.result}
    return Step("audit", label, of.folder, "audit", settings, paths, (of.folder, before.folder))


def _audit(
    label: str,
    parent: Path,
    name: str,
    measuring: Mapping[str, Any],
    of: Step,
    references: tuple[Step, ...],
    before: Step | None = None,
) -> Step:
    """Measure one adapter beside the references and, where it is not that one, the one before.

    The audit of the adapter under study comes before those of the cells: what it finds out about
    that adapter and the references is kept, and not done again.
    """
    paths: dict[str, Any] = {"adapter": of.result, "references": [r.result for r in references]}
    needs = (of.folder, *(r.folder for r in references))
    if before is not None:
        paths["before"] = before.paths["adapter"]
        needs += (before.folder,)
    settings = {
        **measuring,
        "of": of.digest,
        "references": [r.digest for r in references],
        "before": before.digest if before else None,
    }
    return Step("audit", label, parent, name, settings, paths, needs)


def _trial(
    recipe: CompareRecipe, measuring: Mapping[str, Any], of: Step, label: str, parent: Path
) -> Step:
    """Change one adapter further, and measure it then."""
    settings = {**measuring, "generate": 0, "of": of.digest, "robustness": list(recipe.robustness)}
    paths = {"adapter": of.result}
    return Step("trial", f"changes to {label}", parent, "trial", settings, paths, (of.folder,))


def _rows_by_name(recipe: CompareRecipe) -> dict[str, MethodSettings]:
    """Return the rows by name, refusing unknown methods and names that occur twice."""
    rows: dict[str, MethodSettings] = {}
    for settings in recipe.methods:
        method_of(settings.method)
        name = settings.name or settings.method
        if name in rows:
            raise OptionError(f"methods: two rows are named {name!r}; give one another `name:`")
        rows[name] = settings
    return rows


def _safe(name: str) -> str:
    """Return a method's name as a part of a folder's name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:60]
