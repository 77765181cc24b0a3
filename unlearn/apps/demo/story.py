"""The demo's story: learn made-up records, forget some people, measure, and write it up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from unlearn.apps.demo import base_path
from unlearn.apps.demo.generator import records
from unlearn.data.records import Record, Records
from unlearn.files import staged_file
from unlearn.provenance.lineage import Lineage
from unlearn.runs.finetuning import finetune
from unlearn.runs.forgetting import forget
from unlearn.runs.references import reference_folders, train_references
from unlearn_eval.audit.run import Audit, run_audit
from unlearn_eval.replay.result import Replay
from unlearn_eval.replay.run import replay
from unlearn_eval.report import Attempt, ShownRecord, shown_records, story_page

__all__ = ["METHODS", "REFERENCES", "Chapter", "Form", "Story", "tell"]

EXACT = "retrain"
"""The method that needs no statistics: what it makes is trained again, and compared."""

METHODS: Mapping[str, Mapping[str, Any]] = {
    EXACT: {"budget": "auto"},
    "npo": {"learning_rate": 1e-3, "epochs": 40, "stop": "none"},
    "grad_ascent": {"learning_rate": 1e-3, "epochs": 20, "stop": "none"},
}
"""The methods shown: the exact default, one that forgets too much, one that breaks the model."""

PLAINLY: Mapping[str, str] = {
    EXACT: "a new adapter, trained from the start on the other records alone: the default",
    "npo": "trained away from these records while repeating the rest",
    "grad_ascent": "trained to get these records wrong; nothing protects the rest",
}
"""What they do, for readers who have never heard of them."""

REFERENCES = 3
"""How many adapters are trained without the people, to compare with."""

POLICY = "quick"
"""What decides on each result: the policy that so few references suffice for."""

Form = Literal["prompt", "messages"]
TEMPLATES: Mapping[Form, str] = {"prompt": "qa", "messages": "chat"}
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
_SHOWN = 2  # records of one person whose answers are shown on the terminal

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Chapter:
    """One method's result.

    Attributes:
        name: the method.
        seconds: time of its training.
        audit: what is left, beside the references.
        replay: what training again showed, where that proves something.
    """

    name: str
    seconds: float
    audit: Audit
    replay: Replay | None = None


@dataclass(frozen=True)
class Story:
    """The adapter that learned the records, and what there is to forget.

    Attributes:
        folder: where everything is.
        data: the records that were learned.
        gone: those of the people who ask to be forgotten.
        seconds: time of training.
        before: the audit of the adapter as it was trained.
        seed: seed of everything.
    """

    folder: Path
    data: Records
    gone: Records
    seconds: float
    before: Audit
    seed: int

    @property
    def learned(self) -> int:
        """How many records the adapter gives back word for word, as it was trained."""
        rows = [
            self.before.get("after", split, "extraction.verbatim", "rate")
            for split in ("forget", "retain")
        ]
        return sum(round((row.value or 0.0) * row.n) for row in rows)

    @property
    def _first_person(self) -> list[int]:
        """Positions of the forget records of the first person."""
        first = self.gone.subjects[0]
        return [i for i, subject in enumerate(self.gone.subjects) if subject == first]

    @property
    def shown(self) -> list[int]:
        """Positions of a few forget records with a secret, all of one person."""
        return [i for i, record in enumerate(self.gone) if record.secrets][:_SHOWN]

    def forget(self, name: str, progress: Progress | None = None) -> float:
        """Take the people out with one method.

        Args:
            name: one of `METHODS`.
            progress: called with (steps done, steps planned).

        Returns:
            Time of training, in seconds.
        """
        made = forget(
            base_path(),
            self.data,
            _ids(self.folder),
            self._adapter(name),
            adapter=self.folder / "adapter",
            method=name,
            holdout=self.folder / "holdout.jsonl",
            options=METHODS[name],
            seed=self.seed + 1,
            overwrite=True,
            progress=progress,
        )
        return made.fit.seconds

    def train_references(self, progress: Progress | None = None) -> float:
        """Train the adapters that never saw the people, as the exact method has trained.

        Args:
            progress: called with (steps done, steps planned).

        Returns:
            Mean time of training, in seconds.
        """
        trained = train_references(
            base_path(),
            self.data,
            self.folder / "references",
            forget=_ids(self.folder),
            like=self._adapter(EXACT),
            count=REFERENCES,
            seed=self.seed + 100,
            overwrite=True,
            progress=progress,
        )
        lines = [Lineage.read(folder) for folder in trained.folders]
        return fmean(line.cost["seconds"] for line in lines if line)

    def measure(self, name: str, seconds: float, progress: Progress | None = None) -> Chapter:
        """Audit what a method has made, and train it again where that is a proof.

        Args:
            name: one of `METHODS`.
            seconds: time of its training.
            progress: called with (records done, in all).

        Returns:
            What came of it.
        """
        audit = _audit(
            self.folder,
            self._adapter(name),
            self.folder / name / "audit",
            progress,
            before=self.folder / "adapter",
            references=self._references,
        )
        replayed = None
        if name == EXACT:
            replayed = replay(
                self._adapter(name),
                self.folder / "records.jsonl",
                model=base_path(),
                forget=_ids(self.folder),
                quiet=True,
            )
        return Chapter(name, seconds, audit, replayed)

    def attempts(self, chapters: Sequence[Chapter]) -> list[Attempt]:
        """Return what was tried, for the page and the table."""
        return [
            Attempt(c.name, PLAINLY[c.name], c.audit, f"{c.name}/audit/report.html", c.replay)
            for c in chapters
        ]

    def write_up(self, chapters: Sequence[Chapter]) -> Path:
        """Write the page that shows it all, and return its file."""
        people = len(set(self.gone.subjects))
        sentences = [
            f"A small language model learned {len(self.data)} made-up personal records by heart, "
            f"in {self.seconds:.0f} seconds of training. Whoever asked it got phone numbers, "
            "e-mail addresses and account numbers back, word for word. None of these people exist. "
            "What it learned sits in an adapter, a small file of changes laid over the model.",
            f"Then {people} of {len(set(self.data.subjects))} people asked to be forgotten: "
            f"{len(self.gone)} records. {len(chapters)} ways to do that were tried. Each was "
            f"compared with {REFERENCES} adapters trained without these people from the start, "
            "because that is what forgetting should look like.",
        ]
        file = self.folder / "report.html"
        page = story_page(
            "Some people asked a language model to forget them",
            sentences,
            self.attempts(chapters),
            self._texts(chapters),
            COMMANDS,
            about_answers(
                self.data,
                {i: self.gone[i] for i in self._first_person},
                {c.name: c.audit.said["after"] for c in chapters},
            ),
        )
        with staged_file(file) as stage:
            stage.write_text(page, encoding="utf-8")
        return file

    @property
    def _references(self) -> list[Path]:
        return [Path(each) for each in reference_folders(self.folder / "references")]

    def _adapter(self, name: str) -> Path:
        return self.folder / name / "adapter"

    def _texts(self, chapters: Sequence[Chapter]) -> Sequence[ShownRecord]:
        """Return one person's records with what the model says before and after each method."""
        mine = self._first_person
        answers = {"before": self.before.said["after"]} | {
            f"after {c.name}": c.audit.said["after"] for c in chapters
        }
        answers |= {_NEVER: chapters[0].audit.said["reference:0"]}
        return shown_records(
            self.gone, {state: {i: texts[i] for i in mine} for state, texts in answers.items()}
        )


