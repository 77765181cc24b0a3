"""From a recipe to its steps: what there is to do, in which folder, and what needs what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from unlearn.apps.compare.recipe import CompareRecipe
from unlearn.apps.compare.study import Study
from unlearn.errors import OptionError
from unlearn.methods.registry import get_method

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
        found: dict[str, Any] = json.loads((self.folder / DONE).read_text(encoding="utf-8"))
        return found


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
    """

    name: str
    method: str
    seed: int
    forget: int
    unlearn: Step
    audit: Step
    trial: Step | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """What there is to do for it alone."""
        return tuple(step for step in (self.unlearn, self.audit, self.trial) if step)


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
        found = [*self.shared, *(step for cell in self.cells for step in cell.steps)]
        once: dict[Path, Step] = {}
        for step in found:
            once.setdefault(step.folder, step)
        return tuple(once.values())

    @property
    def shared(self) -> tuple[Step, ...]:
        """The steps that all cells share."""
        found = [self.target, *(s for group in self.references for s in group), *self.before]
        return (*found, *(step for group in self.trials for step in group))

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
    names = _row_names(recipe)
    common = study.common()
    shared = study.root / "shared"
    training = {
        **common,
        "train": study.chosen(recipe.train),
        "finetune": recipe.finetune.model_dump(),
    }
    target = Step("target", "the adapter under study", shared, "target", training | {"seed": 0})
    several = len(recipe.forget_sets) > 1
    references, before, trials, cells = [], [], [], []
    for f, forget in enumerate(recipe.forget_sets):
        words = f", set {f}" if several else ""
        gone = {"forget": study.chosen(forget)}
        made = tuple(
            Step(
                "reference",
                f"reference {i + 1} of {recipe.references}{words}",
                shared,
                f"reference{i}",
                training | gone | {"seed": _REFERENCE_SEED + i},
            )
            for i in range(recipe.references)
        )
        looked = {
            **common,
            **gone,
            "train": study.chosen(recipe.train),
            "holdout": study.chosen(recipe.holdout),
            "generate": recipe.generate,
        }
        judged = {"policy": study.chosen(recipe.policy)} if recipe.policy else {}
        told = looked | judged
        first = _audit(f"audit before{words}", shared, "before", told, target, made)
        references.append(made)
        before.append(first)
        trials.append(
            tuple(_trial(recipe, looked, r, r.label, r.folder) for r in made)
            if recipe.robustness
            else ()
        )
        for name, method in names.items():
            for seed in recipe.seeds:
                label = f"{name}, seed {seed}{words}"
                unlearn = Step(
                    "unlearn",
                    label,
                    study.root / "cells",
                    # not by the row or the set, which a recipe may rename and put in other orders
                    f"{_safe(method.method)}-seed{seed}",
                    {
                        **common,
                        **gone,
                        "train": study.chosen(recipe.train),
                        "holdout": study.chosen(recipe.looked_at),
                        "target": target.digest,
                        "method": method.method,
                        "options": method.options,
                        "files": {
                            v: study.inputs[v]
                            for v in (method.method, *method.options.values())
                            if isinstance(v, str) and v in study.inputs
                        },
                        "seed": seed,
                    },
                    {"adapter": target.result},
                    (target.folder,),
                )
                audit = _audit(
                    f"audit of {label}", unlearn.folder, "audit", told, unlearn, made, first
                )
                trial = (
                    _trial(recipe, looked, unlearn, label, unlearn.folder)
                    if recipe.robustness
                    else None
                )
                cells.append(Cell(name, method.method, seed, f, unlearn, audit, trial))
    return Layout(target, tuple(references), tuple(before), tuple(trials), tuple(cells))


def _audit(
    label: str,
    parent: Path,
    name: str,
    looked: Mapping[str, Any],
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
        **looked,
        "of": of.digest,
        "references": [r.digest for r in references],
        "before": before.digest if before else None,
    }
    return Step("audit", label, parent, name, settings, paths, needs)


def _trial(
    recipe: CompareRecipe, looked: Mapping[str, Any], of: Step, label: str, parent: Path
) -> Step:
    """Change one adapter further, and measure it then."""
    settings = {**looked, "generate": 0, "of": of.digest, "robustness": list(recipe.robustness)}
    paths = {"adapter": of.result}
    return Step("trial", f"changes to {label}", parent, "trial", settings, paths, (of.folder,))


def _row_names(recipe: CompareRecipe) -> dict[str, Any]:
    """Return the rows by name, refusing unknown methods and names that occur twice."""
    rows: dict[str, Any] = {}
    for settings in recipe.methods:
        get_method(settings.method)
        name = settings.name or settings.method
        if name in rows:
            raise OptionError(f"methods: two rows are named {name!r}; give one another `name:`")
        rows[name] = settings
    return rows


def _safe(name: str) -> str:
    """Return a method's name as a part of a folder's name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:60]
