"""What stands beside a verdict: in the certificate, at closing, and in the escrow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.apps.requests import certificate as certificates
from unlearn.apps.requests import closing
from unlearn.apps.requests.check import check, check_and_finish
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.remains import remains_of
from unlearn.errors import LedgerError, OutputError
from unlearn_eval.certificate.remains import not_claimed_of_remains

from .conftest import Case, add_many

LINE = "sha256:" + "0" * 64
VERDICT = {"outcome": "PASS", "tier": "A", "policy": {"name": "standard", "chosen": "before"}}


@pytest.fixture
def kind() -> str:
    return "sqlite"


@pytest.fixture
def ledger(tmp_path: Path, key: Any) -> Ledger:
    return Ledger.open(str(tmp_path / "ledger.db"), key)


def verified(ledger: Ledger, verdicts: list[dict[str, Any]], **facts: Any) -> str:
    """Enter a request that was verified and swept, with records in escrow."""
    (name,) = add_many(ledger, [{"line": LINE}])
    with ledger.writing() as writer:
        deposit = ledger.escrow.put(name, {"records": []})
        located = {"elsewhere": 0, "near": {"seen": 0, "included": 0}} | facts
        writer.change(name, "located", escrow=vars(deposit), **located)
        writer.change(name, "unlearned")
        for verdict in verdicts:
            event = {"PASS": "verified", "FAIL": "failed", "INCONCLUSIVE": "inconclusive"}
            writer.change(name, event[verdict["outcome"]], verdict=verdict)
        writer.change(name, "swept", swept={"links": 0})
    return name


def artifact(status: str) -> dict[str, Any]:
    return {"kind": "data file", "name": "a1", "status": status, "action": "delete", "sealed": "x"}


BESIDE = {
    "secret": ({"elsewhere": 1}, [VERDICT], "1 kept record holds a secret of the records"),
    "near copy": ({"near": {"seen": 2, "included": 1}}, [VERDICT], "2 kept records nearly repeat"),
    "unclear": ({"artifacts": [artifact("unclear")]}, [VERDICT], "1 thing that a sweep found"),
    "tries": ({}, [VERDICT | {"outcome": "FAIL"}, VERDICT], "this is verdict 2 on the request"),
    "policy": (
        {},
        [VERDICT | {"policy": {"name": "own", "chosen": "after"}}],
        "the policy was chosen after the model had been looked at",
    ),
    "given out": (
        {},
        [VERDICT | {"secrets": {"records": 1, "come_out": 1, "kept_records": 3}}],
        "the value comes out; 3 kept records hold it",
    ),
}


@pytest.mark.parametrize("what", BESIDE)
def test_closing_over_what_stands_beside_the_verdict_takes_a_reason(
    ledger: Ledger, what: str
) -> None:
    facts, verdicts, words = BESIDE[what]
    name = verified(ledger, verdicts, **facts)
    for outcome in (None, "incomplete"):
        with pytest.raises(LedgerError, match=words) as raised:
            closing.close(ledger, ledger.get(name), outcome, reason="  ")
        assert "--reason" in str(raised.value)
    assert ledger.get(name).state == "verified"
    closed = closing.close(ledger, ledger.get(name), reason="Ann agreed to it")
    assert closed.facts["outcome"] == "pass"
    assert closing.reason_given(ledger, closed) == "Ann agreed to it"
    assert "Ann" not in json.dumps(dict(closed.facts))


@pytest.mark.parametrize("what", BESIDE)
def test_what_stands_beside_the_verdict_is_not_claimed(ledger: Ledger, what: str) -> None:
    facts, verdicts, words = BESIDE[what]
    name = verified(ledger, verdicts, **facts)
    assert words in " ".join(not_claimed_of_remains(remains_of(ledger, ledger.get(name))))


def test_what_was_left_is_told_and_so_is_what_nobody_looked_for(ledger: Ledger) -> None:
    name = verified(ledger, [VERDICT], artifacts=[artifact("found")], elsewhere=None, near=None)
    words = " ".join(not_claimed_of_remains(remains_of(ledger, ledger.get(name))))
    assert "1 artifact known to descend from the records is left" in words
    assert "holds a secret of these: nobody looked" in words
    assert "nearly repeats these: nobody looked" in words
    with pytest.raises(LedgerError, match="--reason"):
        closing.close(ledger, ledger.get(name), "incomplete")
    closing.close(ledger, ledger.get(name), "incomplete", reason="a backup that expires")
    words = " ".join(not_claimed_of_remains(remains_of(ledger, ledger.get(name))))
    assert "closed as incomplete: a reason was given" in words


def test_nothing_beside_the_verdict_takes_no_reason(ledger: Ledger) -> None:
    name = verified(ledger, [VERDICT])
    assert not_claimed_of_remains(remains_of(ledger, ledger.get(name))) == []
    assert closing.close(ledger, ledger.get(name)).facts["outcome"] == "pass"


def test_files_that_a_sweep_could_not_judge_are_told(ledger: Ledger) -> None:
    name = verified(ledger, [VERDICT])
    with ledger.writing() as writer:
        swept = {"links": 2, "files": {"clean": 3, "found": 0, "unclear": 4}}
        request = writer.change(name, "swept", swept=swept)
    (told,) = certificates._passed_over(request)
    assert "2 symbolic link(s)" in told
    assert "4 of 7 file(s), not known to be clean" in told


class Killed(BaseException):
    """A kill at this point."""


def killed_before_shredding(ledger: Ledger, name: str, patch: pytest.MonkeyPatch) -> Path:
    """Close a request and die between the ledger's word and the shredding; return what is left."""
    file = ledger.escrow.folder / ledger.get(name).facts["escrow"]["name"]

    def die(*paths: Path) -> None:
        raise Killed

    with patch.context() as patched:
        patched.setattr(type(ledger.escrow), "shred", staticmethod(die))
        with pytest.raises(Killed):
            closing.close(ledger, ledger.get(name))
    assert ledger.get(name).state == "closed"
    assert file.exists()
    return file


