"""What the pages of single methods tell: from the recipe, the methods and the finished steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearn.apps.compare.data import Pool
from unlearn.apps.compare.layout import Cell, Layout
from unlearn.apps.compare.shards import method_of
from unlearn.apps.compare.study import Study
from unlearn.data.records import Record
from unlearn.errors import LineageError
from unlearn.files import staged_file
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage
from unlearn_eval.comparison import About, Curve, Outcome, Run
from unlearn_eval.comparison.records import CellRecords, read_records, records_table
from unlearn_eval.results.record_names import ids_of, keyed_names, keyed_text

__all__ = ["details", "records_of", "texts_of", "write_records"]

CellKey = tuple[str, int, int]
"""A cell: its row, its seed and the number of its forget set."""


def details(
    study: Study,
    layout: Layout,
    outcomes: Sequence[Outcome] = (),
    quoted: Callable[[str], str] = str,
) -> list[About]:
    """Tell of every row what its method is and how its runs went.

    Args:
        study: the comparison.
        layout: its steps.
        outcomes: what its cells show, with their notes.
        quoted: returns a note of a run as it is shown, which may quote the id of a record.

    Returns:
        One a row, in the order of the recipe.
    """
    notes = {(o.method, o.seed, o.forget): o.notes for o in outcomes}
    rows = []
    for settings in study.recipe.methods:
        method = method_of(settings.method)
        name = settings.name or settings.method
        cells = [cell for cell in layout.cells if cell.name == name and cell.unlearn.done]
        rows.append(
            About(
                name=name,
                method=method.name,
                summary=method.summary,
                paper=method.paper,
                when=method.when,
                cost=method.cost,
                given=_texts(settings.options),
                runs=[_run(c, notes.get((c.name, c.seed, c.forget), ()), quoted) for c in cells],
            )
        )
    return rows


def records_of(layout: Layout, ids: Iterable[str] | None = None) -> dict[CellKey, CellRecords]:
    """Read what the audits of all cells say of each record.

    Args:
        layout: the steps.
        ids: of the records at hand, to call them by; None for names under the user's key.

    Returns:
        By cell; none of a cell that has no audit.

    Raises:
        DataError: if the scores of an audit cannot be read.
    """
    found = {
        (cell.name, cell.seed, cell.forget): read_records(cell.audit.result / "scores.parquet")
        for cell in layout.cells
        if cell.audit.done and cell.target is None
    }
    key = Key.load()
    for cell, records in found.items():
        named = keyed_names(records.ids, key) if ids is None else ids_of(records.ids, ids)
        found[cell] = replace(records, ids=named)
    return found


def without_ids(text: str, ids: Iterable[str]) -> str:
    """Return a note in which ids of records stand as names under the user's key."""
    return keyed_text(text, ids, Key.load())


def texts_of(study: Study) -> dict[str, Record]:
    """Return the records of the recipe by id.

    Args:
        study: the comparison.

    Returns:
        All records that an audit could hold.

    Raises:
        DataError: naming file and line of what cannot be used.
    """
    return {record.id: record for record in Pool.load(study.recipe).records}


def write_records(records: Mapping[CellKey, CellRecords], path: Path) -> None:
    """Write every record of every cell to a Parquet file, numbers only."""
    import pyarrow.parquet as pq

    table = records_table((*key, cell_records) for key, cell_records in records.items())
    with staged_file(path) as stage:
        pq.write_table(table, stage, compression="zstd")


def _run(cell: Cell, notes: Sequence[str], quoted: Callable[[str], str]) -> Run:
    facts = cell.unlearn.facts()
    logged = facts.get("curve", ())

    def curve(name: str) -> Curve:
        return [(entry["step"], entry[name]) for entry in logged if name in entry]

    return Run(
        seed=cell.seed,
        forget=cell.forget,
        curve=curve("loss"),
        forget_curve=curve("forget_nll"),
        retain_curve=curve("retain_nll"),
        steps=facts.get("steps"),
        planned=facts.get("planned_steps"),
        notes=[quoted(str(note)) for note in (*facts.get("notes", ()), *notes)],
        options=_in_effect(cell),
    )


def _in_effect(cell: Cell) -> dict[str, str]:
    """Return the options that the adapter's lineage notes, where it has any."""
    try:
        line = Lineage.read(cell.unlearn.result)
    except LineageError:
        return {}
    return {} if line is None else _texts(line.options)


def _texts(options: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in options.items()
        if value is not None
    }
