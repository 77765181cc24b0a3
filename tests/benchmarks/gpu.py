"""Everything that only a GPU can show, in one command: `make gpu`.

On random Llamas of 1.3 and 8 billion parameters (vocabulary 128,000, 8 + 8 records of 512 tokens,
LoRA of rank 16 on all matrices of the blocks, base in bfloat16 and in NF4): tokens a second, peak
memory and share of the matrix-multiply ceiling of a step of retraining, NPO and RMU; records a
second of an audit's scores, and how much of a bare forward pass's speed that is. On the embedded
model: whether GPU and CPU agree on losses, scores and a small deletion, and whether a replay on the
GPU gives the same bits.

It needs no network and no files, and writes JSON: `gpu.py [FILE] [--small] [--device cpu]`. What
fails is written down as such, and the rest goes on; the exit code is 1 then. `--small` is to see
whether it works, on a CPU, too: its speeds mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import _audits as audits
import numpy as np
import torch
from _cuda import GPU, report
from _measure import interleaved
from _steps import NPO, RETRAIN, RMU, Setting, opened
from safetensors.torch import load_file

from unlearn.apps.cli import run as command
from unlearn.apps.demo import base_path
from unlearn.apps.demo import records as people

OBJECTIVES = {"retrain": RETRAIN, "npo": NPO, "rmu": RMU}

SIZES = {
    "1B": GPU,
    "8B": replace(GPU, hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8),
}
SMALL = {
    "tiny": Setting(
        vocabulary=512, length=16, rows=2, hidden=64, intermediate=128, layers=2, heads=2,
        dtype=torch.bfloat16,
    )
}  # fmt: skip


def steps(sizes: dict[str, Setting], rounds: int, ceiling: int) -> dict[str, Any]:
    """Measure a step of each method on each size and form of base."""
    found: dict[str, Any] = {}
    for size, setting in sizes.items():
        for form, nf4 in (("bf16", False), ("nf4", True)):
            for name, objective in OBJECTIVES.items():
                chosen = replace(setting, nf4=nf4)
                found[f"{size} {form} {name}"] = attempted(
                    lambda c=chosen, o=objective: report(c, rounds, ceiling, o)
                )
                release()
    return found


def audit(sizes: dict[str, Setting], rounds: int, records: int) -> dict[str, Any]:
    """Measure scores of an audit, in records a second, and ÷ a bare forward pass's speed."""

    def measured(setting: Setting) -> dict[str, float]:
        with opened(setting) as state:
            examples = audits.records(setting, records)
            actions = {
                "scores": audits.scored(state, examples),
                "bare": audits.bare(state, examples),
            }
            seconds = interleaved(actions, rounds, setting.device)
        median = {name: statistics.median(each) for name, each in seconds.items()}
        return {
            "records a second": records / median["scores"],
            "share of a bare pass's tokens a second": median["bare"] / median["scores"],
        }

    found = {}
    for size, setting in sizes.items():
        found[size] = attempted(lambda s=setting: measured(s))
        release()
    return found


def agreement(folder: Path, device: str) -> dict[str, Any]:
    """Train, forget and audit on the embedded model, on a CPU and on a device, and compare.

    Returns the largest difference of a record's and a token's score of one adapter, and of the
    deletion the cosine of both changes of the weights and the difference of the losses after it.
    """
    data, base = folder / "people.jsonl", str(base_path())
    data.write_text("".join(json.dumps(row) + "\n" for row in people(10, seed=0)))
    common = ["--model", base, "--data", str(data), "--dtype", "float32"]
    tuned = str(folder / "tuned")
    carried_out("finetune", *common, "--device", "cpu", "--output", tuned, "-o", "epochs=3")
    rows, changes = {}, {}
    start = weights(Path(tuned))
    for kind in ("cpu", device):
        place = folder / f"on {kind}"
        place.mkdir(exist_ok=True)
        on = ["--adapter", tuned, "--forget", "rows:0-3", "--device", kind]
        carried_out(
            "forget", *common, *on, "--method", "npo", "-o", "max_steps=10", "-o", "stop=none",
            "--output", str(place / "forgotten"), "--overwrite",
        )  # fmt: skip
        # the same weights are scored on both: those that the CPU made
        carried_out(
            "audit", *common, "--before", tuned, "--forget", "rows:0-3", "--device", kind,
            "--adapter", str(folder / "on cpu" / "forgotten"), "--no-cache", "--generate", "0",
            "--output", str(place / "audit"), "--overwrite",
        )  # fmt: skip
        rows[kind] = numbers(place / "audit")
        changes[kind] = weights(place / "forgotten") - start
    ours, theirs = rows["cpu"], rows[device]
    return {
        "numbers of the audit": len(ours),
        "largest difference of one": float(np.abs(ours - theirs).max()),
        "cosine of the deletions": float(
            torch.nn.functional.cosine_similarity(changes["cpu"], changes[device], dim=0)
        ),
        "distance of the deletions ÷ their length": float(
            (changes["cpu"] - changes[device]).norm() / changes["cpu"].norm()
        ),
    }


