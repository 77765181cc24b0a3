"""Whatever bytes a file holds, it is read, or refused in one line: no traceback, hang or flood."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .targets import Target, targets

FILES = 10
"""Of each parser in the suite, the same ones each time; `make stress` takes ten minutes."""
STRESS = float(os.environ.get("FUZZ_SECONDS", "600"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
LONGEST, GROWTH = 15.0, 1 << 30
"""Seconds that a file may take, and bytes that the process may grow by."""
LINE = 12_000
KEY = "0123456789abcdef" * 4


class HungError(BaseException):
    """A file took too long."""


@pytest.fixture(scope="module")
def known(
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    holdout_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[Target]]:
    work = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", KEY)
        patch.setenv("UNLEARN_HOME", str(work / "unlearn"))
        yield targets(work / "files", tiny_model, adapter, data_file, holdout_file)


@pytest.fixture(autouse=True)
def _own_key(known: list[Target], _own_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key and home that the files were made under."""
    monkeypatch.setenv("UNLEARN_KEY", KEY)
    monkeypatch.setenv("UNLEARN_HOME", str(known[0].file.parents[3] / "unlearn"))


def _hung(*_: Any) -> None:
    raise HungError


def complaint(target: Target, data: bytes) -> str | None:
    """Return what is wrong with how a file is taken; None where nothing is."""
    target.file.write_bytes(data)
    before = signal.signal(signal.SIGALRM, _hung)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        target.read()
    except target.refuses as error:
        words = str(error)
        if target.refuses == (Exception,):
            return None
        if "\n" in words or len(words) > LINE:
            return f"not a line ({len(words)} characters): {words[:200]!r}"
    except HungError:
        return f"hangs: {''.join(traceback.format_tb(sys.exc_info()[2])[-3:])}"
    except Exception as error:
        places = "".join(traceback.format_tb(error.__traceback__)[-4:])
        return f"{type(error).__name__}: {places}{error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        target.file.parent.mkdir(exist_ok=True)
        target.file.write_bytes(target.seed)
    return None


def fuzzed(known: list[Target], seed: int, seconds: float) -> tuple[Counter[str], dict[str, str]]:
    """Try each parser on some files, and for its share of the time; return tries and findings."""
    tried: Counter[str] = Counter()
    found: dict[str, str] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for target in known:
        rng = random.Random(f"{seed} {target.name}")
        until = time.monotonic() + seconds / len(known)
        while time.monotonic() < until or tried[target.name] < FILES:
            data = target.mutate(rng, target.seed)
            words = complaint(target, data)
            tried[target.name] += 1
            if words is not None:
                kind = f"{target.name}: {words.splitlines()[0][:60]} {words[-300:]}"
                found.setdefault(kind, f"{target.name}: {words}\n{data[:400]!r}")
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if grown > GROWTH:
        found["memory"] = f"the process grew by {grown >> 20} MiB"
    return tried, found


def test_the_seeds_are_read(known: list[Target]) -> None:
    for target in known:
        target.file.write_bytes(target.seed)
        target.read()


def test_odd_bytes_are_read_or_refused_in_a_line(known: list[Target]) -> None:
    tried, found = fuzzed(known, SEED, 0.0)
    assert set(tried.values()) == {FILES}
    assert not found, "\n\n".join(found.values())


@pytest.mark.stress
def test_ten_minutes_of_odd_bytes(known: list[Target], capfd: pytest.CaptureFixture[str]) -> None:
    tried, found = fuzzed(known, SEED, STRESS)
    with capfd.disabled():
        print(f"\n{tried.total():,} files, {len(found)} findings")
        for name, count in sorted(tried.items()):
            print(f"  {count:7,}  {name}")
    assert not found, "\n\n".join(found.values())
