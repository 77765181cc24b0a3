"""Which forget and retain records meet in a training step: a function of (seed, position) only.

The whole run is one stream of pairs. Position p takes forget record p of a sequence of seeded
permutations, and the next retain records of another such sequence, so every process, every number
of processes and every resumed run sees the same rows, and every retain record comes up equally
often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlearn.data.batching import collate
from unlearn.data.tokenization import Example

__all__ = ["ALTERNATE", "FORGET", "RETAIN", "PairStream", "Pairs", "Rows", "collate_pairs"]

FORGET, RETAIN, ALTERNATE = 0, 1, 2


class Rows(NamedTuple):
    """Positions of the records that make one sample, and of the answer to give instead."""

    forget: tuple[int, ...]
    retain: tuple[int, ...]
    alternate: tuple[int, ...] = ()


class PairStream(torch.utils.data.Sampler[Rows]):
    """The stream of samples of a whole run.

    Args:
        n_forget: number of forget records; 0 for plain training.
        n_retain: number of retain records; 0 for methods without a retain term.
        length: number of samples in the run.
        seed: seed of the permutations.
        ratio: retain records for each forget record.
        alternates: K alternate answers of each forget record, taken in turn; those of record i are
            at positions i·K … i·K + K − 1.
    """

    def __init__(
        self,
        n_forget: int,
        n_retain: int,
        length: int,
        seed: int,
        ratio: int = 1,
        alternates: int = 0,
    ) -> None:
        self._counts = (n_forget, n_retain)
        self._length = length
        self._seed = seed
        self._ratio = ratio if n_forget else 1
        self._alternates = alternates

    def __len__(self) -> int:
        return self._length

    def used(self, role: int) -> list[int]:
        """Return the positions of the records of a role that the run uses, in order."""
        if role != RETAIN:
            count = self._counts[FORGET] * (self._alternates if role == ALTERNATE else 1)
            return list(range(count))
        n = self._counts[RETAIN]
        if self._length * self._ratio >= n:
            return list(range(n))
        return sorted({i for rows in self for i in rows.retain})

    def __iter__(self) -> Iterator[Rows]:
        forget = _permutations(self._counts[FORGET], (self._seed, FORGET))
        retain = _permutations(self._counts[RETAIN], (self._seed, RETAIN))
        for position in range(self._length):
            chosen = (next(forget),) if self._counts[FORGET] else ()
            turn = position // max(1, self._counts[FORGET])
            yield Rows(
                chosen,
                tuple(next(retain) for _ in range(self._ratio)) if self._counts[RETAIN] else (),
                tuple(i * self._alternates + turn % self._alternates for i in chosen)
                if self._alternates
                else (),
            )


def _permutations(n: int, key: tuple[int, int]) -> Iterator[int]:
    """Yield the positions 0 … n−1 in one seeded order after another, without end."""
    round_ = 0
    while n:
        yield from np.random.default_rng((*key, round_)).permutation(n).tolist()
        round_ += 1


class Pairs(torch.utils.data.Dataset[dict[int, list[tuple[int, Example]]]]):
    """Looks up the examples of a sample.

    Args:
        forget: examples to forget.
        retain: examples to keep (or to train on).
        alternates: what to answer instead.
    """

    def __init__(
        self,
        forget: Sequence[Example],
        retain: Sequence[Example],
        alternates: Sequence[Example] = (),
    ) -> None:
        self._examples = {FORGET: forget, RETAIN: retain, ALTERNATE: alternates}

    def stream(self, samples: int, seed: int, retain_ratio: int = 1) -> PairStream:
        """Return the stream of a whole run; `seed` is that of the permutations."""
        forget, retain, alternates = (
            len(self._examples[role]) for role in (FORGET, RETAIN, ALTERNATE)
        )
        turns = alternates // forget if forget else 0
        return PairStream(forget, retain, samples, seed, retain_ratio, turns)

    def of(self, role: int) -> Sequence[Example]:
        """Return the examples of a role."""
        return self._examples[role]

    def __len__(self) -> int:
        return len(self._examples[FORGET]) or len(self._examples[RETAIN])

    def __getitem__(self, rows: Rows) -> dict[int, list[tuple[int, Example]]]:
        chosen = {FORGET: rows.forget, RETAIN: rows.retain, ALTERNATE: rows.alternate}
        return {
            role: [(i, self._examples[role][i]) for i in positions]
            for role, positions in chosen.items()
        }


def collate_pairs(samples: Sequence[Any]) -> dict[str, Tensor]:
    """Make one flat batch of all roles: forget rows, their alternates in the same order, retain.

    Args:
        samples: items of `Pairs`.

    Returns:
        What `collate` gives, with `role` int64 [B] and `index` int64 [B], each row's position
        among the records of its role.
    """
    rows = [
        (role, index, example)
        for role in (FORGET, ALTERNATE, RETAIN)
        for sample in samples
        for index, example in sample[role]
    ]
    batch = collate([example for _, _, example in rows])
    batch["role"] = torch.tensor([role for role, _, _ in rows])
    batch["index"] = torch.tensor([index for _, index, _ in rows])
    return batch
