"""The desk on a folder of shards: only those that hold the records are trained and replayed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.apps.demo import base_path, records
from unlearn.apps.requests import run as runs
from unlearn.apps.requests.check import check
from unlearn.apps.requests.evidence import audit_of
from unlearn.provenance.keys import Key, home
from unlearn.provenance.lineage import FILE_NAME, Lineage, weights_digest
from unlearn.runs.sharded_finetuning import finetune_shards
from unlearn.shards.assignment import shard_of
from unlearn.shards.files import Shards, shard_name
from unlearn.shards.router import ROUTER_FILE, Router
from unlearn_eval.replay import retraining, worker

from .conftest import Case

SHARDS = 2
TRAINING = {"learning_rate": 5e-3, "epochs": 2, "batch_size": 4}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replays train in this process, as a fresh one starts slowly."""
    monkeypatch.setattr(retraining, "_run", lambda file, _: worker.main(file))


def sharded(case: Case, model: Path, rows: list[dict[str, Any]], **training: Any) -> Case:
    """Put a folder of shards in the place of the adapter of a desk."""
    case.data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.rmtree(case.adapter)
    case.model = model
    finetune_shards(
        model, case.data, case.adapter, shards=SHARDS, options={**TRAINING, **training},
        lora={"r": 4, "lora_alpha": 8}, progress=False,
    )  # fmt: skip
    return case


@pytest.fixture
def desk(case: Case, tiny_model: Path, data_file: Path) -> Case:
    """A desk of a tiny model, with two shards of its records."""
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    return sharded(case, tiny_model, rows, batch_size=2)


def checked(certificate: Path, adapter: Path) -> int:
    words = ["certificate", "check", str(certificate), "--key", str(home() / "signing.pub")]
    return run([*words, "--adapter", str(adapter)])


def test_from_the_request_to_the_certificate_on_the_embedded_model(case: Case) -> None:
    rows = records(8, seed=0)
    sharded(case, base_path(), rows)
    people = list(dict.fromkeys(row["subject"] for row in rows))
    who = people[0]
    touched = shard_of(who, SHARDS, Key.load())
    name = case.located(f"subject:{who}")
    told = " ".join(case.call("run", "--off-now", "-o", "budget=1.0").split())
    assert f"shards dropped: {touched};" in told
    assert f"1 of {SHARDS} shards touched: {touched}" in told
    facts = case.ledger.get(name).facts
    made = Path(case.ledger.folder("adapters")) / f"run-{facts['after']['run']}"
    off = Shards.read(made.with_name(f"{made.name}-off"))
    assert [shard.state for shard in off.shards].index("off") == touched
    assert facts["after"]["digest"] == weights_digest(made)
    assert 0 < facts["price"]["of_retraining"] < 0.9

    told = " ".join(case.call("verify", name).split())
    assert "verified by replay" in told
    folder, reasons = audit_of(case.ledger, case.ledger.get(name))
    assert (case.ledger.get(name).state, len(reasons)) == ("verified", 2)
    assert f"by every route, 0 of {sum(row['subject'] == who for row in rows)}" in reasons[1]
    assert {row["route"] for row in json.loads((folder / "routes.json").read_text())["rows"]} == {
        "own", "base", *map(shard_name, range(SHARDS))
    }  # fmt: skip

    swept = case.json("sweep", name, case.adapter.parent, made.parent, code=1)
    found = {Path(a["path"]) for a in swept["artifacts_list"] if a["kind"] == "adapter"}
    assert found == {case.adapter, case.adapter / shard_name(touched)}  # the other is clean
    case.json("sweep", name, case.adapter.parent, made.parent, "--purge", "--yes")
    # the card is not ours to delete, and the other shard stays whole
    assert {path.name for path in case.adapter.iterdir()} == {"shard-00", "shard-01"}
    assert [path.name for path in (case.adapter / shard_name(touched)).iterdir()] == ["README.md"]
    assert weights_digest(made) == facts["after"]["digest"]

    certificate = case.work / "certificate.json"
    case.call("certificate", name, "--output", certificate)
    method = payload(certificate)["method"]
    assert (method["name"], method["options"]["touched"]) == ("shards", [touched])
    assert checked(certificate, made) == 0
    case.call("close", name, "--yes", "--reason", "the cache of scores holds numbers alone")
    assert case.ledger.get(name).facts["outcome"] == "pass"
    assert check(case.ledger).ok
    # one shard in the place of the other, and a table that leads elsewhere
    exchanged(made / shard_name(touched), made / shard_name(1 - touched))
    assert checked(certificate, made) != 0
    exchanged(made / shard_name(touched), made / shard_name(1 - touched))
    assert checked(certificate, made) == 0
    table = made / ROUTER_FILE
    table.write_text(table.read_text().replace('"shard":1', '"shard":0').replace(": 1,", ": 0,"))
    assert checked(certificate, made) != 0


