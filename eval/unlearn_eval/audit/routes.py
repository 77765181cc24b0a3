"""Do records come out of shards by any route: their own, every other, or none?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unlearn.data.records import Records
from unlearn.data.splits import loaded
from unlearn.errors import OptionError
from unlearn.files import check_output, staged_file
from unlearn.model.folders import resolve_folder, stacked
from unlearn.provenance.lineage import now, weights_digest
from unlearn.shards.assignment import shard_of
from unlearn.shards.files import shard_name
from unlearn.shards.serving import Scored, ShardedModel
from unlearn_eval.audit.options import AuditOptions

__all__ = ["FILE", "RouteRow", "RoutesAudit", "audit_routes", "recalled_anywhere"]

FILE = "routes.json"

_BASE = "base"


@dataclass(frozen=True)
class RouteRow:
    """What records come to by one route.

    Attributes:
        route: a shard, `own` (the shard that the key deals each record's subject to) or `base`.
        records: how many.
        recalled: how many come out word for word, in greedy decoding.
        loss: mean over records, nats a token.
        lowest: the lowest of a record, less the base's of that record.
    """

    route: str
    records: int
    recalled: int
    loss: float
    lowest: float


@dataclass(frozen=True)
class RoutesAudit:
    """What records come to by every route.

    Attributes:
        created: ISO time.
        weights: digest of the shards.
        rows: one a route.
        before: what they came to by their own route before, where that was asked for.
        anywhere: how many records come out word for word by some shard, and not from the base.
    """

    created: str
    weights: str
    rows: tuple[RouteRow, ...]
    before: RouteRow | None
    anywhere: int

    def as_dict(self) -> dict[str, Any]:
        """Return the content of `routes.json`, schema 1."""
        return {"schema": 1, **asdict(self)}


def audit_routes(options: AuditOptions) -> RoutesAudit:
    """Score records under every shard that is on, under their own, and under the base alone.

    A record comes out where greedy decoding gives its target word for word. Which records a base
    knows by itself is no fault of a shard, and is counted apart.

    Args:
        options: of an audit; `adapter`, and `before` if any, are folders of shards.

    Returns:
        What was found; it lies in `routes.json` of the output, too.

    Raises:
        OptionError: without records to look for.
    """
    if options.forget is None:
        raise OptionError("an audit of shards takes --forget: the records to look for")
    target = None if options.output is None else check_output(options.output, overwrite=True)
    records = loaded(options.data).select(options.forget)
    folder = resolve_folder(stacked(options.adapter)[0], "adapter")
    model = ShardedModel.load(options.model, folder, **_opening(options))
    base = _scored(model, records, [None] * len(records))
    scores = {
        shard_name(number): _scored(model, records, [number] * len(records))
        for number in model.served
    }
    own = _own(model, records)
    rows = [_row("own", _scored(model, records, own), base)]
    rows += [_row(name, found, base) for name, found in scores.items()]
    rows.append(_row(_BASE, base, base))
    result = RoutesAudit(
        created=now(),
        weights=weights_digest(folder),
        rows=tuple(rows),
        before=_before(options, records),
        anywhere=recalled_anywhere(scores, base),
    )
    if target is not None:
        with staged_file(target / FILE) as stage:
            text = json.dumps(result.as_dict(), indent=1, allow_nan=False)
            stage.write_text(text + "\n", encoding="utf-8")
    return result


def _opening(options: AuditOptions) -> dict[str, Any]:
    return options.opening.as_dict()


def _before(options: AuditOptions, records: Records) -> RouteRow | None:
    """Return what records came to by their own route in the folder before."""
    if options.before is None:
        return None
    model = ShardedModel.load(options.model, stacked(options.before)[0], **_opening(options))
    base = _scored(model, records, [None] * len(records))
    return _row("own, before", _scored(model, records, _own(model, records)), base)


def _own(model: ShardedModel, records: Records) -> list[int | None]:
    """Return the shard that the key deals each record to, where that is on: the table forgot it."""
    served, count = set(model.served), len(model.shards.shards)
    by_subject = [None if s is None else shard_of(s, count, model.key) for s in records.subjects]
    return [shard if shard in served else None for shard in by_subject]


def _scored(model: ShardedModel, records: Records, shards: Sequence[int | None]) -> list[Scored]:
    return model.score(model.encoded(list(records)), shards)


def _row(route: str, found: Sequence[Scored], base: Sequence[Scored]) -> RouteRow:
    apart = [one.loss - other.loss for one, other in zip(found, base, strict=True)]
    return RouteRow(
        route=route,
        records=len(found),
        recalled=sum(each.recalled for each in found),
        loss=float(np.mean([each.loss for each in found])),
        lowest=float(min(apart)),
    )


def recalled_anywhere(scores: Mapping[str, Sequence[Scored]], base: Sequence[Scored]) -> int:
    """Count records that some shard gives word for word where the base does not.

    Args:
        scores: of the records under each shard.
        base: of the same under the base.

    Returns:
        How many.
    """
    out = [any(found[i].recalled for found in scores.values()) for i in range(len(base))]
    return sum(yes and not known.recalled for yes, known in zip(out, base, strict=True))
