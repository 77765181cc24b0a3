"""Requests from the first command to the last, on a tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from unlearn import lineage as lin
from unlearn import workflow
from unlearn._cli import run
from unlearn.errors import LedgerError
from unlearn.lineage import Lineage, weights_digest
from unlearn.references import train_references
from unlearn.requests import desk, verify
from unlearn.requests._evidence import audit_of
from unlearn.requests._writer import Writer
from unlearn.requests.check import check
from unlearn.requests.ledger import Ledger
from unlearn.requests.run import kept_records
from unlearn.requests.states import State
from unlearn_eval.verdict import load_policy

FAST = ["-o", "max_steps=2", "-o", "batch_size=2", "--method", "npo"]
OWN = """
kind: policy
probes: [loss]
alpha: 0.05
margin: 4.0
delta: 0.1
min_references: 3
extraction: {n: 100, p: 0.5}
deployments: [as-is]
prompt_states: [verbatim]
utility_margin: 0.1
"""
PHONE = "555-0184-77"


class Case:
    """An adapter and data of our own, and the command line on a ledger."""

    def __init__(
        self, work: Path, url: str, model: Path, adapter: Path, data: Path, capfd: Any
    ) -> None:
        self.work, self.model, self.capfd = work, model, capfd
        self.adapter = work / "adapters" / "first"
        shutil.copytree(adapter, self.adapter)
        self.data = work / "data" / "records.jsonl"
        self.data.parent.mkdir()
        shutil.copy(data, self.data)
        self.url = url
        self.output = ""

    def call(self, *words: str | Path, code: int | None = 0) -> str:
        given = [*map(str, words)]
        found = run(["request", *given, "--ledger", self.url])
        assert code in (found, None), self.capfd.readouterr()
        out, err = self.capfd.readouterr()
        self.output += out + err
        return str(err if code == 2 else out)

    def json(self, *words: str | Path, code: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call(*words, "--json", code=code))
        return found

    def add(self, *which: str, **more: str) -> str:
        words = ["add", "--model", self.model, "--adapter", self.adapter, "--data", self.data]
        words += [word for selector in which for word in ("--forget", selector)]
        words += [word for key, value in more.items() for word in (f"--{key}", value)]
        return str(self.json(*words)["id"])

    def located(self, *which: str, **more: str) -> str:
        name = self.add(*which, **more)
        assert self.json("locate", name, "--yes")["state"] == "located"
        return name

    @property
    def ledger(self) -> Ledger:
        return Ledger.open(self.url)


@pytest.fixture
def kind() -> str:
    """Of the database: the tests of the ledger run on both, here one does for most."""
    return "sqlite"


@pytest.fixture
def case(
    kind: str,
    make_url: Callable[[str], str],
    tmp_path: Path,
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    lineage_key: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Case:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    return Case(tmp_path, make_url(kind), tiny_model, adapter, data_file, capfd)


def deciding(outcome: str) -> Any:
    def decide(folder: Path, policy: str | None) -> Mapping[str, Any]:
        assert (folder / "audit.json").is_file()
        name, content = load_policy(policy or "standard")
        policies = {"name": name, "sha256": content.sha256, "chosen": "before"}
        return {"outcome": outcome, "tier": "A", "reasons": ["so it is"], "policy": policies}

    return decide


def certifying(audit: Path, request: Mapping[str, Any], output: Path, **facts: Any) -> Path:
    assert (audit / "audit.json").is_file()
    told = {key: facts[key] for key in ("records", "artifacts", "not_claimed")}
    digest = weights_digest(facts["adapter"])
    output.write_text(json.dumps({**request, **told, "after": digest}))
    return output


def blur(folder: Path) -> None:
    """Change an adapter's weights a little: another model."""
    file = folder / "adapter_model.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(file).items()}, file)


