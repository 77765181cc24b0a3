"""What many records cost: `make bench`.

10,000, 100,000 and 1,000,000 rows of JSON lines with id, subject, prompt and completion, one in a
hundred of them with the content of another: opening and checking them, choosing a thousand by id
and those of a person, leaving out copies of the thousand, and halving them. Each size is looked at
in a process of its own: seconds it computes, and the peak of its memory above what it held before
it began.

Prints a table and writes it as JSON: `bench_million.py [FILE] [--rows N,N,…]`. Wanted are at most
1 GiB of memory at a million, and a time that is linear in rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_records import _peak_so_far, asked

from unlearn.data.records import Records
from unlearn.data.splits import half_splits, without_copies

SIZES = (10_000, 100_000, 1_000_000)
CHOSEN = 1000
"""Records that are chosen by their ids."""


def write(path: Path, rows: int) -> None:
    """Write the rows; each hundredth says under an id of its own what the one before says."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            row = asked(i - 1 if i % 100 == 99 else i) | {"id": f"r{i}"}
            file.write(json.dumps(row) + "\n")


def stages(path: Path) -> dict[str, Any]:
    """Carry out each stage once; return its seconds, what was found, and the peak in bytes."""
    Records.from_rows([{"text": "so that all that is imported is there"}])
    before, seconds, peaks = _peak_so_far(), dict[str, float](), dict[str, int]()

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        found = work()
        seconds[name] = time.process_time() - start
        peaks[name] = _peak_so_far() - before
        return found

    records = timed("open", lambda: Records.load(path))
    step = max(1, len(records) // CHOSEN)
    wanted = [f"r{i}" for i in range(98, len(records), step)]
    chosen = timed("choose by id", lambda: records.select(wanted))
    person = timed("choose a person", lambda: records.select("subject:person 7"))
    kept = timed("leave out copies", lambda: without_copies(records, chosen)).records
    halves = timed("halve", lambda: half_splits(records, 2, 0))
    return {
        "rows": len(records),
        "chosen": len(chosen),
        "of a person": len(person),
        "kept": len(kept),
        "halves": [len(half) for half in halves],
        "seconds": seconds,
        "peak until then": peaks,
        "peak": _peak_so_far() - before,
    }


def measured(rows: int) -> dict[str, Any]:
    """Return what `stages` finds of so many rows, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write(path, rows)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(stages, (path,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="where the JSON goes")
    parser.add_argument("--rows", default=",".join(map(str, SIZES)))
    args = parser.parse_args()
    found = []
    for rows in map(int, args.rows.split(",")):
        found.append(measured(rows))
        times = ", ".join(f"{name} {s:.2f} s" for name, s in found[-1]["seconds"].items())
        print(f"{rows:>9,} rows  {found[-1]['peak'] >> 20:>5} MiB  {times}", flush=True)
    if args.file:
        args.file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
