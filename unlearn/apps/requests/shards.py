"""The desk's side of a folder of shards: taking records out, and what comes out by every route."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn.apps.requests.intake import Setup
from unlearn.apps.requests.plans import RunPlan
from unlearn.data.records import Records
from unlearn.errors import LedgerError, OptionError
from unlearn.provenance.lineage import Lineage

if TYPE_CHECKING:
    from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["Made", "ask_shards", "refuse_audit", "routes_into", "take_out"]


@dataclass(frozen=True)
class Made:
    """What a run made.

    Attributes:
        lineage: of the new folder.
        notes: what the user should know.
    """

    lineage: Lineage
    notes: Sequence[str] = ()


def take_out(
    model: str,
    forget_records: Records,
    plan: RunPlan,
    setup: Setup,
    facts: Mapping[str, Any],
    calls: Mapping[str, Any],
) -> Made:
    """Train the shards again that hold records, or hold copies of them.

    Args:
        model: the base.
        forget_records: what is to go.
        plan: of the run.
        setup: of its requests.
        facts: of `forget`: adapter, method, records to keep, options, and how the base is opened.
        calls: `announce`, `progress`, and `off_now`: first drop these shards, into a folder beside
            the run's that can be served at once, and that the run leaves; `tell` is told so.

    Returns:
        What was made.

    Raises:
        UnlearnError: for what shards do not take.
    """
    from unlearn.runs.sharded_forgetting import forget_shards

    if len(setup.adapters) > 1:
        raise OptionError("a folder of shards lies on a base, and on no other adapter")
    if plan.settings.canaries or plan.settings.with_canaries:
        raise OptionError("canaries are for one adapter: of shards each deletion is replayed")
    own: dict[str, Any] = {name: value for name, value in facts.items() if name != "seed"}
    own |= {name: calls[name] for name in ("announce", "progress") if name in calls}
    rows = f"rows:0-{len(forget_records) - 1}"
    if calls.get("off_now"):
        made = forget_shards(
            model, forget_records, rows, plan.dropped, off_now=True, overwrite=True, **own
        )
        dropped = ", ".join(map(str, made.deletion.off)) or "none"
        calls["tell"](f"shards dropped: {dropped}; serve {plan.dropped} until the run is done")
    made = forget_shards(model, forget_records, rows, plan.folder, **own)
    line = Lineage.read(plan.folder)
    assert line is not None
    return Made(line, [*made.deletion.lines(), *made.notes])


def routes_into(
    folder: Path, records: Records, opening: Mapping[str, Any], before: str | None
) -> str:
    """Score records under every shard of a folder, note that beside a replay, and say it.

    Args:
        folder: that holds the replay.
        records: of the request.
        opening: `model`, `adapter` (the folder of shards), and how they are opened.
        before: the folder before, where it is still there.

    Returns:
        A sentence.
    """
    from unlearn_eval.audit.options import AuditOptions
    from unlearn_eval.audit.routes import audit_routes

    found = audit_routes(
        AuditOptions(
            data=records,
            forget=f"rows:0-{len(records) - 1}",
            output=folder,
            before=before,
            **opening,
        )
    )
    then = f"; before, {found.before.recalled} came out by their own" if found.before else ""
    return (
        f"by every route, {found.anywhere} of {len(records)} record(s) come out word for word "
        f"where the base alone does not give them{then}"
    )


def ask_shards(records: Records, model: Any, folder: str, **opening: Any) -> Iterator[TokenScores]:
    """Score records under every shard that is on, and under the base, asked as they were trained.

    Args:
        records: what is asked.
        model: the base.
        folder: of the shards.
        **opening: as `Opening` takes it.

    Yields:
        What each says of each token.
    """
    from unlearn.model.lora import switched
    from unlearn.shards.files import shard_name
    from unlearn.shards.serving import ShardedModel
    from unlearn_eval.scores.model_scores import score_model

    served = ShardedModel.load(model, folder, **opening)
    examples = served.encoded(list(records))
    state = served.state
    for number in [*served.served, None]:
        with switched(state.model, None if number is None else [shard_name(number)]):
            yield score_model(state.model, state.head, examples)


def refuse_audit(folder: str) -> None:
    """Say that a folder of shards is not audited as one adapter is."""
    raise LedgerError(
        f"{folder} holds shards, which are verified by replay, and asked by every route beside "
        "it: leave --reference, --references, --policy and --no-replay out; a shard by itself can "
        "be audited with `unlearn audit`"
    )
