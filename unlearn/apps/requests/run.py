"""Carry out requests: one unlearning run for all that wait on a line of adapters.

Exact retraining forgets all of them at once, and whatever was ever asked on the line: one run for
ten requests takes as long as for one.

What a run is about to do is written down before it starts (`planned`), and its output folder is
new and named after it. The folder appears in one rename; then one transaction marks all requests of
the batch. Killed in between, the next run finds the plan, recognises the finished folder by its
lineage (weights digest, parent, method, seed, and exactly the batch's records and the run's
canaries among the forgotten), and adopts it; killed before, it does the same work again, from a
checkpoint if there is one. A command that asks for something else gives the plan up instead, unless
its folder is finished (see `_plans`).
"""

from __future__ import annotations

import gc
import secrets
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from unlearn.apps.requests import canaries
from unlearn.apps.requests.intake import Setup, escrowed, setup_of, untrained
from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.ledger.locks import BusyError, Hold
from unlearn.apps.requests.ledger.states import State
from unlearn.apps.requests.line import Newest, latest
from unlearn.apps.requests.new_adapter import new_adapter, recognised
from unlearn.apps.requests.plans import (
    RETRIED,
    RunPlan,
    Settings,
    abandon,
    enter,
    objection,
    pending,
)
from unlearn.apps.requests.price import Price
from unlearn.apps.requests.rounds import check_method
from unlearn.data.records import Records
from unlearn.errors import LedgerError, OptionError, UnlearnError
from unlearn.processes import world_size
from unlearn.provenance.suppression import suppress

if TYPE_CHECKING:
    from unlearn.methods.plans import TrainingPlan

