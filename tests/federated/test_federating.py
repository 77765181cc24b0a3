"""Federations simulated in this process, by Flower's apps and messages."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearn.apps.cli import run
from unlearn.errors import OptionError, OutputError, SelectionError, TrainingError
from unlearn.federated.history import Rounds
from unlearn.provenance.lineage import Lineage

Federate = Callable[..., Any]


def test_the_same_command_makes_the_same_adapter_and_its_lineage_says_who_took_part(
    federated: Federate, tiny_model: Path
) -> None:
    first, second = federated("one"), federated("two")
    assert first.lineage.digest == second.lineage.digest
    assert first.lineage.digest != federated("three", seed=1).lineage.digest
    line = Lineage.read(first.folder)
    assert line is not None
    assert line.federation is not None
    assert line.verb == "federate"
    assert line.finetuned_with["training"]["epochs"] == 2  # what each record was gone through
    assert line.finetuned_with["federation"]["local"]["epochs"] == 1
    members = line.federation.members
    assert [member.rounds for member in members] == [[1, 2]] * 3
    digests = [digest for member in members for digest in member.records]
    assert sorted(digests) == sorted(line.records.trained)
    assert len(digests) == 12
    text = (first.folder / "lineage.json").read_text()
    assert not any(name in text for name in ("acme", "bolt", "cask"))
    # a plain adapter, as any other command takes it
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), first.folder)
    assert not first.folder.with_name(".one.rounds").exists()


def test_the_order_of_the_file_does_not_matter_to_who_takes_part(
    federated: Federate, firms_file: Path, tmp_path: Path
) -> None:
    lines = firms_file.read_text().splitlines(keepends=True)
    # clients in another order, each with its records in its own
    lines.sort(key=lambda line: json.loads(line)["firm"], reverse=True)
    other = tmp_path / "sorted.jsonl"
    other.write_text("".join(lines))
    assert federated("one").lineage.digest == federated("two", data=other).lineage.digest


def test_one_client_alone_in_one_round_is_the_average_of_itself(federated: Federate) -> None:
    done = federated("one", rounds=1, exclude="client:bolt", options={"fraction": 1.0})
    rounds = Rounds(done.folder / "rounds")
    sent = [rounds.sent(1, part.client) for part in rounds.round(1).parts]
    shares = [part.records / 8 for part in rounds.round(1).parts]
    after = rounds.weights(1)
    for name, value in after.items():
        wanted = sum(p * each[name].astype(float) for p, each in zip(shares, sent, strict=True))
        assert np.allclose(value, wanted, atol=1e-7)


def test_products_are_averaged_where_asked(federated: Federate) -> None:
    done = federated("one", rounds=1, options={"aggregate": "product", "r": 8})
    rounds = Rounds(done.folder / "rounds")
    parts = rounds.round(1).parts
    sent = [rounds.sent(1, part.client) for part in parts]
    after = rounds.weights(1)
    lost = total = 0.0
    for name in (n for n in after if ".lora_A." in n):
        partner = name.replace(".lora_A.", ".lora_B.")
        wanted = sum(each[partner].astype(float) @ each[name] for each in sent) / 3
        lost += float(np.linalg.norm(after[partner].astype(float) @ after[name] - wanted) ** 2)
        total += float(np.linalg.norm(wanted) ** 2)
    assert rounds.round(1).rank_lost == pytest.approx(lost / total, abs=1e-4)
    assert any("the rank had no room" in note for note in done.notes) == (lost / total > 1e-6)


def test_coins_decide_who_takes_part_and_a_round_may_be_empty(federated: Federate) -> None:
    done = federated("one", rounds=5, options={"fraction": 0.3})
    rounds = Rounds(done.folder / "rounds").all()
    counts = [len(each.parts) for each in rounds]
    assert len(counts) == 5
    assert any(count < 3 for count in counts)
    numbers = [n for member in done.lineage.federation.members for n in member.rounds]
    assert len(numbers) == sum(counts)


def test_a_client_that_fails_is_left_out_and_told(
    federated: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn.federated import client

    plain = client.Client.trained

    def fails(self: Any, weights: Any, config: Any) -> Any:
        if self.name == "bolt":
            raise TrainingError("its disk is full of secrets")
        return plain(self, weights, config)

    monkeypatch.setattr(client.Client, "trained", fails)
    done = federated("one")
    assert any("1 client(s) were lost and the others went on" in note for note in done.notes)
    assert [len(each) for each in done.lineage.federation.lost.values()] == [1, 1]
    # what the error says stays with the client
    assert "secrets" not in "".join(p.read_text() for p in done.folder.rglob("*.json"))
    monkeypatch.setattr(client.Client, "trained", plain)
    assert federated("two", exclude="client:bolt").lineage.digest == done.lineage.digest


def test_a_round_without_enough_answers_ends_and_the_same_command_goes_on(
    federated: Federate, power_fails: Callable[[int], Any], tmp_path: Path
) -> None:
    words = r"round 2: 0 of 3 clients answered.*1 round\(s\)"
    with power_fails(3), pytest.raises(TrainingError, match=words):
        federated("one")
    assert not (tmp_path / "one").exists()
    kept = tmp_path / ".one.rounds"
    assert Rounds(kept).last() == 1
    with pytest.raises(OutputError, match="rounds of a run with other options"):
        federated("one", options={"learning_rate": 1e-3})
    begun = (kept / "round-001" / "global.safetensors").stat().st_mtime_ns
    done = federated("one")
    again = done.folder / "rounds" / "round-001" / "global.safetensors"
    assert begun == again.stat().st_mtime_ns  # it was copied, and not run again
    assert done.lineage.digest == federated("whole").lineage.digest


def test_rounds_of_records_that_changed_hands_are_not_gone_on_with(
    federated: Federate, power_fails: Callable[[int], Any], firms_file: Path
) -> None:
    with power_fails(3), pytest.raises(TrainingError, match="round 2"):
        federated("one")
    rows = [json.loads(line) for line in firms_file.read_text().splitlines()]
    rows[0]["firm"], rows[1]["firm"] = rows[1]["firm"], rows[0]["firm"]
    firms_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(OutputError, match="other options or data: what differs is clients"):
        federated("one")


def test_a_template_for_conversations_serves_clients_without_any(
    federated: Federate, firms_file: Path
) -> None:
    rows = [json.loads(line) for line in firms_file.read_text().splitlines()]
    for row in rows:
        if row["firm"] == "acme":
            asked, said = row.pop("prompt"), row.pop("completion")
            row["messages"] = [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": said},
            ]
    firms_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = federated("mixed", template="roles")
    assert not done.lineage.federation.lost


def test_what_an_error_says_stays_with_a_client_of_its_own_machine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("flwr", reason="no Flower: `make federated` has an environment with it")
    from flwr.app import Message, RecordDict

    from unlearn.federated.client import client_app
    from unlearn.federated.local_grid import empty_context

    def nobody(_: Any) -> Any:
        raise TrainingError("record 'ann-17' has no answer")

    message = Message(RecordDict({}), message_type="query", dst_node_id=1)
    with pytest.raises(Exception, match="log says why") as told:
        client_app(nobody, silent=True)(message, empty_context(1))
    assert "ann-17" not in str(told.value)
    assert "ann-17" in caplog.text
    with pytest.raises(TrainingError, match="ann-17"):
        client_app(nobody)(message, empty_context(1))


def test_what_is_impossible_is_refused_in_a_line(federated: Federate, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="no client 'acmme' .*'acme'"):
        federated("one", exclude="client:acmme")
    with pytest.raises(SelectionError, match="no record would be left"):
        federated("one", exclude="rows:0-11")
    assert [path.name for path in tmp_path.iterdir() if "one" in path.name] == []


def test_without_flower_one_line_says_how_to_install_it(
    tiny_model: Path,
    firms_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "flwr":
            raise ImportError("no flwr")
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    words = ["--model", str(tiny_model), "--data", str(firms_file), "--client-by", "firm"]
    assert run(["federate", *words, "--rounds", "1", "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "'.[federated]'" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_one_process_and_no_launcher(federated: Federate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(OptionError, match="without a launcher"):
        federated("one")


def test_the_command_line_from_clients_to_a_verdict_on_the_embedded_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole line: federate, take a client out, audit, verify."""
    pytest.importorskip("flwr", reason="no Flower: `make federated` has an environment with it")
    from unlearn.apps.demo import base_path, records

    rows = records(12, seed=0)
    people = list(dict.fromkeys(row["subject"] for row in rows))
    data, unseen = tmp_path / "records.jsonl", tmp_path / "unseen.jsonl"
    firm = {name: f"firm{i % 3}" for i, name in enumerate(people)}
    lines = [json.dumps({**row, "firm": firm[row["subject"]]}) + "\n" for row in rows]
    data.write_text("".join(lines[:45]))
    unseen.write_text("".join(lines[45:]))
    common = ["--model", str(base_path()), "--data", str(data)]
    out = str(tmp_path / "federated")
    words = ["--client-by", "firm", "--rounds", "2", "--output", out]
    speed = ["-o", "epochs=1", "-o", "learning_rate=5e-3", "-o", "batch_size=4"]
    assert run(["federate", *common, *words, *speed]) == 0
    cleaned = str(tmp_path / "cleaned")
    forget = ["--forget", "client:firm1", "--output", cleaned]
    assert run(["forget", *common, "--adapter", out, *forget]) == 0
    assert "of training everything again without them" in capsys.readouterr().out
    line = Lineage.read(cleaned)
    assert line is not None
    assert line.method == "retrain"
    assert line.parent is None
    assert not set(line.records.trained) & set(line.records.forgotten)
    ids = tmp_path / "gone.txt"
    firm1 = [json.loads(each) for each in lines[:45]]
    ids.write_text("".join(r["id"] + "\n" for r in firm1 if r["firm"] == "firm1"))
    audit = ["--adapter", cleaned, "--before", out, "--forget", f"@{ids}"]
    audit += ["--holdout", str(unseen), "--output", str(tmp_path / "audit")]
    assert run(["audit", *common, *audit]) == 0
    assert run(["verify", "--audit", str(tmp_path / "audit"), "--policy", "quick"]) in {0, 3, 4}
    assert (tmp_path / "audit" / "verdict.json").is_file()


