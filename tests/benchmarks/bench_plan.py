"""What `--plan` says of peak memory, beside what trainings hold: `make bench`.

Random Llamas; 53 million parameters with a vocabulary of 32,000 unless said otherwise. Planned is
what the model's configuration and the records tell, measured the exact peak of allocated tensors.

Prints a table and writes it as JSON: `bench_plan.py [FILE] [--threads N]`.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from _planned import Case, peaks
from _steps import KL_MIN, NPO, RETRAIN, Setting

TINY = Setting(vocabulary=1024, hidden=128, intermediate=352, layers=4, heads=4)

CASES = [
    Case("LoRA, NPO, 1 million parameters", TINY, NPO),
    Case("LoRA, NPO", Setting(), NPO),
    Case("LoRA, fine-tuning", Setting(), RETRAIN),
    Case("LoRA, gradient ascent with KL to the adapter before", Setting(), KL_MIN),
    Case("LoRA, NPO, micro_batch_size=2", Setting(), NPO, (("micro_batch_size", 2),)),
    Case("LoRA, NPO, recomputing", Setting(), NPO, (("gradient_checkpointing", True),)),
    Case("LoRA on NF4, NPO", Setting(nf4=True), NPO),
    Case("all weights, retraining", Setting("full"), RETRAIN),
    Case("all weights, NPO", Setting("full"), NPO),
    Case("LoRA, NPO, bfloat16", Setting(dtype=torch.bfloat16), NPO),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="where the JSON goes")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    # peft 0.21 reads a property that transformers 5.23 renamed
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    torch.set_num_threads(args.threads)
    rows = []
    print("planned, measured (MiB); planned ÷ measured: whole, beside the model")
    for case in CASES:
        found = peaks(case)
        whole = found.measured + found.weights
        print(
            f"{found.planned / 2**20:8.1f} {whole / 2**20:8.1f}  {found.whole:5.3f}  "
            f"{found.beyond:5.3f}  {case.name}",
            flush=True,
        )
        rows.append(asdict(found) | {"case": case.name, "ratio": found.whole})
    if args.file:
        content = {"threads": args.threads, "torch": torch.__version__, "cases": rows}
        args.file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
