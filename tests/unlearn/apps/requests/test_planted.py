"""Canaries at the desk: taken out with each run, and measured again when records are gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from unlearn import finetune
from unlearn.apps.cli import run
from unlearn.apps.requests import canaries, verify
from unlearn.apps.requests.check import check
from unlearn.apps.requests.evidence import audit_of, discard_unfinished
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.ledger.writer import Writer
from unlearn.canaries.pairs import Canaries, beside
from unlearn.errors import LedgerError
from unlearn.provenance.keys import Key, home
from unlearn.provenance.lineage import Lineage
from unlearn.runs import forgetting
from unlearn_eval.certificate import check_certificate

FAST = ["-o", "max_steps=2", "-o", "batch_size=2", "--method", "npo"]
FAST += ["-o", "learning_rate=1e-5"]  # which hurts nothing that is kept
PAIRS = 6


@pytest.fixture(scope="module")
def made(
    tiny_model: Path, data_file: Path, lineage_key: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "adapter"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", lineage_key)
        # the same canaries in every run of the suite
        patch.setattr("unlearn.canaries.pairs.secrets.token_bytes", lambda n: b"s" * n)
        options = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-2}
        finetune(tiny_model, data_file, folder, canaries=PAIRS, options=options)
    return folder


class Desk:
    """A ledger, and the command line on it."""

    def __init__(self, work: Path, made: Path, model: Path, data: Path, url: str, capfd: Any):
        self.adapter, self.file = work / "adapter", work / "adapter.canaries.json"
        shutil.copytree(made, self.adapter)
        shutil.copy(beside(made), self.file)
        self.where = ["--model", model, "--adapter", self.adapter, "--data", data]
        self.url, self.capfd = url, capfd

    def call(self, *words: Any, code: int = 0) -> Any:
        more = [] if code == 2 else ["--json"]
        given = [*map(str, words), "--ledger", self.url, *more]
        assert run(["request", *given]) == code, self.capfd.readouterr()
        out, err = self.capfd.readouterr()
        return err if code == 2 else json.loads(out)

    def located(self, which: str) -> str:
        name = str(self.call("add", *self.where, "--forget", which)["id"])
        self.call("locate", name, "--yes", "--near", "0")
        return name

    @property
    def ledger(self) -> Ledger:
        return Ledger.open(self.url)


@pytest.fixture
def desk(
    made: Path,
    tiny_model: Path,
    data_file: Path,
    lineage_key: str,
    make_url: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Desk:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    return Desk(tmp_path, made, tiny_model, data_file, make_url("sqlite"), capfd)


def deciding(outcome: str, tier: str) -> Any:
    def decide(folder: Path, _: str | None) -> Mapping[str, Any]:
        from unlearn_eval.verdict.verify import verify as rules

        found = {**rules(folder).as_dict(), "outcome": outcome, "tier": tier}
        (folder / "verdict.json").write_text(json.dumps(found))
        return found

    return decide


def digests(file: Path) -> list[str]:
    key = Key.load()
    return [key.digest(record) for record in Canaries.read(file).included]


def forgotten(folder: str) -> set[str]:
    line = Lineage.read(folder)
    assert line is not None
    return set(line.records.forgotten)


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.mark.slow
def test_canaries_outlast_the_requests_that_they_went_with(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = desk.located("r0,r1")
    (first,) = desk.call("run", *FAST, "--canaries", desk.file, "--with-canaries", "2")["runs"]
    names = digests(desk.file)
    assert first["records"] == 2
    assert set(names) & forgotten(first["folder"]) == set(names[:2])
    monkeypatch.setattr(verify, "_decide", deciding("PASS", "A"))
    told = desk.call("verify", one, "--generate", "0", "--policy", "quick")
    assert told["requests"][0]["verdict"]["tier"] == "A"
    audits = desk.ledger.folder("audits")
    beside_it = json.loads(only(audits, f"{one}-1-*-canaries/audit.json").read_text())
    assert len(beside_it["canaries"]["pairs"]) == 2
    desk.call("close", one, "--yes", "--outcome", "incomplete")

    # the records of the first are shredded; its canaries are measured with those of the second
    two = desk.located("r4")
    (second,) = desk.call("run", *FAST, "--with-canaries", "3")["runs"]  # knows the file by now
    assert set(names) & forgotten(second["folder"]) == set(names[:5])
    desk.call("verify", two, "--generate", "0", "--policy", "quick")
    later = json.loads(only(audits, f"{two}-2-*-canaries/audit.json").read_text())
    assert len(later["canaries"]["pairs"]) == 5
    assert check(desk.ledger).ok
    page = tmp_path / "c.json"
    desk.call("certificate", two, "--output", page)
    statement = check_certificate(page, home() / "signing.pub").statement
    assert statement is not None
    (limit,) = [text for text in statement["not_claimed"] if "closed before" in text]
    assert "2 record(s) of 1 request(s)" in limit
    assert "Only the lineage" in limit
    assert "2 canaries that were taken out beside them" in limit
    # nobody may read where they are from the ledger's files
    written = Path(desk.url).read_bytes()
    assert desk.file.name.encode() not in written

    # a lineage that has lost the closed request's records is no evidence
    ledger, line = desk.ledger, desk.ledger.get(two).line
    assert canaries.closed_before(ledger, line, second["folder"], True) == canaries.Closed(1, 2, 2)
    with pytest.raises(LedgerError, match=f"2 record.* closed request {one}"):
        canaries.closed_before(ledger, line, str(desk.adapter), True)


@pytest.mark.slow
def test_the_coin_decides_where_references_do_not(desk: Desk) -> None:
    name = desk.located("r0")
    desk.call("run", *FAST, "--canaries", desk.file, "--with-canaries", "4")
    told = desk.call("verify", name, "--generate", "0", "--policy", "quick", code=4)
    assert told["requests"][0]["verdict"]["tier"] == "B"
    folder = Path(desk.call("show", name)["audit"])
    assert fnmatch(folder.name, f"{name}-1-*-canaries")
    # what the records showed by themselves is neither hidden nor, later, deleted
    alone = folder.with_name(folder.name.removesuffix("-canaries"))
    own = json.loads((alone / "verdict.json").read_text())
    assert own["tier"] == "C"
    _, reasons = audit_of(desk.ledger, desk.ledger.get(name))
    (said,) = [text for text in reasons if "by themselves" in text]
    assert said.startswith(f"measured by themselves, the records are {own['outcome']}: ")
    desk.call("certificate", name, "--output", alone.with_name("c.json"))
    statement = check_certificate(alone.with_name("c.json"), home() / "signing.pub").statement
    assert statement is not None
    assert said in " ".join(statement["not_claimed"])
    assert said in statement["verdict"]["reasons"]
    discard_unfinished(desk.ledger, desk.ledger.get(name), folder.parent)
    assert folder.is_dir()
    assert alone.is_dir()
    moved = desk.file.rename(desk.file.with_name("moved.json"))
    assert "cannot read the canaries" in desk.call("verify", name, "--policy", "quick", code=2)
    words = ["verify", name, "--policy", "quick", "--generate", "0", "--canaries", moved]
    assert desk.call(*words, code=4)["requests"][0]["verdict"]["tier"] == "B"


@pytest.mark.slow
def test_canaries_that_all_stay_say_nothing_about_a_deletion(desk: Desk) -> None:
    name = desk.located("r0")
    (ran,) = desk.call("run", *FAST, "--canaries", desk.file)["runs"]
    assert not set(digests(desk.file)) & forgotten(ran["folder"])
    words = ["verify", name, "--generate", "0", "--policy", "quick", "--canaries", desk.file]
    assert desk.call(*words, code=4)["requests"][0]["verdict"]["tier"] == "C"


@pytest.mark.parametrize(
    ("records", "coin", "holds"),
    [
        (("PASS", "A"), "FAIL", True),
        (("FAIL", "C"), "FAIL", False),
        (("FAIL", "C"), "PASS", False),
        (("INCONCLUSIVE", "A"), "PASS", False),
        (("INCONCLUSIVE", "C"), "PASS", True),
        (("INCONCLUSIVE", "C"), "INCONCLUSIVE", True),
        (("PASS", "C"), "INCONCLUSIVE", False),
    ],
)
def test_which_verdict_holds(records: tuple[str, str], coin: str, holds: bool) -> None:
    given = judged(*records)
    assert canaries.better(given, {"outcome": coin, "tier": "B"}) is holds


def judged(outcome: str, tier: str = "C", **parts: str | None) -> dict[str, Any]:
    found = {"utility": "PASS", "extraction": "PASS"} | parts
    gates = [{"gate": "G0", "passed": found.pop("G0", None) != "FAIL"}]
    told = {part: {"outcome": result} for part, result in found.items()}
    return {"outcome": outcome, "tier": tier, "reasons": ["too few"], "gates": gates, **told}


@pytest.mark.parametrize(
    ("parts", "holds"),
    [
        ({"utility": "INCONCLUSIVE"}, True),
        ({"extraction": "INCONCLUSIVE"}, False),
        ({"extraction": "FAIL"}, False),
        ({"utility": "FAIL"}, False),
        ({"G0": "FAIL"}, False),
    ],
)
def test_canaries_stand_in_for_membership_only(parts: dict[str, str], holds: bool) -> None:
    """A record that comes out of the model is not excused by canaries that do not."""
    coin = {"outcome": "PASS", "tier": "B"}
    assert canaries.better(judged("INCONCLUSIVE", **parts), coin) is holds
    # nor one that could not be asked for in a declared way
    policy = {"content": {"prompt_states": ["verbatim", "few_shot"]}}
    asked = judged("INCONCLUSIVE", **parts) | {"policy": policy}
    assert not canaries.better(asked, coin, {"few_shot": "not measured"})
    assert canaries.better(asked, coin, {"chat": "not measured"}) is holds
    # what canaries show to be there is there
    assert canaries.better(judged("INCONCLUSIVE", **parts), {"outcome": "FAIL", "tier": "B"})


def test_a_finished_folder_is_adopted_with_its_canaries(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = desk.located("r0")
    change = Writer.change

    def killed(self: Writer, request: str, event: str, **facts: Any) -> Any:
        if event == "unlearned":
            raise SystemExit(9)
        return change(self, request, event, **facts)

    words = ["request", "run", *FAST, "--canaries", str(desk.file), "--with-canaries", "2"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Writer, "change", killed)
        run([*words, "--ledger", desk.url])
    desk.capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "forget", None)  # calling it would be an error
        (ran,) = desk.call("run")["runs"]
    assert ran["adopted"]
    assert set(desk.ledger.get(name).facts["canaries"]["digests"]) == set(digests(desk.file)[:2])


def test_what_a_run_cannot_take_leaves_the_request_waiting(desk: Desk) -> None:
    name = desk.located("r0")
    words = ["run", *FAST, "--canaries", desk.file]
    assert "only 6 are left" in desk.call(*words, "--with-canaries", "7", code=2)
    desk.file.write_text(desk.file.read_text() + " ")
    assert "is not the file of canaries" in desk.call(*words, "--with-canaries", "1", code=2)
    assert desk.ledger.get(name).state == "located"
    assert desk.ledger.history(name)[-1].event == "located"  # nothing was planned
