"""What a deletion from shards took, and a first look at what is left of the kept records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from unlearn.data.record import Record
from unlearn.model.opening import Opening
from unlearn.shards.serving import ShardedModel

__all__ = ["REPORT_FILE", "Deletion", "Look", "look_at", "prompt_of"]

REPORT_FILE = "deletion.json"

_MOST = 64


@dataclass(frozen=True)
class Look:
    """What a sample of kept records comes to.

    Attributes:
        records: how many were looked at.
        recall: part that is word for word what was learned, each under its own shard.
        loss: mean over records, nats a token, each under its own shard.
        found_recall: part that is so under the shard that the names in its prompt lead to; the base
            where they lead nowhere.
        right: part of the prompts that names led to the right shard.
        wrong: part that they led to another.
        nowhere: part that they led nowhere.
    """

    records: int
    recall: float
    loss: float
    found_recall: float
    right: float
    wrong: float
    nowhere: float

    @property
    def words(self) -> str:
        """Say it in a sentence."""
        return (
            f"of {self.records} kept records {self.recall:.0%} are word for word under their own "
            f"shard, {self.found_recall:.0%} by the names in their prompts, which lead "
            f"{self.right:.0%} right, {self.wrong:.0%} wrong and {self.nowhere:.0%} nowhere"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return them by name, rounded."""
        return {k: round(v, 4) for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Deletion:
    """What a deletion took, beside training everything again without the records.

    Attributes:
        shards: how many there are.
        touched: numbers of those that held a record.
        off: numbers of those that are off now.
        empty: numbers of those that have no record left.
        records: how many were taken out.
        tokens: that training and trials went through.
        seconds: that this took.
        tokens_of_retraining: of training all shards by the whole recipe on what is kept.
        seconds_of_retraining: the same in seconds, as long as it took when they were made.
        largest: part of all kept records that the largest shard has.
        look: what is left of the kept records by given and by found routes; None where no shard is
            on.
    """

    shards: int
    touched: tuple[int, ...]
    off: tuple[int, ...]
    empty: tuple[int, ...]
    records: int
    tokens: int
    seconds: float
    tokens_of_retraining: int
    seconds_of_retraining: float
    largest: float
    look: Look | None = None

    @property
    def share(self) -> float:
        """Tokens relative to training everything again."""
        return self.tokens / max(1, self.tokens_of_retraining)

    @property
    def time_share(self) -> float:
        """Seconds relative to training everything again."""
        return self.seconds / max(1e-9, self.seconds_of_retraining)

    def lines(self) -> list[str]:
        """Say it in words, a line each."""
        few = f"{len(self.touched)} of {self.shards} shards touched"
        found = [f"{few}: {', '.join(map(str, self.touched))}" if self.touched else few]
        if self.off:
            found.append(f"off until they are trained again: {', '.join(map(str, self.off))}")
        if self.tokens:
            found.append(
                f"{self.share:.1%} of training everything again in tokens, {self.time_share:.1%} "
                f"in time; the largest shard has {self.largest:.1%} of the records"
            )
        return found + ([] if self.look is None else [self.look.words])

    def as_dict(self) -> dict[str, Any]:
        """Return the content of `deletion.json`, schema 1."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        own["look"] = None if self.look is None else self.look.as_dict()
        shares = {"share": round(self.share, 4), "time_share": round(self.time_share, 4)}
        return {"schema": 1, **own, **shares}


def look_at(
    model: str | Path,
    folder: Path,
    kept: Sequence[tuple[Record, int]],
    opening: Opening,
    most: int = _MOST,
) -> Look | None:
    """Score an even sample of kept records under the routes given and found.

    Args:
        model: the base.
        folder: of the shards.
        kept: records, each with the number of its shard.
        opening: how the base is opened.
        most: records to look at.

    Returns:
        What was seen; None where there is no record or no shard.
    """
    if not kept:
        return None
    places = np.linspace(0, len(kept) - 1, min(most, len(kept))).round().astype(int)
    some = [kept[int(i)] for i in places]
    records, own = [record for record, _ in some], [shard for _, shard in some]
    opened = ShardedModel.load(model, folder, **opening.as_dict())
    examples = opened.encoded(records)
    routes = [route.shard for route in opened.routes([prompt_of(r) for r in records])]
    given = opened.score(examples, own)
    found = opened.score(examples, routes)
    return Look(
        records=len(some),
        recall=float(np.mean([each.recalled for each in given])),
        loss=float(np.mean([each.loss for each in given])),
        found_recall=float(np.mean([each.recalled for each in found])),
        right=float(np.mean([a == b for a, b in zip(routes, own, strict=True)])),
        wrong=float(np.mean([a not in {None, b} for a, b in zip(routes, own, strict=True)])),
        nowhere=float(np.mean([route is None for route in routes])),
    )


def prompt_of(record: Record) -> str:
    """Return what is asked in a record: its prompt, what the user says, or the text itself."""
    if record.prompt is not None:
        return record.prompt
    turns = [turn["content"] or "" for turn in record.messages or () if turn["role"] == "user"]
    return " ".join(turns) if record.messages else record.text or ""
