"""What many records cost: `make bench`.

10,000, 100,000 and 1,000,000 rows of JSON lines with id, subject, prompt and completion, one in a
hundred of them with the content of another: opening and checking them, choosing a thousand by id
and those of a person, leaving out copies of the thousand, halving them, looking for near-duplicates
of ten, and opening the same as Parquet. A ledger of as many requests is listed and checked. Each
size is looked at in a process of its own: seconds it computes, and the peak of its memory above
what it held before it began.

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

from unlearn.data.near_duplicates import near_duplicates
from unlearn.data.records import Records
from unlearn.data.splits import half_splits, without_copies
from unlearn.provenance.keys import Key

SIZES = (10_000, 100_000, 1_000_000)
NEAR = 10
"""Records whose near-duplicates are looked for."""
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
    few, rest = records.take(range(98, 98 + NEAR)), kept
    near = timed("near-duplicates of ten", lambda: near_duplicates(few, rest))
    peak = _peak_so_far() - before
    parquet = path.with_suffix(".parquet")
    records.dataset.to_parquet(str(parquet))
    again = timed("open Parquet", lambda: Records.load(parquet))
    assert again.ids == records.ids
    return {
        "near": len(near),
        "rows": len(records),
        "chosen": len(chosen),
        "of a person": len(person),
        "kept": len(kept),
        "halves": [len(half) for half in halves],
        "seconds": seconds,
        "peak until then": peaks,
        "peak": peak,
    }


def entries(path: Path, rows: int) -> dict[str, Any]:
    """List and check a ledger; return the seconds, and the peak in bytes."""
    from unlearn.apps.requests.check import check
    from unlearn.apps.requests.ledger.ledger import Ledger

    key = Key(bytes(32))
    with Ledger.open(str(path), key).writing() as writer:
        writer.add([{"line": "sha256:" + "0" * 64}] * rows)
    before = _peak_so_far()
    start = time.process_time()
    listed = len(Ledger.open(str(path), key).requests())
    between = time.process_time()
    found = check(Ledger.open(str(path), key))
    assert found.ok
    assert listed == found.entries == rows
    seconds = {"list": between - start, "check": time.process_time() - between}
    return {"rows": rows, "seconds": seconds, "peak": _peak_so_far() - before}


def measured(rows: int) -> dict[str, Any]:
    """Return what `stages` finds of so many rows, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write(path, rows)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found: dict[str, Any] = pool.apply(stages, (path,))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found["ledger"] = pool.apply(entries, (Path(folder) / "ledger.db", rows))
    return found


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
        book = found[-1]["ledger"]
        times = ", ".join(f"{name} {s:.2f} s" for name, s in book["seconds"].items())
        print(f"{'':>9} ledger  {book['peak'] >> 20:>3} MiB  {times}", flush=True)
    if args.file:
        args.file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
