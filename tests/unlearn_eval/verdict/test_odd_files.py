"""Files of odd types are refused in a line: what was tampered with is no evidence."""

from __future__ import annotations

import json
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from unlearn.errors import DataError, UnlearnError
from unlearn_eval.verdict.load import load_scores
from unlearn_eval.verdict.replayed import decided_by_replay, with_replay
from unlearn_eval.verdict.verify import verify

from .test_replayed import audited, by_audit, written

pytestmark = pytest.mark.usefixtures("undrawn")
DEEP = "[" * 100_000 + "]" * 100_000


def where(error: Exception) -> str:
    last = traceback.extract_tb(sys.exc_info()[2])[-1]
    return f"{type(error).__name__}: {str(error)[:80]} ({Path(last.filename).name}:{last.lineno})"


@pytest.mark.parametrize("text", [DEEP, "9" * 5_000, '{"schema": 1, "schema": 1}', "null", "\xff"])
def test_what_is_no_file_of_ours_is_refused(text: str, tmp_path: Path) -> None:
    for name in ("audit.json", "replay.json"):
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(UnlearnError):
        verify(tmp_path)
    with pytest.raises(UnlearnError):
        decided_by_replay(tmp_path, "2026-01-01T00:00:00+00:00")


def test_a_replay_of_odd_types_is_refused(tmp_path: Path, oddly: Any) -> None:
    content = written(tmp_path)
    wrong = []
    for what, odd in oddly(content):
        (tmp_path / "replay.json").write_text(json.dumps(odd))
        try:
            decided_by_replay(tmp_path, "2026-01-01T00:00:00+00:00").as_dict()
            with_replay(by_audit(), tmp_path, audited())
        except UnlearnError:
            pass
        except Exception as error:
            wrong.append(f"{what}: {where(error)}")
    assert not wrong, "\n".join([str(len(wrong)), *wrong[:40]])


def test_an_audit_of_odd_types_is_refused(
    folder: Any, tmp_path: Path, oddly: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are read once: what is tampered with is what a text editor can change."""
    from unlearn_eval.verdict import load

    content = json.loads((folder[0] / "audit.json").read_text())
    (tmp_path / "a").mkdir()
    shutil.copy(folder[0] / "scores.parquet", tmp_path / "a" / "scores.parquet")
    scores = load.load_scores(folder[0])
    monkeypatch.setattr(load, "load_scores", lambda _: scores)
    monkeypatch.setattr(load, "_facts", facts_without_losses(load._facts))
    from unlearn_eval.verdict import verify as verdicts

    monkeypatch.setattr(verdicts, "decide", lambda evidence, *_, **__: evidence)
    wrong = []
    for what, odd in oddly(content, most=1):
        (tmp_path / "a" / "audit.json").write_text(json.dumps(odd))
        try:
            verify(tmp_path / "a")
        except UnlearnError:
            pass
        except Exception as error:
            wrong.append(f"{what}: {where(error)}")
    assert not wrong, "\n".join([str(len(wrong)), *wrong[:60]])


def facts_without_losses(real: Any) -> Any:
    """Compute nothing anew from the scores, which takes long: everything else stays."""
    return lambda content, scores: list(real(content, {s: {} for s in scores}))


def test_an_audit_that_was_not_changed_is_still_read(folder: Any) -> None:
    assert verify(folder[0]).outcome == "INCONCLUSIVE"


def test_states_asked_about_other_records_are_refused(folder: Any, tmp_path: Path) -> None:
    place = tmp_path / "scores.parquet"
    table = pq.read_table(folder[0] / "scores.parquet")
    pq.write_table(table, place)
    load_scores(tmp_path)
    pq.write_table(table.slice(1), place)  # the first state lacks its first record
    with pytest.raises(DataError, match="has other records of the split"):
        load_scores(tmp_path)