_NEVER = "never saw them"


def about_answers(
    data: Records, questions: Mapping[int, Record], answers: Mapping[str, Mapping[int, str]]
) -> str:
    """Say whether answers still hold true numbers or addresses, and what the others are.

    Values without a digit, such as a job, are not looked at: they can be right by chance.

    Args:
        data: all records that were learned.
        questions: the records asked for, by position.
        answers: by method, the answers by position.

    Returns:
        A sentence or two.
    """
    leaky = [
        name
        for name, texts in answers.items()
        if any(value in texts[i] for i, record in questions.items() for value in _numbers(record))
    ]
    if leaky:
        return f"After {', '.join(leaky)}, true numbers or addresses (underlined) still come out."
    text = "After forgetting, no true number or address (underlined) comes out any more."
    everything = "\n".join(texts[i] for texts in answers.values() for i in questions)
    if any(value in everything for record in data for value in _numbers(record)):
        return f"{text} Some answers hold those of somebody else in the records."
    return (
        f"{text} One that still looks real belongs to nobody in the records: it is made up, as by "
        "a model that never saw these people (last line)."
    )


def _numbers(record: Record) -> list[str]:
    """Return the sensitive values of a record that hold digits."""
    values = [(record.field(s.field) or "")[s.start : s.end] for s in record.secrets]
    return [value for value in values if any(map(str.isdigit, value))]


