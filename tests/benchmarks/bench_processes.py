"""What several processes make of the same processors: `make bench`.

A random Llama of 58 million parameters with the tokenizer that comes with the package is fine-tuned
with LoRA on long records, by `unlearn finetune` as one process with all threads and, launched by
torchrun, as several that share the threads. Both alternate; a ratio is the median over rounds of
tokens a second of several processes over those of one, the smallest and the largest beside it. The
seconds are those that lineages name: of the training, without starting and opening.

Prints a table and writes it as JSON: `bench_processes.py [FILE] [--rounds N] [--processes N…]`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from unlearn.apps.demo import base_path, records

LEAST = 0.9
"""Tokens a second of two processes ÷ of one, that were wanted."""
STEPS, BATCH, PER_RECORD = 16, 16, 3


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[2])
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        prepare(place)
        for count in args.processes:
            pairs = [
                (speed(place, count, threads), speed(place, 1, threads)) for _ in range(args.rounds)
            ]
            found = [several / one for several, one in pairs]
            rows.append({"processes": count, "threads": threads, "value": median(found)})
            rows[-1] |= {"least": min(found), "most": max(found), "wanted": LEAST}
            missed = "" if median(found) >= LEAST else "  missed"
            print(
                f"{median(found):6.2f}  {LEAST:.2f}{missed}  {count} processes ÷ one: tokens/s",
                flush=True,
            )
            print(f"{'':14}least {min(found):.2f}, most {max(found):.2f}", flush=True)
    content = {"rounds": args.rounds, "torch": torch.__version__, "ratios": rows}
    if args.file:
        args.file.write_text(json.dumps(content, indent=1) + "\n")


def prepare(place: Path) -> None:
    """Write the model, and records of some 100 tokens."""
    tokenizer = AutoTokenizer.from_pretrained(base_path())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    rows = records(PER_RECORD * BATCH, seed=0)
    said = [f"{row['prompt']} {row['completion']}" for row in rows]
    texts = (" ".join(said[i : i + PER_RECORD]) for i in range(0, len(said), PER_RECORD))
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    (place / "records.jsonl").write_text("".join(lines), encoding="utf-8")


def speed(place: Path, processes: int, threads: int) -> float:
    """Fine-tune, and return tokens a second."""
    output = place / "adapter"
    launcher = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(processes),
        "--standalone",
    ]
    words = ["--model", place / "model", "--data", place / "records.jsonl", "--output", output]
    options = [f"max_steps={STEPS}", f"batch_size={BATCH}", "learning_rate=1e-4"]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "unlearn", "finetune"]
    command += [*map(str, words), "--overwrite", *(w for o in options for w in ("-o", o))]
    own = {"OMP_NUM_THREADS": str(max(1, threads // processes)), "UNLEARN_HOME": f"{place}/home"}
    subprocess.run(
        command,
        check=True,
        env=os.environ | own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    cost: dict[str, Any] = json.loads((output / "lineage.json").read_text())["cost"]
    return float(cost["tokens"] / cost["seconds"])


if __name__ == "__main__":
    main()
