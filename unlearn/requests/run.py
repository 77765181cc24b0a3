"""Carry out requests: one unlearning run for all that wait on a line of adapters.

What a run is about to do is written down before it starts (`planned`), and its output folder is
new and named after it. The folder appears in one rename; then one transaction marks all requests of
the batch. Killed in between, the next run finds the plan, recognises the finished folder by its
lineage (weights digest, parent, method, seed, and exactly the batch's records and the run's
canaries among the forgotten), and adopts it; killed before, it does the same work again, from a
checkpoint if there is one.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearn import lineage as lin
from unlearn._folders import resolve_folder
from unlearn.errors import LedgerError, OptionError, UnlearnError
from unlearn.lineage import Lineage, weights_digest
from unlearn.methods import get_method
from unlearn.records import Records
from unlearn.requests import canaries
from unlearn.requests._leases import Lease
from unlearn.requests._writer import Request
from unlearn.requests.desk import Setup, escrowed, setup_of, untrained
from unlearn.requests.ledger import Ledger
from unlearn.requests.states import State

__all__ = ["Done", "Settings", "kept_records", "latest", "opened", "reopen", "run_requests"]


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


@dataclass(frozen=True)
class Done:
    """A finished run.

    Attributes:
        run: its id.
        folder: of the new adapter.
        digest: of its weights.
        requests: ids of those carried out.
        again: ids of open ones that must be verified again, on the new adapter.
        records: how many were taken out.
        adopted: whether the folder was there, finished by a run that was killed afterwards.
        untrained: how many of the records the adapter before never learned, by its lineage.
    """

    run: str
    folder: str
    digest: str
    requests: tuple[str, ...]
    again: tuple[str, ...]
    records: int
    adopted: bool
    untrained: int = 0


@dataclass(frozen=True)
class _Plan:
    """A run as it was planned; sealed in the ledger."""

    run: str
    parent: str
    parent_folder: str
    settings: Settings

    @property
    def folder(self) -> Path:
        return Path(self.settings.output) / f"run-{self.run}"


def reopen(ledger: Ledger, request: Request) -> Request:
    """Let a request that failed, or could not be decided, wait for another run.

    Args:
        ledger: which.
        request: failed or inconclusive.

    Returns:
        The request, located.
    """
    with ledger.writing() as writer:
        return writer.change(request.id, "reopened", verdict=None)


def run_requests(
    ledger: Ledger,
    settings: Settings,
    *,
    only: Sequence[str] = (),
    **calls: Any,
) -> tuple[list[Done], list[str]]:
    """Carry out all located requests, batched by line and setup; planned runs come first.

    Args:
        ledger: which.
        settings: of new runs; one that was planned before keeps its own.
        only: ids of the requests to carry out; all that wait when empty.
        **calls: `announce` and `progress` of `unlearn.forget`.

    Returns:
        (what was done, lines that another process is working on).

    Raises:
        UnlearnError: for what a run cannot use; its requests stay located.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise OptionError("requests are run by one process: start it without a launcher")
    done: list[Done] = []
    busy: list[str] = []
    waiting = [r for r in ledger.requests(["located"]) if not only or r.id in only]
    for line in dict.fromkeys(r.line for r in waiting):
        with ledger.lease(line) as lease:
            if lease is None:
                busy.append(line)
                continue
            for batch, plan in _batches(ledger, lease, line, settings, only):
                done.append(_carry_out(ledger, lease, batch, plan, calls))
    return done, busy


def _batches(
    ledger: Ledger, lease: Lease, line: str, settings: Settings, only: Sequence[str]
) -> Iterator[tuple[list[Request], _Plan]]:
    """Yield what was planned before, then new batches, each planned when it is its turn."""
    waiting = ledger.requests(["located"], line=line)
    planned = [r for r in waiting if "run" in r.facts]
    for run in dict.fromkeys(r.facts["run"]["id"] for r in planned):
        batch = [r for r in planned if r.facts["run"]["id"] == run]
        told = ledger.sealer.open(batch[0].facts["run"]["plan"], f"plan of run {run}")
        yield batch, _Plan(**{**told, "settings": Settings(**told["settings"])})
    fresh = [r for r in waiting if "run" not in r.facts and (not only or r.id in only)]
    groups: dict[Setup, list[Request]] = {}
    for request in fresh:
        setup = setup_of(ledger, request)
        groups.setdefault(setup, []).append(request)
    for setup, batch in groups.items():
        folder, digest, _ = latest(ledger, line, setup)
        file = settings.canaries or canaries.file_of(ledger, line)
        settings = replace(settings, canaries=file)
        plan = _Plan(secrets.token_hex(6), digest, folder, settings)
        sealed = ledger.sealer.seal(asdict(plan), f"plan of run {plan.run}")
        with ledger.writing(lease, line) as writer:
            told = {"id": plan.run, "method": settings.method, "parent": digest, "plan": sealed}
            yielded = [writer.change(r.id, "planned", run=told) for r in batch]
        yield yielded, plan


def latest(ledger: Ledger, line: str, setup: Setup) -> tuple[str, str, int]:
    """Return where the newest adapter of a line is, its digest, and how many runs led to it.

    Args:
        ledger: which.
        line: which line.
        setup: of a request on it, which names the first adapter.

    Returns:
        (folder, weights digest, runs so far).

    Raises:
        LedgerError: if the adapter on disk is not the one that was made.
    """
    made = [r.facts["after"] for r in ledger.requests(line=line) if "after" in r.facts]
    if made:
        last = max(made, key=lambda entry: int(entry["n"]))
        digest, count = str(last["digest"]), int(last["n"])
        folder = str(ledger.sealer.open(last["folder"], f"adapter {digest}"))
    else:
        folder, digest, count = str(resolve_folder(setup.changing, "adapter")), line, 0
    if not Path(folder).is_dir() or weights_digest(folder) != digest:
        raise LedgerError(
            f"the adapter {folder} is gone or was changed since the ledger saw it ({digest[:19]}…)"
        )
    return folder, digest, count


