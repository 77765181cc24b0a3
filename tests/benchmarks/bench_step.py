"""What an unlearning step costs: `make bench`.

On a random Llama of 52 million parameters with a vocabulary of 32,000, 8 + 8 records of 64 tokens,
half of them predicted, each optimizer step (AdamW and clipping included) against

- (a) a plain two-model implementation: a copied reference, logits of all positions, three forward
  passes, contiguous cross-entropy;
- (b) the floor: one forward and backward pass of the same rows with cross-entropy as transformers
  computes it; and a stricter floor, which like this package projects only what is predicted.

Memory is the peak above the loaded model over setting up (copy, optimizer, cached reference) and
two steps. Growth is that peak, less the peak of the same steps with the projection left out, at
twice the vocabulary or twice the sequence over the same at the size above: 1 means that what a step
holds beyond weights, gradients, optimizer state and activations does not grow.

Prints a table and writes it as JSON: `bench_step.py [FILE] [--threads N] [--rounds N]`. Where there
is a GPU, `_cuda.py` follows.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

import _steps as steps
import torch
from _cuda import GPU, report
from _measure import Ratio, Step, interleaved, paired_ratio, peak_bytes
from _steps import Setting, opened

from unlearn.model.state import ModelState

Maker = Callable[[ModelState, Setting], Step]

NPO = partial(steps.product, objective=steps.NPO)
KL_MIN = partial(steps.product, objective=steps.KL_MIN)


def times(setting: Setting, makers: dict[str, Maker], rounds: int) -> dict[str, list[float]]:
    """Time several kinds of step on one model, in turn."""
    with opened(setting) as state:
        made = {name: make(state, setting) for name, make in makers.items()}
        return interleaved(made, rounds, setting.device)


@cache
def memory(setting: Setting, make: Maker) -> int:
    """Return the peak above the loaded model of setting up and two steps, in bytes."""
    with opened(setting) as state:

        def action() -> None:
            step = make(state, setting)
            step()
            step()

        return peak_bytes(action, setting.device)


def beyond(setting: Setting) -> int:
    """Return what a step holds at its peak beyond weights, optimizer state and activations."""
    return memory(setting, NPO) - memory(setting, steps.backbone)


def time_ratios(setting: Setting, rounds: int) -> list[Ratio]:
    adapter = setting.kind == "lora"
    makers: dict[str, Maker] = {
        "npo": NPO,
        "two": steps.two_models,
        "plain": steps.plain,
        "strict": steps.plain_at_targets,
    }
    if adapter:
        makers["kl_min"] = KL_MIN
    found = times(setting, makers, rounds)

    def of(mine: str, theirs: str) -> float:
        return paired_ratio(found[mine], found[theirs])

    name = f"time, {setting.kind}: NPO + NLL"
    rows = [
        Ratio(f"{name} / (a) two models", of("npo", "two"), 0.7 if adapter else 0.8),
        Ratio(f"{name} / (b) plain step", of("npo", "plain"), 1.1 if adapter else 1.3),
        Ratio(f"{name} / stricter floor", of("npo", "strict")),
    ]
    if adapter:
        name = "time, lora: GA + KL to a live reference"
        rows += [
            Ratio(f"{name} / (b) plain step", of("kl_min", "plain"), 1.2),
            Ratio(f"{name} / stricter floor", of("kl_min", "strict")),
        ]
    return rows


def memory_ratios(setting: Setting) -> list[Ratio]:
    mine, name = memory(setting, NPO), f"memory, {setting.kind}: NPO + NLL"
    target = 0.5 if setting.kind == "lora" else 0.85
    return [
        Ratio(f"{name} / (a) two models", mine / memory(setting, steps.two_models), target),
        Ratio(f"{name} / (b) plain step", mine / memory(setting, steps.plain)),
    ]


def growth_ratios(setting: Setting) -> list[Ratio]:
    once = beyond(setting)
    name = f"growth, {setting.kind}: memory beyond weights and activations, twice the"
    return [
        Ratio(f"{name} vocabulary", beyond(replace(setting, vocabulary=64_000)) / once, 1.05),
        Ratio(f"{name} sequence", beyond(replace(setting, length=128)) / once, 1.05),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="where the JSON goes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    # peft 0.21 reads a property that transformers 5.23 renamed
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    torch.set_num_threads(args.threads)
    lora, full = Setting("lora"), Setting("full")
    rows: list[Ratio] = []
    print(f"{'ratio':>6}  target")
    for part in (
        lambda: time_ratios(lora, args.rounds),
        lambda: time_ratios(full, args.rounds),
        lambda: memory_ratios(lora),
        lambda: memory_ratios(full),
        lambda: growth_ratios(lora),
        lambda: growth_ratios(full),
    ):
        for row in part():
            rows.append(row)
            print(row.line(), flush=True)
    content = {
        "threads": args.threads,
        "rounds": args.rounds,
        "torch": torch.__version__,
        "ratios": [asdict(row) for row in rows],
    }
    if torch.cuda.is_available():
        content["cuda"] = report(GPU)
        print(json.dumps(content["cuda"], indent=1))
    if args.file:
        args.file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
