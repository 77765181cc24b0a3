"""Run a federation again from its lineage alone: who took part in what stands there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from unlearn.data.records import Records
from unlearn.data.templates import choose_template
from unlearn.errors import LineageError
from unlearn.federated.flower import check_flower
from unlearn.federated.history import Round, Rounds
from unlearn.federated.local_training import set_weights
from unlearn.federated.members import Members, members_of
from unlearn.federated.running import beginning, clients_of, federation_of, fit_of, simulate
from unlearn.federated.settings import plan_of, settings_in
from unlearn.model.opening import Opening
from unlearn.model.state import new_adapter
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Federation, Lineage
from unlearn.runs.saving import save_result

__all__ = ["federate_again"]


def federate_again(
    model: str | Path,
    data: str | Path,
    kept: Sequence[int],
    line: Lineage,
    output: Path,
    *,
    seed: int,
    opening: Opening,
) -> Lineage:
    """Train the adapter of a lineage again, by the rounds that led to it.

    Args:
        model: the base.
        data: file of the records.
        kept: positions of those that were trained on.
        line: the lineage.
        output: folder for the adapter.
        seed: of its weights and orders; that of the lineage for the same adapter.
        opening: how the base is opened.

    Returns:
        The lineage of the result.

    Raises:
        LineageError: if the lineage does not say what it takes.
        OptionError: if Flower is not installed.
    """
    check_flower()
    if line.federation is None or line.privacy is not None:
        raise LineageError("the lineage is of no federation that can be run again")
    key, settings = Key.load(), settings_in(line)
    members = _own(members_of(data, Records.load(data), line.federation.by, key), kept, line)
    state = new_adapter(opening.open(model), settings.lora.model_dump(), seed)
    template = choose_template(line.template, state.tokenizer)
    plan = plan_of(settings, line.base.digest, template.name, seed)
    plan = plan.model_copy(update={"schedule": _schedule(line.federation), "whole": True})
    with tempfile.TemporaryDirectory(prefix="unlearn-") as scratch:
        rounds = Rounds(Path(scratch) / "rounds")
        rounds.write(Round(number=0), beginning(state), {})
        simulate(plan, rounds, clients_of(members, model, opening))
        set_weights(state, rounds.weights(len(plan.schedule)))
        made = rounds.all()
        federation = federation_of(
            members, rounds, by=line.federation.by, settings=settings, how="simulation"
        )
    return save_result(
        state,
        output,
        overwrite=False,
        verb=line.verb,
        parent=None,
        records=line.records,
        template=template.name,
        method=line.method,
        options=line.options,
        finetuned_with=line.finetuned_with,
        seed=seed,
        made_from=line.made_from,
        federation=federation,
        fit=fit_of(made, settings, len(made)),
    )


def _own(members: Members, kept: Sequence[int], line: Lineage) -> Members:
    """Return the clients with the records that each was trained on, by the lineage."""
    assert line.federation is not None
    held = {(each.client, digest) for each in line.federation.members for digest in each.records}
    by = {name: mac for mac, name in members.clients.items()}
    found = {i: (by[members.names[i]], members.key.digest(members.records[i])) for i in kept}
    own = members.part([i for i in kept if found[i] in held])
    if lost := len(held - set(found.values())):
        raise LineageError(
            f"{lost} record(s) are not in the data of the client that was trained on them"
        )
    return own


def _schedule(federation: Federation) -> list[list[str]]:
    """Return who took part in each round."""
    return [
        [each.client for each in federation.members if number in each.rounds]
        for number in range(1, federation.rounds + 1)
    ]
