"""The desk by its defaults: exact retraining for all that wait, verified by training again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearn.apps.cli import run
from unlearn.apps.requests.check import check
from unlearn.apps.requests.evidence import audit_of
from unlearn.apps.requests.price import Price
from unlearn.provenance.keys import home
from unlearn.provenance.lineage import Lineage
from unlearn_eval.certificate import check_certificate
from unlearn_eval.replay import retraining

from .conftest import Case

QUALITY = ("-o", "quality=10")  # the adapter of two steps has nothing to be measured by


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replays train in this process, as a fresh one starts slowly; each is noted."""
    from unlearn_eval.replay import worker

    noted: list[Path] = []

    def here(file: Path, _: dict[str, str]) -> int:
        noted.append(file)
        return worker.main(file)

    monkeypatch.setattr(retraining, "_run", here)
    return noted


Told = Callable[..., dict[str, Any]]


def evidence(case: Case, name: str) -> Path:
    folder, _ = audit_of(case.ledger, case.ledger.get(name))
    return folder


def test_without_a_method_a_run_retrains_and_notes_what_it_took(case: Case) -> None:
    names = [case.located("r0"), case.located("r4,r5")]
    told = " ".join(case.call("run", *QUALITY).split())
    assert "about 0.25 of retraining" in told or "of retraining (at most" in told  # the plan
    assert "retrain; budget" in told
    assert "of retraining with all that was tried" in told
    for name in names:  # the two shared one run
        request = case.ledger.get(name)
        line = Lineage.read(str(case.ledger.folder("adapters") / f"run-{price(case, name)['run']}"))
        assert line is not None
        assert (line.method, line.budget["asked"]) == ("retrain", "auto")
        assert len(line.records.forgotten) == 3
        assert not set(request.facts["records"]) & set(line.records.trained)
        known = Price.noted(request.facts)
        assert known is not None
        assert known.method == "retrain"
        assert known.budget == line.budget["used"]
        assert known.of_retraining == line.budget["cost"]["of_retraining"]
        assert known.kept_loss == line.budget["kept_loss"]["new"]
    assert price(case, names[0]) == price(case, names[1])
    assert "taken out by retrain; budget" in " ".join(case.call("show", names[0]).split())


def price(case: Case, name: str) -> dict[str, Any]:
    found: dict[str, Any] = case.json("show", name)["price"]
    return found


def test_what_a_request_took_stays_its_own(case: Case) -> None:
    first = case.located("r0")
    case.json("run", *QUALITY)
    own = price(case, first)
    second = case.located("r4")
    case.json("run", *case.fast)
    assert price(case, first) == own
    assert price(case, second)["method"] == "npo"
    assert price(case, second)["of_retraining"] > 0
    assert price(case, second)["budget"] is None
    assert price(case, second)["run"] != own["run"]


def test_a_request_is_verified_by_replay_certified_and_closed(
    case: Case, trainings: list[Path]
) -> None:
    name = case.located("r0,r1")
    (ran,) = case.json("run", *QUALITY)["runs"]
    told = " ".join(case.call("verify", name).split())
    assert "verified by replay: retraining made the adapter" in told
    assert "replay.json" in told
    assert len(trainings) == 1
    request = case.ledger.get(name)
    verdict = case.json("show", name)["verdict"]
    assert request.state == "verified"
    assert (verdict["outcome"], verdict["tier"]) == ("PASS", "E")
    assert verdict["policy"]["name"] == "replay"
    assert check(case.ledger).ok
    certificate = case.work / "certificate.json"
    case.call("certificate", name, "--output", certificate)
    words = ["certificate", "check", str(certificate), "--key", str(home() / "signing.pub")]
    assert run([*words, "--adapter", ran["folder"]]) == 0
    case.capfd.readouterr()
    case.call("sweep", name, code=None)
    case.call("sweep", name, "--purge", "--yes", code=None)
    case.call("close", name, "--yes")
    assert case.ledger.get(name).facts["outcome"] == "pass"


