"""MUSE, six-way evaluation of unlearning (arXiv 2407.06460): four of its six criteria.

Scalability and sustainability, the other two, are these same numbers for larger requests and for
requests one after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unlearn.data.tokenization import Example
from unlearn.errors import DataError
from unlearn.model.scoring import TOKEN_BUDGET
from unlearn.model.state import ModelState
from unlearn_eval.arrays import FloatArray, IntArray
from unlearn_eval.benchmarks._data import read_table, text_of
from unlearn_eval.membership import min_k
from unlearn_eval.scores.continuations import continue_tokens, prompt_tokens
from unlearn_eval.scores.model_scores import score_model
from unlearn_eval.statistics import Interval, auc, auc_interval, mean_interval
from unlearn_eval.statistics.common import no_interval
from unlearn_eval.utility import rouge

__all__ = [
    "HUB",
    "MuseData",
    "MuseScores",
    "evaluate_muse",
    "load_muse",
    "muse_metrics",
    "privacy_leakage",
]

HUB = "muse-bench/MUSE-News"

VERBATIM_TOKENS, ANSWER_TOKENS = 128, 32
"""Tokens of a continuation and of an answer, as in the paper's code."""

MIN_K = 0.4
"""Share of the lowest token log-probabilities: Min-40 %, of those in the paper's code."""

# where an answer ends, after a few examples have shown the form; the paper's code
_STOPS = ("\n\n", "\nQuestion", "Question:")


class MuseData(NamedTuple):
    """The tables of one corpus.

    Attributes:
        verbatim: (beginning, continuation) of forget texts.
        forget_qa: (question, answer) about the forget texts.
        forget_shots: examples shown before each of these.
        retain_qa: (question, answer) about retained texts.
        retain_shots: examples shown before each of these.
        forget: forget texts, members.
        holdout: texts that no model saw, non-members.
    """

    verbatim: list[tuple[str, str]]
    forget_qa: list[tuple[str, str]]
    forget_shots: list[tuple[str, str]]
    retain_qa: list[tuple[str, str]]
    retain_shots: list[tuple[str, str]]
    forget: list[str]
    holdout: list[str]


@dataclass(frozen=True, eq=False)
class MuseScores:
    """What one model says, one value a record.

    Attributes:
        verbatim: ROUGE-L F1 of the continuation of each forget text, of stemmed words.
        forget_answers: the same of the answer to each question about the forget texts.
        retain_answers: the same about the retained texts.
        member: Min-40 % of each forget text, larger = more likely a member.
        nonmember: the same of the holdout.
        unstemmed: the first three again, of words as they are written, by name.
    """

    verbatim: FloatArray
    forget_answers: FloatArray
    retain_answers: FloatArray
    member: FloatArray
    nonmember: FloatArray
    unstemmed: Mapping[str, FloatArray] = field(default_factory=dict)


def load_muse(source: str | Path = HUB, limit: int | None = None) -> MuseData:
    """Load one corpus.

    Args:
        source: a hub dataset name, or a folder with `verbmem/forget.json`, `knowmem/forget_qa.json`
            and so on.
        limit: the first so many rows of each table only (all examples are shown).

    Returns:
        The tables.

    Raises:
        DataError: if a table is missing, or naming the row that cannot be used.
    """

    def pairs(
        name: str, split: str, keys: tuple[str, str], most: int | None
    ) -> list[tuple[str, str]]:
        rows = read_table(source, name, split, most)
        return [(text_of(row, keys[0]), text_of(row, keys[1])) for row in rows]

    def texts(split: str) -> list[str]:
        return [text_of(row, "text") for row in read_table(source, "privleak", split, limit)]

    qa = ("question", "answer")
    return MuseData(
        verbatim=pairs("verbmem", "forget", ("prompt", "gt"), limit),
        forget_qa=pairs("knowmem", "forget_qa", qa, limit),
        forget_shots=pairs("knowmem", "forget_qa_icl", qa, None),
        retain_qa=pairs("knowmem", "retain_qa", qa, limit),
        retain_shots=pairs("knowmem", "retain_qa_icl", qa, None),
        forget=texts("forget"),
        holdout=texts("holdout"),
    )


