"""Several processes give what one gives, and what fails in one of them ends all of them."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from unlearn.errors import DataError, OptionError
from unlearn_eval import run_audit
from unlearn_eval.scores import processes as _processes
from unlearn_eval.scores.processes import everywhere, from_first, gathered, sharded, together

SIZE = 3
Result = Any


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], Any]], list[Any]]:
    """Run a function of the rank in three threads that talk as processes would."""
    here = threading.local()
    barrier = threading.Barrier(SIZE, timeout=10)
    table: list[Any] = [None] * SIZE

    def exchange(mine: Any) -> list[Any]:
        barrier.wait()
        table[here.rank] = mine
        barrier.wait()
        return list(table)

    monkeypatch.setattr(_processes, "_rank", lambda: here.rank)
    monkeypatch.setattr(_processes, "_size", lambda: SIZE)
    monkeypatch.setattr(_processes, "_all", exchange)
    monkeypatch.setattr(_processes, "_of_first", lambda mine: exchange(mine)[0])

    def run(work: Callable[[int], Any]) -> list[Any]:
        found: list[Any] = [None] * SIZE

        def process(rank: int) -> None:
            here.rank = rank
            try:
                found[rank] = work(rank)
            except Exception as error:
                found[rank] = error

        threads = [threading.Thread(target=process, args=(rank,)) for rank in range(SIZE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        return found

    return run


@pytest.mark.parametrize("total", [0, 1, 2, 3, 7])
def test_each_record_is_looked_at_once_and_all_are_told(run, total):
    looked: list[int] = []
    done: list[int] = []

    def work(rank: int) -> list[int]:
        def share(mine: list[int]) -> list[int]:
            looked.extend(mine)
            done.append(len(mine))
            return [10 * i for i in mine]

        return sharded(share, total, progress=done.append)

    assert run(work) == [[10 * i for i in range(total)]] * SIZE
    assert sorted(looked) == list(range(total))
    assert sum(done) == SIZE * total  # each process's bar arrives
    assert (
        run(lambda rank: gathered(len, total))
        == [[len(range(r, total, SIZE)) for r in range(SIZE)]] * SIZE
    )


def test_alone_the_work_is_simply_done():
    assert sharded(lambda mine: [i * i for i in mine], 4) == [0, 1, 4, 9]
    assert gathered(sum, 4) == [6]
    assert from_first(lambda: "x") == everywhere(lambda: "x") == "x"
    with pytest.raises(ZeroDivisionError):
        everywhere(lambda: 1 // 0)


def test_weights_that_are_split_are_not_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match="with FSDP, and only finetune and forget split weights"):
        together(lambda: None)()


def test_only_the_first_process_reads(run):
    asked: list[int] = []

    def work(rank: int) -> str:
        return from_first(lambda: asked.append(rank) or f"of {rank}")

    assert run(work) == ["of 0"] * SIZE
    assert asked == [0]


def test_an_error_in_one_share_is_raised_in_all(run):
    def work(rank: int) -> Any:
        def share(mine: list[int]) -> list[int]:
            if 4 in mine:
                raise DataError("record 'r4' is wrong")
            return mine

        return sharded(share, 6)

    found = run(work)
    assert [type(e) for e in found] == [DataError] * SIZE
    assert {str(e) for e in found} == {"record 'r4' is wrong"}


def test_the_first_of_several_errors_is_everyone_s(run):
    def work(rank: int) -> Any:
        if rank > 0:
            raise DataError(f"in {rank}")

    assert [str(e) for e in run(lambda rank: everywhere(lambda: work(rank)))] == ["in 1"] * SIZE


@pytest.mark.parametrize("wrong", [0, 1, 2])
@pytest.mark.parametrize("where", ["before", "inside", "after"])
def test_whoever_caught_an_error_is_where_the_others_are(run, wrong, where):
    """The failing process would skip an exchange, and take the next for the one it missed."""

    def treatment(rank: int, number: int) -> list[int]:
        bad = number == 1 and rank == wrong
        if bad and where == "before":
            raise DataError("no memory")
        first = sharded(lambda mine: [i + 100 * number for i in mine], 5)
        if bad and where == "inside":
            raise DataError("no memory")
        second = sharded(lambda mine: [-i for i in mine], 4)
        if bad and where == "after":
            raise DataError("no memory")
        return first + second

    def work(rank: int) -> list[Any]:
        found: list[Any] = []
        for number in range(3):
            try:
                found.append(everywhere(lambda n=number: treatment(rank, n)))
            except DataError as error:
                found.append(str(error))
        return found

    def right(number: int) -> list[int]:
        return [i + 100 * number for i in range(5)] + [-i for i in range(4)]

    assert run(work) == [[right(0), "no memory", right(2)]] * SIZE


def test_processes_with_different_input_are_refused(run):
    found = run(lambda rank: sharded(lambda mine: mine, 5 if rank else 6))
    assert all("6 records, 5 records, 5 records" in str(e) for e in found)
    assert {type(e) for e in found} == {_processes.ProcessLostError}


def test_an_error_that_cannot_be_sent_is_told_in_words(run):
    class Local(Exception):
        pass

    def work(rank: int) -> None:
        if rank == 1:
            raise Local("odd")

    found = run(lambda rank: everywhere(lambda: work(rank)))
    assert type(found[1]) is Local
    assert [str(found[i]) for i in (0, 2)] == ["in process 1: Local: odd"] * 2


def test_scores_survive_being_sent_and_joined(make_scores):
    import pickle

    from unlearn_eval.scores.token_scores import TokenScores

    whole = make_scores(
        [[-1.0, -np.inf], [-0.1], [-0.5, -0.2]],
        ids=("a", "b", "c"),
        text_bytes=[7, 8, 9],
        secret=[0, 1, 0, 2, 2],
        sampled={(0.7, 40): [-1.0, -np.inf, -2.0, -3.0, -0.5]},
    )
    back = pickle.loads(pickle.dumps(whole))
    parts = [whole.take([0, 2]), whole.take([]), whole.take([1])]
    for other in (back, TokenScores.joined(parts).take([0, 2, 1])):
        assert other.ids == whole.ids
        assert np.array_equal(other.offsets, whole.offsets)
        for (name, ours), (_, theirs) in zip(whole._columns(), other._columns(), strict=True):
            assert np.array_equal(ours, theirs), name
        assert np.array_equal(other.text_bytes, whole.text_bytes)
    assert TokenScores.joined([whole.take([])]).records == 0
    assert TokenScores.joined([whole, make_scores([[-1.0]])]).secret is None


def close(one: Any, other: Any, far: float = 1e-6) -> bool:
    """Say whether two values are equal, numbers but for rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[k], other[k], far) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(
            close(a, b, far) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=far, abs_tol=far)
    return bool(one == other)


