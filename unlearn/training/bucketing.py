"""Split a ragged batch into groups of rows of similar length, so that less padding is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from unlearn.training.sampler import ALTERNATE, FORGET

__all__ = ["cut", "length_groups"]

# What one more forward and backward pass costs, in positions of the batch. On a CPU the fixed cost
# of a pass over a model of 656 thousand parameters is that of some hundred positions; over a larger
# model it is that of fewer.
PASS = 128


def cut(lengths: Sequence[int], price: int) -> list[int]:
    """Cut an ascending sequence where rows × longest row, summed over the parts, is least.

    Minimises Σ_g (rows_g · longest_g + price) by dynamic programming over the last cut.

    Args:
        lengths: tokens of each row, ascending.
        price: what a part costs beside its positions.

    Returns:
        Where parts end, ascending; the last is the number of rows.
    """
    n = len(lengths)
    best, back = np.zeros(n + 1, dtype=np.int64), np.zeros(n + 1, dtype=np.int64)
    for end in range(1, n + 1):
        costs = best[:end] + (end - np.arange(end)) * lengths[end - 1] + price
        back[end] = int(costs.argmin())
        best[end] = costs[back[end]]
    ends = [n] if n else []
    while ends and back[ends[0]]:
        ends.insert(0, int(back[ends[0]]))
    return ends


def length_groups(batch: Mapping[str, Tensor], price: int | None = None) -> list[dict[str, Tensor]]:
    """Split a batch of `collate_pairs`; sums over the groups equal sums over the batch.

    A forget row and the answer to give instead stay together. Within a group rows keep their order.

    Args:
        batch: padded on the right.
        price: what a pass costs beside its positions; by default `PASS`.

    Returns:
        The groups, longest rows first (running out of memory happens at once).
    """
    lengths = batch["attention_mask"].sum(-1).cpu().numpy()
    role = batch["role"].cpu().numpy()
    unit = np.arange(len(role))
    unit[role == ALTERNATE] = np.flatnonzero(role == FORGET)[: int((role == ALTERNATE).sum())]
    longest = np.zeros(len(role), dtype=np.int64)
    np.maximum.at(longest, unit, lengths)
    order = np.argsort(longest[unit], kind="stable")
    ends = cut(longest[unit][order].tolist(), PASS if price is None else price)
    # a cut between rows of one unit would part them: equal lengths never gain from a cut
    groups = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        rows = torch.from_numpy(np.sort(order[start:end])).to(batch["role"].device)
        width = int(lengths[order[start:end]].max())
        groups.append({k: v[rows, :width] if v.dim() == 2 else v[rows] for k, v in batch.items()})
    return groups[::-1]
