"""What a fine-tuning of the upper blocks costs when those below are computed once: `make bench`.

On a random Llama of 30 small blocks, 32 records of 32 to 96 tokens, the second half of each
predicted, whole runs of 5 epochs over the top 8 blocks: what is computed once against the same run
through all blocks in every pass, `cache_frozen=off`. The runs alternate; a ratio is the median over
rounds of the ratio within a round, and the smallest and the largest stand beside it.

With a share s of the whole pass below, no such run of E epochs can be under 1 − s·(1 − 1/E), since
each record must go through the blocks below once: the bound beside it, with s from a timed pass.

Prints a table and writes it as JSON: `bench_frozen.py [FILE] [--threads N] [--rounds N]
[--model FOLDER]`; a real model takes the place of the random one, for the first row alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import Ratio, Step, interleaved, paired_ratio
from transformers import LlamaConfig, LlamaForCausalLM

from unlearn import losses
from unlearn.data.batching import collate
from unlearn.data.tokenization import Example
from unlearn.model import frozen
from unlearn.model.blocks import blocks_of
from unlearn.model.frozen_outputs import OUTPUTS
from unlearn.model.scoring import Head
from unlearn.model.state import ModelState, new_adapter, open_model
from unlearn.training.fitting import fit
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions

EPOCHS, RECORDS, ABOVE, VOCABULARY = 5, 32, 8, 2_000
TARGET = 0.45


def base(folder: Path | None) -> ModelState:
    """Open a real model, or make a random one."""
    if folder is not None:
        return open_model(folder, trainable=True, dtype="float32")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=528,
        num_hidden_layers=30,
        num_attention_heads=4,
        bos_token_id=1,
        eos_token_id=2,
    )
    net = LlamaForCausalLM(config)
    return ModelState(net, None, "random", Path(), None, Head.of(net))


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(32, 97, RECORDS)
    return [
        Example(str(i), rng.integers(3, VOCABULARY, n), np.arange(n) >= n // 2)
        for i, n in enumerate(lengths)
    ]


def run(state: ModelState, objective: Objective, **options: object) -> Step:
    """Return a whole run that trains the upper blocks."""
    rows = examples()
    settings = {"learning_rate": 1e-5, "epochs": EPOCHS, "stop": "none"} | options
    training = TrainingOptions.model_validate(settings)
    halves = (rows[: RECORDS // 2], rows[RECORDS // 2 :]) if objective.forget else ([], rows)

    def step() -> None:
        OUTPUTS.clear()  # each run is the first on its base
        used = bool(fit(state, objective, training, forget=halves[0], retain=halves[1]).notes)
        assert used == (training.cache_frozen == "auto" and training.epochs != 1)

    return step


@contextmanager
def adapter(folder: Path | None) -> Iterator[ModelState]:
    """An adapter on the upper blocks, in a folder as if it had been loaded from there."""
    bare = base(folder)
    depth = len(blocks_of(bare.model))
    shape = {
        "r": 16,
        "target_modules": "all-linear",
        "layers_to_transform": list(range(depth - ABOVE, depth)),
    }
    with tempfile.TemporaryDirectory() as place:
        state = new_adapter(bare, shape, seed=0)
        state.adapter = Path(place)
        state.save(state.adapter)
        yield state


def below(state: ModelState) -> Step:
    """Return a pass of all records through the blocks below, in batches as they are trained."""
    rows, blocks = examples(), blocks_of(state.model)
    first = len(blocks) - ABOVE

    def step() -> None:
        for i in range(0, len(rows), 8):
            with torch.no_grad(), frozen.passing(blocks[first:], [0] * ABOVE):
                frozen.whole_pass(state.model, collate(rows[i : i + 8]))

    return step


def measured(name: str, state: ModelState, objective: Objective, rounds: int) -> dict[str, Any]:
    """Time both runs in turn; return the ratio and its spread, and for one term the bound."""
    depth = len(blocks_of(state.model))
    layers = f"{depth - ABOVE}-{depth - 1}"
    steps = {
        "once": run(state, objective, train_layers=layers),
        "off": run(state, objective, train_layers=layers, cache_frozen="off"),
        "below": below(state),
    }
    seconds = interleaved(steps, rounds)
    ratios = [a / b for a, b in zip(seconds["once"], seconds["off"], strict=True)]
    row = {"name": f"time, {name}", "value": paired_ratio(seconds["once"], seconds["off"])}
    row |= {"smallest": min(ratios), "largest": max(ratios)}
    if objective.forget is None:
        share = EPOCHS * paired_ratio(seconds["below"], seconds["off"])
        row |= {"share_below": share, "bound": 1 - share * (1 - 1 / EPOCHS)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="where the JSON goes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a model's folder, instead of a random one")
    args = parser.parse_args()
    # peft 0.21 reads a property that transformers 5.23 renamed
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    print(f"{'ratio':>6}  target")

    def show(row: dict[str, Any], target: float | None = None) -> None:
        rows.append(row | {"target": target})
        print(Ratio(row["name"], row["value"], target).line(), flush=True)
        words = [f"{key} {value:.2f}" for key, value in row.items() if key not in {"name", "value"}]
        print(" " * 24 + ", ".join(words), flush=True)

    plain = Objective(retain=losses.NLL())
    live = Objective(losses.GradAscent(), losses.KLFromBefore())
    with adapter(args.model) as state:
        show(measured("lora on the top 8 blocks: NLL", state, plain, args.rounds), TARGET)
        if args.model is None:
            show(measured("the same: GA + KL to a live reference", state, live, args.rounds))
    if args.model is None:
        state = base(None)
        show(measured("the top 8 blocks themselves: NLL", state, plain, args.rounds))
    content = {
        "threads": args.threads,
        "rounds": args.rounds,
        "torch": torch.__version__,
        "ratios": rows,
    }
    if args.file:
        args.file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
