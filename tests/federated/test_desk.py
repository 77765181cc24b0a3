"""The desk on a federated adapter: from the request to the certificate."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.provenance.lineage import Lineage
from unlearn_eval.replay import retraining, worker

Federate = Callable[..., Any]
Desk = Callable[..., dict[str, Any]]


@pytest.fixture
def desk(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Desk:
    """Calls a verb of the desk and returns what it says; replays train in this process."""
    monkeypatch.setattr(retraining, "_run", lambda file, _: worker.main(file))

    def call(*words: str | Path, code: int = 0) -> dict[str, Any]:
        given = [*map(str, words), "--ledger", f"{tmp_path / 'ledger.db'}", "--json"]
        capfd.readouterr()
        found = run(["request", *given])
        out, err = capfd.readouterr()
        assert found == code, (out, err)
        said: dict[str, Any] = json.loads(out) if out.strip() else {"error": err}
        return said

    return call


def located(desk: Desk, model: Path, adapter: Path, data: Path, who: str) -> str:
    words = ["add", "--model", model, "--adapter", adapter, "--data", data, "--forget", who]
    name = str(desk(*words)["id"])
    assert desk("locate", name, "--yes")["state"] == "located"
    return name


def test_a_client_that_asks_is_taken_out_exactly_and_gets_a_certificate(
    desk: Desk, federated: Federate, tiny_model: Path, firms_file: Path, tmp_path: Path
) -> None:
    old = federated("all")
    never = federated("never", exclude="client:bolt")
    rows = "rows:1,rows:4,rows:7,rows:10".split(",")  # all of bolt's
    ids = tmp_path / "bolt.txt"
    lines = firms_file.read_text().splitlines()
    ids.write_text("".join(f"{json.loads(lines[int(row[5:])])['id']}\n" for row in rows))
    name = located(desk, tiny_model, old.folder, firms_file, f"@{ids}")
    (ran,) = desk("run", "--output", tmp_path / "runs", "-o", "budget=1.0")["runs"]
    line = Lineage.read(ran["folder"])
    assert line is not None
    assert line.digest == never.lineage.digest
    assert line.federation is not None
    assert len(line.federation.members) == 2

    verdict = desk("verify", name)["requests"][0]["verdict"]
    assert (verdict["outcome"], verdict["policy"]["name"]) == ("PASS", "replay")
    certificate = tmp_path / "certificate.json"
    desk("certificate", name, "--output", certificate)
    payload = json.loads(base64.b64decode(json.loads(certificate.read_text())["payload"]))
    assert payload["method"]["name"] == "retrain"
    # what the client sent lies beside the old adapter: a sweep finds it
    swept = desk("sweep", name, old.folder.parent, code=1)
    found = {Path(each["path"]).name for each in swept["artifacts_list"]}
    assert "all" in found


def test_an_approximate_removal_is_told_as_one(
    desk: Desk, federated: Federate, tiny_model: Path, firms_file: Path, tmp_path: Path
) -> None:
    old = federated("all")
    located(desk, tiny_model, old.folder, firms_file, "rows:1")
    (ran,) = desk("run", "--output", tmp_path / "runs", "--method", "fed_eraser")["runs"]
    line = Lineage.read(ran["folder"])
    assert line is not None
    assert (line.method, line.parent) == ("fed_eraser", old.lineage.digest)


def test_a_way_of_federations_is_refused_for_other_adapters(
    desk: Desk, adapter: Path, tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("flwr", reason="no Flower: `make federated` has an environment with it")
    located(desk, tiny_model, adapter, data_file, "r1")
    said = desk("run", "--output", tmp_path / "runs", "--method", "local_npo", code=2)
    assert "is no federated adapter with its rounds" in json.dumps(said)
