"""Read an audit back from its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearn.errors import DataError
from unlearn_eval._measure import Scores
from unlearn_eval._table import Audit, AuditRow
from unlearn_eval._verdict.evidence import Evidence, Fact, Twins, View
from unlearn_eval._verdict.policy import AS_IS, VERBATIM
from unlearn_eval.scores import TokenScores
from unlearn_eval.utility import loss

__all__ = [
    "AUDIT",
    "SCORES",
    "ScoreFile",
    "load_audit",
    "load_evidence",
    "load_scores",
    "read_audit",
    "sha256",
]

AUDIT, SCORES = "audit.json", "scores.parquet"

_KEYS = {"deployment": AS_IS, "prompt_state": VERBATIM}
"""Columns of the view of a row, and what an empty cell or an absent column stands for."""


class ScoreFile(NamedTuple):
    """What `scores.parquet` holds.

    Attributes:
        views: by view, score matrices by state and split.
        subjects: by split, the subject of each record, None where it has none.
    """

    views: Mapping[View, Scores]
    subjects: Mapping[str, Sequence[Hashable | None]]


def load_scores(folder: str | Path) -> ScoreFile:
    """Read the score matrices of an audit.

    Args:
        folder: what `unlearn audit` wrote.

    Returns:
        All matrices: of the models as they are, treated, and asked in other ways.

    Raises:
        DataError: if `scores.parquet` is missing or holds something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(folder) / SCORES
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot read scores: {reason}; run the audit again") from error
    for name in ("state", "split", "id", "log_prob"):
        if name not in table.column_names:
            raise DataError(f"{path}: no column {name!r}; this is not the score file of an audit")
    views: dict[View, dict[str, dict[str, TokenScores]]] = {}
    subjects: dict[str, Sequence[Hashable | None]] = {}
    for view, state, split, part in _parts(table):
        try:
            matrix = TokenScores.from_table(part)
        except (DataError, pa.ArrowException, AttributeError, TypeError, ValueError) as error:
            raise DataError(f"{path}, state {state!r}, split {split!r}: {error}") from error
        views.setdefault(view, {}).setdefault(state, {})[split] = matrix
        if view == View() and "subject" in part.column_names:
            subjects.setdefault(split, part.column("subject").to_pylist())
    return ScoreFile(views, subjects)


def _parts(table: Any) -> Iterator[tuple[View, str, str, Any]]:
    """Yield the rows of each (view, state, split) in the order of the file."""
    columns = [
        [value or default for value in table.column(name).to_pylist()]
        if name in table.column_names
        else [default] * table.num_rows
        for name, default in {**_KEYS, "state": "", "split": ""}.items()
    ]
    where: dict[tuple[str, ...], list[int]] = {}
    for i, key in enumerate(zip(*columns, strict=True)):
        where.setdefault(key, []).append(i)
    for (deployment, prompt_state, state, split), rows in where.items():
        part = table.take(rows).combine_chunks()
        # a column of another matrix is empty here
        full = [n for n in part.column_names if part.column(n).null_count < part.num_rows]
        kept = [name for name in part.column_names if name in full or name == "subject"]
        yield View(deployment, prompt_state), state, split, part.select(kept)


def read_audit(folder: str | Path) -> dict[str, Any]:
    """Read `audit.json`.

    Args:
        folder: what `unlearn audit` wrote.

    Returns:
        Its content.

    Raises:
        DataError: if it is missing or of another schema.
    """
    path = Path(folder) / AUDIT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the audit: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != 1 or "rows" not in content:
        raise DataError(f"{path}: this is no audit of schema 1; run `unlearn audit` again")
    return content


def sha256(folder: str | Path) -> str:
    """Return the SHA-256 of `audit.json` in hexadecimal."""
    return hashlib.sha256((Path(folder) / AUDIT).read_bytes()).hexdigest()


