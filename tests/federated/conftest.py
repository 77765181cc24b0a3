"""Small federations on the tiny model of the whole suite."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unlearn.errors import TrainingError

FIRMS = ("acme", "bolt", "cask")
TRAINING = {"learning_rate": 1e-2, "batch_size": 2, "epochs": 1, "r": 4, "lora_alpha": 8}


@pytest.fixture(autouse=True)
def _one_key(_own_home: None, lineage_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes part follows from the key: the same each time."""
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)


@pytest.fixture
def firms_file(data_file: Path, tmp_path: Path) -> Path:
    """The twelve records of the suite, of three clients."""
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    path = tmp_path / "firms.jsonl"
    text = (json.dumps({**row, "firm": FIRMS[i % 3]}) + "\n" for i, row in enumerate(rows))
    path.write_text("".join(text))
    return path


@pytest.fixture
def federated(tiny_model: Path, firms_file: Path, tmp_path: Path) -> Callable[..., Any]:
    """Trains a federation in this process; options by name."""
    pytest.importorskip("flwr", reason="no Flower: `make federated` has an environment with it")
    from unlearn.federated.federating import federate

    def run(name: str = "federated", rounds: int = 2, **more: Any) -> Any:
        options = {**TRAINING, **more.pop("options", {})}
        return federate(
            tiny_model,
            more.pop("data", firms_file),
            "firm",
            tmp_path / name,
            rounds=rounds,
            options=options,
            progress=False,
            **more,
        )

    return run


@pytest.fixture
def power_fails() -> Callable[[int], Any]:
    """Lets clients train so many times within a block, and none of them after that."""

    @contextlib.contextmanager
    def after(trainings: int) -> Iterator[None]:
        from unlearn.federated import client

        plain, calls = client.Client.trained, []

        def trained(self: Any, weights: Any, config: Any) -> Any:
            calls.append(self.name)
            if len(calls) > trainings:
                raise TrainingError("no power")
            return plain(self, weights, config)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client.Client, "trained", trained)
            yield

    return after
