"""The time that a run is expected to take, as told before it starts, over what it takes.

Adapters are trained and records taken out on the model that comes with the package, or on another;
1 is exact, and a factor of 1.5 either way is wanted. A run that a stop rule ends early counts the
part of its steps that it ran.

Prints a table and writes it as JSON: `bench_expected.py [FILE] [--model M --adapter A --data F]`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch

from unlearn import finetune, forget
from unlearn.apps.demo import base_path, records
from unlearn.methods.plans import TrainingPlan

FACTOR = 1.5
METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("retrain", {}),
    ("retrain", {"budget": 0.25}),
    ("npo", {"stop": "none"}),
    ("grad_diff", {"stop": "none"}),
    ("rmu", {"stop": "none"}),
    ("undial", {"stop": "none"}),
)


class Told:
    """Keeps the plan that was told."""

    plan: TrainingPlan

    def __call__(self, plan: TrainingPlan) -> None:
        self.plan = plan


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=None, help="with --data: instead of the embedded model")
    parser.add_argument("--data", type=Path, default=None)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["UNLEARN_HOME"] = f"{scratch}/home"
        found = [measured(Path(scratch) / str(i), args) for i in range(args.rounds)]
    print("expected ÷ taken")
    for name in found[0]:
        ratios = [each[name] for each in found]
        value = median(ratios)
        wrong = "" if 1 / FACTOR <= value <= FACTOR else "missed"
        print(f"{value:6.2f}  {min(ratios):.2f}–{max(ratios):.2f}  {wrong:6}  {name}", flush=True)
        rows.append({"name": name, "value": value, "least": min(ratios), "most": max(ratios)})
    if args.file:
        content = {"rounds": args.rounds, "torch": torch.__version__, "ratios": rows}
        args.file.write_text(json.dumps(content, indent=1) + "\n")


def measured(work: Path, args: argparse.Namespace) -> dict[str, float]:
    """Train and forget once; return expected over taken seconds of each."""
    work.mkdir(parents=True)
    model, data, gone = args.model or base_path(), args.data, "rows:0-7"
    options = {"learning_rate": 1e-3, "batch_size": 8, "epochs": 5}
    template = "chat"
    config: dict[str, Any] = {"r": 16, "lora_alpha": 32, "layers_to_transform": [26, 27, 28, 29]}
    if data is None:
        data, template, config = work / "records.jsonl", "qa", {}
        text = "".join(json.dumps(row) + "\n" for row in records(16, seed=0))
        data.write_text(text, encoding="utf-8")
        options = {"learning_rate": 3e-3, "batch_size": 16, "epochs": 20}
    told, found = Told(), {}
    old = work / "old"
    result = finetune(
        model,
        data,
        old,
        template=template,
        options=options,
        lora=config,
        announce=told,
        progress=False,
    )
    found["finetune"] = told.plan.seconds / result.fit.seconds
    for method, own in METHODS:
        name = f"{method} {own.get('budget', '')}".strip()
        result = forget(
            model,
            data,
            gone,
            work / name,
            adapter=old,
            method=method,
            options=own,
            announce=told,
            progress=False,
        )
        ran = result.fit.steps / told.plan.steps
        found[name] = told.plan.seconds * ran / result.fit.seconds
    return found


if __name__ == "__main__":
    main()