def evaluate_muse(
    state: ModelState,
    data: MuseData,
    *,
    token_budget: int = TOKEN_BUDGET,
    progress: Callable[[int], None] | None = None,
) -> MuseScores:
    """Run the protocol on a model.

    Verbatim: the beginning of a text is continued greedily by 128 tokens and compared with the next
    128 tokens of the text. Knowledge: after examples (ten in the published data) a question is
    answered with 32 tokens, cut where the next question would begin. Texts are compared twice: by
    the stems of their words, as the published values are, and by the words themselves, which is
    stricter (`unstemmed`). Membership: the mean of the lowest 40 % of the log-probabilities of a
    text's tokens, all but the first. All else as in the code of Shi et al. (arXiv 2407.06460).

    Args:
        state: the opened model.
        data: of `load_muse`.
        token_budget: padded tokens of a batch.
        progress: called with the number of rows done after each batch.

    Returns:
        The scores.

    Raises:
        DataError: naming the row that leaves no room for an answer in the model's context.
    """

    def write(prompts: Sequence[str], most: int, what: str) -> list[str]:
        beginnings = [_ids(state, prompt) for prompt in prompts]
        room = [state.max_length - len(ids) for ids in beginnings]
        full = next((i for i, left in enumerate(room) if left < most), None)
        if full is not None:
            raise DataError(
                f"{what} {full} has {len(beginnings[full])} tokens: with {most} more it exceeds "
                f"the model's limit of {state.max_length}"
            )
        written = continue_tokens(
            state.model,
            state.tokenizer,
            beginnings,
            [most] * len(beginnings),
            token_budget=token_budget,
            progress=progress,
        )
        return [_decode(state, ids) for ids in written]

    def answer(
        qa: Sequence[tuple[str, str]], shots: Sequence[tuple[str, str]], what: str
    ) -> _Overlap:
        shown = "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in shots)
        answers = write([f"{shown}Question: {q}\nAnswer: " for q, _ in qa], ANSWER_TOKENS, what)
        return _overlap([_cut(text) for text in answers], [a for _, a in qa])

    def likelihood(texts: Sequence[str], what: str) -> FloatArray:
        examples = [_whole(state, text, f"{what} {i}") for i, text in enumerate(texts)]
        scores = score_model(
            state.model, state.head, examples, token_budget=token_budget, progress=progress
        )
        return min_k.score(scores, k=MIN_K)

    outputs = write([prompt for prompt, _ in data.verbatim], VERBATIM_TOKENS, "verbatim row")
    known = [_decode(state, _ids(state, truth)[:VERBATIM_TOKENS]) for _, truth in data.verbatim]
    compared = {
        "verbatim": _overlap(outputs, known),
        "forget_answers": answer(data.forget_qa, data.forget_shots, "forget question"),
        "retain_answers": answer(data.retain_qa, data.retain_shots, "retain question"),
    }
    return MuseScores(
        **{name: both.stemmed for name, both in compared.items()},
        member=likelihood(data.forget, "forget text"),
        nonmember=likelihood(data.holdout, "holdout text"),
        unstemmed={name: both.unstemmed for name, both in compared.items()},
    )


class _Overlap(NamedTuple):
    """ROUGE-L F1 of pairs of texts, by the stems of their words and by the words themselves."""

    stemmed: FloatArray
    unstemmed: FloatArray


def _overlap(written: Sequence[str], truth: Sequence[str]) -> _Overlap:
    """Compare what was written with what is true."""
    return _Overlap(rouge.score(written, truth).f1, rouge.score(written, truth, stem=False).f1)


def _ids(state: ModelState, text: str) -> IntArray:
    return prompt_tokens(state.tokenizer, text)


def _decode(state: ModelState, ids: IntArray) -> str:
    text: str = state.tokenizer.decode(ids.tolist(), skip_special_tokens=True)
    return text


def _cut(text: str) -> str:
    """Return an answer without the questions that a model invents after it."""
    for stop in _STOPS:
        text = text.split(stop)[0]
    return text


def _whole(state: ModelState, text: str, what: str) -> Example:
    """Make every token of a text a target but the first, cut at the model's limit."""
    ids = _ids(state, text)[: state.max_length]
    if len(ids) < 2:
        raise DataError(f"{what} has {len(ids)} token(s): nothing to predict")
    return Example(what, ids, np.arange(len(ids)) > 0, target_text=text)


def privacy_leakage(unlearned: float, retrained: float) -> float:
    """Return 100 · (A_unlearned − A_retrained) / A_retrained, with A = 1 − AUC, in per cent.

    Shi et al., "MUSE" (arXiv 2407.06460, section 3): 0 is best, below it members are still
    recognised (under-unlearning), above it they are pushed away (over-unlearning). The published
    code ranks forget texts as non-members, so that its AUC is one minus that of an attack.

    Limit: NaN where the retrained model has an AUC of 1, against which nothing can be compared.

    Args:
        unlearned: AUC of the attack on the unlearned model, larger = members recognised.
        retrained: the same on a model that never saw the records.

    Returns:
        Per cent, at least −100.
    """
    base = 1 - retrained
    return math.nan if base == 0 else 100 * ((1 - unlearned) - base) / base


def muse_metrics(
    scores: MuseScores, retrained: MuseScores | None = None, level: float = 0.95
) -> dict[str, Interval]:
    """Return the numbers of the protocol.

    Args:
        scores: of the model under test.
        retrained: of a model that never saw the forget texts; without it there is no
            `privacy_leakage`.
        level: confidence level.

    Returns:
        `verbatim_memorisation`, `knowledge_memorisation`, `utility_preservation` (means of
        ROUGE-L F1 of stemmed words, from 0 to 1), the same with `_unstemmed` behind the name (of
        words as they are written), `member_auc`, and `privacy_leakage` in per cent.
    """
    names = {
        "verbatim": "verbatim_memorisation",
        "forget_answers": "knowledge_memorisation",
        "retain_answers": "utility_preservation",
    }
    metrics = {names[k]: mean_interval(getattr(scores, k), level) for k in names}
    metrics |= {
        f"{names[k]}_unstemmed": mean_interval(v, level) for k, v in scores.unstemmed.items()
    }
    metrics["member_auc"] = auc_interval(scores.member, scores.nonmember, level)
    if retrained is not None:
        leak = privacy_leakage(
            metrics["member_auc"].value, auc(retrained.member, retrained.nonmember)
        )
        note = "per cent, against one retrained model; given without an interval"
        if math.isnan(leak):
            note = "the retrained model's AUC is 1: nothing can be compared with it"
        metrics["privacy_leakage"] = no_interval(leak, len(scores.member), level, None, note)
    return metrics
