"""Runs that were killed, and what a run cannot use."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from unlearn import lineage as lin
from unlearn import workflow
from unlearn._cli import run
from unlearn.lineage import weights_digest
from unlearn.requests._writer import Writer
from unlearn.requests.check import check

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
        patch.setattr(workflow, "forget", None)  # calling it would be an error
        (ran,) = case.json("run", name, "--method", "grad_ascent")["runs"]
    assert ran["adopted"]
    assert (ran["requests"], ran["digest"]) == ([name], weights_digest(folder))
    assert case.ledger.get(later).state == "located"
    assert check(case.ledger).ok
    with pytest.raises(Exception, match="suppression list"):
        lin.check_suppressed(workflow.Records.load(case.data))


def test_a_folder_that_is_not_the_run_s_is_refused_and_left(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = case.located("r0,r1")

    def killed(*_: Any, **__: Any) -> Any:
        raise SystemExit(9)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(workflow, "forget", killed)
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
