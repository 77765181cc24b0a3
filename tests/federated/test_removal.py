"""Taking a client out of a federation: exactly, and approximately."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearn.errors import LineageError, ModelError, OptionError, SelectionError, TrainingError
from unlearn.federated.history import Rounds
from unlearn.federated.plan import client_mac
from unlearn.provenance.keys import Key

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
    assert auto.lineage.budget["kept_loss"]["target"] > 0
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
    federated: Federate, forgets: Callable[..., Any], power_fails: Callable[[int], Any]
) -> None:
    with_all = federated("all", rounds=3)
    with power_fails(2), pytest.raises(TrainingError, match="round 2"):
        forgets(with_all.folder, "client:bolt")
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
    with pytest.raises(LineageError, match="put back the folder as it was made"):
        forgets(with_all.folder, "client:bolt")


def test_records_that_are_gone_from_the_data_go_from_the_weights_too(
    federated: Federate, forgets: Callable[..., Any], firms_file: Path, tmp_path: Path
) -> None:
    """Whoever was trained on them is replayed, from before it first took part."""
    with_all = federated("all")
    lines = firms_file.read_text().splitlines(keepends=True)
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(line for line in lines if json.loads(line)["id"] != "r0"))
    done = forgets(with_all.folder, "client:bolt", data=fewer)
    assert any("1 record(s) that clients were trained on" in note for note in done.notes)
    never = federated("never", exclude="r0,r1,r4,r7,r10")
    assert done.lineage.digest == never.lineage.digest
    assert len(done.lineage.records.forgotten) == 5


def test_a_round_before_the_asked_client_came_holds_nothing_that_is_gone(
    federated: Federate, forgets: Callable[..., Any], firms_file: Path, tmp_path: Path
) -> None:
    seed, options = 3, {"fraction": 0.5}
    with_all = federated("all", rounds=4, seed=seed, options=options)
    late = max(with_all.lineage.federation.members, key=lambda m: min(m.rounds, default=0))
    early = next(m for m in with_all.lineage.federation.members if 1 in m.rounds)
    rows = [json.loads(line) for line in firms_file.read_text().splitlines()]
    firm = {client_mac(name, Key.load()): name for name in ("acme", "bolt", "cask")}
    lost = next(row["id"] for row in rows if row["firm"] == firm[early.client])
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(json.dumps(row) + "\n" for row in rows if row["id"] != lost))
    assert min(late.rounds) > 1
    done = forgets(with_all.folder, f"client:{firm[late.client]}", data=fewer)
    assert done.lineage.budget["from"] == 0
    gone = [row["id"] for row in rows if row["firm"] == firm[late.client]] + [lost]
    never = federated("never", 4, seed=seed, exclude=",".join(gone), options=options)
    assert done.lineage.digest == never.lineage.digest


def test_the_rounds_of_another_federation_are_refused(
    federated: Federate, forgets: Callable[..., Any]
) -> None:
    one, other = federated("one"), federated("other", seed=7)
    shutil.rmtree(one.folder / "rounds")
    shutil.copytree(other.folder / "rounds", one.folder / "rounds")
    with pytest.raises(LineageError, match="put back the folder as it was made"):
        forgets(one.folder, "client:bolt")


def test_a_kept_client_that_fails_ends_an_exact_removal(
    federated: Federate, forgets: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn.federated import client

    with_all, plain = federated("all"), client.Client.trained

    def fails(self: Any, weights: Any, config: Any) -> Any:
        if self.name == "acme":
            raise TrainingError("no power")
        return plain(self, weights, config)

    monkeypatch.setattr(client.Client, "trained", fails)
    with pytest.raises(TrainingError, match="round 1: 1 of 2 clients answered, and 2 must"):
        forgets(with_all.folder, "client:bolt")
    eased = forgets(with_all.folder, "client:bolt", "eased", method="fed_eraser")
    assert any("1 client(s) were lost" in note for note in eased.notes)


def test_what_two_clients_share_each_trains_on_and_a_replay_knows(
    federated: Federate, firms_file: Path
) -> None:
    from unlearn_eval.replay import retraining, worker
    from unlearn_eval.replay.run import replay

    rows = [json.loads(line) for line in firms_file.read_text().splitlines()]
    rows[1] = {**rows[0], "id": "r1", "firm": "bolt"}
    firms_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = federated("all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retraining, "_run", lambda file, _: worker.main(file))
        found = replay(done.folder, firms_file, quiet=True)
    weights = [each for each in found.findings if each.what == "weights"]
    assert weights, found.words
    assert weights[0].passed, weights[0].words


def test_auto_stops_by_a_rounded_loss_and_the_lineage_says_by_which(
    federated: Federate, forgets: Callable[..., Any]
) -> None:
    with_all = federated("all", rounds=3)
    done = forgets(with_all.folder, "client:bolt", options={"budget": "auto", "quality": 5.0})
    budget = done.lineage.budget
    losses = budget["kept_loss"]
    assert (budget["rounds"], budget["quality"]) == (1, 5.0)
    assert losses["target"] == round(losses["target"], 2)
    assert losses["drift"] == pytest.approx(losses["new"] - losses["target"], abs=1e-4)
    # the next removal aims at what the first one had to reach, not at what it came to
    again = forgets(done.folder, "r0", "again", options={"budget": "auto", "quality": 5.0})
    assert again.lineage.budget["kept_loss"]["target"] == pytest.approx(losses["target"], abs=0.05)
