"""Results appear whole or not at all."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unlearn.errors import OutputError
from unlearn.files import check_output, discard_stages, staged_file, staged_folder


def write(folder: Path, text: str, n: int = 3) -> None:
    for i in range(n):
        (folder / f"{i}.txt").write_text(text)


def test_a_folder_appears_when_the_block_succeeds(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with staged_folder(target) as stage:
        write(stage, "one")
        assert not target.exists()
    assert (target / "2.txt").read_text() == "one"
    assert [p.name for p in target.parent.iterdir()] == ["out"]


def test_an_existing_result_is_refused_or_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with staged_folder(target) as stage:
        write(stage, "one")
    with pytest.raises(OutputError, match="--overwrite"), staged_folder(target):
        pass
    with staged_folder(target, overwrite=True) as stage:
        write(stage, "two", n=2)
    assert sorted(p.read_text() for p in target.iterdir()) == ["two", "two"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_the_old_result(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with staged_folder(target) as stage:
        write(stage, "one")
    with pytest.raises(ZeroDivisionError), staged_folder(target, overwrite=True) as stage:
        write(stage, "two")
        raise ZeroDivisionError
    assert (target / "0.txt").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_without_an_atomic_exchange_two_renames_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unlearn.files._exchange", lambda a, b: False)
    test_an_existing_result_is_refused_or_replaced_whole(tmp_path)


def test_a_full_disk_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"), staged_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OutputError, match="No space left"), staged_file(tmp_path / "x.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="resource limits")
def test_a_disk_that_refuses_while_an_adapter_is_saved(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))\n"
        "from unlearn.apps.cli import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    words = ["forget", "--model", str(tiny_model), "--adapter", str(adapter), "--data"]
    words += [str(data_file), "--forget", "r0", "--output", str(tmp_path / "out")]
    words += ["-o", "max_steps=1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [p for p in tmp_path.iterdir() if p.name != "unlearn-home"]


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        check_output(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_killed_at_any_moment_it_is_the_old_or_the_new(tmp_path: Path) -> None:
    target = tmp_path / "out"
    code = (
        "import sys, itertools\n"
        "from pathlib import Path\n"
        "from unlearn.files import staged_folder\n"
        "print('ready', flush=True)\n"
        "for i in itertools.count():\n"
        "    with staged_folder(Path(sys.argv[1]), overwrite=True) as stage:\n"
        "        for j in range(5):\n"
        "            (stage / f'{j}.txt').write_text(str(i) * 1000)\n"
    )
    rng = random.Random(0)
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.01, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if target.exists():
            texts = {p.read_text() for p in target.iterdir()}
            assert len(list(target.iterdir())) == 5
            assert len(texts) == 1
    assert target.exists()


@pytest.mark.skipif(os.name != "posix", reason="process ids")
def test_what_killed_processes_left_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    left = tmp_path / f".a[1].jsonl.partial-{child.pid}"
    left.write_text("half")
    folder = tmp_path / f".a[1].jsonl.partial-{2**70}"
    folder.mkdir()
    (folder / "x").touch()
    names = [f".a[1].jsonl.partial-{os.getpid()}", ".a[1].jsonl.partial-x", "a[1].jsonl", ".b"]
    for name in names:
        (tmp_path / name).touch()
    discard_stages(tmp_path / "a[1].jsonl")
    assert {p.name for p in tmp_path.iterdir()} == set(names)
