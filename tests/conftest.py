"""Tiny models and data for the whole suite; nothing here needs a network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's key and suppression list."""
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "unlearn-home"))
    monkeypatch.delenv("UNLEARN_KEY", raising=False)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and data, where there is one."""
    folder = os.environ.get("UNLEARN_TEST_ASSETS")
    if not folder:
        pytest.skip("UNLEARN_TEST_ASSETS is not set: no real model and data to test on")
    return Path(folder).resolve()
