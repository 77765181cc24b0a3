"""Requests from the first command to the last, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unlearn.apps.requests import certificate as certificates
from unlearn.apps.requests import closing
from unlearn.apps.requests import intake as desk
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.ledger.states import State
from unlearn.apps.requests.line import kept_records
from unlearn.errors import LedgerError
from unlearn.provenance.keys import home
from unlearn.provenance.lineage import Lineage, weights_digest
from unlearn_eval.certificate import Deletion
from unlearn_eval.certify import Models

from .conftest import Case, add_many

PHONE = "555-0184-77"


def certifying(
    audit: Path, output: Path, models: Models, deletion: Deletion, *, replay: Path | None
) -> Path:
    assert (audit / "audit.json").is_file()
    assert replay is None
    told = {
        key: getattr(deletion, key) for key in ("records", "artifacts", "not_claimed", "remains")
    }
    digest = weights_digest(models.after)
    output.write_text(json.dumps({**(deletion.request or {}), **told, "after": digest}))
    return output


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

    (ran,) = case.json("run", *case.fast)["runs"]
    assert sorted(ran["requests"]) == sorted([one, two])  # a batch
    assert (ran["records"], ran["adopted"]) == (3, False)
    line = Lineage.read(ran["folder"])
    assert line is not None
    assert len(line.records.forgotten) == 3
    assert line.parent == weights_digest(case.adapter)
    assert not any(case.json("run", *case.fast).values())

    for outcome, code in (("FAIL", 3), ("INCONCLUSIVE", 4), ("PASS", 0)):
        case.decides(outcome)
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
    case.json("verify", two, "--generate", "0")  # which is compared with the adapter before
    case.json("sweep", one, case.work / "adapters", "--purge", "--yes")
    assert [p.name for p in case.adapter.iterdir()] == ["README.md"]  # what is not ours stays
    left = [json.loads(line)["id"] for line in case.data.read_text().splitlines()]
    assert left == [row["id"] for row in rows[2:]]  # what is retained stays
    assert case.json("show", one)["artifacts"]["found"] == 0

    monkeypatch.setattr(certificates, "certify", certifying)
    certificate = case.work / "certificate.json"
    case.json("certificate", one, "--output", certificate)
    statement = json.loads(certificate.read_text())
    assert statement["after"] == ran["digest"]
    # the cache of scores may hold numbers on others' records: it goes only with --unclear
    left = {a["kind"]: a["cleaned"] for a in statement["artifacts"]}
    assert left == {"adapter": True, "raw": True, "cache": None}
    assert len(statement["records"]) == 2
    assert statement["remains"]["secrets_in_kept_records"] == 1
    assert statement["remains"]["secrets"] == {"records": 1, "come_out": 0, "kept_records": 0}
    # it was decided twice before on this adapter, which a reader must know
    assert "verdicts before this one were FAIL, INCONCLUSIVE." in statement["not_claimed"][0]
    case.json("sweep", one, "--purge", "--unclear", "--yes")
    assert not (home() / "cache" / "scores").exists()
    escrow = case.ledger.escrow
    assert len(list(escrow.folder.iterdir())) == 2
    told = case.call("close", one, "--yes", code=2)
    assert "1 kept record holds a secret of the records" in told
    assert "this is verdict 3 on the request" in told
    words = ["--yes", "--reason", "r2 stays: her flatmate asked for it"]
    assert case.json("close", one, *words)["outcome"] == "pass"
    assert case.json("close", one, "--yes")["outcome"] == "pass"  # which may be repeated
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
def test_requests_follow_each_other_on_the_newest_adapter(case: Case) -> None:
    one, two = case.located("r0"), None
    (first,) = case.json("run", *case.fast)["runs"]
    case.decides("PASS")
    case.json("verify", "--generate", "0")
    assert case.ledger.get(one).state == "verified"
    case.json("sweep", one, code=1)
    assert "swept" in case.ledger.get(one).facts
    two = case.located("r4,r5")
    (second,) = case.json("run", *case.fast)["runs"]
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


@pytest.mark.slow
def test_a_failed_request_is_tried_again_from_where_it_started(case: Case) -> None:
    name = case.located("r0")
    case.json("run", *case.fast)
    case.decides("FAIL")
    case.json("verify", "--generate", "0", code=3)
    # a laxer policy would be chosen for its outcome
    told = case.call("verify", name, "--generate", "0", "--policy", "quick", code=2)
    assert "was decided on this adapter by the policy 'standard'" in told
    assert case.ledger.get(name).state == "failed"
    assert case.json("run", *case.fast)["runs"] == []
    (again,) = case.json("run", name, *case.fast)["runs"]
    facts = case.ledger.get(name).facts
    assert facts["after"]["digest"] == again["digest"]
    assert facts["after"]["n"] == 2
    assert facts["before"]["digest"] == weights_digest(case.adapter)
    # its certificate tells of the verdict on the adapter before
    case.decides("INCONCLUSIVE")
    for _ in range(2):
        case.json("verify", name, "--generate", "0", code=4)
    (told,) = certificates._earlier(case.ledger, case.ledger.get(name))
    assert "on this request, which 2 adapters were tried for, verdicts before this one" in told
    assert "were FAIL (adapter 1), INCONCLUSIVE (adapter 2), and this one is on adapter 2." in told
    case.json("run", name, *case.fast)
    told = case.call("close", name, "--outcome", "withdrawn", "--yes", code=2)
    assert "was carried out: it cannot be closed as withdrawn" in told
    told = case.call("close", name, "--yes", code=2)
    assert "verify it first, or pass --outcome fail to give it up" in told
    assert case.json("close", name, "--outcome", "fail", "--yes")["state"] == "closed"
    # nobody is kept again by giving up: another request's run goes on without the record
    case.located("r4")
    (third,) = case.json("run", *case.fast)["runs"]
    line = Lineage.read(third["folder"])
    assert line is not None
    assert len(line.records.forgotten) == 2


@pytest.mark.parametrize("state", ["unlearned", "verified", "failed", "inconclusive"])
def test_a_request_is_closed_as_what_it_is(ledger: Ledger, state: State) -> None:
    fitting = {
        "verified": "incomplete",
        "failed": "fail",
        "inconclusive": "inconclusive",
        "unlearned": "fail",
    }
    (name,) = add_many(ledger, [{"line": "sha256:" + "0" * 64}])
    with ledger.writing() as writer:
        writer.change(name, "located")
        writer.change(name, "unlearned")
        if state != "unlearned":
            writer.change(name, state)
    for outcome in sorted(set(closing.OUTCOMES) - {fitting[state]}):
        with pytest.raises(LedgerError, match="cannot be closed|not verified|nobody looked"):
            closing.close(ledger, ledger.get(name), outcome)
        assert ledger.get(name).state == state
    fits = closing.outcome_named(fitting[state])
    assert closing.close(ledger, ledger.get(name), fits).facts["outcome"] == fits


@pytest.mark.parametrize("again", [False, True])
def test_a_request_is_withdrawn_only_before_any_run(ledger: Ledger, again: bool) -> None:
    (name,) = add_many(ledger, [{"line": "sha256:" + "0" * 64}])
    with ledger.writing() as writer:
        writer.change(name, "located")
        if again:
            writer.change(name, "unlearned", after={"digest": "sha256:" + "1" * 64, "n": 1})
            writer.change(name, "failed")
            writer.change(name, "reopened", verdict=None)
    if again:
        with pytest.raises(LedgerError, match="was carried out"):
            closing.close(ledger, ledger.get(name), "withdrawn")
        assert closing.close(ledger, ledger.get(name), "fail").facts["outcome"] == "fail"
    else:
        assert closing.close(ledger, ledger.get(name), "withdrawn").state == "closed"


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
    words = ["--near", "0", "--encoder", case.model, "--meaning", "0.9", "--yes"]
    found = case.json("locate", name, *words)["found"]["near_duplicates"]
    assert ("again", "meaning") in {(pair["id"], pair["by"]) for pair in found}
    assert all(pair["similarity"] >= 0.9 for pair in found)
    assert case.ledger.get(name).facts["near"]["meaning"] == 0.9


@pytest.mark.slow
def test_a_closed_request_is_not_told_to_be_verified_again(case: Case) -> None:
    one, two = case.located("r0"), case.located("r4")
    case.json("run", one, *case.fast)
    case.decides("PASS")
    case.json("verify", one, "--generate", "0")
    case.json("close", one, "--outcome", "incomplete", "--yes")
    case.json("run", two, *case.fast)
    told = case.call("certificate", one, "--output", case.work / "c.json", code=2)
    assert "a later run has replaced; the request is closed" in " ".join(told.split())
    assert "again" not in told


def test_records_that_the_adapter_never_learned_are_noted(case: Case) -> None:
    row = {"id": "new", "prompt": "Who is Zed?", "completion": "Zed of Oz"}
    with case.data.open("a") as file:
        file.write(json.dumps(row) + "\n")
    name = case.add("new,r0")
    assert "1 of these records the adapter never learned" in case.call("locate", name, "--yes")
    assert case.json("locate", name)["found"]["never_trained_on"] == 1
    (done,) = case.json("run", *case.fast)["runs"]
    assert done["untrained"] == 1


def test_a_due_date_is_kept_and_shown(case: Case) -> None:
    late, soon = case.add("r0", due="2020-01-31"), case.add("r1", due="2999-03-22T12:00+02:00")
    assert case.json("show", late)["due"] == "2020-01-31T23:59:59+00:00"
    assert case.json("show", soon)["due"] == "2999-03-22T10:00:00+00:00"
    case.add("r2")
    told = case.call("list")
    assert told.count("overdue") == 1
    assert "2020-01-31 (overdue)" in told
    assert "due 2020-01-31 (overdue)" in case.call("show", late)
    case.json("close", late, "--outcome", "withdrawn", "--yes")
    assert "overdue" not in case.call("list")


@pytest.mark.parametrize("due", ["tomorrow", "2026-13-01", "2026-03-22T12:00"])
def test_what_is_no_due_date_is_refused(case: Case, due: str) -> None:
    words = ["--model", case.model, "--adapter", case.adapter, "--data", case.data]
    told = case.call("add", *words, "--forget", "r0", "--due", due, code=2)
    assert f"--due {due}: give a date" in told
    assert case.ledger.requests() == []
