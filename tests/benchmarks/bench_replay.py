"""What a replay costs beside the training that it repeats: `make bench`.

On the model that comes with the package, an adapter of 80 records is retrained without five of
them, and the result is trained again by `unlearn replay`, in a fresh process. Both alternate; a
ratio is the median over rounds of the seconds of the replay's training over those that the lineage
names, the smallest and the largest beside it. At the whole budget both do the same, and 1.05 is
wanted. With `budget=auto` the replay trains the stages that made the weights, and none of the
trials by which they were found, so that it can only be less. `in all` is the replay with its
process, the opening of the model and the comparison, over all that `unlearn forget` takes: a fixed
part, which long trainings do not notice.

Prints a table and writes it as JSON: `bench_replay.py [FILE] [--rounds N] [--epochs N]`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _measure import Ratio

from unlearn import finetune, forget
from unlearn.apps.demo import base_path, records
from unlearn_eval.replay.run import replay

PEOPLE, PER_PERSON = 16, 5
TARGET = 1.05


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(f"{'ratio':>6}  target")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["UNLEARN_HOME"] = f"{scratch}/home"
        work = Path(scratch)
        prepare(work, args.epochs)
        for budget, target in ((1.0, TARGET), ("auto", TARGET)):
            found = [measured(work, budget, i) for i in range(args.rounds)]
            training, whole = zip(*found, strict=True)
            for name, part, limit in (("training", training, target), ("in all", whole, None)):
                row = {"name": f"replay of budget={budget}, {name}", "value": median(part)}
                row |= {"least": min(part), "most": max(part), "target": limit}
                rows.append(row)
                print(Ratio(row["name"], row["value"], limit).line(), flush=True)
                print(f"{'':24}least {min(part):.2f}, most {max(part):.2f}", flush=True)
    content = {"rounds": args.rounds, "torch": torch.__version__, "ratios": rows}
    if args.file:
        args.file.write_text(json.dumps(content, indent=1) + "\n")


def prepare(work: Path, epochs: int) -> None:
    """Train the adapter that knows all records."""
    rows = records(PEOPLE, seed=0)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (work / "records.jsonl").write_text(text, encoding="utf-8")
    options = {"learning_rate": 3e-3, "batch_size": 16, "epochs": epochs}
    data, old = work / "records.jsonl", work / "old"
    finetune(base_path(), data, old, template="qa", options=options, progress=False)


def measured(work: Path, budget: float | str, round_: int) -> tuple[float, float]:
    """Retrain and replay; return the ratios (of training alone, of all)."""
    folder, data = work / f"{budget}-{round_}", work / "records.jsonl"
    start = time.perf_counter()
    made = forget(
        base_path(),
        data,
        f"rows:0-{PER_PERSON - 1}",
        folder,
        adapter=work / "old",
        method="retrain",
        options={"budget": budget},
        progress=False,
    )
    there = time.perf_counter() - start
    result = replay(folder, data, quiet=True)
    assert next(f for f in result.findings if f.what == "weights").passed, result.words
    return result.cost["here"] / made.lineage.cost["seconds"], result.cost["whole"] / there


if __name__ == "__main__":
    main()
