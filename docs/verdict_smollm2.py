"""Verdicts on a real chat model whose state is known: SmolLM2-135M-Instruct and TOFU's authors.

    python docs/verdict_smollm2.py MODEL full.json FOLDER

prints a table. It trains some thirty adapters of the upper eight blocks and goes on where it was
killed. Four authors are learned in five epochs. Constants of a verdict may be chosen on the first
author; what they are worth is shown on the last one, judged by references of its own, of which each
is judged by the others, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from real_verdicts import Case, Setting, each_by_the_others, far, places

from unlearn import Records
from unlearn_eval.verdict.verify import verify

AUTHORS, STRANGERS = range(196, 200), range(184, 190)
OF_EACH, SHORTEST = 20, 8
"""Records of an author in TOFU, and how many of them are taken: those with the shortest answers,
in TOFU's order."""

LORA = {"r": 16, "lora_alpha": 32, "layers_to_transform": [*range(22, 30)]}
TRAINING = {"learning_rate": 5e-4, "batch_size": 4, "epochs": 5}
OTHERWISE = {"learning_rate": 1e-3, "batch_size": 8}
"""Another recipe, with epochs chosen by the loss of the kept records alone: references end at 1.01,
4 epochs of it at 1.13, 5 at .89."""


@dataclass(frozen=True)
class Request:
    """One author to forget.

    Attributes:
        asked: the author's records.
        references: how many adapters judge.
        cases: how they are forgotten.
    """

    asked: str
    references: int
    cases: Sequence[Case]


FIRST = Request(
    "subject:author 196",
    8,
    [
        Case("first author: as it was"),
        Case("first author: retrained", "retrain", seed=1),
        Case(
            "first author: retrained with another recipe",
            "retrain",
            OTHERWISE | {"epochs": 4},
            seed=2,
        ),
        Case("first author: npo", "npo"),
    ],
)
LAST = Request(
    "subject:author 199",
    12,
    [
        Case("as it was"),
        Case("retrained, seed 1", "retrain", seed=1),
        Case("retrained with another recipe", "retrain", OTHERWISE | {"epochs": 4.5}, seed=3),
        Case("npo", "npo"),
        Case("retrained, seed 2", "retrain", seed=2),
        Case("grad_diff", "grad_diff"),
        Case("pilot", "pilot", {"regime": "memorised", "epochs": 8}),
    ],
)


def written(full: Path, authors: Sequence[int], file: Path) -> Records:
    """Return some records of some authors, from a file that names the author of each."""
    everything = [json.loads(line) for line in full.read_text(encoding="utf-8").splitlines()]
    lines = []
    for author in authors:
        own = range(author * OF_EACH, (author + 1) * OF_EACH)
        shortest = sorted(own, key=lambda i: len(everything[i]["answer"]))[:SHORTEST]
        for i in sorted(shortest):
            row = {"id": f"tofu-{i}", "subject": f"author {author}", **everything[i]}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    file.write_text("".join(lines), encoding="utf-8")
    return Records.load(file)


def rows(setting: Setting) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| model | verdict | furthest probe, in the references' SDs |\n|---|---|---|"
    for request in (FIRST, LAST):
        for case in request.cases:
            verdict = verify(setting.audited(case, request.asked, request.references))
            yield f"| {case.name} | {verdict.outcome} | {far(verdict)} |"
    judged = setting.audited(LAST.cases[1], LAST.asked, LAST.references)
    yield each_by_the_others(judged, LAST.references)


if __name__ == "__main__":
    model, full, folder = places(__doc__)
    known = written(full, AUTHORS, folder / "records.jsonl")
    unseen = written(full, STRANGERS, folder / "unseen.jsonl")
    for line in rows(Setting(model, folder, known, unseen, LORA, TRAINING, generate=0)):
        print(line, flush=True)
