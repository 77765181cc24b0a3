"""Who takes part, by coins that do not depend on others; what a plan holds; rounds on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from unlearn.errors import LineageError, OptionError, OutputError, SelectionError
from unlearn.federated.history import Part, Round, Rounds
from unlearn.federated.members import Members, members_of
from unlearn.federated.plan import client_mac, client_seed, takes_part
from unlearn.federated.settings import settings_of
from unlearn.provenance.keys import Key

KEY = Key(bytes(range(32)))


def test_coins_are_fair_and_of_each_client_alone() -> None:
    macs = [client_mac(f"client {i}", KEY) for i in range(400)]
    drawn = [takes_part(mac, 3, 0, 0.25) for mac in macs]
    assert 70 < sum(drawn) < 130
    assert drawn != [takes_part(mac, 4, 0, 0.25) for mac in macs]
    assert all(takes_part(mac, 1, 0, 1.0) for mac in macs)
    assert takes_part(macs[7], 3, 0, 0.25) is drawn[7]


def test_seeds_differ_by_client_and_round() -> None:
    seeds = {client_seed(mac, n, 0) for mac in ("a", "b") for n in (1, 2)}
    assert len(seeds) == 4
    assert max(seeds) < 2**31


def test_names_are_keyed() -> None:
    assert client_mac("ann", KEY) != client_mac("ann", Key(bytes(32)))
    assert "ann" not in client_mac("ann", KEY)


def test_rounds_are_whole_and_in_their_order(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path / "rounds")
    assert rounds.last() == -1
    weights = {"w": np.float32([1, 2])}
    rounds.write(Round(number=0), weights, {})
    part = Part(client="ab", records=3, steps=2, tokens=10)
    rounds.write(Round(number=1, parts=[part], lost={"cd": "late"}), weights, {"ab": weights})
    assert rounds.last() == 1
    assert rounds.round(1).tokens == 10
    assert rounds.sent(1, "ab")["w"].tolist() == [1.0, 2.0]
    with pytest.raises(LineageError, match="cannot be read"):
        rounds.sent(1, "cd")
    # a round after one that is missing does not count
    rounds.write(Round(number=3), weights, {})
    assert rounds.last() == 1
    with pytest.raises(OutputError, match="not finite"):
        rounds.write(Round(number=2), {"w": np.float32([np.inf])}, {})
    assert rounds.last() == 1
    (tmp_path / "rounds" / "round-001" / "round.json").write_text("{}")
    with pytest.raises(LineageError, match="no round"):
        rounds.round(1)


@pytest.fixture
def members(tmp_path: Path) -> Members:
    from unlearn.data.records import Records

    rows = [
        {"id": f"r{i}", "prompt": f"What of {i}?", "completion": f"It is {i}.", "firm": firm}
        for i, firm in enumerate(["acme", "acme", "bolt", "cask"])
    ]
    path = tmp_path / "firms.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return members_of(path, Records.load(path), "firm", KEY)


def test_a_client_is_named_by_its_field(members: Members) -> None:
    assert set(members.clients.values()) == {"acme", "bolt", "cask"}
    assert members.select("client:acme").ids == ["r0", "r1"]
    assert members.select(["client:bolt", "r3"]).ids == ["r2", "r3"]
    assert members.without(members.select("client:acme")).names == ["bolt", "cask"]


def test_an_unknown_client_is_refused_with_the_nearest(members: Members) -> None:
    with pytest.raises(SelectionError, match=r"no client 'acmee' \(did you mean 'acme'\?\)"):
        members.select("client:acmee")
    with pytest.raises(SelectionError, match="no record would be left"):
        members.without(members.records)


def test_clients_are_somebody(members: Members) -> None:
    with pytest.raises(OptionError, match="name a field"):
        members_of("x", members.records, "record", KEY)
    with pytest.raises(OptionError, match="--client-by frm"):
        members_of(members.records.source, members.records, "frm", KEY)


def test_options_are_of_one_round_and_unknown_ones_refused() -> None:
    settings = settings_of({"aggregate": "product", "learning_rate": 1e-3, "r": 4}, {}, 5)
    assert settings.local.epochs == 1
    assert settings.pooled.epochs == 5
    assert settings.lora.r == 4
    assert settings.averaging.aggregate == "product"
    with pytest.raises(OptionError, match=r"unknown option 'agregate' \(did you mean 'aggregate'"):
        settings_of({"agregate": "product"}, {}, 5)
    with pytest.raises(OptionError, match="use_dora"):
        settings_of({"aggregate": "product", "use_dora": True}, {}, 5)
    with pytest.raises(OptionError, match="for forgetting"):
        settings_of({"stop": "none"}, {}, 5)
    with pytest.raises(OptionError, match="fraction"):
        settings_of({"fraction": 0}, {}, 5)


def test_tensors_come_back_as_they_were_however_they_lay(tmp_path: Path) -> None:
    weights = {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    rounds = Rounds(tmp_path / "rounds")
    rounds.write(Round(number=0), weights, {"ab": weights})
    assert (rounds.weights(0)["w"] == weights["w"]).all()
    assert (rounds.sent(0, "ab")["w"] == weights["w"]).all()