def load_audit(folder: str | Path) -> Audit:
    """Read an audit back, but for `measures` and `said`, which no file holds in full.

    Args:
        folder: what `unlearn audit` wrote.

    Returns:
        The audit.

    Raises:
        DataError: if a file is missing or holds something else.
    """
    content = read_audit(folder)
    file = load_scores(folder)
    scores = file.views.get(View(), {})
    prompted: dict[str, dict[str, TokenScores]] = {}
    for view, states in file.views.items():
        if view.deployment == AS_IS and view.prompt_state != VERBATIM:
            for state, splits in states.items():
                prompted.setdefault(state, {})[view.prompt_state] = splits["forget"]
    try:
        rows = [AuditRow(**row) for row in content["rows"]]
    except TypeError as error:
        raise DataError(f"{Path(folder) / AUDIT}: a row is not one of schema 1: {error}") from error
    return Audit(
        model=content["model"],
        states=content["states"],
        rows=rows,
        scores=scores,
        prompted=prompted,
        training=content.get("training", {}),
        subjects=file.subjects,
        notes=tuple(content.get("notes", ())),
        policy=content.get("policy"),
    )


def load_evidence(folder: str | Path, twins: str | Path | None = None) -> Evidence:
    """Read from an audit's folder what a verdict is decided from, and check that it is one story.

    Args:
        folder: what `unlearn audit` wrote.
        twins: a JSON file `{"randomised": false, "twins": {"forget id": ["holdout id", …]}}`;
            `randomised` for canaries of which a coin included one of each pair.

    Returns:
        The evidence, with facts for G0.

    Raises:
        DataError: if a file is missing or holds something else.
    """
    content, file = read_audit(folder), load_scores(folder)
    scores = file.views.get(View(), {})
    if "forget" not in scores.get("after", {}):
        raise DataError(f"{Path(folder) / SCORES}: no scores of the state 'after' to judge")
    paired = _twins(Path(twins), scores["after"]) if twins is not None else None
    return Evidence(file.views, file.subjects, paired, list(_facts(content, scores)))


def _facts(content: Mapping[str, Any], scores: Scores) -> Iterator[Fact]:
    """Yield what the files say about whether they belong together."""
    states: dict[str, str] = content["states"]
    yield Fact("audit.json and scores.parquet hold the same states", set(states) == set(scores))
    means = {
        (row["state"], row["split"]): row["value"]
        for row in content["rows"]
        if (row["probe"], row["metric"]) == ("utility.loss", "mean")
        and (row["deployment"], row["prompt_state"]) == (AS_IS, VERBATIM)
    }
    found = {(s, k): float(np.mean(loss.score(m))) for s, v in scores.items() for k, m in v.items()}
    same = set(means) == set(found) and all(
        value is None or np.isclose(found[key], value, rtol=1e-9, atol=1e-12)
        for key, value in means.items()
    )
    yield Fact("the losses in audit.json are those of scores.parquet", same)
    references = [digest for state, digest in states.items() if state.startswith("reference:")]
    if references:
        others = {states[s] for s in ("after", "before") if s in states}
        distinct = len(set(references)) == len(references) and not others & set(references)
        yield Fact("the references differ from each other and from the audited model", distinct)


def _twins(path: Path, after: Mapping[str, TokenScores]) -> Twins:
    """Read which holdout records are the twins of each forgotten one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        named = {
            str(k): [v] if isinstance(v, str) else list(v) for k, v in content["twins"].items()
        }
        randomised = bool(content.get("randomised", False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a file of twins: {error!r}; it holds "
            '{"randomised": false, "twins": {"forget id": ["holdout id"]}}'
        ) from error
    unseen = after["holdout"].ids if "holdout" in after else ()
    at = {name: i for i, name in enumerate(unseen)}
    for name in after["forget"].ids:
        if name not in named:
            raise DataError(f"{path}: no twins of record {name!r}")
        lost = [twin for twin in named[name] if twin not in at]
        if lost:
            raise DataError(f"{path}: the twin {lost[0]!r} of {name!r} is not in the holdout")
    counts = {len(named[name]) for name in after["forget"].ids}
    if len(counts) > 1 or 0 in counts:
        raise DataError(f"{path}: every record needs the same number of twins, one or more")
    positions = [[at[twin] for twin in named[name]] for name in after["forget"].ids]
    return Twins(np.array(positions, dtype=np.int64), randomised)