def replay(folder: Path, device: str) -> dict[str, Any]:
    """Retrain what `agreement` trained, and again from the lineage: are these the same bits?"""
    where = ["--model", str(base_path()), "--data", str(folder / "people.jsonl")]
    on = ["--adapter", str(folder / "tuned"), "--forget", "rows:0-3", "--device", device]
    output = str(folder / "retrained")
    carried_out("forget", *where, *on, "--method", "retrain", "--output", output)
    carried_out("replay", output, *where, "--output", str(folder / "replayed"))
    found = json.loads((folder / "replayed" / "replay.json").read_text())
    return {"outcome": found["outcome"], "kind": found["kind"]}


def carried_out(*words: str) -> None:
    """Run a command in this process; one that fails ends the part."""
    if code := command(words):
        raise RuntimeError(f"unlearn {words[0]} ended with {code}")


def weights(folder: Path) -> torch.Tensor:
    """Return all weights of an adapter, float64."""
    found = load_file(folder / "adapter_model.safetensors")
    return torch.cat([found[name].flatten().double() for name in sorted(found)])


def numbers(folder: Path) -> np.ndarray:
    """Return the means of an audit; counts of ranks may jump where scores differ by rounding."""
    rows = json.loads((folder / "audit.json").read_text())["rows"]
    return np.array([r["value"] for r in rows if r["metric"] == "mean" and r["value"] is not None])


def attempted(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what was measured, or what went wrong."""
    try:
        return work()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error)[:500]}"}


def release() -> None:
    """Give memory back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def failures(found: dict[str, Any]) -> list[str]:
    """Return the names of the parts that failed."""
    parts = {name: part for name, part in found.items() if isinstance(part, dict)}
    return [name for name in parts if "error" in parts[name]] + [
        f"{name}: {inner}" for name, part in parts.items() for inner in failures(part)
    ]


def measured(device: str, *, small: bool) -> dict[str, Any]:
    """Return all figures, by part."""
    chosen = SMALL if small else SIZES
    sizes = {name: replace(setting, device=device) for name, setting in chosen.items()}
    rounds, ceiling, records = (2, 64, 8) if small else (10, 8192, 256)
    start = time.perf_counter()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "torch": torch.__version__,
        "small": small,
        "steps": steps(sizes, rounds, ceiling),
        "audit": audit(sizes, rounds, records),
    }
    with tempfile.TemporaryDirectory() as folder:
        found["agreement"] = attempted(lambda: agreement(Path(folder), device))
        found["replay"] = attempted(lambda: replay(Path(folder), device))
    return found | {"seconds": time.perf_counter() - start}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="where the JSON goes")
    parser.add_argument("--small", action="store_true", help="a tiny model: does it work?")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("gpu.py: there is no CUDA device; --small --device cpu tries it out\n")
        return 2
    found = measured(args.device, small=args.small)
    text = json.dumps(found, indent=1)
    print(text)
    if args.file:
        args.file.write_text(text + "\n")
    for name in (failed := failures(found)):
        sys.stderr.write(f"gpu.py: failed: {name}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
