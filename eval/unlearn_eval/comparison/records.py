"""What the audit of a cell says of every record; numbers and ids only, never text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from unlearn_eval.arrays import BoolArray, FloatArray

__all__ = ["SHOWN", "CellRecords", "chosen", "read_records", "records_table"]

SHOWN = 200
"""Records of a cell that its page holds; the others are in the file beside it."""

_ORDER = ("forget", "neighbour", "retain", "holdout")
_COLUMNS = ["state", "split", "prompt_state", "deployment", "id", "log_prob", "hit"]


@dataclass(frozen=True, eq=False)
class CellRecords:
    """The records of one cell, those to forget first.

    Attributes:
        ids: of the records.
        splits: the split of each.
        before: float64[R], mean token loss in the model before, nats; NaN where not measured.
        after: float64[R], the same in the unlearned model.
        references: float64[R], the mean over the references.
        recalled: bool[R], whether the unlearned model gives it back word for word.
    """

    ids: Sequence[str]
    splits: Sequence[str]
    before: FloatArray
    after: FloatArray
    references: FloatArray
    recalled: BoolArray


def read_records(path: str | Path) -> CellRecords:
    """Read what an audit's `scores.parquet` says of each record, of the models as they are.

    loss = −(1/|y|) Σ_t log p_t; a record is recalled if each of its tokens is the likeliest one.

    Raises DataError if the file is missing or holds something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _records_in(pq.read_table(path, columns=_COLUMNS))
    except (OSError, pa.ArrowException, AttributeError, TypeError, ValueError, DataError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot read scores: {reason}; run the audit again") from error


def _records_in(table: Any) -> CellRecords:
    """Lay the records of a table of scores out; what `read_records` refuses ends in any error."""
    import numpy as np
    import pyarrow.compute as pc

    plain = pc.and_(
        pc.equal(table["prompt_state"], "verbatim"), pc.equal(table["deployment"], "as-is")
    )
    table = table.filter(plain).combine_chunks()
    states = table["state"].to_pylist()
    parts: dict[str, Any] = {
        state: table.filter(pc.equal(table["state"], state)) for state in dict.fromkeys(states)
    }
    if "after" not in parts:
        raise DataError("no scores of the state 'after'")
    after = parts["after"]
    ids, splits = after["id"].to_pylist(), after["split"].to_pylist()
    order = sorted(range(len(ids)), key=lambda i: (_rank(splits[i]), i))
    whole = [(splits[i], ids[i]) for i in order]

    def losses(state: str) -> FloatArray:
        if state not in parts:
            return np.full(len(whole), np.nan)
        part = parts[state]
        by_record = dict(
            zip(
                zip(part["split"].to_pylist(), part["id"].to_pylist(), strict=True),
                -_means(part["log_prob"]),
                strict=True,
            )
        )
        return np.array([by_record.get(key, np.nan) for key in whole], dtype=np.float64)

    references = [losses(state) for state in parts if state.startswith("reference:")]
    recalled = _means(after["hit"])[order] == 1.0
    return CellRecords(
        ids=[name for _, name in whole],
        splits=[split for split, _ in whole],
        before=losses("before"),
        after=losses("after"),
        references=np.mean(references, axis=0) if references else np.full(len(whole), np.nan),
        recalled=recalled,
    )


def _rank(split: str) -> int:
    return _ORDER.index(split) if split in _ORDER else len(_ORDER)


def _means(column: Any) -> FloatArray:
    """Return the mean of each record's list; every record has a token."""
    import numpy as np

    lists = column.combine_chunks()
    offsets: npt.NDArray[np.int64] = np.asarray(lists.offsets, dtype=np.int64)
    values = np.asarray(lists.values, dtype=np.float64)
    lengths = np.diff(offsets)
    # not reduceat: of an empty list it would take the next record's first value
    sums = np.array([values[a:b].sum() for a, b in pairwise(offsets.tolist())])
    means: FloatArray = np.divide(
        sums, lengths, out=np.full(len(lengths), np.nan), where=lengths > 0
    )
    return means


def chosen(records: CellRecords, most: int = SHOWN) -> list[int]:
    """Choose the records that are shown: those to forget, then of each other split alike.

    Args:
        records: of one cell.
        most: how many at most.

    Returns:
        Positions, ascending; of a split that does not fit they are spread evenly.
    """
    splits = list(dict.fromkeys(records.splits))
    by_split = {s: [i for i, split in enumerate(records.splits) if split == s] for s in splits}
    positions: list[int] = []
    for n, split in enumerate(splits):
        room = most - len(positions)
        share = room if split == "forget" else -(-room // (len(splits) - n))
        positions += _spread(by_split[split], share)
    return sorted(positions)


def _spread(positions: Sequence[int], most: int) -> list[int]:
    n = len(positions)
    return list(positions) if n <= most else [positions[i * n // most] for i in range(most)]


def records_table(cells: Iterable[tuple[str, int, int, CellRecords]]) -> Any:
    """Lay the records of all cells out, a row a record of a cell.

    Args:
        cells: (method, seed, number of the forget set, records) of each.

    Returns:
        A `pyarrow.Table`.
    """
    import pyarrow as pa

    schema = pa.schema(
        [
            ("method", pa.string()),
            ("seed", pa.int64()),
            ("forget_set", pa.int64()),
            ("split", pa.string()),
            ("id", pa.string()),
            ("loss_before", pa.float64()),
            ("loss", pa.float64()),
            ("loss_references", pa.float64()),
            ("recalled", pa.bool_()),
        ]
    )
    tables = [
        pa.table(
            [
                [method] * len(r.ids),
                [seed] * len(r.ids),
                [forget] * len(r.ids),
                r.splits,
                r.ids,
                r.before,
                r.after,
                r.references,
                r.recalled,
            ],
            schema=schema,
        )
        for method, seed, forget, r in cells
    ]
    return pa.concat_tables(tables) if tables else schema.empty_table()