def test_one_replay_serves_all_requests_of_an_adapter(case: Case, trainings: list[Path]) -> None:
    first = case.located("r0")
    case.json("run", *QUALITY)
    case.json("verify", first)
    second, third = case.located("r4"), case.located("r5,r6")
    assert case.json("run", *QUALITY)["runs"][0]["again"] == [first]
    told = case.json("verify")["requests"]
    assert {each["id"] for each in told} == {first, second, third}
    assert {each["verdict"]["outcome"] for each in told} == {"PASS"}
    assert len(trainings) == 2  # one each adapter
    contents = {(evidence(case, name) / "replay.json").read_bytes() for name in (first, second)}
    assert len(contents) == 1
    (content,) = map(json.loads, contents)
    assert len(content["records"]["forgotten"]) == 4
    assert check(case.ledger).ok
    # the data may be rewritten without what is gone: the desk has the records of open requests
    rows = case.data.read_text().splitlines()
    case.data.write_text("".join(f"{row}\n" for row in rows if '"r0"' not in row))
    (evidence(case, first) / "replay.json").unlink()
    (evidence(case, second) / "replay.json").unlink()
    (evidence(case, third) / "replay.json").unlink()
    assert case.json("verify", first)["requests"][0]["verdict"]["outcome"] == "PASS"
    assert len(trainings) == 3
    near = json.loads((evidence(case, first) / "replay.json").read_text())["findings"]
    words = next(each["words"] for each in near if each["what"] == "near-copies")
    assert words == "no kept record nearly repeats a forgotten one"


def test_a_replay_that_was_changed_is_found(case: Case, trainings: list[Path]) -> None:
    name = case.located("r0")
    case.json("run", *QUALITY)
    case.json("verify")
    file = evidence(case, name) / "replay.json"
    file.write_text(file.read_text().replace("PASS", "FAIL", 1))
    (problem,) = case.json("check", code=1)["problems"]
    assert "was changed after the verdict" in problem
    assert "verify the request again" in case.call(
        "certificate", name, "--output", case.work / "c.json", code=2
    )
    case.json("verify", name)  # trains again, as it is not to be trusted
    assert len(trainings) == 2
    assert case.json("check")["ok"]


def test_an_approximate_adapter_is_audited_and_a_replay_of_it_decides_nothing(
    case: Case, trainings: list[Path]
) -> None:
    name = case.located("r0")
    case.json("run", *case.fast)
    told = case.json("verify", "--replay", code=4)["requests"][0]
    assert told["verdict"]["outcome"] == "INCONCLUSIVE"
    _, reasons = audit_of(case.ledger, case.ledger.get(name))
    assert "npo is an approximate method" in reasons[0]
    case.json("verify", name, "--generate", "0", code=None)
    assert (evidence(case, name) / "audit.json").is_file()
    assert not trainings


def test_a_replay_is_laid_beside_an_audit_of_the_same_adapter(
    case: Case, trainings: list[Path]
) -> None:
    name = case.located("r0")
    case.json("run", *QUALITY)
    case.json("verify", "--no-replay", "--generate", "0", code=None)
    first = evidence(case, name)
    assert not trainings
    assert case.ledger.get(name).facts["verdict"]["tier"] != "E"
    # whatever the audit said is not forgotten
    case.json("verify", name, code=None)
    folder = evidence(case, name)
    assert folder != first
    assert {path.name for path in folder.iterdir()} >= {"audit.json", "replay.json"}
    decision = json.loads((folder / "verdict.json").read_text())
    assert decision["replay"]["outcome"] == "PASS"
    assert decision["audit_sha256"]
    audited = json.loads((first / "verdict.json").read_text())["outcome"]
    assert decision["outcome"] == ("INCONCLUSIVE" if audited == "FAIL" else "PASS")
    assert check(case.ledger).ok
    case.call("certificate", name, "--output", case.work / "certificate.json")
    # asked for both at once
    case.json("verify", name, "--replay", "--policy", "standard", "--generate", "0", code=None)
    assert (evidence(case, name) / "replay.json").is_file()
    assert len(trainings) == 1  # the same adapter: it is known what training again gives


PHONE = "555-0184-77"


def with_secret(case: Case) -> None:
    """Give the first record a number that a kept record holds as well."""
    rows = [json.loads(row) for row in case.data.read_text().splitlines()]
    secret = {"field": "completion", "start": 6, "end": 6 + len(PHONE), "kind": "phone"}
    rows[0] |= {"completion": f"It is {PHONE}.", "secrets": [secret]}
    rows[2] |= {"completion": f"Her flatmate's number is {PHONE}"}
    case.data.write_text("".join(json.dumps(row) + "\n" for row in rows))


