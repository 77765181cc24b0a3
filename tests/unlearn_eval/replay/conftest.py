"""A retrained adapter, and replays that train in this process: a fresh one starts slowly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn.provenance.lineage import Lineage, weights_digest
from unlearn.runs.forgetting import forget
from unlearn_eval.replay.result import Replay
from unlearn_eval.replay.run import replay

FORGOTTEN = "subject:person0"


@pytest.fixture(autouse=True)
def _key(_own_home: None, lineage_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the work of the fresh process here."""
    from unlearn_eval.replay import worker

    def run(file: Path, _: dict[str, str]) -> int:
        return worker.main(file)

    monkeypatch.setattr("unlearn_eval.replay.retraining._run", run)


@pytest.fixture(scope="session")
def retrained_once(
    tiny_model: Path,
    data_file: Path,
    adapter: Path,
    lineage_key: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("retrained") / "cleaned"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", lineage_key)
        forget(
            tiny_model,
            data_file,
            FORGOTTEN,
            folder,
            adapter=adapter,
            method="retrain",
            progress=False,
        )
    return folder


@pytest.fixture
def retrained(retrained_once: Path, tmp_path: Path) -> Path:
    """An adapter that was retrained without two of twelve records, free to be tampered with."""
    return Path(shutil.copytree(retrained_once, tmp_path / "cleaned"))


Again = Callable[..., Replay]


@pytest.fixture
def again(in_this_process: None, data_file: Path, retrained: Path) -> Again:
    """Replay the retrained adapter, with other arguments where they are given."""

    def run(data: Path = data_file, **options: Any) -> Replay:
        return replay(retrained, data, quiet=True, **options)

    return run


def rewritten(folder: Path, **changes: Any) -> None:
    """Change what a lineage says; its digest is made to fit the weights that lie beside it."""
    line = Lineage.read(folder)
    assert line is not None
    line.model_copy(update={"digest": weights_digest(folder), **changes}).write(folder)
