"""`scores.parquet`: every score matrix of an audit in one table, and back."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearn.errors import DataError
from unlearn.provenance.keys import Key
from unlearn_eval.results.audit_result import Audit
from unlearn_eval.results.record_names import keyed_name
from unlearn_eval.scores.measures import Measurement
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["MatrixPlace", "StoredMatrix", "read_scores", "scores_table"]


class MatrixPlace(NamedTuple):
    """Where a score matrix belongs; fields as of an audit's rows."""

    state: str
    split: str
    prompt_state: str = "verbatim"
    deployment: str = "as-is"


def scores_table(audit: Audit, key: Key | None = None) -> Any:
    """Lay all score matrices of an audit out, a row a record, and what else was measured of it.

    Under a key, records are named by `keyed_name` instead of their ids; not so canaries, which are
    invented, and whose pairs `audit.json` holds.

    Columns: those of `MatrixPlace`; `cluster`, a number that records about one subject share (never
    the subject itself), empty where it is not known; those of `TokenScores.to_table`; and a column
    `PROBE.METRIC` for each further measurement of a record.
    """
    import pyarrow as pa

    clusters = _clusters(audit)
    parts = []
    for place, matrix in _matrices(audit):
        table = matrix.to_table()
        invented = audit.canaries is not None and place.split in ("forget", "holdout")
        if key is not None and not invented:
            names = pa.array([keyed_name(name, key) for name in matrix.ids], type=pa.string())
            table = table.set_column(table.column_names.index("id"), "id", names)
        named = {key: pa.array([value] * matrix.records) for key, value in place._asdict().items()}
        known = clusters.get(place.split, {})
        named["cluster"] = pa.array([known.get(name) for name in matrix.ids], type=pa.int64())
        for position, (name, values) in enumerate(named.items()):
            table = table.add_column(position, name, values)
        if place == MatrixPlace(place.state, place.split):
            for measure in audit.measures.get(place.state, {}).get(place.split, ()):
                column = _column(measure, matrix.records)
                table = table.append_column(f"{measure.probe}.{measure.metric}", column)
        parts.append(table)
    return pa.concat_tables(parts, promote_options="default")


def _matrices(audit: Audit) -> Iterator[tuple[MatrixPlace, TokenScores]]:
    for state, splits in audit.scores.items():
        for split, matrix in splits.items():
            yield MatrixPlace(state, split), matrix
    for state, prompted in audit.prompted.items():
        for prompt_state, matrix in prompted.items():
            yield MatrixPlace(state, "forget", prompt_state), matrix
    for state, treated in audit.treated.items():
        for deployment, splits in treated.items():
            for split, matrix in splits.items():
                yield MatrixPlace(state, split, deployment=deployment), matrix


def _clusters(audit: Audit) -> dict[str, dict[str, int]]:
    """Number the subjects of all splits alike."""
    numbers: dict[Hashable, int] = {}
    first: Mapping[str, TokenScores] = next(iter(audit.scores.values()), {})
    by_split: dict[str, dict[str, int]] = {}
    for split, matrix in first.items():
        subjects: Sequence[Hashable | None] = audit.subjects.get(split, ())
        for name, subject in zip(matrix.ids, subjects, strict=False):
            if subject is not None:
                number = numbers.setdefault(subject, len(numbers))
                by_split.setdefault(split, {})[name] = number
    return by_split


def _column(measure: Measurement, records: int) -> Any:
    import pyarrow as pa

    values = np.full(records, np.nan)
    values[measure.positions] = measure.values
    return pa.array(values, mask=np.isnan(values))


class StoredMatrix(NamedTuple):
    """A score matrix as it was read.

    Attributes:
        scores: the matrix.
        clusters: for each record, a number that those about one subject share; None if not known.
    """

    scores: TokenScores
    clusters: Sequence[int | None]


def read_scores(path: str | Path) -> dict[MatrixPlace, StoredMatrix]:
    """Read the score matrices of an audit's `scores.parquet`, bit for bit.

    Args:
        path: the file.

    Returns:
        The matrices by where they belong, in the order of the file.

    Raises:
        DataError: if the file is missing or is no such file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot read scores: {reason}; run the audit again") from error
    types = {**dict.fromkeys(MatrixPlace._fields, pa.string()), "cluster": pa.int64()}
    missing = [name for name in types if name not in table.column_names]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; this is no audit's scores.parquet"
        )
    for name, wanted in types.items():
        column = table.column(name)
        if column.type != wanted or (column.null_count and name != "cluster"):
            held = "empty values" if column.type == wanted else f"{column.type}, not {wanted}"
            raise DataError(
                f"{path}: column {name} holds {held}; this is no audit's scores.parquet"
            )
    rows: dict[MatrixPlace, list[int]] = {}
    columns = (table.column(name).to_pylist() for name in MatrixPlace._fields)
    for i, place in enumerate(zip(*columns, strict=True)):
        rows.setdefault(MatrixPlace(*place), []).append(i)
    matrices = {}
    for place, where in rows.items():
        part = table.take(where)
        try:
            scores = TokenScores.from_table(part)
        except (DataError, pa.ArrowException, AttributeError, KeyError, TypeError, ValueError) as e:
            raise DataError(f"{path}, state {place.state!r}, split {place.split!r}: {e}") from e
        matrices[place] = StoredMatrix(scores, part.column("cluster").to_pylist())
    return matrices
