"""The demo's story: learn made-up records, forget some people, measure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.demo import base_path
from unlearn.demo.generator import records
from unlearn.models import ModelState, open_model
from unlearn.records import Record, Records
from unlearn.templates import Template
from unlearn.workflow import finetune, forget
from unlearn_eval.audit import Audit, run_audit

__all__ = ["METHODS", "Chapter", "Story", "tell"]

METHODS: Mapping[str, Mapping[str, Any]] = {
    "retrain": {},
    "npo": {"learning_rate": 1e-3, "epochs": 40, "stop": "none"},
    "grad_ascent": {"learning_rate": 1e-3, "epochs": 20, "stop": "none"},
}
"""The methods shown: the exact one, one that forgets too much, one that destroys the model."""

TEMPLATE = "qa"
TRAINING = {
    "learning_rate": 5e-3,
    "batch_size": 16,
    "epochs": 20,
    "schedule": "linear",
    "warmup_steps": 10,
}
LORA = {"r": 16, "lora_alpha": 32}

# One person in ten asks to be forgotten; half as many unseen people as known ones are the holdout.
_SHARE = 10

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Chapter:
    """One method's result.

    Attributes:
        name: the method.
        seconds: time of its training.
        numbers: headline numbers with intervals, as text.
        said: (question, what the model answers now).
    """

    name: str
    seconds: float
    numbers: dict[str, str]
    said: list[tuple[str, str]]


@dataclass(frozen=True)
class Story:
    """The adapter that learned the records, and what there is to forget.

    Attributes:
        folder: where everything is.
        records: how many records were learned.
        seconds: time of training.
        learned: share recalled word for word.
        forgotten: how many people ask to be forgotten.
        forget_records: how many records they have.
        said: (question, what the model answers), for some of the forgotten.
        before: headline numbers before forgetting, as text.
        seed: seed of everything.
    """

    folder: Path
    records: int
    seconds: float
    learned: float
    forgotten: int
    forget_records: int
    said: list[tuple[str, str]]
    before: dict[str, str]
    seed: int

    def forget(self, name: str, progress: Progress | None = None) -> Chapter:
        """Take the people out with one method, and audit the result.

        Args:
            name: one of `METHODS`.
            progress: called with (steps done, steps planned).

        Returns:
            What came of it.
        """
        data = Records.load(self.folder / "records.jsonl")
        ids = f"@{self.folder / 'forget-ids.txt'}"
        made = forget(
            base_path(),
            data,
            ids,
            self.folder / name / "adapter",
            adapter=self.folder / "adapter",
            method=name,
            holdout=self.folder / "holdout.jsonl",
            options=METHODS[name],
            seed=self.seed + 1,
            overwrite=True,
            progress=progress,
        )
        audit = _audit(self.folder, made.folder, self.folder / name / "audit", progress)
        state = open_model(base_path(), made.folder)
        said = [(q, _answer(state, r)) for q, r in _questions(data.select(ids))]
        return Chapter(name, made.fit.seconds, _numbers(audit, "after"), said)


def tell(folder: Path, people: int, seed: int = 0, progress: Progress | None = None) -> Story:
    """Write the records, fine-tune the embedded model on them, and look at what it learned.

    Args:
        folder: where everything goes.
        people: how many people the records are about.
        seed: seed of records and training.
        progress: called with (steps done, steps planned).

    Returns:
        The story so far.
    """
    folder.mkdir(parents=True, exist_ok=True)
    everybody = records(people + people // 2, seed)
    per_person = len(everybody) // (people + people // 2)
    rows, unseen = everybody[: people * per_person], everybody[people * per_person :]
    _write(folder / "records.jsonl", rows)
    _write(folder / "holdout.jsonl", unseen)
    data = Records.load(folder / "records.jsonl")
    subjects = list(dict.fromkeys(data.subjects))[::_SHARE]
    gone = [row["id"] for row in rows if row["subject"] in subjects]
    (folder / "forget-ids.txt").write_text("\n".join(gone) + "\n", encoding="utf-8")
    made = finetune(
        base_path(),
        data,
        folder / "adapter",
        template=TEMPLATE,
        lora=LORA,
        options=TRAINING,
        seed=seed,
        overwrite=True,
        progress=progress,
    )
    audit = _audit(folder, made.folder, None, progress)
    state = open_model(base_path(), made.folder)
    chosen = data.select(f"@{folder / 'forget-ids.txt'}")
    return Story(
        folder=folder,
        records=len(data),
        seconds=made.fit.seconds,
        learned=made.after["train"].recall,
        forgotten=len(subjects),
        forget_records=len(gone),
        said=[(q, _answer(state, r)) for q, r in _questions(chosen)],
        before=_numbers(audit, "after"),
        seed=seed,
    )


def _audit(folder: Path, adapter: Path, output: Path | None, progress: Progress | None) -> Audit:
    return run_audit(
        base_path(),
        folder / "records.jsonl",
        f"@{folder / 'forget-ids.txt'}",
        output,
        adapter=adapter,
        before=folder / "adapter" if output else None,
        holdout=folder / "holdout.jsonl",
        overwrite=True,
        progress=progress,
    )


def _numbers(audit: Audit, state: str) -> dict[str, str]:
    where = {
        "forget": ("forget", "extraction.verbatim", "rate"),
        "retain": ("retain", "extraction.verbatim", "rate"),
        "auc": ("forget", "membership.loss", "auc"),
    }
    found = {}
    for key, place in where.items():
        row = audit.get(state, *place)
        assert row.value is not None
        if key == "auc":
            found[key] = f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]"
        else:
            found[key] = f"{row.value:.0%}"
    return found


def _questions(chosen: Records, n: int = 2) -> list[tuple[str, Record]]:
    """Return a few questions of one person whose answers hold a secret."""
    found = [(r.prompt or "", r) for r in chosen if r.secrets]
    return found[:n]


def _answer(state: ModelState, record: Record) -> str:
    """Let the model answer a record's question, greedily."""
    import torch

    rendered = Template(TEMPLATE).render(record)
    prompt = rendered.text[: rendered.targets[0][0]].rstrip()
    inputs = state.tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        ids = state.model.generate(
            **inputs.to(state.device),
            max_new_tokens=48,
            do_sample=False,
            pad_token_id=state.tokenizer.eos_token_id,
        )
    text = state.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return " ".join(str(text).split())


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
