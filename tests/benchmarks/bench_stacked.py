"""What training references side by side costs, against one by one: `make bench`.

Eight LoRA adapters on halves of 400 records, 16 rows an adapter and step, as `unlearn references`
trains them, against `unlearn finetune` of one of them, eight times: seconds of a step, setting up
left out. Each round trains the one and then the eight for a few steps, on one thread.

- on TinyStories-656K and records of TOFU, where `UNLEARN_TEST_ASSETS` has them;
- on a random Llama of 40 million parameters and records of the same lengths.

The floor is the same rows in the same passes through the base alone, forward and backward to its
first block: what no way of training adapters goes below. Scoring is eight adapters in one pass over
eight times the rows, against one after the other.

Prints a table and writes it as JSON: `bench_stacked.py [FILE] [--rounds N] [--steps N]`; `--only`
tinystories or llama measures one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from _measure import paired_ratio
from _steps import Setting, opened

from unlearn import Records
from unlearn.data.splits import half_splits
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import Example, encode
from unlearn.losses import NLL
from unlearn.model import lora_routing as _routing
from unlearn.model.lora_routing import Route, routed
from unlearn.model.scoring import score_examples
from unlearn.model.state import ModelState, new_adapter, open_model
from unlearn.training.fitting import fit
from unlearn.training.options import TrainingOptions
from unlearn.training.stacked import fit_stacked, stack_adapters
from unlearn.training.trainer import Objective

ADAPTERS, RECORDS, ROWS = 8, 400, 16
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


@dataclass(frozen=True)
class Ratio:
    """A row of the table; `target` is the largest value wanted, where one is."""

    name: str
    value: float
    seconds: float
    target: float | None = None

    def line(self) -> str:
        wanted = "" if self.target is None else f"{self.target:.2f}"
        missed = self.target is not None and self.value > self.target
        return f"{self.value:6.2f}  {wanted:>6}  {'missed' if missed else '':6}  {self.name}"


def tinystories(assets: Path) -> tuple[Callable[[], ModelState], list[Example]]:
    """Return how to open the real model, and real records as it reads them."""
    folder = assets / "models" / "TinyStories-656K"
    with (assets / "tofu" / "full.json").open(encoding="utf-8") as file:
        records = Records.from_rows(map(json.loads, islice(file, RECORDS)))
    state = open_model(folder)
    template = choose_template(None, state.tokenizer, records)
    return lambda: open_model(folder), encode(records, state.tokenizer, template, 512)


def random_llama() -> tuple[Callable[[], ModelState], list[Example]]:
    """Return how to make a Llama of 40 million parameters, and records of random tokens."""
    setting = Setting("full", vocabulary=16_000, layers=7)
    rng = np.random.default_rng(0)
    examples = []
    for i in range(RECORDS):
        length = int(np.clip(rng.normal(113, 28), 46, 189))
        target = np.arange(length) >= 0.36 * length
        examples.append(Example(str(i), rng.integers(3, setting.vocabulary, length), target))

    def make() -> ModelState:
        with opened(setting) as state:
            return state

    return make, examples


class Clock:
    """Seconds a step, from the moments at which a run says that it has done one."""

    def __init__(self) -> None:
        self._moments: list[float] = []

    def __call__(self, done: int, planned: int) -> None:
        self._moments.append(time.process_time())

    def seconds(self) -> float:
        return (self._moments[-1] - self._moments[0]) / (len(self._moments) - 1)


def training_ratios(
    name: str,
    make: Callable[[], ModelState],
    examples: Sequence[Example],
    rounds: int,
    steps: int,
    target: float | None,
) -> list[Ratio]:
    how = TrainingOptions(learning_rate=1e-3, batch_size=ROWS, max_steps=steps)
    splits = half_splits(Records.from_rows({"text": f"{i}"} for i in range(RECORDS)), ADAPTERS, 0)
    parts = [[examples[i] for i in split] for split in splits]
    single = new_adapter(make(), LORA, 0)
    stacked = stack_adapters(make(), LORA, range(ADAPTERS))

    def one() -> float:
        clock = Clock()
        fit(single, Objective(retain=NLL()), how, retain=parts[0], progress=clock)
        return clock.seconds()

    def many() -> float:
        clock = Clock()
        fit_stacked(stacked, how, parts, range(ADAPTERS), clock)
        return clock.seconds() / ADAPTERS

    def floor() -> float:
        stacked.model.enable_input_require_grads()  # or there would be nothing to go back to
        with (
            mock.patch.object(_routing._Follower, "__call__", lambda f, x: f.layer.base_layer(x)),
            mock.patch("unlearn.training.stacked._Learner.update", _only_count),
        ):
            seconds = many()
        stacked.model.disable_input_require_grads()
        return seconds

    found: dict[str, list[float]] = {"one": [], "many": [], "floor": []}
    for round_ in range(rounds + 1):
        for key, run in (("one", one), ("many", many), ("floor", floor)):
            seconds = run()
            if round_:
                found[key].append(seconds)
    return [
        Ratio(
            f"{name}: a step of {what} / alone",
            paired_ratio(found[key], found["one"]),
            statistics.median(found[key]),
            wanted,
        )
        for key, what, wanted in (
            ("many", f"one of {ADAPTERS} stacked adapters", target),
            ("floor", "the base alone", None),
        )
    ]


def _only_count(learner: object, *_: object) -> None:
    learner.done += 1  # type: ignore[attr-defined]


def scoring_ratio(
    name: str, make: Callable[[], ModelState], examples: Sequence[Example], rounds: int
) -> Ratio:
    """Compare one pass with all adapters to a pass for each, both of rows of similar length.

    Passes are of one size in tokens: what a larger or smaller one costs is no matter of stacking.
    """
    single = new_adapter(make(), LORA, 0)
    stacked = stack_adapters(make(), LORA, range(ADAPTERS))
    route = Route(stacked.stack, [4] * ADAPTERS)
    some = sorted(examples[:64], key=lambda e: len(e.ids))
    budget = 4 * ADAPTERS * len(some[-1].ids)
    found: dict[str, list[float]] = {"one": [], "many": []}
    for round_ in range(rounds + 1):
        start = time.process_time()
        score_examples(single.model, single.head, some, token_budget=budget)
        middle = time.process_time()
        with routed(stacked.model, route):
            for i in range(0, len(some), 4):
                # each record as long as the longest of the four: rows of an adapter stay together
                four = [replace_length(e, len(some[i + 3].ids)) for e in some[i : i + 4]]
                score_examples(stacked.model, stacked.head, four * ADAPTERS, token_budget=budget)
        if round_:
            found["one"].append(middle - start)
            found["many"].append((time.process_time() - middle) / ADAPTERS)
    return Ratio(
        f"{name}: scoring, one of {ADAPTERS} stacked adapters / alone",
        paired_ratio(found["many"], found["one"]),
        statistics.median(found["many"]),
    )


def replace_length(example: Example, length: int) -> Example:
    """Make an example as long as asked, with the same targets."""
    more = length - len(example.ids)
    ids, target = np.pad(example.ids, (0, more)), np.pad(example.target, (0, more))
    return Example(example.id, ids, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="where the JSON goes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--only", choices=["tinystories", "llama"])
    args = parser.parse_args()
    # peft 0.21 reads a property that transformers 5.23 renamed
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    torch.set_num_threads(1)
    assets = os.environ.get("UNLEARN_TEST_ASSETS")
    rows: list[Ratio] = []
    print(f"{'ratio':>6}  target")
    settings = [("random Llama, 40 M", random_llama, None)]
    if assets:
        settings.insert(0, ("TinyStories-656K", lambda: tinystories(Path(assets)), 0.6))
    for name, prepare, target in settings:
        if args.only and args.only not in name.lower():
            continue
        make, examples = prepare()
        found = training_ratios(name, make, examples, args.rounds, args.steps, target)
        for row in [*found, scoring_ratio(name, make, examples, args.rounds)]:
            rows.append(row)
            print(row.line(), f"({row.seconds:.3f} s)", flush=True)
    content = {
        "rounds": args.rounds,
        "steps": args.steps,
        "torch": torch.__version__,
        "ratios": [asdict(row) for row in rows],
    }
    if args.file:
        args.file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
