"""`unlearn compare`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from unlearn._cli import flags

if TYPE_CHECKING:
    from unlearn._recipes import CompareRecipe, MethodSettings
    from unlearn.records import Records
    from unlearn_eval.audit import Audit, AuditRow

__all__ = ["compare"]

# Seeds of references are far from those of the cells, so that no reference is a cell's twin.
_REFERENCE_SEED = 1000


def compare(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, or a .yaml file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Change the recipe.")
    ] = None,
    output: flags.Output = Path("comparison"),
    overwrite: flags.Overwrite = False,
    dtype: flags.Dtype = "auto",
    device: flags.Device = None,
) -> None:
    """Run methods side by side on the same records, beside retrained references.

    The adapter under study and the references are trained once; every method starts from that
    adapter. Each cell has a folder of its own; a cell that fails is reported and does not stop the
    rest (exit code 1).

    Example: unlearn compare tofu_small model=MODEL data=tofu/full.json --output tofu
    """
    from unlearn._cli.screen import announce, console, progress_bar, table
    from unlearn._output import check_output, staged_file
    from unlearn._recipes import CompareRecipe, load_recipe
    from unlearn.errors import UnlearnError
    from unlearn.methods import get_method
    from unlearn.records import Records
    from unlearn.workflow import finetune

    plan = load_recipe(recipe, CompareRecipe, overrides or [])
    for cell in plan.methods:
        get_method(cell.method)
    target = check_output(output, overwrite=overwrite)
    everything = Records.load(plan.data)
    train = everything.select(plan.train)
    gone = everything.select(plan.forget)
    opening = {"dtype": dtype, "device": device}
    common: dict[str, Any] = {
        "template": plan.template,
        "options": plan.finetune.options,
        "lora": plan.finetune.lora,
        "overwrite": True,
        "announce": announce,
        **opening,
    }
    with progress_bar("the adapter under study") as progress:
        made = finetune(plan.model, train, target / "target", progress=progress, **common)
    console.print(
        f"  {made.fit.seconds:.0f} s, {made.after['train'].recall:.0%} recalled word for word"
    )
    references = []
    for i in range(plan.references):
        with progress_bar(f"reference {i + 1} of {plan.references}") as progress:
            result = finetune(
                plan.model,
                train.without(gone),
                target / f"reference-{i}",
                seed=_REFERENCE_SEED + i,
                progress=progress,
                **common,
            )
        references.append(result.folder)
    cells: list[dict[str, Any]] = []
    for settings in plan.methods:
        for seed in plan.seeds:
            name = settings.name or settings.method
            try:
                cells.append(
                    _run_cell(plan, settings, seed, target, train, everything, references, opening)
                )
            except UnlearnError as error:
                console.print(f"[red]{escape(f'{name}, seed {seed}: {error}')}[/red]")
                cells.append({"name": name, "seed": seed, "error": str(error)})
    with staged_file(target / "comparison.json") as stage:
        content = {"schema": 1, "recipe": plan.model_dump(), "cells": cells}
        stage.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    heads, rows = _summary(cells)
    with staged_file(target / "comparison.md") as stage:
        stage.write_text(_markdown(heads, rows), encoding="utf-8")
    table("", heads, rows)
    console.print(f"Saved to [bold]{escape(str(target))}[/bold]")
    if any("error" in cell for cell in cells):
        raise typer.Exit(1)


def _run_cell(
    plan: CompareRecipe,
    settings: MethodSettings,
    seed: int,
    target: Path,
    train: Records,
    everything: Records,
    references: list[Path],
    opening: Mapping[str, Any],
) -> dict[str, Any]:
    """Unlearn with one method and seed, and audit the result."""
    from unlearn._cli.screen import announce, progress_bar
    from unlearn.workflow import forget
    from unlearn_eval.audit import run_audit

    name = settings.name or settings.method
    folder = target / "cells" / f"{name}-seed{seed}"
    holdout = everything.select(plan.holdout)
    ids = _as_selector(everything, plan.forget, folder)
    with progress_bar(f"{name}, seed {seed}") as progress:
        made = forget(
            plan.model,
            train,
            ids,
            folder / "adapter",
            adapter=target / "target",
            method=settings.method,
            holdout=holdout,
            options=settings.options,
            seed=seed,
            overwrite=True,
            announce=announce,
            progress=progress,
            **opening,
        )
    with progress_bar(f"audit of {name}") as progress:
        audit = run_audit(
            plan.model,
            train,
            ids,
            folder / "audit",
            adapter=folder / "adapter",
            before=target / "target",
            references=references,
            holdout=holdout,
            overwrite=True,
            progress=progress,
            **opening,
        )
    return {
        "name": name,
        "method": settings.method,
        "seed": seed,
        "seconds": made.fit.seconds,
        "tokens": made.fit.tokens,
        "stopped": made.fit.stopped,
        "states": {state: _numbers(audit, state) for state in audit.states if state != "base"},
    }


def _as_selector(everything: Records, forget: str, folder: Path) -> str:
    """Write the forget ids to a file: rows of the whole data are other rows of the training set."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "forget-ids.txt"
    file.write_text("\n".join(everything.select(forget).ids) + "\n", encoding="utf-8")
    return f"@{file}"


_NUMBERS = {
    "forget_recall": ("forget", "extraction.verbatim", "rate"),
    "forget_strength": ("forget", "extraction.strength", "mean"),
    "forget_loss": ("forget", "utility.loss", "mean"),
    "loss_auc": ("forget", "membership.loss", "auc"),
    "reference_auc": ("forget", "membership.reference", "auc"),
    "retain_recall": ("retain", "extraction.verbatim", "rate"),
    "retain_loss": ("retain", "utility.loss", "mean"),
    "holdout_loss": ("holdout", "utility.loss", "mean"),
}


def _numbers(audit: Audit, state: str) -> dict[str, Any]:
    def cell(row: AuditRow) -> dict[str, Any]:
        return {"value": row.value, "low": row.low, "high": row.high, "interval": row.interval}

    return {key: cell(audit.get(state, *where)) for key, where in _NUMBERS.items()}


def _summary(cells: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return a table with a line a method: mean ± standard deviation over seeds."""
    done = [cell for cell in cells if "error" not in cell]
    heads = ["method", "forget recall", "strength", "forget loss", "loss AUC", "base-diff. AUC"]
    heads += ["retain recall", "retain loss", "holdout loss", "time ÷ retrain"]
    if not done:
        return heads, []
    retrain = [c["seconds"] for c in done if c["method"] == "retrain"]

    def line(label: str, states: list[dict[str, Any]], seconds: list[float]) -> list[str]:
        texts = [label]
        for key in _NUMBERS:
            values = [s[key]["value"] for s in states if s[key]["value"] is not None]
            text = f"{fmean(values):.2f}" if values else "–"
            texts.append(text + (f" ± {stdev(values):.2f}" if len(values) > 1 else ""))
        texts.append(f"{fmean(seconds) / fmean(retrain):.2f}" if retrain and seconds else "")
        return texts

    first = done[0]["states"]
    rows = [line("before", [first["before"]], [])]
    references = [first[s] for s in first if s.startswith("reference:")]
    rows.append(line(f"references ({len(references)})", references, []))
    for name in dict.fromkeys(c["name"] for c in done):
        mine = [c for c in done if c["name"] == name]
        rows.append(line(name, [c["states"]["after"] for c in mine], [c["seconds"] for c in mine]))
    return heads, rows


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
