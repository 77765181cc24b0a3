"""Records are opened, chosen, compared and halved in memory that a million of them fit into."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARE = 0.9 * 2**30 / 1_000_000
"""Bytes a row: 0.9 GiB at a million (measured: see docs/performance.md)."""


@pytest.mark.slow
def test_memory_and_time_are_linear_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    from bench_million import measured

    few, many = measured(10_000), measured(100_000)
    for found in (few, many):
        rows = found["rows"]
        assert found["chosen"] == len(range(98, rows, rows // 1000))
        assert found["of a person"] > 0
        assert sum(found["halves"]) == rows
        # each hundredth record repeats the one before, and some of these were chosen
        assert rows - found["kept"] > found["chosen"]
    grown = many["rows"] - few["rows"]
    assert (many["peak"] - few["peak"]) / grown < SHARE
    for name in ("open", "leave out copies", "halve"):
        # ten times the rows; twice that is what a busy machine may add
        assert many["seconds"][name] < 20 * max(few["seconds"][name], 0.01), name
