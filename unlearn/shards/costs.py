"""What a deletion costs by the number of shards, on the data at hand: units are uneven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unlearn.provenance.keys import Key
from unlearn.shards.assignment import shard_of

__all__ = ["COUNTS", "Forecast", "forecasts"]

COUNTS = (1, 2, 4, 8, 16, 32)
"""Numbers of shards that a plan compares."""


@dataclass(frozen=True)
class Forecast:
    """What deleting one unit takes with K shards, relative to training all of them without it.

    Attributes:
        shards: K.
        expected: mean over units, each as likely to ask as any other.
        worst: of the unit whose shard is dearest.
        largest: part of all tokens that the largest shard has.
        smallest: records of the smallest shard.
        possible: whether each shard has a batch of records at least.
    """

    shards: int
    expected: float
    worst: float
    largest: float
    smallest: int
    possible: bool


def forecasts(
    lengths: Mapping[str, Sequence[int]], batch_size: int, key: Key, counts: Sequence[int] = COUNTS
) -> list[Forecast]:
    """Work out what a deletion costs.

    The cost of unit u in shard s is (T_s − T_u) / (T − T_u), T tokens: by the whole recipe the
    shard is trained again on what is left of it, and as many epochs as everything would be.

    Args:
        lengths: tokens of the records of each unit.
        batch_size: records a step.
        key: that deals units out.
        counts: the K to look at.

    Returns:
        One for each K.
    """
    tokens = {unit: sum(own) for unit, own in lengths.items()}
    total = sum(tokens.values())
    found = []
    for shards in counts:
        of = {unit: shard_of(unit, shards, key) for unit in lengths}
        sums, records = [0] * shards, [0] * shards
        for unit, shard in of.items():
            sums[shard] += tokens[unit]
            records[shard] += len(lengths[unit])
        costs = [
            (sums[shard] - tokens[unit]) / max(1, total - tokens[unit])
            for unit, shard in of.items()
        ]
        found.append(
            Forecast(
                shards,
                sum(costs) / len(costs),
                max(costs),
                max(sums) / total,
                min(records),
                min(records) >= batch_size,
            )
        )
    return found
