"""Differential privacy of clients: the noise, the clipping, and what is claimed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearn.errors import LineageError, OptionError, TrainingError
from unlearn.federated.aggregation import noisy_average, step
from unlearn.federated.history import Rounds
from unlearn.federated.plan import takes_part

Federate = Callable[..., Any]
DP = {"epsilon": 8, "clip": 0.01}


@pytest.fixture
def private(federated: Federate) -> Federate:
    """Trains with differential privacy of clients."""
    pytest.importorskip("opacus", reason="no Opacus: `make federated` has an environment with it")

    def run(name: str = "private", **more: Any) -> Any:
        options = {"fraction": 0.5, **more.pop("options", {})}
        return federated(name, dp={**DP, **more.pop("dp", {})}, options=options, **more)

    return run


def test_the_claim_is_what_the_accountant_finds(private: Federate) -> None:
    from unlearn.training.private.accounting import spent

    done = private(rounds=3)
    claim = done.lineage.privacy
    assert claim is not None
    assert (claim.unit, claim.units, claim.steps) == ("client", 3, 3)
    assert (claim.sample_rate, claim.expected_batch) == (0.5, 1.5)
    assert claim.relation == "add or remove one unit"
    assert claim.accounted == spent(claim.noise_multiplier, 0.5, 3, claim.delta)
    assert claim.accounted <= claim.epsilon == 8
    assert claim.delta == pytest.approx(1 / 30)
    assert done.lineage.finetuned_with["privacy"]["unit"] == "client"
    # the same command makes the same adapter; without one client, other noise
    assert private("again", rounds=3).lineage.digest == done.lineage.digest


def test_updates_are_clipped_and_the_noise_has_its_scale(
    private: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn.federated import server

    seen: list[dict[str, Any]] = []

    def watched(before: Any, updates: Any, noise: Any, **more: Any) -> Any:
        after = noisy_average(before, updates, noise, **more)
        seen.append({"before": before, "updates": updates, "noise": noise, "after": after, **more})
        return after

    monkeypatch.setattr(server, "noisy_average", watched)
    done = private(rounds=4)
    claim = done.lineage.privacy
    assert len(seen) == 4
    for one in seen:
        assert one["clip"] == claim.clip
        assert one["expected"] == claim.expected_batch
        assert one["noise"].std() == pytest.approx(claim.noise_multiplier * claim.clip, rel=0.1)
        moved = step(one["before"], one["after"])
        total = np.concatenate([value.ravel() for value in moved.values()]) * claim.expected_batch
        signal = np.linalg.norm(total - one["noise"])
        assert signal <= claim.clip * len(one["updates"]) + 1e-4
    assert any(one["updates"] for one in seen)
    # each round has noise of its own
    assert not np.allclose(seen[0]["noise"], seen[1]["noise"])


def test_nothing_is_kept_of_what_single_clients_sent(private: Federate) -> None:
    done = private(rounds=2)
    kept = Rounds(done.folder / "rounds")
    for each in kept.all():
        files = {path.name for path in (kept.folder / f"round-{each.number:03}").iterdir()}
        assert files == {"global.safetensors", "round.json"}
        assert all(part.loss is None for part in each.parts)
        assert all(part.tokens == 0 for part in each.parts)


def test_a_round_in_which_nobody_answers_is_a_round(
    private: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it ended would tell who was to take part; its noise was accounted for."""
    from unlearn.federated import client

    whole = private("whole", rounds=3)

    def fails(*_: Any) -> Any:
        raise TrainingError("no power")

    monkeypatch.setattr(client.Client, "trained", fails)
    done = private("none", rounds=3)
    assert Rounds(done.folder / "rounds").last() == 3
    # and its noise is not that of a run in which they did answer
    weights = [Rounds(each.folder / "rounds").weights(1) for each in (whole, done)]
    assert any(not np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_other_clients_or_other_owners_have_other_noise(
    private: Federate, firms_file: Path
) -> None:
    from unlearn.federated import server

    keys = [server._noise_key("ab" * 32, names) for names in (["a"], ["b"], ["a", "b"], [])]
    assert len(set(keys)) == 4
    drawn = []
    rows = [json.loads(line) for line in firms_file.read_text().splitlines()]
    for name in ("one", "two"):
        firms_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        folder = private(name, rounds=1).folder
        drawn.append(json.loads((folder / "rounds" / "run.json").read_text())["clients"])
        rows[0]["firm"], rows[1]["firm"] = rows[1]["firm"], rows[0]["firm"]
    assert drawn[0].keys() == drawn[1].keys()
    assert drawn[0] != drawn[1]


def test_the_lineage_says_nothing_of_single_clients(private: Federate) -> None:
    done = private(rounds=2)
    for member in done.lineage.federation.members:
        assert (member.records, member.rounds) == ([], [])
    seed = done.lineage.seed
    macs = [member.client for member in done.lineage.federation.members]
    played = [{part.client for part in each.parts} for each in Rounds(done.folder / "rounds").all()]
    guessed = [{m for m in macs if takes_part(m, n, seed, 0.5)} for n in (1, 2)]
    assert played != guessed  # the seed that stands there is not that of the coins


@pytest.mark.parametrize(
    ("dp", "options", "words"),
    [
        ({}, {"fraction": 1.0}, "below 1"),
        ({}, {"aggregate": "product"}, "aggregate=product"),
        ({}, {"least": 2}, "least"),
        ({"delta": 0.5}, {}, "must be below 1/3"),
        ({"unit": "person"}, {}, "unit=person"),
        ({"epsilon": -1}, {}, "epsilon"),
        ({"epsilon": 0.01}, {}, "at least"),
    ],
)
def test_what_breaks_the_promise_is_refused(
    private: Federate, dp: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        private(dp=dp, options=options)


def test_clients_are_no_units_of_a_plain_training(tiny_model: Path, firms_file: Path) -> None:
    from unlearn.runs.finetuning import finetune

    with pytest.raises(OptionError, match="unit=client"):
        finetune(
            tiny_model, firms_file, firms_file.parent / "x", dp={"epsilon": 8, "unit": "client"}
        )


def test_a_client_is_taken_out_by_training_again(
    private: Federate, tiny_model: Path, firms_file: Path, tmp_path: Path
) -> None:
    from unlearn.federated.forgetting import forget_federated

    done = private(rounds=1)
    with pytest.raises(LineageError, match="with --exclude"):
        forget_federated(tiny_model, firms_file, "client:bolt", tmp_path / "x", adapter=done.folder)
