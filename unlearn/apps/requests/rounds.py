"""Take records out of a federated adapter by its rounds, as a run of the desk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unlearn.apps.requests.intake import Setup
from unlearn.apps.requests.plans import RunPlan
from unlearn.apps.requests.shards import Made
from unlearn.data.records import Records
from unlearn.errors import DataError, OptionError
from unlearn.federated.forgetting import is_federated
from unlearn.federated.removal import EXACT, METHODS, method_of
from unlearn.methods.registry import get_method, resolve
from unlearn.provenance.keys import Key

__all__ = ["by_rounds", "check_method", "is_exact", "take_out"]


def by_rounds(method: str, folder: str) -> bool:
    """Say whether a method takes records out of an adapter by the rounds of its federation."""
    return method in METHODS and (method != EXACT or is_federated(folder))


def check_method(method: str, options: Mapping[str, Any]) -> None:
    """Refuse a method that is none of a federation or of any adapter, and options it does not take.

    Args:
        method: its name.
        options: of method and training.

    Raises:
        OptionError: saying which there are.
    """
    if method in METHODS and method != EXACT:
        method_of(method)
    else:
        resolve(get_method(method), options)


def is_exact(method: str) -> bool:
    """Say whether what a method makes never saw the records."""
    return method == EXACT or (method not in METHODS and get_method(method).kind == "exact")


def take_out(
    model: str,
    forget_records: Records,
    plan: RunPlan,
    setup: Setup,
    facts: Mapping[str, Any],
    calls: Mapping[str, Any],
) -> Made:
    """Replay the rounds without the records, or what approximates that.

    Args:
        model: the base.
        forget_records: what is to go.
        plan: of the run.
        setup: of its requests; its data has the records of all clients.
        facts: of `forget`: adapter, method, options, seed, and how the base is opened.
        calls: `announce` and `progress`.

    Returns:
        What was made.

    Raises:
        UnlearnError: for what the rounds of a federation do not take.
    """
    from unlearn.federated.forgetting import forget_federated

    if calls.get("off_now"):
        raise OptionError("--off-now is for folders of shards, and this adapter is federated")
    if plan.settings.canaries or plan.settings.with_canaries:
        raise OptionError("canaries are for one adapter: of a federation each removal is replayed")
    if setup.retain:
        raise OptionError(
            "the rounds of a federation are replayed from the data of all clients: leave --retain "
            "out of the intake"
        )
    result = forget_federated(
        model,
        setup.data,
        _rows(setup.data, forget_records),
        plan.folder,
        **{name: value for name, value in facts.items() if name != "retain"},
        **{name: calls[name] for name in ("announce", "progress") if name in calls},
    )
    return Made(result.lineage, result.notes)


def _rows(data: str, forget_records: Records) -> list[str]:
    """Return selectors of the records in the data of all clients, by what they say."""
    key = Key.load()
    gone = {key.digest(record) for record in forget_records}
    found = [key.digest(record) for record in Records.load(data)]
    if lost := gone - set(found):
        raise DataError(
            f"{data} has not got {len(lost)} of the {len(gone)} record(s) to forget: whose rounds "
            "to replay follows from the client that it names beside them; leave them in until the "
            "request is closed"
        )
    return [f"rows:{i}" for i, digest in enumerate(found) if digest in gone]