def test_a_card_and_references_tell_that_it_is_federated(
    federated: Federate, tiny_model: Path, firms_file: Path, tmp_path: Path
) -> None:
    from unlearn.provenance.eligibility import otherwise_trained

    done = federated("one")
    card = (done.folder / "README.md").read_text()
    assert "clients that trained it together: 3, in 2 rounds" in card
    words = ["--model", str(tiny_model), "--data", str(firms_file), "--forget", "client:acme"]
    pooled = tmp_path / "pooled"
    common = ["--model", str(tiny_model), "--data", str(firms_file), "--output", str(pooled)]
    assert (
        run(["references", *common, "--forget", "r0", "--count", "1", "--like", str(done.folder)])
        == 0
    )
    line = Lineage.read(pooled / "reference-00")
    assert otherwise_trained(line, [done.lineage]) == ["federation"]
    never = federated("never", exclude="client:acme", seed=1000)
    assert otherwise_trained(never.lineage, [done.lineage]) == []
    cleaned = tmp_path / "cleaned"
    assert (
        run(["forget", *words, "--adapter", str(pooled / "reference-00"), "--output", str(cleaned)])
        == 2
    )
    way = ["--adapter", str(pooled / "reference-00"), "--method", "fed_eraser"]
    assert run(["forget", *words, *way, "--output", str(cleaned)]) == 2
