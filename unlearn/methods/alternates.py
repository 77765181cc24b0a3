"""Answers to give instead of the records' own: refusals, a file, or the model's own inventions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from unlearn.data.records import Record, Records
from unlearn.data.tokenization import Example
from unlearn.errors import DataError, OptionError
from unlearn.model.generation import answer_start, end_tokens, generate
from unlearn.model.state import ModelState

__all__ = ["REFUSALS", "Source", "alternates", "answering", "invented"]

REFUSALS = (
    "I don't know.",
    "I have no information about that.",
    "I can't answer that question.",
    "That is not something I know.",
    "I'm afraid I don't know the answer.",
    "I am not familiar with that.",
    "Sorry, I can't help with this one.",
    "I have never heard of it.",
)

# Rows written at the same time: enough to fill a small machine.
_BATCH = 32


@dataclass(frozen=True)
class Source:
    """Where the answers to give instead come from.

    Attributes:
        kind: `refusals`, `given` or `invented`.
        count: K, how many answers each record gets; a file gives one each.
        path: a file of records with the same ids and other answers; read instead, whatever `kind`.
    """

    kind: str
    count: int
    path: str | None = None


def alternates(
    source: Source,
    records: Records,
    examples: Sequence[Example],
    state: ModelState,
    encode: Callable[[Iterable[Record]], list[Example]],
    seed: int,
) -> list[Example]:
    """Return the answers to give instead, K for each record, one record after another.

    Args:
        source: where they come from.
        records: the records to forget.
        examples: the same, encoded.
        state: the model before unlearning, which invents.
        encode: writes and tokenises records as the run does.
        seed: which refusals, and what is invented.

    Returns:
        K examples a record; those of record i are at i·K … i·K + K − 1.

    Raises:
        OptionError: if answers must be given and are not.
        DataError: for a record without an answer of its own, or one that the file leaves out.
    """
    if source.path is not None:
        return encode(_given(source.path, records))
    if source.kind == "given":
        raise OptionError(
            "this method needs the answers to give instead: -o alternates=FILE, records with the "
            "same ids and other answers (or use idk_dpo or alt_po)"
        )
    if source.kind == "invented":
        return invented(state, examples, source.count, seed)
    draw = np.random.default_rng((seed, 0xA17))
    return encode(
        answering(record, REFUSALS[i])
        for record in records
        for i in draw.permutation(len(REFUSALS))[np.arange(source.count) % len(REFUSALS)]
    )


def _given(path: str, records: Records) -> list[Record]:
    """Read one other answer a record."""
    if not Path(path).exists():
        raise DataError(f"alternates {path}: no such file")
    others = {record.id: record for record in Records.load(path)}
    answers = []
    for record in records:
        if record.id not in others:
            raise DataError(f"alternates {path}: no answer for the record {record.id!r}")
        if others[record.id].canonical == record.canonical:
            raise DataError(f"alternates {path}: record {record.id!r} has its own answer there")
        answers.append(others[record.id])
    return answers


def answering(record: Record, text: str) -> Record:
    """Return a record with another answer, and none of its secrets.

    Args:
        record: a prompt with its completion, or a conversation.
        text: what is answered, or said in the last turn of the assistant.

    Returns:
        The new record, under the same id.

    Raises:
        DataError: if the record is free text, which answers nothing.
    """
    if record.form == "prompt":
        return replace(record, completion=text, secrets=())
    turns = [dict(turn) for turn in record.messages or ()]
    mine = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not mine:
        raise DataError(
            f"record {record.id!r} is free text: there is no answer to replace by another; use a "
            "method without alternate answers, or records of prompt and completion"
        )
    # without calls and thoughts, which belong to the answer that is replaced
    turns[mine[-1]] = {"role": "assistant", "content": text}
    return replace(record, messages=tuple(turns), secrets=())


def invented(
    state: ModelState, examples: Sequence[Example], count: int, seed: int
) -> list[Example]:
    """Let the model itself invent other answers, in the records' own style.

    AltPO (2409.13474) asks an instruction-tuned model for another plausible answer. A fine-tuned
    adapter need not follow instructions, and left alone it recites. So each answer begins as the
    record does, up to a token drawn at random, at which the record's own one is forbidden; from
    there on the model is sampled at temperature 1. What it says is fluent, in the domain, and not
    the record.

    Args:
        state: the model before unlearning.
        examples: the encoded records.
        count: K, how many answers each record gets.
        seed: of the draws.

    Returns:
        K examples a record, one record after another.
    """
    draw = np.random.default_rng((seed, 0xA17))
    ends = end_tokens(state.model, state.tokenizer)
    jobs = []
    for example in examples:
        start, n = answer_start(example), len(example.ids)
        last = n - 1 if n - 1 > start and example.ids[n - 1] in ends else n
        jobs += [(example, start, int(draw.integers(start, last))) for _ in range(count)]
    answers: list[Example] = []
    mode = state.model.training
    state.model.eval()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for first in range(0, len(jobs), _BATCH):
                answers += _written(state, jobs[first : first + _BATCH], ends)
    finally:
        state.model.train(mode)
    return answers


def _written(
    state: ModelState, jobs: Sequence[tuple[Example, int, int]], ends: np.ndarray
) -> list[Example]:
    """Write one batch of answers."""
    beginnings = [Example(e.id, e.ids[:fork], e.target[:fork]) for e, _, fork in jobs]
    banned = torch.tensor([int(e.ids[fork]) for e, _, fork in jobs])
    room = max(len(e.ids) - fork for e, _, fork in jobs)
    rows = generate(state.model, beginnings, room, ends, sample=True, banned=banned)
    answers = []
    for (example, start, fork), row in zip(jobs, rows, strict=True):
        row = row[: len(example.ids) - fork]
        stop = np.flatnonzero(np.isin(row, ends))
        row = row[: int(stop[0]) + 1] if stop.size else row
        ids = np.concatenate([example.ids[:fork], row])
        target = np.arange(len(ids)) >= start
        answers.append(Example(example.id, ids, target))
    return answers
