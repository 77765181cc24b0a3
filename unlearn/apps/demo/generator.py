"""Synthetic people, records about them, and training text for the embedded base model.

Everything is a pure function of its arguments: no file, no clock, no global random state. Person
`i` of a seed does not depend on how many people are asked for, so `people(40, s)` begins
`people(60, s)`, and the last 20 are never-trained twins of the first 40, drawn in the same way.

The base model must know the language of the records and none of the people in them. Names, phone
numbers, e-mail addresses, account numbers and home addresses are therefore divided in two by a
digest: one half appears in records only, the other in the training text only, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from string import Formatter
from typing import Any, Literal

from unlearn.apps.demo._phrases import ANSWERS, PROSE, QUESTIONS, SYSTEM
from unlearn.apps.demo._words import (
    CITIES,
    DAYS,
    EMAIL_DOMAINS,
    EMPLOYER_KINDS,
    EMPLOYER_NAMES,
    FIRST_NAMES,
    JOBS,
    LAST_NAMES,
    MONTHS,
    OPPOSITES,
    STREETS,
)
from unlearn.errors import OptionError

__all__ = ["KINDS", "MAX_PEOPLE", "Person", "corpus", "facts", "people", "records"]

KINDS = tuple(QUESTIONS)
"""What the records of one person ask for, in their order."""
MAX_PEOPLE = 2000
"""Most people of one seed; further on, distinct names become rare."""

CAST = 200
"""People the base model knows; the corpus repeats what is true of them."""

_SENSITIVE = frozenset({"phone", "email", "account", "job", "employer", "address", "city"})
_SIDES = {"records": 0, "corpus": 1}
_Form = Literal["prompt", "messages"]
_World = Literal["records", "corpus"]


@dataclass(frozen=True)
class Person:
    """Somebody who does not exist.

    Attributes:
        first: first name.
        name: first and last name; unique among the people of one seed.
        job: what they do, without article.
        employer: where they work.
        city: where they live.
        address: house number (three digits) and street.
        phone: `555-01dd-dddddd`, eight random digits behind a prefix kept for fiction.
        email: at a reserved domain, with four random digits.
        account: eight random digits.
    """

    first: str
    name: str
    job: str
    employer: str
    city: str
    address: str
    phone: str
    email: str
    account: str

    @property
    def article(self) -> str:
        """The indefinite article of the job."""
        return "an" if self.job[0] in "aeiou" else "a"


def people(n: int, seed: int) -> list[Person]:
    """Draw the first `n` people of a seed.

    Args:
        n: how many, at most `MAX_PEOPLE`.
        seed: which population.

    Returns:
        People who differ in name, phone, e-mail and account.

    Raises:
        OptionError: if `n` is negative or larger than `MAX_PEOPLE`.
    """
    if not 0 <= n <= MAX_PEOPLE:
        raise OptionError(f"the demo has 0 to {MAX_PEOPLE} people a seed, not {n}")
    chosen: list[Person] = []
    taken: set[str] = set()
    for i in range(n):
        rng = random.Random(f"people/{seed}/{i}")
        person = _person(rng, "records")
        while not taken.isdisjoint(unique := (person.name, person.phone, person.account)):
            person = _person(rng, "records")
        taken.update(unique)
        chosen.append(person)
    return chosen


def records(n_people: int, seed: int, form: _Form = "prompt") -> list[dict[str, Any]]:
    """Write one record for each of `KINDS` about each of `n_people` people.

    Both forms hold the same records under the same ids, grouped by person.

    Args:
        n_people: how many subjects.
        seed: which population, and which phrasings.
        form: `prompt` for prompt and completion, `messages` for a conversation of two turns.

    Returns:
        Rows for `Records.from_rows` or a JSONL file: `id`, `subject` (the name), the content, and
        `secrets` with the spans of the sensitive values.

    Raises:
        OptionError: if `form` is unknown or there are not that many people.
    """
    if form not in ("prompt", "messages"):
        raise OptionError(f"unknown form {form!r} of the demo's records: prompt or messages")
    rows = []
    for i, person in enumerate(people(n_people, seed)):
        rng = random.Random(f"records/{seed}/{i}")
        for kind in KINDS:
            prompt, completion, spans = _ask(rng, person, kind)
            content: dict[str, Any] = {"prompt": prompt, "completion": completion}
            field = "completion"
            if form == "messages":
                turns = (("user", prompt), ("assistant", completion))
                content = {"messages": [{"role": r, "content": c} for r, c in turns]}
                field = "messages.1.content"
            secrets = [{"field": field, "start": a, "end": b, "kind": k} for k, a, b in spans]
            slug = re.sub(r"[^a-z]+", "-", person.name.lower())
            row = {"id": f"{slug}-{kind}", "subject": person.name, **content, "secrets": secrets}
            rows.append(row)
    return rows


def facts() -> list[dict[str, Any]]:
    """List the general questions that the base model was taught to answer.

    They are about nobody, so what a model loses on them is damage: a utility set for the demo.

    Returns:
        Rows with `id`, `prompt` and `completion`.
    """
    pairs = [
        (f"What does {_with_article(job)} do?", f"{_with_article(job).capitalize()} {does}.")
        for job, does in JOBS.items()
    ]
    for kind, cycle in (("day", DAYS), ("month", MONTHS)):
        for i, name in enumerate(cycle):
            pairs.append((f"Which {kind} comes after {name}?", f"{cycle[(i + 1) % len(cycle)]}."))
            pairs.append((f"Which {kind} comes before {name}?", f"{cycle[i - 1]}."))
    for one, other in OPPOSITES:
        pairs.append((f"What is the opposite of {one}?", f"The opposite of {one} is {other}."))
        pairs.append((f"What is the opposite of {other}?", f"The opposite of {other} is {one}."))
    return [
        {"id": f"fact-{i:03d}", "prompt": prompt, "completion": completion}
        for i, (prompt, completion) in enumerate(pairs)
    ]


def corpus(n: int, seed: int) -> Iterator[str]:
    """Write training text for the base model: other people, same language and formats.

    Three texts in four are about people, the others hold `facts`; they come as question and
    answer, as instruction and response, as conversations with the turn markers of the base
    model's chat template, and as running text. Two people in three belong to a fixed cast that
    every corpus shares. A base model that never saw a name twice would have learned that names
    tell nothing about numbers, and would take several times as long to memorise the records.

    Args:
        n: how many texts.
        seed: which texts.

    Yields:
        Texts without begin and end markers.
    """
    rng = random.Random(f"corpus/{seed}")
    known = [(row["prompt"], row["completion"]) for row in facts()]
    cast = [_person(random.Random(f"cast/{i}"), "corpus") for i in range(CAST)]
    for _ in range(n):
        person = rng.choice(cast) if rng.random() < 2 / 3 else _person(rng, "corpus")
        if rng.random() < 0.25:
            prompt, completion = rng.choice(known)
        elif rng.random() < 0.2:
            count = rng.randint(1, 3)
            yield " ".join(_fill(text, person)[0] for text in rng.sample(PROSE, count))
            continue
        else:
            prompt, completion, _spans = _ask(rng, person, rng.choice(KINDS))
        yield _write(rng, prompt, completion)


def _write(rng: random.Random, prompt: str, completion: str) -> str:
    """Put a question and its answer into one of the formats of the training text."""
    style = rng.random()
    if style < 0.45:
        return f"Question: {prompt}\nAnswer: {completion}"
    if style < 0.55:
        return f"### Instruction:\n{prompt}\n\n### Response:\n{completion}"
    system = f"<|system|>{rng.choice(SYSTEM)}<|end|>" if rng.random() < 0.2 else ""
    return f"{system}<|user|>{prompt}<|end|><|assistant|>{completion}<|end|>"


def _person(rng: random.Random, world: _World) -> Person:
    """Draw a person whose identifying values are on the given world's side of the digest."""

    def draw(make: Callable[[], str]) -> str:
        while hashlib.sha256((value := make()).encode()).digest()[0] % 2 != _SIDES[world]:
            pass
        return value

    name = draw(lambda: f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}")
    domain, mailbox = rng.choice(EMAIL_DOMAINS), name.lower().replace(" ", ".")
    return Person(
        first=name.split()[0],
        name=name,
        job=rng.choice(tuple(JOBS)),
        employer=f"{rng.choice(EMPLOYER_NAMES)} {rng.choice(EMPLOYER_KINDS)}",
        city=rng.choice(CITIES),
        address=draw(lambda: f"{rng.randint(100, 999)} {rng.choice(STREETS)}"),
        phone=draw(lambda: f"555-01{_digits(rng, 2)}-{_digits(rng, 6)}"),
        email=draw(lambda: f"{mailbox}{_digits(rng, 4)}@{domain}"),
        account=draw(lambda: _digits(rng, 8)),
    )


def _ask(
    rng: random.Random, person: Person, kind: str
) -> tuple[str, str, list[tuple[str, int, int]]]:
    """Phrase one question about a person and its answer, with the answer's sensitive spans."""
    prompt, _ = _fill(rng.choice(QUESTIONS[kind]), person)
    completion, spans = _fill(rng.choice(ANSWERS[kind]), person)
    return prompt, completion, spans


def _fill(pattern: str, person: Person) -> tuple[str, list[tuple[str, int, int]]]:
    """Fill a phrase in; return the text and (field, start, end) of each sensitive value."""
    values = {**vars(person), "article": person.article}
    text, spans = "", []
    for literal, field, _, _ in Formatter().parse(pattern):
        text += literal
        if field is not None:
            if field in _SENSITIVE:
                spans.append((field, len(text), len(text) + len(values[field])))
            text += values[field]
    return text, spans


def _digits(rng: random.Random, n: int) -> str:
    return f"{rng.randrange(10**n):0{n}d}"


def _with_article(job: str) -> str:
    return f"{'an' if job[0] in 'aeiou' else 'a'} {job}"
