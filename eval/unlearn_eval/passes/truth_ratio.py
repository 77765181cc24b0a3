"""Likelihoods of false answers, and of the true ones in other words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unlearn.data.tokenization import Example, encode
from unlearn.errors import DataError
from unlearn.methods.alternates import answering
from unlearn.model.scoring import TOKEN_BUDGET
from unlearn_eval.arrays import FloatArray
from unlearn_eval.passes.base import AuditedState, Material, PassResult, PlannedPass
from unlearn_eval.passes.inputs import OtherAnswers
from unlearn_eval.passes.likelihoods import mean_log_probs
from unlearn_eval.scores.cache import Cache, examples_digest
from unlearn_eval.scores.measures import Measurement
from unlearn_eval.scores.token_scores import TokenScores
from unlearn_eval.utility.truth_ratio import forget_score, truth_ratio, utility_score

__all__ = ["plan"]


def plan(material: Material) -> PlannedPass:
    """Plan the pass of an audit: one over every other answer to the records that have any.

    Forget records give `indifference`, min(R, 1/R); all others `preference`, max(0, 1 − R); R with
    the geometric mean. A record whose true answer is not given in other words is taken by its own
    answer, as TOFU does on real authors and world facts.

    Raises DataError if a record answers nothing, or an answer does not fit the model's context.
    """
    parts = {
        name: _AnswerRows(material, name, answers) for name, answers in material.perturbed.items()
    }

    def run(audited: AuditedState, scores: Mapping[str, TokenScores], cache: Cache) -> PassResult:
        result = PassResult()
        for split, part in parts.items():
            ratio = part.ratio(audited, cache)
            of_forget = split == "forget"
            metric = "indifference" if of_forget else "preference"
            values = forget_score(ratio) if of_forget else utility_score(ratio)
            params = {"mean": "geometric", "false_answers": part.most}
            result.add(
                split, Measurement("utility.truth_ratio", metric, part.positions, values, params)
            )
        return result

    return PlannedPass(run, sum(len(part.rows) for part in parts.values()))


class _AnswerRows:
    """The answers to the records of one split: for each record the true one, then false ones."""

    def __init__(self, material: Material, split: str, answers: Mapping[int, OtherAnswers]) -> None:
        self.positions = np.array(sorted(answers), dtype=np.int64)
        self.most = max(len(a.false) for a in answers.values())
        others = [answers[int(i)] for i in self.positions]
        records = [material.records[split][int(i)] for i in self.positions]
        self._starts = np.cumsum([0, *(1 + len(a.false) for a in others)])
        written = []
        for record, other in zip(records, others, strict=True):
            true = record if other.paraphrase is None else answering(record, other.paraphrase)
            written += [true, *(answering(record, text) for text in other.false)]
        self.rows: Sequence[Example] = encode(
            written, material.tokenizer, material.template, material.max_length
        )
        cut = next((e for e in self.rows if e.cut), None)
        if cut is not None:
            raise DataError(
                f"--perturbed: an answer to record {cut.id!r} does not fit within the "
                f"{material.max_length} tokens of the model"
            )

    def ratio(self, audited: AuditedState, cache: Cache) -> FloatArray:
        """Return R of every record under one state."""
        log_probs = cache.get(
            lambda: {"mean": mean_log_probs(audited, self.rows)},
            *("mean of answers", audited.stamp, examples_digest(self.rows), TOKEN_BUDGET),
        )["mean"]
        losses = np.split(-log_probs, self._starts[1:-1])
        return truth_ratio([x[0] for x in losses], [x[1:] for x in losses])
