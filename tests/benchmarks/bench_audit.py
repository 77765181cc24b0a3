"""What an audit's passes cost: `make bench`.

On a random Llama of 39 million parameters with a vocabulary of 32,000, and on two with 2,048, over
records of 64 tokens, half of them predicted:

- the complete likelihood set (the pass, every attack and every probe that reads it) ÷ one bare
  forward pass of the same records in the same batches, logits of all positions; the pass of the
  base, which some attacks compare with, is counted by itself;
- the same set with a forward pass for each metric, as one writes them one by one, ÷ the set;
- gradient norms of records, many in one backward pass, ÷ a loop of one backward pass each, and ÷
  one backward pass of all these records, which is the floor: on a CPU arithmetic is what costs;
- peak memory of scoring 10,000 records ÷ that of scoring 1,000, without the scores themselves.

Prints a table and writes it as JSON: `bench_audit.py [FILE] [--threads N] [--rounds N]`.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import _audits as audits
import torch
from _measure import Ratio, interleaved, paired_ratio, peak_bytes
from _steps import Setting, opened

from unlearn_eval.scores.model_scores import score_model

LARGE = Setting(vocabulary=32_000, hidden=384, intermediate=1024, layers=8, heads=6, rows=8)
SMALL = replace(LARGE, vocabulary=2_048, rows=16)
TINY = Setting(vocabulary=2_048, hidden=128, intermediate=384, layers=2, heads=4, rows=64)


def pass_ratios(name: str, setting: Setting, target: float | None, rounds: int) -> list[Ratio]:
    """Compare the set with a bare pass, and with a pass for each metric."""
    with opened(setting) as state:
        examples = audits.records(setting, setting.rows)
        with state.reference("base") as (model, head):
            base = score_model(model, head, examples)
        found = interleaved(
            {
                "set": audits.likelihoods(state, examples, base),
                "base": audits.scored(state, examples),
                "bare": audits.bare(state, examples),
                "alone": audits.one_by_one(state, examples, base),
            },
            rounds,
        )
    return [
        Ratio(
            f"{name}: likelihood set / bare pass", paired_ratio(found["set"], found["bare"]), target
        ),
        Ratio(f"{name}: pass of the base / bare pass", paired_ratio(found["base"], found["bare"])),
        Ratio(
            f"{name}: likelihood set / {len(audits.ALONE)} metrics, a pass each",
            paired_ratio(found["set"], found["alone"]),
            0.2,
        ),
    ]


def gradient_ratios(name: str, setting: Setting, target: float | None, rounds: int) -> list[Ratio]:
    """Compare gradient norms of many records at once with a loop."""
    with opened(setting) as state:
        examples = audits.records(setting, setting.rows)
        found = interleaved(
            {
                "batch": lambda: audits.void(audits.norms(state, examples)),
                "loop": lambda: audits.void(audits.norms_by_loop(state, examples)),
                "once": audits.one_backward(state, examples),
            },
            rounds,
        )
    name = f"{name}, {setting.length} tokens: gradient norms"
    return [
        Ratio(f"{name} / loop", paired_ratio(found["batch"], found["loop"]), target),
        Ratio(f"{name} / one backward pass", paired_ratio(found["batch"], found["once"]), 1.1),
    ]


def memory_ratio(setting: Setting, few: int, many: int) -> Ratio:
    """Compare what scoring holds at its peak beyond the scores that it returns."""

    def beyond(count: int) -> int:
        examples = audits.records(setting, count)
        kept = []
        peak = peak_bytes(lambda: kept.append(score_model(state.model, state.head, examples)))
        (scores,) = kept
        return peak - 4 * 4 * len(scores.log_prob)  # what the pass itself holds of each token

    with opened(setting) as state:
        ratio = beyond(many) / beyond(few)
    return Ratio(f"memory: {many:,} records / {few:,}, beyond their scores", ratio, 1.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="where the JSON goes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    # peft 0.21 reads a property that transformers 5.23 renamed
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    torch.set_num_threads(args.threads)
    rows: list[Ratio] = []
    print(f"{'ratio':>6}  target")
    for part in (
        partial(pass_ratios, "39 M, vocabulary 32,000", LARGE, 1.3, args.rounds),
        partial(pass_ratios, "16 M, vocabulary 2,048", SMALL, 1.8, args.rounds),
        partial(pass_ratios, "1 M, vocabulary 2,048", TINY, 1.8, args.rounds),
        partial(gradient_ratios, "39 M", replace(LARGE, length=16, rows=32), None, args.rounds),
        partial(gradient_ratios, "39 M", LARGE, 0.3, args.rounds),
        partial(gradient_ratios, "1 M", TINY, 0.3, args.rounds),
        lambda: [memory_ratio(replace(TINY, length=24), 1_000, 10_000)],
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
    if args.file:
        args.file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
