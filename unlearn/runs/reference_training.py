"""Train those references that are not there yet, in this process or several."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearn.data.templates import Template
from unlearn.data.tokenization import Example
from unlearn.errors import TrainingError
from unlearn.files import staged_folder
from unlearn.losses import NLL
from unlearn.methods.job import TrainingPlan
from unlearn.model.opening import Opening
from unlearn.model.save import load_trained
from unlearn.model.shape import adapter_like
from unlearn.model.state import ModelState, new_adapter
from unlearn.provenance.environment import environment_of
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage, library_versions, now, weights_digest
from unlearn.runs.card import write_card
from unlearn.runs.fields import Progress
from unlearn.runs.ray_cluster import run_on_ray
from unlearn.runs.signature import ROUNDING, differences, signature
from unlearn.runs.workers import Tell, WorkerLostError, as_one_of, run_in_processes, threads_for
from unlearn.training.expected_time import expected_seconds
from unlearn.training.fitting import Fit
from unlearn.training.memory import Work
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions
from unlearn.training.stages import StageOptions, fit_stages, steps_of
from unlearn.training.tokens import tokens_of

__all__ = ["Reference", "ReferenceTrainer", "plan_of", "train_missing"]

_PLAIN = Objective(retain=NLL())


@dataclass(frozen=True)
class Reference:
    """A reference as it is asked for.

    Attributes:
        folder: where it goes.
        positions: of the records that it sees.
        facts: what decides its weights, as its lineage has it.
    """

    folder: Path
    positions: Sequence[int]
    facts: Mapping[str, Any]

    def differs(self) -> str | None:
        """Say in what a reference there differs; None where it is the one wanted."""
        line = Lineage.read(self.folder)
        if line is None:
            return "it has no lineage"
        facts: dict[str, tuple[Any, Any]] = {
            "base model": (line.base.digest, self.facts["base"].digest),
            "lineage key": (line.records.key_id, self.facts["records"].key_id),
            "records": (line.records.trained, self.facts["records"].trained),
            "start": (line.start, self.facts.get("start")),
        }
        facts |= {
            name: (getattr(line, name), self.facts[name])
            for name in ("template", "finetuned_with", "seed")
        }
        for name, (there, wanted) in facts.items():
            if there != wanted:
                return f"it was made with another {name.replace('finetuned_with', 'setting')}"
        if not line.made_from:
            return "it does not say all that it was made from: an earlier version made it"
        if words := differences(line.made_from, self.facts["made_from"]):
            return f"what it was made from differs: {', '.join(words)}"
        if line.digest != weights_digest(self.folder):
            return "its weights are not those that its lineage names"
        return None


@dataclass
class ReferenceTrainer:
    """Trains references on one base, in this process or another; a process opens it once.

    Attributes:
        model: the base, a folder or hub name.
        opening: how it is opened.
        config: keyword arguments of `peft.LoraConfig`.
        training: how the adapters are trained.
        examples: the records of all references.
        template: how they were written.
        base: the opened base, if it is.
        like: the adapter whose shape and tokenizer they have, if one is named.
        changes: what of that shape was asked to be otherwise.
        stages: how the adapters are trained where that takes several trainings, one after another.
        start: an adapter that each begins with instead of a fresh one.
    """

    model: str | Path
    opening: Opening
    config: Mapping[str, Any]
    training: TrainingOptions
    examples: Sequence[Example]
    template: Template
    base: ModelState | None = None
    like: Path | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    stages: Sequence[StageOptions] = ()
    start: Path | None = None

    def made_from(
        self, positions: Sequence[int], digests: Sequence[str], key: Key
    ) -> dict[str, Any]:
        """Return what decides the weights of a reference beside its lineage's other facts.

        References that only round otherwise are alike: several processes have fewer threads each.
        """
        assert self.base is not None
        part = ([digests[p] for p in positions], [self.examples[p] for p in positions])
        facts = signature(self.base, {"training": part}, key, self.template)
        return {name: fact for name, fact in facts.items() if name not in ROUNDING}

    def steps(self, reference: Reference) -> int:
        """Return how many steps a reference takes."""
        return steps_of(self._stages, len(reference.positions))

    def seconds(self, reference: Reference, steps: int) -> float:
        """Return how long so many steps on the records of a reference are expected to take."""
        state, retain = self._fresh(reference)
        seconds = expected_seconds(state, _PLAIN, self._stages[0], steps, retain=retain)
        self._take_off(state)
        return seconds

    def work(self, reference: Reference, steps: int) -> Work:
        """Return what so many steps on the records of a reference are made of."""
        retain = [self.examples[p] for p in reference.positions]
        return Work(_PLAIN, self._stages[0], steps, (), retain, seed=reference.facts["seed"])

    def __call__(self, reference: Reference, tell: Tell) -> tuple[str, ...]:
        """Train a reference and put it in place; return what the user should know."""
        state, retain = self._fresh(reference)
        seed = reference.facts["seed"]
        result = fit_stages(state, self._stages, retain, seed=seed, progress=tell)
        self._save(state, reference, result)
        self._take_off(state)
        return result.notes

    @property
    def _stages(self) -> Sequence[StageOptions]:
        """The trainings that make a reference."""
        return self.stages or (StageOptions.of(self.training),)

    def _fresh(self, reference: Reference) -> tuple[ModelState, list[Example]]:
        """Return a new adapter on the base, and the examples that it sees."""
        self.base = self.base or self.opening.open(self.model)
        seed = reference.facts["seed"]
        if self.like is None:
            state = new_adapter(self.base, dict(self.config), seed)
        else:
            state = adapter_like(self.base, self.like, seed, self.changes)
        if self.start is not None:
            load_trained(state, self.start)
        return state, [self.examples[p] for p in reference.positions]

    def _take_off(self, state: ModelState) -> None:
        """Take an adapter off the base again."""
        assert self.base is not None
        self.base = replace(self.base, model=state.model.unload())

    def _save(self, state: ModelState, reference: Reference, result: Fit) -> None:
        with staged_folder(reference.folder, overwrite=True) as stage:
            state.save(stage)
            line = Lineage(
                schema=1,
                created=now(),
                digest=weights_digest(stage),
                kind="adapter",
                method="finetune",
                options=self.training.model_dump(),
                cost=result.cost(),
                versions=library_versions(),
                environment=environment_of(
                    state.model, state.device, deterministic=result.deterministic
                ),
                **{"verb": "references", **reference.facts},
            )
            line.write(stage)
            write_card(line, state, stage)


@dataclass
class _Queue:
    """References that wait for a process.

    Attributes:
        waiting: those that nobody has taken yet.
        planned: steps of all.
        progress: called with (steps done, steps planned) of all.
        done: steps done, by folder.
        notes: what the user should know of them.
    """

    waiting: list[Reference]
    planned: int
    progress: Progress | None
    done: dict[Path, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def take(self) -> Reference | None:
        """Take out the next one."""
        return self.waiting.pop(0) if self.waiting else None

    def advanced(self, task: Reference, done: int, planned: int) -> None:
        """Tell how far all of them are."""
        self.done[task.folder] = done
        if self.progress:
            self.progress(sum(self.done.values()), self.planned)

    def ended(
        self, task: Reference, result: tuple[str, ...] | None, error: Exception | None
    ) -> None:
        """Note what is said of one once; end all where it has failed."""
        if isinstance(error, WorkerLostError):
            raise TrainingError(
                f"{task.folder.name}: {error}; start the command again to go on, with fewer "
                "--jobs if memory was short"
            ) from error
        if error is not None:
            raise error
        self.notes += tuple(note for note in result or () if note not in self.notes)


def plan_of(
    trainer: ReferenceTrainer,
    missing: Sequence[Reference],
    jobs: int,
    notes: tuple[str, ...],
    what: str = "references",
) -> TrainingPlan:
    """Say what is about to be trained.

    Args:
        trainer: the trainer, its base open.
        missing: the references that are not there yet.
        jobs: how many processes train.
        notes: what the user should know.
        what: they are.

    Returns:
        The plan.
    """
    steps = [*map(trainer.steps, missing)]
    longest = max(range(len(missing)), key=steps.__getitem__)
    with as_one_of(jobs):
        seconds = trainer.seconds(missing[longest], steps[longest])
    seconds *= sum(steps) / steps[longest]  # each begins with blocks that it computes once
    beside = min(jobs, len(missing))
    text = f"train {len(missing)} {what}" + (f", {beside} at once" if beside > 1 else "")
    work = trainer.work(missing[longest], steps[longest])
    tokens = tokens_of(work.training, sum(steps), (), work.retain)
    return TrainingPlan(text, sum(steps), seconds / beside, notes, tokens, work=work)


def train_missing(
    trainer: ReferenceTrainer,
    missing: Sequence[Reference],
    jobs: int,
    progress: Progress | None,
    *,
    engine: str = "local",
    address: str | None = None,
) -> tuple[str, ...]:
    """Train references, in this process, in several, or as tasks of Ray.

    Args:
        trainer: the trainer, its base open.
        missing: the references that are not there yet.
        jobs: how many processes train.
        progress: called with (steps done, steps planned) of all.
        engine: local or ray.
        address: of a Ray cluster to join, instead of one of this machine's.

    Returns:
        What the user should know.

    Raises:
        TrainingError: if a process is lost.
    """
    queue = _Queue(list(missing), sum(map(trainer.steps, missing)), progress)
    if engine == "ray" and missing:
        trainer.base = None
        run_on_ray(trainer, queue, jobs, address, trainer.opening.device)
        return queue.notes
    if jobs > 1 and len(missing) > 1:
        trainer.base = None  # each process opens its own
        device = trainer.opening.device
        run_in_processes(trainer, queue, min(jobs, len(missing)), threads_for(jobs), device)
        return queue.notes
    with as_one_of(jobs):
        while (reference := queue.take()) is not None:
            notes = trainer(reference, functools.partial(queue.advanced, reference))
            queue.ended(reference, notes, None)
    return queue.notes