PASSES = ["grad_norm", "recall", "con_recall", "neighbourhood", "prompt_states", "exposure"]


@pytest.mark.slow
def test_two_processes_equal_one(
    tiny_model, adapter, data_file, holdout_file, lineage_key, tmp_path, monkeypatch
):
    """Started as a launcher does: `accelerate launch` starts a second process for GPUs only."""
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    rows[0]["secrets"] = [{"field": "completion", "start": 6, "end": 8, "kind": "pin"}]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = Path(__file__).with_name("two_audits.py")
    given = {"model": tiny_model, "data": data, "adapter": adapter, "holdout": holdout_file}
    given = {key: str(path) for key, path in given.items()}
    given |= {"forget": "r0,r1,r2", "generate": 3, "also": PASSES, "robustness": ["all"]}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, str(script), json.dumps(given), str(tmp_path)]
    started = []
    for rank in ("0", "1"):
        names = {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}
        with (tmp_path / f"log{rank}").open("w") as log:
            environment = os.environ | where | names
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        codes = [process.wait(240) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0, 0], (tmp_path / "log0").read_text()[-3000:]

    run_audit(**given, output=tmp_path / "one", cache=False)
    names = ("one", "two")
    one, two = (json.loads((tmp_path / n / "audit.json").read_text())["rows"] for n in names)
    assert len(one) > 300
    assert len(one) == len(two)
    assert [(a, b) for a, b in zip(one, two, strict=True) if not close(a, b)] == []
    one, two = (pq.read_table(tmp_path / n / "scores.parquet").to_pylist() for n in names)
    # what float32 gives a token in another batch
    assert [(a, b) for a, b in zip(one, two, strict=True) if not close(a, b, 1e-5)] == []

    told = [json.loads((tmp_path / f"told{rank}.json").read_text()) for rank in range(2)]
    for found in told:
        # two states, with a forward pass over each record in one process or the other; then none
        assert found["passes"] == [2 * sum(found["shares"]), 0]
        assert found["wrong record"] == "record 'r3' is wrong"
        assert found["treatment"] == "int8: only here"
        assert found["next treatment"] > 0
    assert sum(sum(found["shares"]) for found in told) == 12 + 8
    assert "another process ended" in told[0]["lost"]
