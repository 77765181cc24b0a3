"""What runs are about to do, as the ledger keeps it until they are finished or given up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.ledger.locks import Hold
from unlearn.apps.requests.ledger.states import State

__all__ = ["RETRIED", "RunPlan", "Settings", "abandon", "enter", "objection", "pending"]

RETRIED: tuple[State, ...] = ("failed", "inconclusive")
"""States in which a request that is named waits for another run."""

_FLAGS = {
    "method": "--method",
    "options": "-o",
    "seed": "--seed",
    "output": "--output",
    "opening": "how the model is opened",
    "suppress": "--suppress",
    "canaries": "--canaries",
    "with_canaries": "--with-canaries",
}


@dataclass(frozen=True)
class Settings:
    """How a run takes records out.

    Attributes:
        method: see `unlearn methods`.
        options: of method and training.
        seed: of everything random.
        output: folder in which each run makes one of its own.
        opening: how the model is opened.
        suppress: put the records on the suppression list.
        canaries: file of those planted in the adapter; None for the one that the line's last run
            used, if any.
        with_canaries: how many of them to take out beside the records.
    """

    method: str
    options: Mapping[str, Any]
    seed: int
    output: str
    opening: Mapping[str, Any] = field(default_factory=dict)
    suppress: bool = True
    canaries: str | None = None
    with_canaries: int = 0

    @property
    def told(self) -> str:
        """What matters of them, for people."""
        words = [f"-o {name}={value}" for name, value in self.options.items()]
        words += [f"--with-canaries {self.with_canaries}"] if self.with_canaries else []
        return " ".join([f"--method {self.method}", *words, f"--seed {self.seed}"])


@dataclass(frozen=True)
class RunPlan:
    """A run as it was planned; sealed in the ledger."""

    run: str
    parent: str
    parent_folder: str
    settings: Settings

    @property
    def folder(self) -> Path:
        """Where the run puts its adapter, complete, in one rename."""
        return Path(self.settings.output) / f"run-{self.run}"

    @property
    def dropped(self) -> Path:
        """Where it puts shards without those to train, to be served meanwhile, if asked to."""
        return self.folder.with_name(f"{self.folder.name}-off")

    def leftovers(self) -> list[Path]:
        """Return what a run that was not finished left beside its folder."""
        place, name = self.folder.parent, self.folder.name
        hidden = [*place.glob(f".{name}*.partial-*"), *place.glob(f".{name}.checkpoints")]
        hidden += place.glob(f".{name}.rounds")
        return [*hidden, *([self.dropped] if self.dropped.exists() else [])]


def pending(ledger: Ledger, line: str) -> Iterator[tuple[list[Request], RunPlan]]:
    """Yield the runs on a line that were planned and neither finished nor given up.

    Args:
        ledger: which.
        line: which line.

    Yields:
        (the requests that a run carries out, its plan).
    """
    planned = [r for r in ledger.requests(["located"], line=line) if "run" in r.facts]
    for run in dict.fromkeys(r.facts["run"]["id"] for r in planned):
        batch = [r for r in planned if r.facts["run"]["id"] == run]
        content = ledger.sealer.open(batch[0].facts["run"]["plan"], f"plan of run {run}")
        yield batch, RunPlan(**{**content, "settings": Settings(**content["settings"])})


def objection(
    plan: RunPlan,
    batch: Sequence[Request],
    settings: Settings,
    given: Collection[str],
    only: Collection[str],
) -> str | None:
    """Say why a plan is not what the user asks for now.

    Args:
        plan: of a run that was not finished.
        batch: its requests.
        settings: of this command.
        given: names of those that the user chose; what was left out agrees with any plan.
        only: ids of the requests that the user named; none for all.

    Returns:
        The reason; None when the plan may be gone on with.
    """
    strange = [request.id for request in batch if only and request.id not in only]
    if strange:
        return f"it takes out the records of {', '.join(strange)} too, which is not named now"
    differing = [
        flag
        for name, flag in _FLAGS.items()
        if name in given and _plain(getattr(settings, name)) != _plain(getattr(plan.settings, name))
    ]
    if differing:
        return f"other settings are given now ({', '.join(differing)})"
    return None


def _plain(value: Any) -> Any:
    """Return a setting as it is once it was written down and read."""
    return json.loads(json.dumps(value))


def enter(ledger: Ledger, hold: Hold, plan: RunPlan, batch: Sequence[Request]) -> list[Request]:
    """Write a plan down; requests that were decided wait for another run from then on.

    Args:
        ledger: which.
        hold: on the line.
        plan: what is about to be done.
        batch: the requests that it carries out.

    Returns:
        The requests, planned.
    """
    sealed = ledger.sealer.seal(asdict(plan), f"plan of run {plan.run}")
    facts = {"id": plan.run, "method": plan.settings.method, "parent": plan.parent, "plan": sealed}
    with ledger.writing(hold) as writer:
        for request in batch:
            if request.state in RETRIED:
                writer.change(request.id, "reopened", verdict=None)
        return [writer.change(request.id, "planned", run=facts) for request in batch]


def abandon(ledger: Ledger, hold: Hold, plan: RunPlan, batch: Sequence[Request]) -> None:
    """Give a plan up: its requests wait again, and nothing half-made of it stays.

    Args:
        ledger: which.
        hold: on the line.
        plan: what is not to be done.
        batch: its requests.
    """
    # first: killed in between, the plan is still there to say whose they are
    for partial in plan.leftovers():
        shutil.rmtree(partial, ignore_errors=True)
    with ledger.writing(hold) as writer:
        for request in batch:
            writer.change(request.id, "abandoned", run=None)
