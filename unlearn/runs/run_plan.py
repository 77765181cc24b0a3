"""The plan of a run: what it takes, and how that is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn.data.lengths import guessed_examples
from unlearn.data.records import Records
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import Example, encode
from unlearn.methods.plans import TrainingPlan
from unlearn.model.folders import place_of
from unlearn.model.opening import Opening
from unlearn.model.reading import open_tokenizer
from unlearn.model.weightless import Weightless
from unlearn.provenance.digests import reading_files, weight_files
from unlearn.runs.saving import encoding_notes
from unlearn.training.memory import Memory, Needs, Work, needs_of

__all__ = [
    "OPENED",
    "Part",
    "RunPlan",
    "announced",
    "examples_for",
    "is_opened",
    "needed",
    "of_training",
]

OPENED = 10 << 30
"""Bytes of weights up to which a model is opened for a plan, and a step timed."""


@dataclass(frozen=True)
class Part:
    """Records of one role.

    Attributes:
        name: what is done with them.
        records: how many there are.
        tokens: of one pass over them.
    """

    name: str
    records: int
    tokens: int

    @classmethod
    def of(cls, name: str, examples: Sequence[Example]) -> Part:
        """Count some examples."""
        return cls(name, len(examples), sum(len(each.ids) for each in examples))


@dataclass(frozen=True)
class RunPlan:
    """What a run will take.

    Attributes:
        text: what will be done, in words.
        parameters: of the model, its adapters included.
        trainable: how many of them train.
        parts: the records.
        tokens: that go through the model in all; in a training those that are only scored count a
            third.
        how: of what `tokens` are, in words.
        operations: floating-point operations in all; None where nobody can tell.
        memory: of one process, its peak; None where nobody can tell.
        seconds: expected wall time; None where no step was timed.
        relative: what it takes beside retraining, in words, where that is known.
        notes: what the user should know.
    """

    text: str
    parameters: int
    trainable: int
    parts: tuple[Part, ...]
    tokens: float
    how: str
    operations: float | None
    memory: Memory | None
    seconds: float | None
    relative: str = ""
    notes: tuple[str, ...] = ()

    def rows(self, duration: Callable[[float], str]) -> list[tuple[str, str]]:
        """Say it in words, each with what it is about.

        Args:
            duration: writes seconds as people say them.

        Returns:
            (what, how much) of each.
        """
        train = f", of which {self.trainable:,} train" if self.trainable else ""
        found = [("parameters", f"{self.parameters:,}{train}")]
        found += [
            (part.name, f"{part.records:,} records, {part.tokens:,} tokens in a pass")
            for part in self.parts
        ]
        found.append(("in all", f"{self.tokens:,.0f} tokens {self.how}"))
        if self.operations is not None:
            found.append(("operations", f"{self.operations:.2g} floating-point operations"))
        if self.memory is not None:
            found.append(("peak memory", f"{_size(self.memory.peak)} a process, of tensors:"))
            found += [("", f"{_size(size):>10} {name}") for name, size in self.memory.parts.items()]
        time = "not told: no step was timed"
        if self.seconds is not None:
            time = f"about {duration(self.seconds)} on this machine, timed on a sample"
        found.append(("time", time))
        return [*found, *([("retraining", self.relative)] if self.relative else [])]


def is_opened(folder: Path) -> bool:
    """Say whether a model's weights are at hand, and few enough to be opened for a plan."""
    files = weight_files(folder).values()
    return 0 < sum(path.stat().st_size for path in files) <= OPENED


def examples_for(
    parts: Sequence[Records],
    folder: Path,
    opening: Opening,
    template: str | None,
    limit: int,
) -> tuple[list[list[Example]], tuple[str, ...]]:
    """Return records as tokens, by the tokenizer of a model's folder or by a guess.

    Args:
        parts: the records.
        folder: the model's.
        opening: how it is opened.
        template: of the records; None to choose.
        limit: tokens after which a record is cut.

    Returns:
        (examples of each part, what the user should know).

    Raises:
        DataError: for a record that cannot be written or predicted.
        OptionError: if there is no such template.
    """
    if not reading_files(folder):
        note = "there is no tokenizer: tokens are counted as one for four bytes of text"
        return [guessed_examples(part, template, limit) for part in parts], (note,)
    tokenizer = open_tokenizer(folder, trust_remote_code=opening.trust_remote_code)
    limit = min(limit, tokenizer.model_max_length or limit)
    chosen = choose_template(template, tokenizer, *parts)
    examples = [encode(part, tokenizer, chosen, limit) for part in parts]
    return examples, encoding_notes([each for part in examples for each in part])


def needed(find: Callable[[], Needs]) -> tuple[Needs | None, tuple[str, ...]]:
    """Count what shapes hold; a model whose operators ask for contents is told of in a note.

    Args:
        find: counts.

    Returns:
        (what is needed, what the user should know).
    """
    try:
        return find(), ()
    except (RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())[:120]
        return None, (
            f"peak memory and operations cannot be told: this model does not run on shapes ({why})",
        )


class _ToldError(Exception):
    """Ends a run once its plan is known."""

    def __init__(self, plan: TrainingPlan) -> None:
        super().__init__(plan.text)
        self.plan = plan


def announced(run: Callable[[Callable[[TrainingPlan], None]], object]) -> TrainingPlan | None:
    """Return the plan that a run announces, and end it there.

    Args:
        run: takes what is to be called with the plan.

    Returns:
        The plan; None where it announced none.
    """

    def tell(plan: TrainingPlan) -> None:
        raise _ToldError(plan)

    try:
        run(tell)
    except _ToldError as told:
        return told.plan
    return None


def of_training(
    plan: TrainingPlan, shapes: Weightless, opening: Opening, *, timed: bool
) -> RunPlan:
    """Add to the plan of a training what shapes tell.

    Args:
        plan: of the training.
        shapes: of its model.
        opening: how that is opened.
        timed: whether its seconds were measured.

    Returns:
        The plan of the run.
    """
    work, notes = plan.work, plan.notes
    place = place_of(opening.device).type
    needs = None
    if work is None:
        notes += ("peak memory and operations cannot be told of this method",)
    else:
        needs, more = needed(lambda: needs_of(shapes, work, place))
        notes += more
    if not timed:
        notes += ("no weights were opened: shapes come from config.json alone",)
    parts = {} if work is None else _roles(work)
    return RunPlan(
        plan.text,
        shapes.parameters,
        shapes.trainable,
        tuple(Part.of(name, part) for name, part in parts.items() if part),
        plan.tokens,
        f"forward and backward, in at most {plan.steps:,} step{'s' * (plan.steps != 1)}",
        None if needs is None else needs.operations * plan.tokens,
        None if needs is None else needs.memory,
        plan.seconds * plan.usual if timed else None,
        plan.relative if timed else "",
        notes,
    )


def _roles(work: Work) -> dict[str, Sequence[Example]]:
    if not work.forget:
        return {"to train on": work.retain}
    return {"to forget": work.forget, "to keep": work.retain, "other answers": work.alternates}


def _size(count: float) -> str:
    """Write bytes as people say them."""
    for size, word in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= size:
            return f"{count / size:,.1f} {word}"
    return f"{count:.0f} bytes"