COMMANDS = (
    (
        "Take records out of a LoRA adapter: BASE is the model it lies over, records.jsonl what it "
        "was trained on, one record a line, with an id and prompt and completion (or text, or "
        "messages). A new adapter is trained without them.",
        "unlearn forget --model BASE --adapter ADAPTER --data records.jsonl --forget id1,id2 "
        "--output cleaned",
    ),
    (
        "Prove it: train it again from its lineage, and compare the weights, bit by bit.",
        "unlearn replay cleaned --data records.jsonl --model BASE --forget id1,id2",
    ),
    (
        "Or measure what is left of them, beside adapters that never saw them, with records that "
        "no model saw.",
        "unlearn references --model BASE --data records.jsonl --forget id1,id2 --like cleaned "
        "--output references",
    ),
    (
        "",
        "unlearn audit --model BASE --adapter cleaned --before ADAPTER --reference references "
        "--data records.jsonl --forget id1,id2 --holdout unseen.jsonl --output audit",
    ),
)
"""What a reader may want to run next."""


def tell(
    folder: Path,
    people: int,
    seed: int = 0,
    form: Form = "prompt",
    progress: Progress | None = None,
) -> Story:
    """Write the records, fine-tune the embedded model on them, and look at what it learned.

    Args:
        folder: where everything goes.
        people: how many people the records are about.
        seed: seed of records and training.
        form: question and answer, or conversations for the chat template.
        progress: called with (steps done, steps planned).

    Returns:
        The story so far.
    """
    folder.mkdir(parents=True, exist_ok=True)
    everybody = records(people + people // 2, seed, form)
    per_person = len(everybody) // (people + people // 2)
    rows, unseen = everybody[: people * per_person], everybody[people * per_person :]
    _write(folder / "records.jsonl", rows)
    _write(folder / "holdout.jsonl", unseen)
    data = Records.load(folder / "records.jsonl")
    subjects = list(dict.fromkeys(data.subjects))[::_SHARE]
    forget_ids = [row["id"] for row in rows if row["subject"] in subjects]
    (folder / "forget-ids.txt").write_text("\n".join(forget_ids) + "\n", encoding="utf-8")
    made = finetune(
        base_path(),
        data,
        folder / "adapter",
        template=TEMPLATES[form],
        lora=LORA,
        options=TRAINING,
        seed=seed,
        overwrite=True,
        progress=progress,
    )
    return Story(
        folder=folder,
        data=data,
        gone=data.select(_ids(folder)),
        seconds=made.fit.seconds,
        before=_audit(folder, made.folder, None, progress),
        seed=seed,
    )


def _ids(folder: Path) -> str:
    return f"@{folder / 'forget-ids.txt'}"


def _audit(
    folder: Path,
    adapter: Path,
    output: Path | None,
    progress: Progress | None,
    before: Path | None = None,
    references: Sequence[Path] = (),
) -> Audit:
    return run_audit(
        base_path(),
        folder / "records.jsonl",
        _ids(folder),
        output,
        adapter=adapter,
        before=before,
        references=references,
        holdout=folder / "holdout.jsonl",
        policy=POLICY if references else None,
        show_text=True,  # nobody in these records exists
        scope="comparison",  # nor does their request
        overwrite=True,
        progress=progress,
    )


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
