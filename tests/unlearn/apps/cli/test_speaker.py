"""Of several processes the first that ends speaks, and all end with its exit code."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from unlearn.apps.cli import speaker as module
from unlearn.apps.cli.speaker import lost_another, voice

As = Callable[[int], None]


class Store:
    """What a launcher keeps for its processes."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        if self.kept.get(key, "") == expected:
            self.kept[key] = value
        return self.kept[key].encode()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> As:
    """Be another of three processes."""

    def be(rank: int) -> None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")

    return be


def test_the_first_that_ends_speaks(process: As, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    monkeypatch.setattr(module, "_store", lambda: store)
    process(1)
    assert voice(2) == (True, 2)
    process(0)
    assert voice(143) == (False, 2)  # the launcher's SIGTERM, after the other had failed
    process(2)
    assert voice(1) == (False, 2)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # the launcher tries again
    assert voice(1) == (True, 1)


def test_without_a_store_each_speaks_for_itself(
    process: As, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> None:
        raise KeyError("MASTER_ADDR")

    monkeypatch.setattr(module, "_store", nowhere)
    process(1)
    assert voice(2) == (True, 2)
    assert voice(143) == (False, 143)  # which came to all, and the first says it
    process(0)
    assert voice(143) == (True, 143)


def test_one_process_looks_for_no_other(process: As, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_store", lambda: pytest.fail("nobody is there"))
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert voice(2) == (True, 2)
    assert not lost_another(RuntimeError("Connection closed by peer"))
    monkeypatch.setenv("WORLD_SIZE", "2")  # a contradiction, which is what is to be said
    assert voice(2) == (True, 2)


def test_a_broken_connection_is_another_s_end(process: As) -> None:
    process(0)
    assert lost_another(RuntimeError("[gloo/tcp/pair.cc:554] Connection closed by peer [::1]"))
    assert not lost_another(RuntimeError("shape '[32, 0]' is invalid for input of size 16"))
    assert not lost_another(ValueError("gloo"))
