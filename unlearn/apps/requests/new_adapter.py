"""Make the adapter of a run, or recognise the one that a killed process made for it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from unlearn.apps.requests import rounds, shards
from unlearn.apps.requests.intake import Setup
from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.line import kept_records, opened
from unlearn.apps.requests.plans import RunPlan
from unlearn.apps.requests.rounds import by_rounds, is_exact
from unlearn.apps.requests.shards import Made
from unlearn.data.records import Records
from unlearn.errors import LedgerError, OptionError
from unlearn.provenance.lineage import Lineage, weights_digest
from unlearn.shards.files import is_sharded

__all__ = ["new_adapter", "recognised"]


def new_adapter(
    ledger: Ledger,
    line: str,
    setup: Setup,
    folder: str,
    forget_records: Records,
    plan: RunPlan,
    calls: Mapping[str, Any],
) -> Made:
    """Take records out of the newest adapter of a line, or of its shards.

    Args:
        ledger: which.
        line: which line.
        setup: of its requests.
        folder: of the newest adapter.
        forget_records: what is to go.
        plan: of the run.
        calls: `announce`, `progress`, `off_now`, and `tell`, which takes a note.

    Returns:
        What was made.

    Raises:
        UnlearnError: for what cannot be used.
    """
    for partial in plan.folder.parent.glob(f".{plan.folder.name}.partial-*"):
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process: the line is ours
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    settings = plan.settings
    model, adapters = opened(setup, folder)
    facts = {
        "adapter": adapters or None,
        "method": settings.method,
        "retain": kept_records(ledger, line, setup),
        "options": settings.options,
        "seed": settings.seed,
        **settings.opening,
    }
    if is_sharded(folder):
        take_out = shards.take_out
    else:
        take_out = rounds.take_out if by_rounds(settings.method, folder) else _from_adapter
    return take_out(model, forget_records, plan, setup, facts, calls)


def _from_adapter(
    model: str,
    forget_records: Records,
    plan: RunPlan,
    setup: Setup,
    facts: Mapping[str, Any],
    calls: Mapping[str, Any],
) -> Made:
    """Take records out of one adapter, or a whole model."""
    from unlearn.runs.forgetting import forget

    if calls.get("off_now"):
        raise OptionError("--off-now is for folders of shards, and this adapter is none")
    result = forget(
        model,
        forget_records,
        f"rows:0-{len(forget_records) - 1}",
        plan.folder,
        holdout=setup.holdout,
        canaries=plan.settings.canaries,
        with_canaries=plan.settings.with_canaries,
        template=setup.template,
        **facts,
        **{name: calls[name] for name in ("announce", "progress") if name in calls},
    )
    return Made(result.lineage, tuple(result.reading))


def recognised(
    ledger: Ledger, plan: RunPlan, batch: Sequence[Request], beside: Sequence[str]
) -> Lineage:
    """Return the lineage of a folder that this very run made, or refuse it.

    Args:
        ledger: which.
        plan: of the run.
        batch: its requests.
        beside: digests of the canaries that were taken out beside their records.

    Returns:
        The lineage.

    Raises:
        LedgerError: if it is of another run.
    """
    line = Lineage.read(plan.folder)
    parent = Lineage.read(plan.parent_folder)
    wanted = {digest for request in batch for digest in request.facts["records"]} | set(beside)
    before = set(parent.records.forgotten) if parent else set()
    if (
        line is None
        or line.records.key_id != ledger.key.id
        or line.digest != weights_digest(plan.folder)
        or not _made_by(plan, line)
        or set(line.records.forgotten) != before | wanted
    ):
        raise LedgerError(
            f"{plan.folder} is not what run {plan.run} was to make; it was left as it is, and the "
            "requests wait for another run"
        )
    return line


def _made_by(plan: RunPlan, line: Lineage) -> bool:
    """Say whether a lineage is of the method, seed and parent of a run."""
    if is_sharded(plan.folder):  # whose seeds are those of the first training
        return is_sharded(plan.parent_folder) and (line.method, line.parent) == ("shards", None)
    method = plan.settings.method
    parent = None if is_exact(method) else plan.parent
    # of a federation the seed is that of the first training
    seeded = by_rounds(method, plan.parent_folder) or line.seed == plan.settings.seed
    return seeded and (line.method, line.parent) == (method, parent)
