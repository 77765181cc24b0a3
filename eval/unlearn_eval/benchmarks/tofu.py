"""TOFU, a task of fictitious unlearning (arXiv 2401.06121): model utility and forget quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unlearn.data.records import Record, Records
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import encode
from unlearn.errors import DataError
from unlearn.model.generation import answer_start
from unlearn.model.scoring import TOKEN_BUDGET, score_examples
from unlearn.model.state import ModelState
from unlearn_eval.benchmarks._data import read_table, text_of, texts_of
from unlearn_eval.benchmarks._tofu_metrics import (
    SPLITS,
    TofuScores,
    TofuSplit,
    forget_quality,
    harmonic_mean,
    model_utility,
    probability,
    tofu_metrics,
)
from unlearn_eval.scores.continuations import continue_tokens
from unlearn_eval.utility import rouge

__all__ = [
    "HUB",
    "SPLITS",
    "TofuQuestion",
    "TofuScores",
    "TofuSplit",
    "evaluate_tofu",
    "forget_quality",
    "harmonic_mean",
    "load_tofu",
    "model_utility",
    "probability",
    "tofu_metrics",
]

HUB = "locuslab/TOFU"
NEW_TOKENS = 200
"""Longest answer a model may write; TOFU's configuration (its code counts the question, too)."""


class TofuQuestion(NamedTuple):
    """One question of TOFU.

    Attributes:
        question: what is asked.
        answer: the true answer.
        paraphrase: the true answer in other words; None on real authors and world facts.
        perturbed: false answers of the same form, or the other options.
    """

    question: str
    answer: str
    paraphrase: str | None
    perturbed: tuple[str, ...]


def load_tofu(
    source: str | Path = HUB, forget: str = "forget10", limit: int | None = None
) -> dict[str, list[TofuQuestion]]:
    """Load the four splits with their perturbed answers.

    Args:
        source: a hub dataset name, or a folder with `forget10_perturbed.json` and so on.
        forget: `forget01`, `forget05` or `forget10`.
        limit: the first so many questions of each split only.

    Returns:
        The questions by split.

    Raises:
        DataError: if a table is missing, or naming the row that cannot be used.
    """
    tables = {name: f"{forget if name == 'forget' else name}_perturbed" for name in SPLITS}
    questions: dict[str, list[TofuQuestion]] = {}
    for name, table in tables.items():
        rows = read_table(source, table, limit=limit)
        paraphrased = name in {"forget", "retain"}
        questions[name] = [
            TofuQuestion(
                text_of(row, "question"),
                text_of(row, "answer"),
                text_of(row, "paraphrased_answer") if paraphrased else None,
                texts_of(row, "perturbed_answer"),
            )
            for row in rows
        ]
    return questions


def evaluate_tofu(
    state: ModelState,
    data: Mapping[str, Sequence[TofuQuestion]],
    *,
    template: str | None = None,
    new_tokens: int = NEW_TOKENS,
    token_budget: int = TOKEN_BUDGET,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, TofuSplit]:
    """Run the protocol on a model: one pass over each question with each answer, one generation.

    Losses are means over the tokens of an answer and the token that ends it. Answers are written
    greedily; their ROUGE-L recall is of stemmed words.

    Args:
        state: the opened model.
        data: of `load_tofu`.
        template: how a question and its answer become text; by default the tokenizer's chat
            template, or `qa`.
        new_tokens: tokens of a written answer at most; fewer where the model's context ends.
        token_budget: padded tokens of a batch.
        progress: called with (rows scored or answered, rows in all).

    Returns:
        The scores by split.

    Raises:
        DataError: naming the question whose answer does not fit the model's context.
    """
    rows, groups = _rows(data)
    used = choose_template(template, state.tokenizer, Records.from_rows(rows[:1]))
    records = [Record(r["id"], prompt=r["prompt"], completion=r["completion"]) for r in rows]
    examples = encode(records, state.tokenizer, used, state.max_length)
    first = [positions[0] for positions in groups]
    scored = 0

    def count(more: int) -> None:
        nonlocal scored
        scored += more
        if progress:
            progress(scored, len(rows) + len(first))

    scores, offsets = score_examples(
        state.model, state.head, examples, token_budget=token_budget, progress=count
    )
    sums = np.add.reduceat(-scores.log_prob.double().numpy(), offsets[:-1])
    losses = sums / np.diff(offsets)
    cuts = [answer_start(examples[i]) for i in first]
    written = continue_tokens(
        state.model,
        state.tokenizer,
        [examples[i].ids[:cut] for i, cut in zip(first, cuts, strict=True)],
        [min(new_tokens, state.max_length - cut) for cut in cuts],
        token_budget=token_budget,
        progress=count,
    )
    answers = [state.tokenizer.decode(ids.tolist(), skip_special_tokens=True) for ids in written]
    recall = rouge.score(answers, [rows[i]["completion"] for i in first]).recall
    result: dict[str, TofuSplit] = {}
    start = 0
    for name, questions in data.items():
        part = range(start, start + len(questions))
        start += len(questions)
        skip = [1 if q.paraphrase is None else 2 for q in questions]
        result[name] = TofuSplit(
            answer=losses[[groups[g][0] for g in part]],
            paraphrase=losses[[groups[g][s - 1] for g, s in zip(part, skip, strict=True)]],
            perturbed=tuple(losses[groups[g][s:]] for g, s in zip(part, skip, strict=True)),
            rouge=recall[part.start : part.stop],
            written=tuple(answers[part.start : part.stop]),
        )
    return result


def _rows(
    data: Mapping[str, Sequence[TofuQuestion]],
) -> tuple[list[dict[str, str]], list[list[int]]]:
    """Lay all answers of all questions out as rows, and say which belong to which question."""
    rows: list[dict[str, str]] = []
    groups: list[list[int]] = []
    for name, questions in data.items():
        for number, q in enumerate(questions):
            answers = [q.answer, *([] if q.paraphrase is None else [q.paraphrase]), *q.perturbed]
            groups.append(list(range(len(rows), len(rows) + len(answers))))
            rows += [
                {"id": f"{name}:{number}:{k}", "prompt": q.question, "completion": answer}
                for k, answer in enumerate(answers)
            ]
    if not rows:
        raise DataError("no questions to evaluate")
    return rows, groups