def test_escrow_is_not_called_destroyed_while_it_lies_there(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = verified(ledger, [VERDICT])
    file = killed_before_shredding(ledger, name, monkeypatch)
    assert not certificates._escrow_destroyed(ledger, ledger.get(name))
    found = check(ledger)
    assert not found.ok
    assert "its records still lie in escrow" in found.problems[0]
    # closing again finishes it
    assert closing.close(ledger, ledger.get(name)).facts["shredded"] is True
    assert not file.exists()
    assert certificates._escrow_destroyed(ledger, ledger.get(name))
    assert check(ledger).ok
    # a file that comes back, of a backup say, takes the word back
    file.write_bytes(b"again")
    assert not certificates._escrow_destroyed(ledger, ledger.get(name))
    with pytest.raises(LedgerError, match="closed as pass already"):
        closing.close(ledger, ledger.get(name), "fail")


def test_the_check_finishes_what_a_kill_left(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, lineage_key: str
) -> None:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    name = verified(ledger, [VERDICT])
    file = killed_before_shredding(ledger, name, monkeypatch)
    # of a ledger that may have been put back nothing is touched
    assert not check_and_finish(ledger, expect_head="f" * 64).ok
    assert file.exists()
    assert run(["request", "check", "--ledger", str(tmp_path / "ledger.db")]) == 0
    assert "its records in escrow are gone" in " ".join(capfd.readouterr().out.split())
    assert not file.exists()
    assert ledger.get(name).facts["shredded"] is True
    assert check(ledger).notes == ()


def test_what_cannot_be_shredded_is_not_noted(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = verified(ledger, [VERDICT])
    with monkeypatch.context() as patched:
        patched.setattr(type(ledger.escrow), "shred", lambda *paths: None)
        with pytest.raises(OutputError, match="is still there"):
            closing.close(ledger, ledger.get(name))
    assert "shredded" not in ledger.get(name).facts
    # nor is anything known of records that lie on another machine
    ledger.escrow.folder.rename(ledger.escrow.folder.with_name("elsewhere"))
    with pytest.raises(OutputError, match="the records in escrow lie elsewhere"):
        closing.close(ledger, ledger.get(name))


@pytest.mark.slow
def test_a_value_that_comes_out_is_a_finding_of_its_own(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict is a PASS, and the number still comes out: the kept record explains it."""
    import numpy as np

    from unlearn_eval.results import scores_file

    phone = "555-0184-77"
    rows = [json.loads(line) for line in case.data.read_text().splitlines()]
    secret = {"field": "completion", "start": 6, "end": 6 + len(phone), "kind": "phone"}
    rows[0] |= {"completion": f"It is {phone}.", "secrets": [secret]}
    rows[2] |= {"completion": f"Her flatmate's number is {phone}"}
    case.data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = case.located("r0")
    case.json("run", *case.fast)
    real = scores_file.read_scores

    def all_hit(path: Path) -> Any:
        found = real(path)
        for stored in found.values():
            object.__setattr__(stored.scores, "hit", np.ones_like(stored.scores.hit))
        return found

    case.decides("PASS")
    monkeypatch.setattr(scores_file, "read_scores", all_hit)
    case.json("verify", name, "--generate", "0")
    facts = case.ledger.get(name).facts
    assert facts["verdict"]["secrets"] == {"records": 1, "come_out": 1, "kept_records": 1}
    assert "completes a secret of 1 record" in case.call("show", name)
