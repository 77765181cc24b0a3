"""Likelihoods of other values that the secrets of records could have had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearn.data.records import Record, Secret
from unlearn.data.tokenization import Example, encode
from unlearn.errors import DataError
from unlearn.model.scoring import TOKEN_BUDGET
from unlearn_eval.extraction.candidates import DIGIT, EXACT, SAMPLES, candidates, format_of, space
from unlearn_eval.extraction.exposure import How, exposure
from unlearn_eval.passes.base import AuditedState, Material, PassResult, PlannedPass
from unlearn_eval.passes.likelihoods import summed_log_probs
from unlearn_eval.scores.cache import Cache, examples_digest
from unlearn_eval.scores.measures import Measurement
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["RECORDS", "plan"]

RECORDS = 16
"""Most forget records whose secrets are ranked, spread evenly: each costs up to 10,000 passes."""


@dataclass(frozen=True)
class _SecretToRank:
    """A secret, its format and its record."""

    position: int
    record: Record
    secret: Secret
    value: str
    form: str


def plan(material: Material) -> PlannedPass:
    """Plan the passes of an audit: one over each other value of each secret.

    Digits vary and everything else of a value stays; secrets without digits are passed over. Of a
    record with several secrets the most exposed counts.

    Raises DataError if no forget record has such a secret among what the model is to answer.
    """
    asked = list(_asked(material))
    if not asked:
        raise DataError(
            "--also exposure: no record to forget declares a secret with digits in what the model "
            "is to answer; mark them in the field `secrets`"
        )
    where = sorted({a.position for a in asked})
    where = [
        where[i] for i in np.unique(np.linspace(0, len(where) - 1, RECORDS).round().astype(int))
    ]
    chosen = [a for a in asked if a.position in where]

    def run(audited: AuditedState, scores: Mapping[str, TokenScores], cache: Cache) -> PassResult:
        bits = dict.fromkeys(where, 0.0)
        for a in chosen:
            truth = _examples(material, a, [a.value])
            how: How = "exact" if space(a.form) <= EXACT else "sampled"
            settings = [a.form, a.position, material.seed, material.template.name, TOKEN_BUDGET]
            settings += [EXACT, SAMPLES]
            facts = ("exposure", audited.stamp, examples_digest(truth), how, settings)
            log_probs = cache.get(partial(_log_probs, audited, material, a), *facts)
            exposed = exposure(float(log_probs["truth"][0]), log_probs["others"], how)
            bits[a.position] = max(bits[a.position], exposed)
        params = {"exact_up_to": EXACT, "samples": SAMPLES, "seed": material.seed}
        values = np.array([bits[i] for i in where])
        measure = Measurement("extraction.exposure", "mean", np.array(where), values, params)
        return PassResult({"forget": [measure]})

    return PlannedPass(run, sum(min(space(a.form) - 1, EXACT) for a in chosen))


def _asked(material: Material) -> Iterator[_SecretToRank]:
    """Yield the secrets that the model is to answer and that have a digit to vary."""
    kinds: dict[str, list[str]] = {}
    for records in material.records.values():
        for record in records:
            for secret in record.secrets:
                kinds.setdefault(secret.kind, []).append(_value(record, secret))
    pairs = zip(material.records["forget"], material.examples["forget"], strict=True)
    for position, (record, example) in enumerate(pairs):
        for secret in record.secrets:
            value = _value(record, secret)
            form = format_of(value, kinds[secret.kind])
            if DIGIT not in form:
                continue
            secret_to_rank = _SecretToRank(position, record, secret, value, form)
            (alone,) = encode(
                [replace(record, secrets=(secret,))],
                material.tokenizer,
                material.template,
                material.max_length,
            )
            # another value takes at most a token a character
            room = material.max_length - len(value)
            if any(example.target[s.start : s.end].all() for s in alone.secrets if s.end <= room):
                yield secret_to_rank


def _value(record: Record, secret: Secret) -> str:
    return str(record.field(secret.field))[secret.start : secret.end]


def _log_probs(
    audited: AuditedState, material: Material, a: _SecretToRank
) -> dict[str, npt.NDArray[Any]]:
    """Return the log-probability of the true value, and those of the others in order of size."""
    values = [a.value, *candidates(a.value, a.form, (material.seed, a.position))]
    log_probs = summed_log_probs(audited, _examples(material, a, values))
    return {"truth": log_probs[:1], "others": np.sort(log_probs[1:])}


def _examples(material: Material, a: _SecretToRank, values: Sequence[str]) -> list[Example]:
    """Write a record with other values of a secret, up to its end, the value the only target.

    Values have one length in characters, so that the spans of the record stay right.
    """
    rows = [_with(a.record, a.secret, value) for value in values]
    examples = []
    for example in encode(rows, material.tokenizer, material.template, 1 << 30):
        (span,) = example.secrets
        at = np.arange(span.end)
        examples.append(Example(example.id, example.ids[: span.end], at >= span.start))
    return examples


def _with(record: Record, secret: Secret, value: str) -> Record:
    """Return a record with another value in place of a secret, its only one then."""
    text = str(record.field(secret.field))
    text = text[: secret.start] + value + text[secret.end :]
    changed: dict[str, Any] = {secret.field: text}
    if secret.field.startswith("messages."):
        turns = [dict(turn) for turn in record.messages or ()]
        turns[int(secret.field.split(".")[1])]["content"] = text
        changed = {"messages": tuple(turns)}
    return replace(record, secrets=(secret,), **changed)
