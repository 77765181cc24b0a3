"""Change operators, numbers and arguments one at a time, and see whether the fast tests notice.

What is changed and which tests are run is in `[tool.mutmut]` of pyproject.toml. mutmut wants the
packages at the root, so each area gets a copy of the repository laid out anew in out/mutation.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COPIES = ROOT / "out" / "mutation"
EXPLAINED = Path(__file__).with_name("survivors.toml")
AREAS = ("losses", "statistics", "verdict")
MEMORY = 6 << 30
"""Bytes that a mutant may take."""

NOTICED = 0.95
"""Share of an area's mutants that tests must notice; each of the others must be explained."""


class Mutant(NamedTuple):
    """One change of one line; two changes of like lines of a function are one."""

    function: str
    old: str
    new: str


def lay_out(area: str) -> Path:
    """Copy packages, tests and configuration to where mutmut looks for them."""
    copy = COPIES / area
    shutil.rmtree(copy, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    for source in ("unlearn", "eval/unlearn_eval", "tests", "docs", "recipes"):
        shutil.copytree(ROOT / source, copy / Path(source).name, ignore=ignored)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    head, mutmut = text.split("[tool.mutmut]", 1)
    # what of the section names another area does not belong to this one
    others = tuple(f"/{other}" for other in AREAS if other != area)
    lines = [line for line in mutmut.splitlines() if not any(name in line for name in others)]
    (copy / "pyproject.toml").write_text(
        head + "[tool.mutmut]" + "\n".join(lines) + "\n", encoding="utf-8"
    )
    return copy


def names_of(copy: Path) -> list[str]:
    """Return the names of all mutants of an area, in the order of files and lines."""
    os.chdir(copy)
    from mutmut import configuration
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.file_utils import walk_mutatable_files
    from mutmut.utils.format_utils import get_mutant_name

    configuration._config = None  # of the area before
    found = []
    for path in sorted(walk_mutatable_files()):
        mutated = mutate_file_contents(str(path), path.read_text(encoding="utf-8"))
        found += [get_mutant_name(path, name) for name in mutated.mutant_names]
    return found


def _with_little_memory() -> None:
    """Let a mutant that counts without end fail, before it takes others with it."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def tried(copy: Path, names: list[str], processes: int) -> dict[str, str]:
    """Run the mutants and return the state of each: killed, survived, no tests, timeout, …"""
    mutmut = str(Path(sys.executable).with_name("mutmut"))
    command = [mutmut, "run", "--max-children", str(processes), *names]
    subprocess.run(command, cwd=copy, check=True, preexec_fn=_with_little_memory)
    from mutmut.stats import status_by_exit_code

    codes: dict[str, int | None] = {}
    for file in sorted((copy / "mutants").rglob("*.meta")):
        codes |= json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"]
    return {name: status_by_exit_code[codes[name]] for name in names}


def mutant(name: str) -> Mutant:
    """Return what a mutant changed, in words that outlive a change elsewhere in its file."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    lines = get_diff_for_mutant(name).splitlines()[2:]
    old, new = (
        " ".join(" ".join(line[1:].split()) for line in lines if line.startswith(sign))
        for sign in "-+"
    )
    return Mutant(name.rpartition("__mutmut_")[0], old, new)


def explained() -> set[Mutant]:
    """Return the survivors that are known to change nothing, or nothing that is promised."""
    table = tomllib.loads(EXPLAINED.read_text(encoding="utf-8")) if EXPLAINED.exists() else {}
    return {Mutant(e["function"], e["old"], e["new"]) for e in table.get("survivor", [])}


def run(area: str, count: int | None, seed: int, processes: int) -> bool:
    """Try an area's mutants, print what survived, and return whether that is few and known."""
    start, copy = time.monotonic(), lay_out(area)
    every = names_of(copy)
    names = every if count is None else random.Random(seed).sample(every, min(count, len(every)))
    states = tried(copy, names, processes)
    # one that never ends is noticed; it is shown, as on a busy machine it may only be slow
    shown = {name: state for name, state in states.items() if state != "killed"}
    alive = {name: mutant(name) for name, state in shown.items() if state != "timeout"}
    known = explained()
    unknown = sum(change not in known for change in alive.values())
    for name, state in sorted(shown.items()):
        print(f"{'explained' if alive.get(name) in known else state}: {name}")
        for key, value in mutant(name)._asdict().items():
            print(f"  {key} = {json.dumps(value, ensure_ascii=False)}")
    share = 1 - len(alive) / len(names)
    print(
        f"{area}: {len(every)} mutants, {len(names)} tried, {len(names) - len(alive)} noticed "
        f"({share:.1%}), {len(alive) - unknown} explained, {unknown} not explained, "
        f"{time.monotonic() - start:.0f} s",
        flush=True,
    )
    return share >= NOTICED and not unknown


def main() -> int:
    """Try a sample of each area, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("areas", nargs="*", help=f"of {AREAS}")
    parser.add_argument("--count", type=int, default=150, help="mutants of each area (150)")
    parser.add_argument("--all", action="store_true", help="all mutants, which takes hours")
    parser.add_argument("--seed", type=int, default=0, help="which of them (0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    count = None if given.all else given.count
    # a list, so that one area's failure does not keep the others from being tried
    passed = [run(area, count, given.seed, given.processes) for area in given.areas or AREAS]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