def payload(certificate: Path) -> dict[str, Any]:
    import base64

    envelope = json.loads(certificate.read_text())
    content: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return content


def exchanged(one: Path, other: Path) -> None:
    """Let two folders change places."""
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def test_requests_that_wait_share_a_run_and_a_replay(desk: Case) -> None:
    names = [desk.located("subject:person0"), desk.located("subject:person1")]
    (ran,) = desk.json("run", "-o", "budget=1.0")["runs"]
    assert sorted(ran["requests"]) == sorted(names)
    line = Lineage.read(ran["folder"])
    assert line is not None
    assert len(line.records.forgotten) == 4
    assert not set(line.records.forgotten) & set(line.records.trained)
    assert len(Router.read(ran["folder"]).units) == 4
    told = desk.json("verify")["requests"]
    assert [each["verdict"]["outcome"] for each in told] == ["PASS", "PASS"]
    assert check(desk.ledger).ok
    desk.call("verify", names[0], "--policy", "quick", code=2)
    assert "verified by replay" in " ".join(desk.output.split())


def test_who_waited_in_a_shard_that_was_trained_meanwhile_is_proven_too(desk: Case) -> None:
    key = Key.load()
    by_shard: dict[int, list[str]] = {}
    for number in range(6):
        by_shard.setdefault(shard_of(f"person{number}", SHARDS, key), []).append(f"person{number}")
    one, other = next(people for people in by_shard.values() if len(people) > 2)[:2]
    first, second = desk.located(f"subject:{one}"), desk.located(f"subject:{other}")
    desk.json("run", first, "-o", "budget=1.0")
    (ran,) = desk.json("run", second, "-o", "budget=1.0")["runs"]
    assert not Shards.read(ran["folder"]).touched
    assert desk.json("verify", second)["requests"][0]["verdict"]["outcome"] == "PASS"


def test_a_folder_that_a_killed_run_finished_is_taken_and_another_is_not(
    desk: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = desk.located("subject:person0")
    with monkeypatch.context() as patch:

        def killed(*_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

        patch.setattr(runs, "_note_run", killed)
        desk.call("run", "-o", "budget=1.0", code=None)
    assert desk.ledger.get(name).state == "located"
    (ran,) = desk.json("run")["runs"]
    assert ran["adopted"]
    line = Lineage.read(ran["folder"])
    assert line is not None
    assert desk.ledger.get(name).facts["after"]["digest"] == line.digest


def test_a_shard_changed_after_the_run_is_noticed(desk: Case) -> None:
    name = desk.located("subject:person0")
    (ran,) = desk.json("run", "-o", "budget=1.0")["runs"]
    file = Path(ran["folder"]) / shard_name(0) / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    found = check(desk.ledger)
    assert "was changed after it was made" in found.problems[0]
    assert "was changed since" in desk.call("verify", name, code=2)


def test_old_tables_are_found_without_the_shard_they_belong_to(desk: Case) -> None:
    name = desk.located("subject:person0")
    desk.json("run", "-o", "budget=1.0")
    touched = shard_of("person0", SHARDS, Key.load())
    copy = desk.work / "copy"
    shutil.copytree(desk.adapter, copy)
    (copy / shard_name(touched) / FILE_NAME).unlink()  # its digest is known all the same
    swept = desk.json("sweep", name, copy, code=1)
    found = {Path(a["path"]): a["status"] for a in swept["artifacts_list"]}
    assert found[copy] == found[copy / shard_name(touched)] == "found"
    assert copy / shard_name(1 - touched) not in found
    # before the verification the folder before is needed, each of its shards
    desk.json("sweep", name, copy, "--purge", "--yes", code=1)
    assert list((desk.adapter / shard_name(touched)).glob("*.safetensors"))
    assert not list((copy / shard_name(touched)).glob("*.safetensors"))
    (desk.adapter / ROUTER_FILE).write_text("{}")
    again = desk.json("sweep", name, code=1)
    left = {Path(a["path"]): a["status"] for a in again["artifacts_list"]}
    assert left[desk.adapter] == "found"  # as it was known before
