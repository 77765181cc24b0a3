"""Runs that were killed, and what a run cannot use."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.apps.cli.request import show
from unlearn.apps.requests.check import check
from unlearn.apps.requests.intake import setup_of
from unlearn.apps.requests.ledger.writer import Writer
from unlearn.apps.requests.line import kept_records
from unlearn.apps.requests.run import Done, Ran
from unlearn.data.records import Records
from unlearn.errors import DataError
from unlearn.provenance.lineage import Lineage, weights_digest
from unlearn.provenance.suppression import check_suppressed
from unlearn.runs import forgetting

from .conftest import Case


def test_a_finished_folder_is_adopted_and_not_trained_again(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = case.located("r0,r1")
    change = Writer.change

    def killed(self: Writer, request: str, event: str, **facts: Any) -> Any:
        if event == "unlearned":
            raise SystemExit(9)
        return change(self, request, event, **facts)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Writer, "change", killed)
        run(["request", "run", *case.fast, "--ledger", case.url])
    case.capfd.readouterr()
    (folder,) = case.ledger.folder("adapters").iterdir()
    assert case.ledger.get(name).state == "located"
    later = case.located("r7")  # not part of what was planned
    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "forget", None)  # calling it would be an error
        (ran,) = case.json("run", name, "--method", "grad_ascent")["runs"]
    assert ran["adopted"]
    assert "--method" in case.output.rpartition("had made its adapter, which is noted, though")[2]
    assert (ran["requests"], ran["digest"]) == ([name], weights_digest(folder))
    assert case.ledger.get(later).state == "located"
    assert check(case.ledger).ok
    with pytest.raises(Exception, match="suppression list"):
        check_suppressed(Records.load(case.data))


def test_a_folder_that_is_not_the_run_s_is_refused_and_left(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = case.located("r0,r1")

    def killed(*_: Any, **__: Any) -> Any:
        raise SystemExit(9)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(forgetting, "forget", killed)
        run(["request", "run", *case.fast, "--ledger", case.url])
    folder = case.ledger.folder("adapters") / f"run-{case.ledger.get(name).facts['run']['id']}"
    shutil.copytree(case.adapter, folder)
    assert "is not what run" in case.call("run", code=2)
    assert weights_digest(folder) == weights_digest(case.adapter)
    assert case.ledger.history(name)[-1].event == "abandoned"
    assert len(case.json("run", *case.fast)["runs"]) == 1


def test_what_a_run_cannot_use_leaves_requests_waiting(case: Case) -> None:
    name = case.located("r0")
    assert "did you mean" in case.call("run", "-o", "learning_rat=1", code=2)
    assert case.ledger.get(name).state == "located"
    assert "run" not in case.ledger.get(name).facts
    weights = case.adapter / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert "was changed since the ledger saw it" in case.call("run", *case.fast, code=2)
    assert check(case.ledger).ok


def events(case: Case, name: str) -> list[str]:
    return [event.event for event in case.ledger.history(name)]


def failed(case: Case) -> str:
    """A request whose verification failed."""
    name = case.located("r0")
    ledger = case.ledger
    with ledger.writing() as writer:
        writer.change(name, "unlearned")
        writer.change(name, "failed", verdict={"outcome": "FAIL"})
    return name


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_a_verdict_stands_until_another_run_is_planned(case: Case) -> None:
    name = failed(case)
    before = case.ledger.get(name)
    case.call("run", name, "-o", "learning_rat=1", code=2)
    case.call("run", name, "-o", "nonsense", code=2)
    case.call("run", name, "--method", "nop", code=2)
    assert "name their file" in case.call("run", name, "--with-canaries", "3", code=2)
    ledger = case.ledger
    with ledger.hold(before.line):
        assert case.json("run", name, *case.fast)["busy"] == [before.line]
    assert case.json("run", *case.fast)["runs"] == []  # it is not named
    assert case.ledger.get(name) == before
    assert len(case.json("run", name, *case.fast)["runs"]) == 1
    assert events(case, name)[-3:] == ["reopened", "planned", "unlearned"]
    assert "verdict" not in case.ledger.get(name).facts


def crash(case: Case, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """A run that breaks off for a reason that nobody foresaw."""

    def breaks(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "forget", breaks)
        assert run(["request", "run", *names, *case.fast, "--ledger", case.url]) == 1
    err = case.capfd.readouterr().err
    assert "Traceback" in err
    assert "broke off: RuntimeError: out of memory; `unlearn request run" in err


def test_what_the_system_refuses_is_said_in_a_line(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "/full/list")

    case.located("r0")
    monkeypatch.setattr(forgetting, "forget", full)
    assert run(["request", "run", *case.fast, "--ledger", case.url]) == 1
    err = case.capfd.readouterr().err
    assert "broke off: [Errno 28] No space left on device: '/full/list'; `unlearn request" in err
    assert "Traceback" not in err


def leftovers(case: Case, name: str) -> Path:
    """What a broken run may leave beside its folder."""
    folder = case.ledger.folder("adapters")
    left = folder / f".run-{case.ledger.get(name).facts['run']['id']}.checkpoints"
    left.mkdir(parents=True)
    return left


@pytest.mark.parametrize("words", [[], list(Case.fast)])
def test_a_run_that_broke_off_is_gone_on_with_and_said_so(
    case: Case, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    name = case.located("r0")
    crash(case, monkeypatch)
    planned = case.ledger.get(name).facts["run"]["id"]
    told = case.json("run", *words)
    assert told["runs"][0]["run"] == planned
    (note,) = told["notes"]
    assert "gone on with as planned: --method npo -o max_steps=2 -o batch_size=2" in note
    assert events(case, name) == ["added", "located", "planned", "unlearned"]


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["-o", "max_steps=1", "-o", "batch_size=1"], "-o"),
        (["--method", "grad_ascent", "-o", "max_steps=1"], "--method, -o"),
        ([*Case.fast, "--seed", "1"], "--seed"),
    ],
)
def test_a_run_that_broke_off_is_planned_anew_with_other_settings(
    case: Case, monkeypatch: pytest.MonkeyPatch, words: list[str], flag: str
) -> None:
    name = case.located("r0")
    crash(case, monkeypatch)
    planned, left = case.ledger.get(name).facts["run"]["id"], leftovers(case, name)
    if "--method" not in words:
        words = ["--method", "npo", *words]
    told = case.json("run", *words)
    (ran,) = told["runs"]
    assert ran["run"] != planned
    (note,) = told["notes"]
    assert f"run {planned} was planned before and not finished; other settings are given" in note
    assert f"({flag})" in note
    assert not left.exists()
    line = Lineage.read(ran["folder"])
    assert line is not None
    assert line.method == words[words.index("--method") + 1]
    assert events(case, name)[2:] == ["planned", "abandoned", "planned", "unlearned"]


def test_a_run_that_broke_off_does_not_stand_in_the_way_of_other_requests(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = case.located("r0"), case.located("r4")
    crash(case, monkeypatch, one)
    told = case.json("run", two, *case.fast)
    assert told["runs"][0]["requests"] == [two]
    assert f"the records of {one} too, which is not named now: given up" in told["notes"][0]
    assert events(case, one)[-1] == "abandoned"
    assert case.json("run", *case.fast)["runs"][0]["requests"] == [one]


def test_a_run_that_breaks_off_does_not_stop_those_on_other_adapters(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = case.located("r0")
    other = case.work / "adapters" / "other"
    shutil.copytree(case.adapter, other, ignore=shutil.ignore_patterns("lineage.json"))
    weights = other / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    case.adapter = other
    two = case.located("r4")
    forget, problems = forgetting.forget, [DataError("a file is gone"), RuntimeError("a bug")]

    def breaks_first(*words: Any, **more: Any) -> Any:
        if "first" in str(more["adapter"]):
            raise problems.pop()
        return forget(*words, **more)

    monkeypatch.setattr(forgetting, "forget", breaks_first)
    told = case.json("run", *case.fast, code=1)
    assert [each["requests"] for each in told["runs"]] == [[two]]
    (left,) = told["failed"]
    assert (left["requests"], left["problem"]) == ([one], "RuntimeError: a bug")
    assert "a file is gone" in case.call("run", *case.fast, code=2)
    assert events(case, one)[-2:] == ["planned", "abandoned"]
    assert check(case.ledger).ok


@pytest.mark.parametrize("copies", [0, 2])
def test_copies_of_what_went_are_told_and_leave_the_kept_records(case: Case, copies: int) -> None:
    rows = [json.loads(line) for line in case.data.read_text().splitlines()]
    rows += [{**rows[0], "id": f"copy{i}", "subject": None} for i in range(copies)]
    case.data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = case.located("r0,r1")
    case.capfd.readouterr()
    (ran,) = case.json("run", *case.fast)["runs"]
    assert (ran["records"], ran["copies"]) == (2, copies)
    request = case.ledger.get(name)
    retain = kept_records(case.ledger, request.line, setup_of(case.ledger, request))
    assert retain.ids == [row["id"] for row in rows[2:12]]


def test_the_note_of_copies_names_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    done = Done("1a", "folder", "sha256:0", ("q",), (), records=2, adopted=False)
    show.ran(Ran([done]))
    assert "copies" not in "".join(capsys.readouterr())
    show.ran(Ran([replace(done, copies=3)]))
    told = " ".join("".join(capsys.readouterr()).split())
    assert "3 more record(s) of the data have the same content: these copies were not kept" in told
