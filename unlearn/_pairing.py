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

from unlearn.batches import Example, collate

__all__ = ["FORGET", "RETAIN", "PairStream", "Pairs", "Rows", "collate_pairs"]

FORGET, RETAIN = 0, 1


class Rows(NamedTuple):
    """Positions of the forget and retain records that make one sample."""

    forget: tuple[int, ...]
    retain: tuple[int, ...]


class PairStream(torch.utils.data.Sampler[Rows]):
    """The stream of samples of a whole run.

    Args:
        n_forget: number of forget records; 0 for plain training.
        n_retain: number of retain records; 0 for methods without a retain term.
        length: number of samples in the run.
        seed: seed of the permutations.
        ratio: retain records for each forget record.
    """

    def __init__(
        self, n_forget: int, n_retain: int, length: int, seed: int, ratio: int = 1
    ) -> None:
        self._counts = (n_forget, n_retain)
        self._length = length
        self._seed = seed
        self._ratio = ratio if n_forget else 1

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Rows]:
        forget = _permutations(self._counts[FORGET], (self._seed, FORGET))
        retain = _permutations(self._counts[RETAIN], (self._seed, RETAIN))
        for _ in range(self._length):
            yield Rows(
                (next(forget),) if self._counts[FORGET] else (),
                tuple(next(retain) for _ in range(self._ratio)) if self._counts[RETAIN] else (),
            )


def _permutations(n: int, key: tuple[int, int]) -> Iterator[int]:
    """Yield the positions 0 … n−1 in one seeded order after another, without end."""
    round_ = 0
    while n:
        yield from np.random.default_rng((*key, round_)).permutation(n).tolist()
        round_ += 1


class Pairs(torch.utils.data.Dataset[tuple[Rows, Sequence[Example], Sequence[Example]]]):
    """Looks up the examples of a sample.

    Args:
        forget: examples to forget.
        retain: examples to keep (or to train on).
    """

    def __init__(self, forget: Sequence[Example], retain: Sequence[Example]) -> None:
        self._examples = (forget, retain)

    def __len__(self) -> int:
        return len(self._examples[FORGET]) or len(self._examples[RETAIN])

    def __getitem__(self, rows: Rows) -> tuple[Rows, Sequence[Example], Sequence[Example]]:
        return (
            rows,
            [self._examples[FORGET][i] for i in rows.forget],
            [self._examples[RETAIN][i] for i in rows.retain],
        )


def collate_pairs(samples: Sequence[Any]) -> dict[str, Tensor]:
    """Make one flat batch of both roles, forget rows first.

    Args:
        samples: items of `Pairs`.

    Returns:
        What `collate` gives, with `role` int64 [B] (0 forget, 1 retain) and `index` int64 [B], each
        row's position among the records of its role.
    """
    examples = [e for _, forget, _ in samples for e in forget]
    index = [i for rows, _, _ in samples for i in rows.forget]
    n_forget = len(examples)
    examples += [e for _, _, retain in samples for e in retain]
    index += [i for rows, _, _ in samples for i in rows.retain]
    batch = collate(examples)
    batch["role"] = (torch.arange(len(examples)) >= n_forget).long()
    batch["index"] = torch.tensor(index)
    return batch