__all__ = [
    "Done",
    "Failed",
    "Ran",
    "Settings",
    "run_requests",
]


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
        copies: how many records of the data had their content under other ids.
        price: what it took, and what it left of the kept records.
    """

    run: str
    folder: str
    digest: str
    requests: tuple[str, ...]
    again: tuple[str, ...]
    records: int
    adopted: bool
    untrained: int = 0
    copies: int = 0
    price: Price | None = None


@dataclass(frozen=True)
class Failed:
    """A line of adapters on which a run could not be finished.

    Attributes:
        line: which.
        requests: ids of those that wait on it.
        problem: what went wrong, in a line.
        trace: of an error that nobody foresaw, where it happened; empty for what the system
            refused, such as a full disk, and None for what a run cannot use.
    """

    line: str
    requests: tuple[str, ...]
    problem: str
    trace: str | None = None


@dataclass
class Ran:
    """What came of carrying out requests.

    Attributes:
        done: runs that were finished.
        busy: lines that another process is working on, and what is known of it.
        failed: lines that were left when something went wrong; the others were gone on with.
        notes: what became of runs that were planned before.
    """

    done: list[Done] = field(default_factory=list)
    busy: dict[str, str] = field(default_factory=dict)
    failed: list[Failed] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run_requests(
    ledger: Ledger,
    settings: Settings,
    *,
    only: Sequence[str] = (),
    given: Collection[str] = (),
    tell: Callable[[str], None] | None = None,
    **calls: Any,
) -> Ran:
    """Carry out all located requests, batched by line and setup; planned runs come first.

    A run that was planned before and not finished is gone on with as it was planned. Where what
    is asked for now differs, it is given up and planned anew, unless its adapter is complete.

    Args:
        ledger: which.
        settings: of new runs.
        only: ids of the requests to carry out, those that failed or were inconclusive among them;
            all that are located when empty.
        given: names of the settings that were chosen, rather than left as usual.
        tell: told what becomes of runs that were planned before.
        **calls: `announce` and `progress` of `unlearn.forget`, and `off_now`: of shards, drop those
            that hold the records first, into a folder that can be served at once.

    Returns:
        What was done, and what was not.

    Raises:
        UnlearnError: for settings that no run can use; nothing was changed.
    """
    if world_size() > 1:
        raise OptionError("requests are run by one process: start it without a launcher")
    check_method(settings.method, settings.options)
    ran = Ran()

    def note(text: str) -> None:
        ran.notes.append(text)
        if tell:
            tell(text)

    order = _RunOrder(settings, frozenset(given), frozenset(only), note)
    waiting = [request for request in ledger.requests(_WAITING) if order.about(request)]
    for line in dict.fromkeys(request.line for request in waiting):
        try:
            with ledger.hold(line) as hold:
                for batch, plan in _batches(ledger, hold, order):
                    ran.done.append(_carry_out(ledger, hold, batch, plan, calls, note))
        except BusyError as error:
            ran.busy[line] = str(error)
        except Exception as error:
            still = ledger.requests(_WAITING, line=line)
            names = tuple(request.id for request in still if order.about(request))
            ran.failed.append(_failure(line, names, error))
        gc.collect()  # what the error held of a model goes before the next one is opened
    return ran


def _failure(line: str, requests: tuple[str, ...], error: Exception) -> Failed:
    """Write down what went wrong; the error itself would keep a model in memory."""
    if isinstance(error, UnlearnError):
        return Failed(line, requests, str(error))
    if isinstance(error, OSError):  # a full disk is no fault of the program
        return Failed(line, requests, str(error), "")
    problem = f"{type(error).__name__}: {error}"
    return Failed(line, requests, problem, "".join(traceback.format_exception(error)))


@dataclass(frozen=True)
class _RunOrder:
    """What the user asks for: see `run_requests`."""

    settings: Settings
    given: frozenset[str]
    only: frozenset[str]
    note: Callable[[str], None]

    def about(self, request: Request) -> bool:
        """Say whether a request is to be carried out."""
        if self.only:
            return request.id in self.only
        return request.state == "located"


_WAITING: tuple[State, ...] = ("located", *RETRIED)


def _batches(
    ledger: Ledger, hold: Hold, order: _RunOrder
) -> Iterator[tuple[list[Request], RunPlan]]:
    """Yield what was planned before, then new batches, each planned when it is its turn."""
    for batch, plan in pending(ledger, hold.line):
        complete = plan.folder.exists()
        reason = objection(plan, batch, order.settings, order.given, order.only)
        if reason and not complete:
            abandon(ledger, hold, plan, batch)
            order.note(f"run {plan.run} was planned before and not finished; {reason}: given up")
            continue
        how = f"is noted, though {reason}" if reason else "is noted"
        order.note(
            f"run {plan.run} "
            + (f"had made its adapter, which {how}" if complete else "is gone on with as planned")
            + f": {plan.settings.told}"
        )
        yield batch, plan
    fresh = [
        request
        for request in ledger.requests(_WAITING, line=hold.line)
        if "run" not in request.facts and order.about(request)
    ]
    groups: dict[Setup, list[Request]] = {}
    for request in fresh:
        groups.setdefault(setup_of(ledger, request), []).append(request)
    for setup, batch in groups.items():
        plan = _planned(ledger, hold.line, setup, batch, order.settings)
        yield enter(ledger, hold, plan, batch), plan


def _planned(
    ledger: Ledger, line: str, setup: Setup, batch: Sequence[Request], settings: Settings
) -> RunPlan:
    """Return the plan of a new run, once it is known that it can be begun."""
    folder, digest, _ = latest(ledger, line, setup)
    file = settings.canaries or canaries.file_of(ledger, line)
    escrowed(ledger, batch)
    canaries.taken(ledger, file, settings.with_canaries, setup, folder)
    return RunPlan(secrets.token_hex(6), digest, folder, replace(settings, canaries=file))


def _carry_out(
    ledger: Ledger,
    hold: Hold,
    batch: Sequence[Request],
    plan: RunPlan,
    calls: Mapping[str, Any],
    note: Callable[[str], None],
) -> Done:
    """Take the records of a batch out of the line's newest adapter, and note it in the ledger."""
    line = batch[0].line
    setup = setup_of(ledger, batch[0])
    newest = latest(ledger, line, setup)
    forget_records = escrowed(ledger, batch)
    adopted = plan.folder.exists()
    try:
        if newest.digest != plan.parent:
            raise LedgerError(
                f"run {plan.run} was planned on another adapter than the line's newest; its "
                "requests wait for another run"
            )
        file, count = plan.settings.canaries, plan.settings.with_canaries
        beside = canaries.taken(ledger, file, count, setup, newest.folder)
        if adopted:
            made = recognised(ledger, plan, batch, beside)
            price = Price.of(made)
        else:
            told = _Told(calls.get("announce"))
            own = {**calls, "announce": told, "tell": note}
            result = new_adapter(ledger, line, setup, newest.folder, forget_records, plan, own)
            made, price = result.lineage, Price.of(result.lineage, told.retraining)
            for text in result.notes:
                note(text)
    except UnlearnError:
        abandon(ledger, hold, plan, batch)
        raise
    if plan.settings.suppress:
        suppress(forget_records, f"deletion request, run {plan.run}", ledger.key)
    again = _note_run(ledger, hold, batch, plan, newest, (made.digest, price), beside)
    digests = (ledger.key.digest(record) for record in forget_records)
    return Done(
        run=plan.run,
        folder=str(plan.folder),
        digest=made.digest,
        requests=tuple(request.id for request in batch),
        again=again,
        records=len(forget_records),
        adopted=adopted,
        untrained=untrained(ledger, newest.folder, digests),
        copies=_copies(ledger, setup, forget_records),
        price=price,
    )


