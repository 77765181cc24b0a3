"""What opening and checking data costs: `make bench`.

200,000 rows of JSON lines, with id, subject, prompt and completion, and as conversations of three
turns: `Records.load` ÷ the least that reading such a file takes, `json.loads` of each of its lines.
Memory is the peak of the process above what it held before, in a process of its own each, as bytes
÷ those of the file.

Prints a table and writes it as JSON: `bench_records.py [FILE] [--rows N] [--rounds N]`. The target
of time is 10 s where reading alone takes .6; that of memory is 500 MiB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
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
        "completion": f"At {i} Elm Road, town {i % 97}, since {1900 + i % 120}. They like it.",
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
    assert Records.load(path).ids


def peak(path: Path) -> int:
    """Return by how many bytes opening a file raises the peak of a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_raised, (path,))


def _raised(path: Path) -> int:
    Records.from_rows([{"text": "so that all that is imported is there"}])
    before = _peak_so_far()
    load(path)
    return _peak_so_far() - before


def _peak_so_far() -> int:
    """Return the most memory that this process ever held, by Linux; others inherit theirs."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").split("\n")
    (size,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(size) * 1024


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
        "prompt and completion": (asked, 16.0),
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