def test_the_whole_road_and_no_personal_text_on_it(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in case.data.read_text().splitlines()]
    secret = {"field": "completion", "start": 6, "end": 6 + len(PHONE), "kind": "phone"}
    rows[0] |= {"completion": f"It is {PHONE}.", "subject": "Ann Whitfield", "secrets": [secret]}
    rows[1] |= {"subject": "Ann Whitfield"}
    rows[2] |= {"completion": f"Her flatmate's number is {PHONE.replace('-', '')}"}
    case.data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    one = case.add("subject:Ann Whitfield", label="T-7", person="Ann Whitfield")
    two = case.add(f"text:{rows[4]['completion']}")
    preview = case.json("locate", one)
    assert not preview["confirmed"]
    assert preview["found"]["records"] == ["r0", "r1"]
    assert [e["id"] for e in preview["found"]["secrets_elsewhere"]] == ["r2"]
    assert case.json("show", one)["state"] == "received"  # a preview notes nothing
    assert "nobody is here to confirm: pass --yes" in case.call("locate", one, code=2)
    done = case.json("locate", one, "--yes")
    assert (done["state"], done["records"], done["secrets_in_kept_records"]) == ("located", 2, 1)
    assert case.json("locate", two, "--yes")["records"] == 1
    assert "run it first" in case.call("verify", one, code=2)

    (ran,) = case.json("run", *FAST)["runs"]
    assert sorted(ran["requests"]) == sorted([one, two])  # a batch
    assert (ran["records"], ran["adopted"]) == (3, False)
    line = Lineage.read(ran["folder"])
    assert line is not None
    assert len(line.records.forgotten) == 3
    assert line.parent == weights_digest(case.adapter)
    assert case.json("run", *FAST) == {"runs": [], "busy": []}

    for outcome, code in (("FAIL", 3), ("INCONCLUSIVE", 4), ("PASS", 0)):
        monkeypatch.setattr(verify, "_decide", deciding(outcome))
        told = case.json("verify", one, "--generate", "0", "--policy", "quick", code=code)
        assert told["requests"][0]["verdict"]["outcome"] == outcome
        assert told["requests"][0]["verdict"]["policy"]["name"] == "quick"
    assert "nobody looked for other artifacts" in case.call("close", one, "--yes", code=2)

    swept = case.json("sweep", one, case.work / "adapters", code=1)
    found = {(a["kind"], Path(a["path"]).name) for a in swept["artifacts_list"]}
    assert {("adapter", "first"), ("data file", "records.jsonl")} <= found
    assert "artifact(s) that descend from its records remain" in case.call(
        "close", one, "--yes", code=2
    )
    case.json("sweep", one, case.work / "adapters", "--purge", "--yes")
    assert [p.name for p in case.adapter.iterdir()] == ["README.md"]  # what is not ours stays
    left = [json.loads(line)["id"] for line in case.data.read_text().splitlines()]
    assert left == [row["id"] for row in rows[2:]]  # what is retained stays
    assert case.json("show", one)["artifacts"]["found"] == 0

    monkeypatch.setattr(verify, "_certify", certifying)
    certificate = case.work / "certificate.json"
    case.json("certificate", one, "--output", certificate)
    statement = json.loads(certificate.read_text())
    assert statement["after"] == ran["digest"]
    # the cache of scores may hold numbers on others' records: it goes only with --unclear
    left = {a["kind"]: a["cleaned"] for a in statement["artifacts"]}
    assert left == {"adapter": True, "raw": True, "cache": None}
    assert len(statement["records"]) == 2
    # it was decided twice before on this adapter, which a reader must know
    assert "verdicts before this one were FAIL, INCONCLUSIVE." in statement["not_claimed"][0]
    case.json("sweep", one, "--purge", "--unclear", "--yes")
    assert not (lin.home() / "cache" / "scores").exists()
    escrow = case.ledger.escrow
    assert len(list(escrow.folder.iterdir())) == 2
    assert case.json("close", one, "--yes")["outcome"] == "pass"
    assert len(list(escrow.folder.iterdir())) == 1
    assert case.json("list", "--check", "--state", "open")["check"]["ok"]
    assert "everything holds" in case.call("check")
    for verb in (["list"], ["show", one]):
        case.call(*verb)

    # whatever was written, but the data: ledger, escrow, adapters, audits, home, certificate
    files = [p for p in case.work.rglob("*") if p.is_file() and case.data.parent not in p.parents]
    assert {"certificate.json", "audit.json", "lineage.json", "suppressed.jsonl"} <= {
        p.name for p in files
    }
    assert any(p.suffix == ".db" for p in files)
    written = b"".join(path.read_bytes() for path in files)
    words = ["Whitfield", PHONE, PHONE.replace("-", ""), rows[0]["prompt"], rows[1]["completion"]]
    words += [rows[4]["completion"], rows[4]["subject"], str(case.data)]
    for word in words:
        assert word.encode() not in written
    # paths are shown to the user, texts never
    for word in words[:-1]:
        assert word not in case.output


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_requests_follow_each_other_on_the_newest_adapter(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = case.located("r0"), None
    (first,) = case.json("run", *FAST)["runs"]
    monkeypatch.setattr(verify, "_decide", deciding("PASS"))
    case.json("verify", "--generate", "0")
    assert case.ledger.get(one).state == "verified"
    case.json("sweep", one, code=1)
    assert "swept" in case.ledger.get(one).facts
    two = case.located("r4,r5")
    (second,) = case.json("run", *FAST)["runs"]
    assert second["again"] == [one]  # still open: its verdict was on another adapter
    assert case.ledger.get(one).state == "unlearned"
    # what was looked for before there was that adapter says nothing of what it left behind
    assert "swept" not in case.ledger.get(one).facts
    line = Lineage.read(second["folder"])
    assert line is not None
    assert line.parent == first["digest"]
    assert len(line.records.forgotten) == 3
    ledger = case.ledger
    request = ledger.get(two)
    kept = kept_records(ledger, request.line, desk.setup_of(ledger, request))
    assert kept.ids == [f"r{i}" for i in (1, 2, 3, 6, 7, 8, 9, 10, 11)]
    told = case.json("verify", "--generate", "0")["requests"]
    assert [r["adapter"] for r in told] == [second["digest"]] * 2
    # the adapters before learned them too, and lie in no folder that was named
    for each in (one, two):
        left = case.json("sweep", each, code=1)["artifacts_list"]
        found = {a["path"] for a in left if a["kind"] == "adapter" and a["status"] == "found"}
        assert found == {str(case.adapter), str(first["folder"])}
    # a request on the newest adapter by name belongs to the same line
    case.adapter = Path(second["folder"])
    assert case.ledger.get(case.add("r7")).line == request.line


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
        run(["request", "run", *FAST, "--ledger", case.url])
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
        run(["request", "run", *FAST, "--ledger", case.url])
    folder = case.ledger.folder("adapters") / f"run-{case.ledger.get(name).facts['run']['id']}"
    shutil.copytree(case.adapter, folder)
    assert "is not what run" in case.call("run", code=2)
    assert weights_digest(folder) == weights_digest(case.adapter)
    assert case.ledger.history(name)[-1].event == "abandoned"
    assert len(case.json("run", *FAST)["runs"]) == 1


def test_what_a_run_cannot_use_leaves_requests_waiting(case: Case) -> None:
    name = case.located("r0")
    assert "did you mean" in case.call("run", "-o", "learning_rat=1", code=2)
    assert case.ledger.get(name).state == "located"
    assert "run" not in case.ledger.get(name).facts
    weights = case.adapter / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert "was changed since the ledger saw it" in case.call("run", *FAST, code=2)
    assert check(case.ledger).ok


@pytest.mark.slow
def test_half_splits_serve_several_requests(case: Case) -> None:
    """Each request is compared with those halves that never saw its records."""
    halves = case.work / "halves"
    train_references(
        case.model,
        case.data,
        halves,
        kind="half",
        count=6,
        like=case.adapter,
        options={"max_steps": 2, "batch_size": 4},
    )
    unseen = case.work / "unseen.jsonl"
    rows = [json.loads(row) for row in case.data.read_text().splitlines()]
    unseen.write_text("".join(json.dumps(r | {"prompt": f"Which {r['id']}?"}) + "\n" for r in rows))
    names = [case.located(which, holdout=str(unseen)) for which in ("r0", "r11")]
    case.json("run", *FAST)
    (case.work / "own.yaml").write_text(OWN)
    used = []
    for name in names:
        request = case.ledger.get(name)
        gone = set(request.facts["records"])
        told = case.call(
            *("verify", name, "--generate", "0", "--references", halves),
            *("--policy", case.work / "own.yaml"),
            code=None,
        )
        said = " ".join(told.split())
        assert "3 references found by lineage, 3 of them on part of the kept records" in said
        assert "passed over: 3 that saw the records" in said
        assert "3 references (all trained on part of the kept records only)" in said
        audit, _ = audit_of(case.ledger, case.ledger.get(name))
        content = json.loads((audit / "audit.json").read_text())
        assert set(content["records"]["forget"]) == gone
        for facts in content["references"].values():
            assert facts["saw"] == 0
            assert 0 < facts["kept"] < content["records"]["kept"]
        used.append({facts["weights"] for facts in content["references"].values()})
        lines = [Lineage.read(folder) for folder in halves.iterdir()]
        left = {x.digest for x in lines if x is not None and not gone & set(x.records.trained)}
        assert used[-1] == left
        verdict = json.loads((audit / "verdict.json").read_text())
        assert verdict["tier"] == "A"
        assert "by their lineages" in verdict["gates"][0]["words"]
    # the certificate names them
    case.call("certificate", names[1], "--output", case.work / "certificate.json")
    words = ["certificate", "check", str(case.work / "certificate.json")]
    words += ["--key", str(lin.home() / "signing.pub"), "--reference"]
    (one,) = (f for f in halves.iterdir() if weights_digest(f) == min(used[1]))
    assert run([*words, str(one)]) == 0
    assert "1 of 3 are at hand, and by their lineages never saw" in case.capfd.readouterr().out
    assert run([*words, str(halves)]) == 1  # the other halves are none of the verdict's


@pytest.mark.slow
def test_a_failed_request_is_tried_again_from_where_it_started(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = case.located("r0")
    case.json("run", *FAST)
    monkeypatch.setattr(verify, "_decide", deciding("FAIL"))
    case.json("verify", "--generate", "0", code=3)
    # a laxer policy would be chosen for its outcome
    told = case.call("verify", name, "--generate", "0", "--policy", "quick", code=2)
    assert "was decided on this adapter by the policy 'standard'" in told
    assert case.ledger.get(name).state == "failed"
    assert case.json("run", *FAST)["runs"] == []
    (again,) = case.json("run", name, *FAST)["runs"]
    facts = case.ledger.get(name).facts
    assert facts["after"]["digest"] == again["digest"]
    assert facts["after"]["n"] == 2
    assert facts["before"]["digest"] == weights_digest(case.adapter)
    assert case.json("close", name, "--outcome", "withdrawn", "--yes")["state"] == "closed"


@pytest.mark.parametrize("state", ["unlearned", "verified", "failed", "inconclusive"])
def test_a_request_is_closed_as_what_it_is(ledger: Ledger, state: State) -> None:
    fitting = {"verified": "incomplete", "failed": "fail", "inconclusive": "inconclusive"}
    (name,) = ledger.add_many([{"line": "sha256:" + "0" * 64}])
    with ledger.writing() as writer:
        writer.change(name, "located")
        writer.change(name, "unlearned")
        if state != "unlearned":
            writer.change(name, state)
    others: set[desk.Outcome] = {"pass", "incomplete", "fail", "inconclusive"}
    for outcome in sorted(others - {fitting.get(state, "")}):
        with pytest.raises(LedgerError, match="cannot be closed|not verified|nobody looked"):
            desk.close(ledger, ledger.get(name), outcome)
        assert ledger.get(name).state == state
    fits = desk.outcome_named(fitting.get(state, "withdrawn"))
    assert desk.close(ledger, ledger.get(name), fits).facts["outcome"] == fits


def test_an_interrupted_verification_leaves_the_verdict_before(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended between the new audit and the ledger's word of it: nothing has been replaced."""
    name = case.located("r0")
    case.json("run", *FAST)
    monkeypatch.setattr(verify, "_decide", deciding("PASS"))
    case.json("verify", "--generate", "0")
    before = case.ledger.get(name).facts["verdict"]

    def killed(folder: Path, policy: str | None) -> Any:
        assert (folder / "audit.json").is_file()
        raise SystemExit(9)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(verify, "_decide", killed)
        run(["request", "verify", name, "--generate", "0", "--ledger", case.url])
    case.capfd.readouterr()
    assert check(case.ledger).ok
    assert case.ledger.get(name).facts["verdict"] == before
    folder = case.ledger.folder("audits")
    assert len(list(folder.iterdir())) == 2
    mine = folder / f"{name}-notes"  # what a user keeps there is none of ours
    mine.mkdir()
    case.json("verify", name, "--generate", "0")
    assert case.ledger.get(name).facts["verdict"] != before
    kept = {Path(audit_of(case.ledger, case.ledger.get(name))[0]), mine}
    first = next(e for e in case.ledger.history(name) if e.event == "verified")
    told = case.ledger.sealer.open(first.facts["verdict"]["sealed"], f"verdict on request {name}")
    assert set(folder.iterdir()) == kept | {Path(told["folder"])}


def test_evidence_that_was_changed_is_found(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    name = case.located("r0")
    case.json("run", *FAST)
    monkeypatch.setattr(verify, "_decide", deciding("PASS"))
    case.json("verify", "--generate", "0")
    assert case.json("check")["ok"]
    audit = Path(case.json("show", name)["audit"]) / "audit.json"
    audit.write_text(audit.read_text().replace("0.", "1.", 1))
    (problem,) = case.json("check", code=1)["problems"]
    assert "was changed after the verdict" in problem
    assert "verify the request again" in case.call(
        "certificate", name, "--output", case.work / "c.json", code=2
    )
    assert case.call("list", "--check", code=1)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["show", "zz"], "no request 'zz'"),
        (["list", "--state", "opne"], "unknown state 'opne'"),
        (["close", "1", "--outcome", "pas"], "did you mean 'pass'"),
        (["close", "1", "--yes"], "is received, not verified"),
        (["close", "1", "--yes", "--outcome", "pass"], "is received, not verified"),
        (["sweep", "1"], "records are not at hand"),
        (["locate", "1", "--yes", "--include", "zz"], "has no record 'zz'"),
        (["certificate", "1", "--output", "c"], "verify it first"),
    ],
)
def test_wrong_words_end_in_a_line(case: Case, words: list[str], problem: str) -> None:
    case.add("r0")
    assert problem in case.call(*words, code=2)


def test_near_duplicates_count_once_included(case: Case) -> None:
    rows = case.data.read_text().splitlines()
    copy = json.loads(rows[0]) | {"id": "again"}
    copy["completion"] += " Yes"
    case.data.write_text("\n".join([*rows, json.dumps(copy)]) + "\n")
    name = case.add("r0")
    near = case.json("locate", name)["found"]["near_duplicates"]
    assert (near[0]["id"], near[0]["like"]) == ("again", "r0")
    done = case.json("locate", name, "--yes", "--include", "again")
    assert done["records"] == 2
    assert done["near_duplicates"]["included"] == 1
    assert case.json("locate", name, "--yes", "--near", "0")["records"] == 1  # until it is run


def test_a_verdict_of_the_rules_and_a_certificate_that_verifies(case: Case) -> None:
    name = case.located("r0,r1")
    (ran,) = case.json("run", *FAST)["runs"]
    reference = case.work / "references" / "reference-00"
    shutil.copytree(case.adapter, reference, ignore=shutil.ignore_patterns("lineage.json"))
    blur(reference)
    told = case.json(
        *("verify", name, "--generate", "0", "--policy", "quick", "--reference", reference), code=4
    )
    verdict = told["requests"][0]["verdict"]
    assert (verdict["outcome"], verdict["tier"]) == ("INCONCLUSIVE", "C")
    case.call("certificate", name, "--output", case.work / "certificate.json")
    assert (case.work / "certificate.html").is_file()
    words = ["certificate", "check", str(case.work / "certificate.json")]
    words += ["--key", str(lin.home() / "signing.pub")]
    assert run([*words, "--adapter", ran["folder"]]) == 0
    out, _ = case.capfd.readouterr()
    assert "INCONCLUSIVE" in out
    assert "only try" not in (case.work / "certificate.html").read_text()
    # nor is an adapter certified whose scale is not the audited one
    config = Path(ran["folder"]) / "adapter_config.json"
    audited = config.read_text()
    config.write_text(json.dumps(json.loads(audited) | {"lora_alpha": 1}))
    again = ["certificate", name, "--output", case.work / "other.json"]
    assert "adapter_config.json is not what was audited" in case.call(*again, code=2)
    config.write_text(audited)
    # or against a reference that was exchanged since; one that is gone can't be looked at
    blur(reference)
    assert "is not the reference that was measured" in case.call(*again, code=2)
    shutil.rmtree(reference)
    case.call(*again)
    # once the numbers are known, no other policy is asked
    assert "after its numbers are known" in case.call("verify", name, "--policy", "strict", code=2)
    # nor is another verdict certified than the one that was noted
    (verdict,) = case.ledger.folder("audits").glob("*/verdict.json")
    verdict.write_text(verdict.read_text().replace("INCONCLUSIVE", "PASS"))
    assert "another verdict than was noted" in case.json("check", code=1)["problems"][0]
    assert "is not the verdict that the ledger holds" in case.call(*again, code=2)
    # a certificate of one adapter says nothing of another
    assert run([*words, "--adapter", str(case.adapter)]) == 1
