"""What an unlearning step and a scoring pass cost: `make bench`.

On a random Llama with a vocabulary of 32,000, batch 8 + 8 of 64 tokens, half of them labelled:

- an NPO + NLL step with LoRA, against (a) a plain two-model implementation (a second copy of the
  model as reference, full logits, three forward passes) and (b) the floor, one forward and backward
  pass of the same rows with cross-entropy only;
- all token statistics of an audit against one bare forward pass.

Prints ratios of medians and writes them as JSON: `bench_step.py [FILE]`.
"""

from __future__ import annotations

import copy
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from unlearn.batches import Example, collate
from unlearn.losses import NLL, NPO, TokenView
from unlearn.scoring import (
    Head,
    hidden_states,
    target_positions,
    token_statistics,
    token_values,
)

VOCABULARY, ROWS, LENGTH, RUNS = 32_000, 8, 64, 5


def model() -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=512,
            intermediate_size=1408,
            num_hidden_layers=6,
            num_attention_heads=8,
            tie_word_embeddings=False,
        )
    )
    return get_peft_model(base, LoraConfig(r=16, target_modules="all-linear"))


def batch() -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    target = np.arange(LENGTH) >= LENGTH // 2
    examples = [
        Example(str(i), rng.integers(3, VOCABULARY, LENGTH), target) for i in range(2 * ROWS)
    ]
    return collate(examples)


def median_seconds(step: Callable[[], None]) -> float:
    step()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ours(net: Any, rows: dict[str, torch.Tensor]) -> Callable[[], None]:
    head = Head.of(net)
    reference = torch.full((ROWS,), -300.0)

    def step() -> None:
        row, position, target = target_positions(rows)
        hidden = hidden_states(net, rows)[row, position]
        values, _ = token_values(NLL().statistic, head, hidden, target)
        forget = row < ROWS
        first = TokenView(values[forget], row[forget], ROWS, reference)
        second = TokenView(values[~forget], row[~forget] - ROWS, ROWS)
        (NPO()(first) / ROWS + NLL()(second) / int((~forget).sum())).backward()
        net.zero_grad()

    return step


def two_models(net: Any, rows: dict[str, torch.Tensor]) -> Callable[[], None]:
    """The usual way: copied reference, full logits over everything, one pass a term."""
    frozen = copy.deepcopy(net).requires_grad_(False)
    labels = rows["input_ids"].masked_fill(~rows["target"], -100)

    def loss(model: Any, part: slice, reduction: str) -> torch.Tensor:
        logits = model(
            input_ids=rows["input_ids"][part], attention_mask=rows["attention_mask"][part]
        ).logits
        shifted = logits[:, :-1].contiguous().view(-1, VOCABULARY)
        wanted = labels[part][:, 1:].contiguous().view(-1)
        return F.cross_entropy(shifted, wanted, ignore_index=-100, reduction=reduction)

    def step() -> None:
        forget, retain = slice(0, ROWS), slice(ROWS, None)
        mine = -loss(net, forget, "none").view(ROWS, -1).sum(-1)
        with torch.no_grad():
            theirs = -loss(frozen, forget, "none").view(ROWS, -1).sum(-1)
        npo = 20 * F.softplus(0.1 * (mine - theirs)).mean()
        (npo + loss(net, retain, "mean")).backward()
        net.zero_grad()

    return step


def floor(net: Any, rows: dict[str, torch.Tensor]) -> Callable[[], None]:
    labels = rows["input_ids"].masked_fill(~rows["target"], -100)

    def step() -> None:
        net(
            input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], labels=labels
        ).loss.backward()
        net.zero_grad()

    return step


@torch.no_grad()
def scoring(net: Any, rows: dict[str, torch.Tensor]) -> tuple[float, float]:
    head = Head.of(net)

    def everything() -> None:
        row, position, target = target_positions(rows)
        token_statistics(head, hidden_states(net, rows)[row, position], target, [(1.0, 40)])

    def bare() -> None:
        net(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"])

    with torch.no_grad():
        return median_seconds(everything), median_seconds(bare)


def main() -> None:
    net, rows = model(), batch()
    seconds = {
        "ours": median_seconds(ours(net, rows)),
        "floor": median_seconds(floor(net, rows)),
        "two models": median_seconds(two_models(net, rows)),
    }
    seconds["audit statistics"], seconds["bare forward"] = scoring(net.eval(), rows)
    ratios = {
        "NPO + NLL step / two-model step": seconds["ours"] / seconds["two models"],
        "NPO + NLL step / plain training step": seconds["ours"] / seconds["floor"],
        "all statistics / bare forward": seconds["audit statistics"] / seconds["bare forward"],
    }
    for name, ratio in ratios.items():
        print(f"{ratio:6.2f}  {name}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    content = {"seconds": seconds, "ratios": ratios, "peak_rss_mb": peak}
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