@dataclass
class _Told:
    """Hands a plan on, and keeps what retraining takes by it.

    Attributes:
        announce: whom to tell.
        retraining: tokens of retraining, where the plan knows them.
    """

    announce: Callable[[TrainingPlan], None] | None
    retraining: float | None = None

    def __call__(self, plan: TrainingPlan) -> None:
        """Take a plan."""
        self.retraining = plan.retraining.tokens if plan.retraining else None
        if self.announce is not None:
            self.announce(plan)


def _copies(ledger: Ledger, setup: Setup, forget_records: Records) -> int:
    """Count the records of the data that repeat one of a run's under another id: they went, too."""
    digests = set(map(ledger.key.digest, forget_records))
    names = set(forget_records.ids)
    data = Records.load(setup.retain or setup.data)
    return sum(r.id not in names and ledger.key.digest(r) in digests for r in data)


def _note_run(
    ledger: Ledger,
    hold: Hold,
    batch: Sequence[Request],
    plan: RunPlan,
    newest: Newest,
    made: tuple[str, Price],
    beside: Sequence[str],
) -> tuple[str, ...]:
    """Mark a batch as carried out; return the requests to be verified again, on the new adapter."""
    line, (digest, price) = batch[0].line, made

    def sealed(folder: str, weights: str) -> str:
        return ledger.sealer.seal(folder, f"adapter {weights}")

    after = {
        "n": newest.runs + 1,
        "digest": digest,
        "folder": sealed(str(plan.folder), digest),
        "method": plan.settings.method,
        "run": plan.run,
    }
    before = {"digest": newest.digest, "folder": sealed(newest.folder, newest.digest)}
    own = {request.id for request in batch}
    decided: tuple[State, ...] = ("unlearned", "verified", "failed", "inconclusive")
    with ledger.writing(hold) as writer:
        for request in batch:
            first = request.facts.get("before", before)  # of a second attempt: what it started from
            taken = canaries.taken_facts(ledger, request, plan.settings.canaries, beside)
            facts = {"run": None, "before": first, "after": after, "swept": None}
            facts["price"] = price.as_dict(plan.run)
            writer.change(request.id, "unlearned", **facts, **taken)
        others = [r.id for r in ledger.requests(decided, line=line) if r.id not in own]
        for name in others:
            writer.change(name, "superseded", after=after, verdict=None, swept=None)
    return tuple(others)
