"""Taking a client out of a federation: exactly, and approximately."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearn.errors import LineageError, ModelError, OptionError, SelectionError, TrainingError
from unlearn.federated.history import Rounds

Federate = Callable[..., Any]


@pytest.fixture
def forgets(tiny_model: Path, firms_file: Path, tmp_path: Path) -> Callable[..., Any]:
    """Takes records out of a federated adapter."""
    pytest.importorskip("flwr", reason="no Flower: `make federated` has an environment with it")
    from unlearn.federated.forgetting import forget_federated

    def run(adapter: Path, forget: str, name: str = "cleaned", **more: Any) -> Any:
        data = more.pop("data", firms_file)
        output = tmp_path / name
        return forget_federated(
            tiny_model, data, forget, output, adapter=adapter, progress=False, **more
        )

    return run


def test_an_exact_removal_is_bit_by_bit_never_having_been_there(
    federated: Federate, forgets: Callable[..., Any]
) -> None:
    with_all = federated("all")
    never = federated("never", exclude="client:bolt")
    done = forgets(with_all.folder, "client:bolt")
    assert done.lineage.digest == never.lineage.digest
    assert done.lineage.records.trained == never.lineage.records.trained
    assert len(done.lineage.records.forgotten) == 4
    assert done.lineage.parent is None
    assert len(done.lineage.federation.members) == 2
    assert done.lineage.budget["used"] == 1.0
    # its name is in no file, nor is a trace of what it sent
    kept = Rounds(done.folder / "rounds")
    assert all(len(each.parts) == 2 for each in kept.all())


def test_a_replay_proves_an_exact_removal(
    federated: Federate, forgets: Callable[..., Any], firms_file: Path
) -> None:
    from unlearn.apps.cli import run

    with_all = federated("all")
    done = forgets(with_all.folder, "client:bolt")
    assert run(["replay", str(done.folder), "--data", str(firms_file)]) == 0
    found = json.loads((done.folder.with_name("cleaned.replay") / "replay.json").read_text())
    assert (found["outcome"], found["kind"]) == ("PASS", "exact")
    # the federation itself can be replayed, too, but it is not one without the client
    named = ["--forget", "rows:1", "--output", str(done.folder.with_name("other"))]
    assert run(["replay", str(with_all.folder), "--data", str(firms_file), *named]) == 3


def test_some_records_of_a_client_can_go_alone(
    federated: Federate, forgets: Callable[..., Any]
) -> None:
    done = forgets(federated("all").folder, "r1")  # of bolt, which keeps three
    assert done.lineage.digest == federated("never", exclude="r1").lineage.digest
    assert len(done.lineage.federation.members) == 3
    twice = forgets(done.folder, "client:cask", "twice")
    assert twice.lineage.digest == federated("two", exclude="r1,r2,r5,r8,r11").lineage.digest
    assert len(twice.lineage.records.forgotten) == 5


def test_rounds_before_the_client_took_part_are_not_run_again(
    federated: Federate, forgets: Callable[..., Any]
) -> None:
    seed = 3
    with_all = federated("all", rounds=4, seed=seed, options={"fraction": 0.5})
    members = with_all.lineage.federation.members
    late = max(members, key=lambda member: min(member.rounds, default=0))
    first = min(late.rounds)
    assert first > 1, "choose another seed"
    from unlearn.federated.plan import client_mac
    from unlearn.provenance.keys import Key

    name = next(n for n in ("acme", "bolt", "cask") if client_mac(n, Key.load()) == late.client)
    done = forgets(with_all.folder, f"client:{name}")
    assert done.lineage.budget["from"] == first - 1
    assert done.lineage.budget["of"] == 4 - (first - 1)
    never = federated("never", 4, seed=seed, exclude=f"client:{name}", options={"fraction": 0.5})
    assert done.lineage.digest == never.lineage.digest
    assert done.fit.tokens < never.fit.tokens


def test_a_budget_runs_a_part_of_the_rounds(
    federated: Federate, forgets: Callable[..., Any]
) -> None:
    with_all = federated("all", rounds=4)
    half = forgets(with_all.folder, "client:bolt", options={"budget": 0.5})
    assert half.lineage.budget["rounds"] == 2
    assert half.lineage.federation.rounds == 2
    assert half.lineage.digest == federated("two", 2, exclude="client:bolt").lineage.digest
    loose = {"budget": "auto", "quality": 100.0}
    auto = forgets(with_all.folder, "client:bolt", "auto", options=loose)
    assert auto.lineage.budget["rounds"] == 1
    assert auto.lineage.budget["kept_loss"]["old"] > 0
    strict = {"budget": "auto", "quality": 1e-6}
    whole = forgets(with_all.folder, "client:bolt", "whole", options=strict)
    assert whole.lineage.budget["rounds"] == 4


@pytest.mark.parametrize("method", ["fed_eraser", "local_npo"])
def test_approximate_ways_start_from_what_was_and_say_so(
    federated: Federate, forgets: Callable[..., Any], method: str
) -> None:
    with_all = federated("all", rounds=4, options={"epochs": 2})
    done = forgets(with_all.folder, "client:bolt", method=method)
    assert done.lineage.parent == with_all.lineage.digest
    assert len(done.lineage.records.forgotten) == 4
    assert set(done.lineage.records.forgotten) < set(done.lineage.records.trained)
    assert done.lineage.digest != with_all.lineage.digest
    again = forgets(with_all.folder, "client:bolt", "again", method=method)
    assert again.lineage.digest == done.lineage.digest
    with pytest.raises(LineageError, match="approximates"):
        forgets(done.folder, "client:cask", "more")


def test_calibrated_updates_have_the_lengths_of_the_old_ones(
    federated: Federate, forgets: Callable[..., Any]
) -> None:
    from unlearn.federated.aggregation import norms, rescaled, step

    with_all = federated("all", rounds=2)
    done = forgets(with_all.folder, "client:bolt", method="fed_eraser", options={"interval": 1})
    old, new = Rounds(with_all.folder / "rounds"), Rounds(done.folder / "rounds")
    assert new.last() == 2
    begun, parts = new.weights(0), new.round(1).parts
    moves = []
    for part in parts:
        wanted = norms(step(old.weights(0), old.sent(1, part.client)))
        moves.append(rescaled(step(begun, new.sent(1, part.client)), wanted))
    for name, value in new.weights(1).items():
        mean = sum(move[name].astype(float) for move in moves) / len(moves)
        assert np.allclose(value, begun[name] + mean, atol=1e-6)


def test_local_npo_makes_the_client_forget(
    federated: Federate, forgets: Callable[..., Any]
) -> None:
    with_all = federated("all", rounds=3, options={"epochs": 4})
    options = {"recovery": 0, "rate": 1.0}
    done = forgets(with_all.folder, "client:bolt", method="local_npo", options=options)
    assert done.after["forget"].loss > done.before["forget"].loss + 0.2


def test_a_removal_that_breaks_off_is_gone_on_with(
    federated: Federate, forgets: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn.federated import client

    with_all = federated("all", rounds=3)
    plain, calls = client.Client.trained, []

    def fails_later(self: Any, weights: Any, config: Any) -> Any:
        calls.append(self.name)
        if len(calls) > 2:
            raise TrainingError("no power")
        return plain(self, weights, config)

    monkeypatch.setattr(client.Client, "trained", fails_later)
    with pytest.raises(TrainingError, match="round 2"):
        forgets(with_all.folder, "client:bolt")
    monkeypatch.setattr(client.Client, "trained", plain)
    calls.clear()
    done = forgets(with_all.folder, "client:bolt")
    assert done.lineage.digest == federated("never", 3, exclude="client:bolt").lineage.digest


def test_what_is_impossible_is_refused_in_a_line(
    federated: Federate, forgets: Callable[..., Any], adapter: Path, tmp_path: Path
) -> None:
    with_all = federated("all")
    with pytest.raises(SelectionError, match=r"no client 'blot' \(did you mean 'bolt'"):
        forgets(with_all.folder, "client:blot")
    with pytest.raises(OptionError, match=r"retrain, fed_eraser, local_npo.*'fed_eraser'"):
        forgets(with_all.folder, "client:bolt", method="fed_erase")
    with pytest.raises(OptionError, match=r"unknown option 'budgt'.*'budget'"):
        forgets(with_all.folder, "client:bolt", options={"budgt": 1})
    with pytest.raises(OptionError, match="budget must be above 0"):
        forgets(with_all.folder, "client:bolt", options={"budget": 2})
    with pytest.raises(ModelError, match="`unlearn federate` makes one"):
        forgets(adapter, "client:bolt")
    with pytest.raises(OptionError, match="--plan"):
        forgets(with_all.folder, "client:bolt", plan=True)
    assert not (tmp_path / "cleaned").exists()
    (with_all.folder / "rounds" / "round-002" / "round.json").unlink()
    with pytest.raises(LineageError, match="rounds or weights are not those"):
        forgets(with_all.folder, "client:bolt")


def test_records_that_are_gone_from_the_data_are_told(
    federated: Federate, forgets: Callable[..., Any], firms_file: Path, tmp_path: Path
) -> None:
    with_all = federated("all")
    lines = firms_file.read_text().splitlines(keepends=True)
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(line for line in lines if json.loads(line)["id"] != "r0"))
    done = forgets(with_all.folder, "client:bolt", data=fewer)
    assert any("1 record(s) that clients were trained on" in note for note in done.notes)


def test_other_methods_take_a_federated_adapter_as_any_other(
    federated: Federate, tiny_model: Path, firms_file: Path, tmp_path: Path
) -> None:
    from unlearn.apps.cli import run

    with_all = federated("all")
    words = ["--model", str(tiny_model), "--data", str(firms_file), "--adapter"]
    words += [str(with_all.folder), "--forget", "subject:person0", "--method", "npo"]
    assert run(["forget", *words, "--output", str(tmp_path / "npo"), "-o", "max_steps=2"]) == 0