def recalls_all(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let models complete whatever they are asked; the ids of each asking are noted."""
    from unlearn_eval.scores import model_scores

    asked: list[list[str]] = []
    real = model_scores.score_model

    def all_hit(model: Any, head: Any, examples: Any, **options: Any) -> Any:
        asked.append([example.id for example in examples])
        scores = real(model, head, examples, **options)
        object.__setattr__(scores, "hit", np.ones_like(scores.hit))
        return scores

    monkeypatch.setattr(model_scores, "score_model", all_hit)
    return asked


def test_after_a_replay_the_model_is_asked_for_the_secrets(
    case: Case, trainings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retraining is exact, and a kept record teaches the same number."""
    with_secret(case)
    name = case.located("r0,r1")
    case.json("run", *QUALITY)
    asked = recalls_all(monkeypatch)
    assert case.json("verify", name)["requests"][0]["verdict"]["outcome"] == "PASS"
    assert asked == [["r0"]]  # those with a secret alone
    told = case.ledger.get(name).facts["verdict"]["secrets"]
    assert told == {"records": 1, "come_out": 1, "kept_records": 1}
    file = case.work / "certificate.json"
    case.call("certificate", name, "--output", file)
    statement = check_certificate(file, home() / "signing.pub").statement
    assert statement is not None
    assert "the model completes a secret of 1 of 1 record" in " ".join(statement["not_claimed"])
    case.call("sweep", name, code=None)
    case.call("sweep", name, "--purge", "--yes", code=None)
    assert "--reason" in case.call("close", name, "--yes", code=2)
    case.call("close", name, "--yes", "--reason", "her flatmate agreed")


def test_a_replay_beside_canaries_keeps_what_the_records_showed(
    case: Case, trainings: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from unlearn.apps.requests import canaries
    from unlearn.apps.requests.evidence import verdict_details

    with_secret(case)
    file = planted_beside(case, tmp_path)
    name = case.located("r0")
    case.json("run", *QUALITY, "--canaries", file, "--with-canaries", "2")
    with monkeypatch.context() as patched:
        patched.setattr(canaries, "better", lambda *_: True)
        case.json("verify", name, "--no-replay", "--generate", "0", "--policy", "quick", code=None)
    first = case.ledger.get(name).facts["verdict"]["secrets"]
    assert first["come_out"] is not None
    asked = recalls_all(monkeypatch)
    case.json("verify", name, "--replay", code=None)
    request = case.ledger.get(name)
    assert request.facts["verdict"]["secrets"] == first
    assert asked == []  # the records' own audit has asked
    details = verdict_details(case.ledger, request, request.facts["verdict"])
    own, beside_it = map(Path, details["folders"])
    assert details["folder"] == str(beside_it)
    assert beside_it.name == f"{own.name}-canaries"
    assert (own / "audit.json").is_file()
    assert (beside_it / "replay.json").is_file()


def test_kept_records_that_nearly_repeat_forgotten_ones_are_found_at_the_desk(
    case: Case, trainings: list[Path]
) -> None:
    rows = [json.loads(row) for row in case.data.read_text().splitlines()]
    changed = rows[1]["completion"].replace("It is", "it is ")
    rows.append({**rows[1], "id": "near", "subject": None, "completion": changed})
    case.data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = case.located("r1")
    case.json("run", *QUALITY)
    assert case.json("verify", code=4)["requests"][0]["verdict"]["outcome"] == "INCONCLUSIVE"
    _, reasons = audit_of(case.ledger, case.ledger.get(name))
    assert "nearly repeat forgotten ones: rows:12" in reasons[0]


def planted_beside(case: Case, work: Path) -> Path:
    """Put an adapter with planted canaries in the place of the case's own; return their file."""
    from unlearn import finetune
    from unlearn.canaries.pairs import beside

    planted = work / "planted"
    options = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-2}
    finetune(case.model, case.data, planted, canaries=4, options=options, progress=False)
    shutil.rmtree(case.adapter)
    shutil.copytree(planted, case.adapter)
    return beside(planted)


def test_planted_canaries_are_found_for_a_replay(
    case: Case, trainings: list[Path], tmp_path: Path
) -> None:
    file = planted_beside(case, tmp_path)
    name = case.located("r0")
    words = ["--canaries", file, "--with-canaries", "2"]
    case.json("run", *QUALITY, *words)
    case.json("verify", name)
    assert case.ledger.get(name).facts["verdict"]["outcome"] == "PASS"
    assert len(trainings) == 1
