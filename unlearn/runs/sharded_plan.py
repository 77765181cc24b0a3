"""What a deletion from a folder of shards will take, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unlearn.runs.sharded_old import OldShards

__all__ = ["DeletionPlan", "plan_of_deletion"]


@dataclass(frozen=True)
class DeletionPlan:
    """What a deletion will take, beside training everything again without the records.

    Attributes:
        shards: how many there are.
        touched: numbers of those that hold a record, or are off.
        records: of these shards, on which they will be trained again.
        records_of_all: that all shards keep.
        tokens: of training the touched by the whole recipe; a budget may do with less, and tries.
        tokens_of_retraining: of training all shards by the whole recipe on what is kept.
        seconds: that the touched will take, as fast as when they were made.
        largest: part of all kept records that the largest shard has.
        empty: numbers of those that will have no record left.
    """

    shards: int
    touched: tuple[int, ...]
    records: int
    records_of_all: int
    tokens: float
    tokens_of_retraining: float
    seconds: float
    largest: float
    empty: tuple[int, ...] = ()

    @property
    def share(self) -> float:
        """Tokens relative to training everything again."""
        return self.tokens / max(1.0, self.tokens_of_retraining)

    def lines(self) -> list[str]:
        """Say it in words, a line each."""
        few = f"{len(self.touched)} of {self.shards} shards will be touched"
        found = [f"{few}: {', '.join(map(str, self.touched))}" if self.touched else few]
        if self.touched:
            found.append(
                f"by the whole recipe {self.tokens:,.0f} tokens, {self.share:.1%} of training "
                f"everything again, some {self.seconds:.0f} s as fast as before, on {self.records} "
                f"of {self.records_of_all} kept records"
            )
        found.append(f"the largest shard has {self.largest:.1%} of the kept records")
        if self.empty:
            found.append(f"without a record left: {', '.join(map(str, self.empty))}")
        return found


def plan_of_deletion(old: OldShards, gone: Sequence[str] | set[str]) -> DeletionPlan:
    """Work out what a deletion will take, by what training each shard took.

    Tokens go with records: a shard that kept n of the m records it was first trained on takes n / m
    of the tokens of that training.

    Args:
        old: the folder.
        gone: digests of the records to take out.

    Returns:
        The plan.
    """
    lost = set(gone)
    left = [len(old.left(number, lost)) for number in range(len(old.shards.shards))]
    costs = [shard.whole for shard in old.shards.shards]
    parts = [count / cost.records for count, cost in zip(left, costs, strict=True)]
    touched = old.touched(lost)
    return DeletionPlan(
        shards=len(left),
        touched=tuple(touched),
        records=sum(left[i] for i in touched),
        records_of_all=sum(left),
        tokens=sum(costs[i].tokens * parts[i] for i in touched),
        tokens_of_retraining=sum(c.tokens * part for c, part in zip(costs, parts, strict=True)),
        seconds=sum(costs[i].seconds * parts[i] for i in touched),
        largest=max(left) / max(1, sum(left)),
        empty=tuple(i for i in touched if not left[i]),
    )
