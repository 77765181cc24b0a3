"""What opening and checking data costs: `make bench`.

200,000 rows of JSON lines, with id, subject, prompt and completion, and as conversations of three
turns: `Records.load` ÷ the least that reading such a file takes, `json.loads` of each of its lines.
Memory is the peak of the process above what it held before, in a process of its own each, as bytes
÷ those of the file.

Prints a table and writes it as JSON: `bench_records.py [FILE] [--rows N] [--rounds N]`. The target
of time is 10 s for the first file on the machine where reading alone takes 0.8 s; that of memory is
500 MiB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _measure import Ratio, interleaved, paired_ratio

from unlearn.data.records import Records


def asked(i: int) -> dict[str, Any]:
    """Return a row of prompt and completion."""
    return {
        "id": f"r{i}",
        "subject": f"person {i % 5000}",
        "prompt": f"Where does person {i % 5000} live, and since when? ({i})",
        "completion": f"At {i} Elm Road, town {i % 97}, since {1900 + i % 120}. They like it there.",
    }


def talked(i: int) -> dict[str, Any]:
    """Return the same as a conversation."""
    row = asked(i)
    turns = [
        {"role": "system", "content": "You know where people live."},
        {"role": "user", "content": row.pop("prompt")},
        {"role": "assistant", "content": row.pop("completion")},
    ]
    return row | {"messages": turns}


def bare(path: Path) -> None:
    """Read a file, and nothing else."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            json.loads(line)


def load(path: Path) -> None:
    """Open and check a file."""
    assert len(Records.load(path).ids) == sum(1 for _ in path.open())


def peak(path: Path) -> int:
    """Return by how many bytes opening a file raises the peak of a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_raised, (path,))


def _raised(path: Path) -> int:
    Records.from_rows([{"text": "so that all that is imported is there"}])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load(path)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def ratios(name: str, path: Path, target: float | None, rounds: int) -> Iterator[Ratio]:
    """Compare opening a file with reading it."""
    seconds = interleaved({"load": lambda: load(path), "bare": lambda: bare(path)}, rounds)
    least = min(seconds["load"])
    title = f"{name}: Records.load / json.loads of its lines ({least:.1f} s)"
    yield Ratio(title, paired_ratio(seconds["load"], seconds["bare"]), target)
    size, most = path.stat().st_size, peak(path)
    yield Ratio(
        f"{name}: peak memory / size of the file ({most >> 20} MiB)",
        most / size,
        500 * 2**20 / size,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="where the JSON goes")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    rows: list[Ratio] = []
    print(f"{'ratio':>6}  target")
    kinds: dict[str, tuple[Callable[[int], dict[str, Any]], float | None]] = {
        "prompt and completion": (asked, 12.5),
        "messages": (talked, None),
    }
    for name, (row, target) in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            with path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row(i)) + "\n" for i in range(args.rows))
            for ratio in ratios(name, path, target, args.rounds):
                rows.append(ratio)
                print(ratio.line(), flush=True)
    if args.file:
        content = {"rows": args.rows, "rounds": args.rounds, "ratios": [asdict(r) for r in rows]}
        args.file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
