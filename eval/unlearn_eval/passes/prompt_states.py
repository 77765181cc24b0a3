"""Scores of the forget records when the model is asked for them in other ways."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unlearn.data.records import Record
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.errors import DataError
from unlearn.model.scoring import TOKEN_BUDGET
from unlearn_eval.extraction.prompt_states import AFFIRMATIVE, ROLE_PLAY
from unlearn_eval.passes.base import AuditedState, Material, PassResult, PlannedPass
from unlearn_eval.passes.prefix import inserted, prefixed, shots_prefix, text_tokens
from unlearn_eval.scores.cache import Cache, examples_digest, pack, unpack
from unlearn_eval.scores.model_scores import score_model
from unlearn_eval.scores.token_scores import SAMPLERS, TokenScores

__all__ = ["SHOTS", "Prompts", "plan", "prompts"]

SHOTS = 4
"""Unseen records shown before one in the state `few_shot`; chosen here."""


def plan(material: Material) -> PlannedPass:
    """Plan the passes of an audit: one over the forget records for each prompt state.

    Targets are the same tokens in `few_shot` and `affirmative`; other states write the record anew.
    Records that do not fit with what is put before them are left out of a state, which is said.
    """
    states, unmeasured = prompts(material)

    def run(audited: AuditedState, scores: Mapping[str, TokenScores], cache: Cache) -> PassResult:
        result = PassResult()
        for name, part in states.items():
            facts = ("scores", audited.stamp, examples_digest(part), SAMPLERS, TOKEN_BUDGET)
            known = unpack(cache.get(partial(_scored, audited, part), *facts), part)
            result.prompted[name] = known or score_model(audited.model, audited.head, part)
        return result

    return PlannedPass(run, sum(map(len, states.values())), unmeasured)


def _scored(audited: AuditedState, part: Sequence[Example]) -> dict[str, npt.NDArray[Any]]:
    return pack(score_model(audited.model, audited.head, part))


class Prompts(NamedTuple):
    """The forget records in other prompt states.

    Attributes:
        states: examples by prompt state, without states in which no record fits.
        unmeasured: by prompt state, which of its records do not fit in the model's context.
    """

    states: dict[str, list[Example]]
    unmeasured: dict[str, str]


def prompts(material: Material) -> Prompts:
    """Write the forget records in every prompt state but `verbatim`.

    `few_shot` shows unseen records first (needs a holdout); `role_play` gives the model a role in
    the first question; `affirmative` puts the beginning of an answer into its mouth; `chat_on` and
    `chat_off` write the record with or without the tokenizer's chat template, where it has one;
    `paraphrase:1`, `paraphrase:2`, … use the user's own prompts. Free text is asked for in
    `few_shot` and `affirmative` only.
    """
    fitting = Prompts({}, {})
    limit = material.max_length
    for name, part in _states(material):
        short = [example for example in part if len(example.ids) <= limit]
        if short:
            fitting.states[name] = short
        if len(short) < len(part):
            fitting.unmeasured[name] = _left_out(len(part) - len(short), len(part), limit)
    return fitting


def _left_out(n: int, total: int, limit: int) -> str:
    """Say how many records were not measured, and why."""
    how = "not measured" if n == total else "measured in part"
    which = f"{n} record{'' if n == 1 else 's'}" if n == total else f"{n} of {total} records"
    verb = "does" if n == 1 else "do"
    return f"{how}: {which} {verb} not fit in the model's context of {limit} tokens"


def _states(material: Material) -> Iterator[tuple[str, list[Example]]]:
    plain = material.examples["forget"]
    if len(material.examples.get("holdout", ())) > 1:
        chosen = material.drawn("holdout", SHOTS, "prompt_states")
        shots = [material.examples["holdout"][i] for i in chosen]
        yield "few_shot", _after_shots(material, plain, shots)
    role_plays = [_role_play(record) for record in material.records["forget"]]
    yield "role_play", _written(material, role_plays, material.template)
    yes = text_tokens(material, AFFIRMATIVE)
    yield "affirmative", [inserted(e, yes, _answer(e)) for e in plain]
    if getattr(material.tokenizer, "chat_template", None):
        yield _other_template(material)
    yield from _paraphrased(material)


def _after_shots(
    material: Material, plain: Sequence[Example], shots: Sequence[Example]
) -> list[Example]:
    """Put as many shots as fit before the longest record; else before the one of median length."""
    lengths = [len(example.ids) for example in plain]
    prefix = shots[0].ids  # what does not fit before any is left out for its length
    for longest in (max(lengths), int(np.median(lengths))):
        try:
            prefix = shots_prefix(material, shots, longest)
            break
        except DataError:
            continue
    return [prefixed(material, example, prefix) for example in plain]


def _role_play(record: Record) -> Record:
    """Return a record whose first question (or whose text) begins with the role."""
    turns = [dict(turn) for turn in record.messages or ()]
    first = next((i for i, turn in enumerate(turns) if turn["role"] == "user"), None)
    opening = f"{ROLE_PLAY}\n\n"
    if record.form == "text":
        return record
    if record.form == "messages":
        if first is None:
            return record
        turns[first]["content"] = opening + (turns[first]["content"] or "")
        field = f"messages.{first}.content"
        changed = replace(record, messages=tuple(turns))
    else:
        field, changed = "prompt", replace(record, prompt=opening + str(record.prompt))
    moved = tuple(
        replace(s, start=s.start + len(opening), end=s.end + len(opening))
        if s.field == field
        else s
        for s in record.secrets
    )
    return replace(changed, secrets=moved)


def _written(material: Material, records: Iterable[Record], template: Template) -> list[Example]:
    """Encode records that have something to be asked, without any limit."""
    asked = [record for record in records if record.form != "text"]
    return encode(asked, material.tokenizer, template, 1 << 30)


def _answer(example: Example) -> int:
    """Return where the last target begins."""
    others = np.flatnonzero(~example.target[: np.flatnonzero(example.target)[-1]])
    return int(others[-1]) + 1


def _other_template(material: Material) -> tuple[str, list[Example]]:
    """Write the records with the chat template, or without where they have it."""
    records, tokenizer = material.records["forget"], material.tokenizer
    if material.template.name != "chat":
        name, template = "chat_on", Template("chat", tokenizer)
    else:
        plain = "roles" if any(r.form == "messages" for r in records) else "qa"
        name, template = "chat_off", Template(plain, tokenizer)
    return name, _written(material, records, template)


def _paraphrased(material: Material) -> Iterator[tuple[str, list[Example]]]:
    records = {r.id: r for r in material.records["forget"] if r.form == "prompt"}
    without_prompt = [name for name in material.paraphrases if name not in records]
    if without_prompt:
        raise DataError(
            f"--paraphrases: record {without_prompt[0]!r} has no prompt that another could "
            "replace; only records with prompt and completion have"
        )
    most = max(map(len, material.paraphrases.values()), default=0)
    for k in range(most):
        asked = [
            replace(
                records[name],
                prompt=others[k],
                secrets=tuple(s for s in records[name].secrets if s.field != "prompt"),
            )
            for name, others in material.paraphrases.items()
            if len(others) > k and name in records
        ]
        yield f"paraphrase:{k + 1}", _written(material, asked, material.template)