def opened(setup: Setup, folder: str) -> tuple[str, list[str]]:
    """Return model and adapters to open, with the newest of the line in its place."""
    if setup.adapters:
        return setup.model, [*setup.adapters[:-1], folder]
    return folder, []


def kept_records(ledger: Ledger, line: str, setup: Setup) -> Records:
    """Return the records to keep: none that any request on the line ever was about.

    Args:
        ledger: which.
        line: which line.
        setup: names the data.

    Returns:
        The records, possibly none.
    """
    gone: set[str] = set()
    for request in ledger.requests(line=line):
        # earlier versions closed some as withdrawn after a run had taken their records out
        if request.facts.get("outcome") != "withdrawn" or "after" in request.facts:
            gone |= set(request.facts.get("records", ()))
    data = Records.load(setup.retain or setup.data)
    key = ledger.key
    return data.take([i for i, record in enumerate(data) if key.digest(record) not in gone])


def _carry_out(
    ledger: Ledger, lease: Lease, batch: Sequence[Request], plan: _Plan, calls: Mapping[str, Any]
) -> Done:
    line = batch[0].line
    setup = setup_of(ledger, batch[0])
    folder, digest, count = latest(ledger, line, setup)
    if digest != plan.parent:
        raise LedgerError(f"run {plan.run} was planned on another adapter than the line's newest")
    gone = escrowed(ledger, batch)
    adopted = plan.folder.exists()
    file, number = plan.settings.canaries, plan.settings.with_canaries
    try:
        beside = canaries.taken(ledger, file, number, setup, folder)
        if adopted:
            made = _recognised(ledger, plan, batch, beside)
        else:
            made = _forget(ledger, line, setup, folder, gone, plan, calls)
    except UnlearnError:
        with ledger.writing(lease, line) as writer:
            for request in batch:
                writer.change(request.id, "abandoned", run=None)
        raise
    if plan.settings.suppress:
        lin.suppress(gone, f"deletion request, run {plan.run}", ledger.key)
    after = {
        "n": count + 1,
        "digest": made,
        "folder": ledger.sealer.seal(str(plan.folder), f"adapter {made}"),
        "method": plan.settings.method,
        "run": plan.run,
    }
    before = {"digest": digest, "folder": ledger.sealer.seal(folder, f"adapter {digest}")}
    own = {request.id for request in batch}
    decided: tuple[State, ...] = ("unlearned", "verified", "failed", "inconclusive")
    with ledger.writing(lease, line) as writer:
        for request in batch:
            first = request.facts.get("before", before)  # of a second attempt: what it started from
            more = canaries.taken_facts(ledger, request, file, beside)
            now = {"run": None, "before": first, "after": after, "swept": None}
            writer.change(request.id, "unlearned", **now, **more)
        others = [r.id for r in ledger.requests(decided, line=line) if r.id not in own]
        for name in others:
            writer.change(name, "superseded", after=after, verdict=None, swept=None)
    names = tuple(request.id for request in batch)
    strange = untrained(ledger, folder, (ledger.key.digest(record) for record in gone))
    again = tuple(others)
    return Done(plan.run, str(plan.folder), made, names, again, len(gone), adopted, strange)


def _forget(
    ledger: Ledger,
    line: str,
    setup: Setup,
    folder: str,
    gone: Records,
    plan: _Plan,
    calls: Mapping[str, Any],
) -> str:
    """Train; return the digest of the new weights."""
    from unlearn.workflow import forget

    for left in plan.folder.parent.glob(f".{plan.folder.name}.partial-*"):
        shutil.rmtree(left, ignore_errors=True)  # of a killed process: the lease is ours
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    settings = plan.settings
    model, adapters = opened(setup, folder)
    result = forget(
        model,
        gone,
        f"rows:0-{len(gone) - 1}",
        plan.folder,
        adapter=adapters or None,
        method=settings.method,
        holdout=setup.holdout,
        retain=kept_records(ledger, line, setup),
        canaries=settings.canaries,
        with_canaries=settings.with_canaries,
        template=setup.template,
        options=settings.options,
        seed=settings.seed,
        **settings.opening,
        **calls,
    )
    return result.lineage.digest


def _recognised(
    ledger: Ledger, plan: _Plan, batch: Sequence[Request], beside: Sequence[str]
) -> str:
    """Return the digest of a folder that this very run made, or refuse it."""
    line = Lineage.read(plan.folder)
    parent = Lineage.read(plan.parent_folder)
    wanted = {digest for request in batch for digest in request.facts["records"]} | set(beside)
    before = set(parent.records.forgotten) if parent else set()
    exact = get_method(plan.settings.method).kind == "exact"
    if (
        line is None
        or line.records.key_id != ledger.key.id
        or line.digest != weights_digest(plan.folder)
        or line.parent != (None if exact else plan.parent)
        or (line.method, line.seed) != (plan.settings.method, plan.settings.seed)
        or set(line.records.forgotten) != before | wanted
    ):
        raise LedgerError(
            f"{plan.folder} is not what run {plan.run} was to make; it was left as it is, and the "
            "requests wait for another run"
        )
    return line.digest
