"""The records of each cell, as data that the page of a comparison shows when asked to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unlearn.data.records import Record
from unlearn_eval.arrays import FloatArray
from unlearn_eval.comparison.records import CellRecords, chosen
from unlearn_eval.report.texts import asked_of, parts_of
from unlearn_eval.report.visible import visible

__all__ = ["embedded", "key_of"]

_DIGITS = 3


def key_of(method: str, seed: int, forget: int) -> str:
    """Return what a cell is called in the data and in the page."""
    return json.dumps([method, seed, forget])


def embedded(
    cells: Mapping[tuple[str, int, int], CellRecords], texts: Mapping[str, Record] | None = None
) -> str:
    """Return the records of all cells as JSON that a page can hold.

    What cells of one forget set share is written once.

    Args:
        cells: by method, seed and number of the forget set.
        texts: records by id, whose text is to be shown; None shows ids and numbers only.

    Returns:
        JSON without any character that would end or begin markup.
    """
    sets: list[dict[str, Any]] = []
    known: dict[tuple[int, tuple[tuple[str, str], ...]], int] = {}
    content: dict[str, dict[str, Any]] = {}
    for (method, seed, forget), records in cells.items():
        shown = chosen(records)
        keys = tuple((records.splits[i], records.ids[i]) for i in shown)
        if (forget, keys) not in known:
            known[forget, keys] = len(sets)
            sets.append(_shared(records, shown, texts))
        content[key_of(method, seed, forget)] = {
            "set": known[forget, keys],
            "all": len(records.ids),
            "after": _numbers(records.after, shown),
            "recalled": [int(records.recalled[i]) for i in shown],
        }
    text = json.dumps({"sets": sets, "cells": content}, ensure_ascii=True, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def _shared(
    records: CellRecords, shown: Sequence[int], texts: Mapping[str, Record] | None
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "ids": [visible(records.ids[i]) for i in shown],
        "splits": [records.splits[i] for i in shown],
        "before": _numbers(records.before, shown),
        "references": _numbers(records.references, shown),
    }
    if texts is not None:
        content["texts"] = [_text(texts.get(records.ids[i])) for i in shown]
    return content


def _numbers(values: FloatArray, shown: Iterable[int]) -> list[Any]:
    """Round for the page; JSON has no infinity, and a word stands for it."""
    numbers: list[Any] = []
    for i in shown:
        value = float(values[i])
        if math.isfinite(value):
            numbers.append(round(value, _DIGITS) + 0.0)
        else:
            numbers.append(None if math.isnan(value) else "inf")
    return numbers


def _text(record: Record | None) -> list[Any] | None:
    """Return what is asked, and the answer in pieces with the kind of each secret."""
    if record is None:
        return None
    asked = asked_of(record)
    parts = [[visible(text), kind and visible(kind)] for text, kind in parts_of(record)]
    return [None if asked is None else visible(asked), parts]
