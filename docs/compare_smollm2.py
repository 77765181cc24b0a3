"""Methods beside each other on a real chat model, in two regimes.

    python docs/compare_smollm2.py SmolLM2-135M-Instruct full.json FOLDER [KEY=VALUE…]

writes the records of `recipes/compare/smollm2.yaml` and runs it twice: after five passes over the
records, and after as many as it takes to know them by heart. It goes on where it was killed, and
prints a table a regime. Values change the recipe, such as `seeds=[0]`; JOBS is the number of
processes, and REGIME names one to run alone.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from verdict_smollm2 import written

from unlearn.apps.compare.comparing import compare
from unlearn.apps.compare.execution.runner import Workers
from unlearn.apps.compare.recipe import CompareRecipe
from unlearn.recipe import load_recipe

RECIPE = "compare/smollm2"

AUTHORS = (*range(196, 200), *range(190, 194), *range(184, 190))
"""TOFU's authors that are learned, that methods look at, and that they are judged by."""

REGIMES = {
    "few": {"epochs": 5, "batch_size": 8},
    "by heart": {"epochs": 10, "batch_size": 4},
}
"""Options of fine-tuning in each regime, chosen by the learned records alone: 20 steps leave 1.2
nats a token, and 80 leave .06, when three of four records are recited word for word."""

NEAR = 0.05
"""A distance to the references' mean AUC up to which a cell counts as near them. It was fixed
before any was scored; with eight records no reference is that near the others, so cells that are
no farther than the farthest reference are counted, too."""


def recipe_of(regime: str, model: str, records: Path, values: Sequence[str]) -> CompareRecipe:
    """Return the recipe of a regime, with values changed."""
    options = [f"finetune.options.{name}={value}" for name, value in REGIMES[regime].items()]
    given = [f"model={model}", f"data={records}", *options]
    return load_recipe(RECIPE, CompareRecipe, [*given, *values])


def near(table: Path) -> Iterator[str]:
    """Yield how often each method comes near the references, and what that costs."""
    yield (
        "| method | cells | near the references | no farther than the farthest of them "
        "| tokens ÷ retraining (median) |"
    )
    yield "|---|---|---|---|---|"
    with table.open(encoding="utf-8", newline="") as file:
        cells = [row for row in csv.DictReader(file) if row["gap"]]
    most = max(float(row["gap"]) for row in cells if row["method"] == "references")
    for method in dict.fromkeys(row["method"] for row in cells):
        own = [row for row in cells if row["method"] == method]
        close, within = (sum(float(row["gap"]) <= far for row in own) for far in (NEAR, most))
        shares = [float(row["tokens_share"]) for row in own if row["tokens_share"]]
        cost = f"{median(shares):.2f}" if shares else "–"
        yield f"| {method} | {len(own)} | {close} | {within} | {cost} |"


def tables(model: str, full: Path, folder: Path, values: Sequence[str]) -> Iterator[str]:
    """Run both regimes, and yield the lines of their tables."""
    folder.mkdir(parents=True, exist_ok=True)
    records = folder / "records.jsonl"
    written(full, AUTHORS, records)
    for regime in [os.environ["REGIME"]] if "REGIME" in os.environ else REGIMES:
        recipe = recipe_of(regime, model, records, values)
        workers = Workers(jobs=int(os.environ.get("JOBS", "1")))
        result = compare(recipe, folder / regime, workers=workers)
        yield f"\n{regime}: {REGIMES[regime]}\n"
        for row in (result.heads, ["---"] * len(result.heads), *result.rows):
            yield f"| {' | '.join(row)} |"
        yield ""
        yield from near(folder / regime / "comparison.csv")
        yield from result.failures


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    for line in tables(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]):
        print(line, flush=True)
