"""Batches of examples: so many tokens each, padded to one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from unlearn.data.tokenization import Example

__all__ = ["collate", "token_budget_batches"]


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group positions into batches of similar length whose padded size stays within a budget.

    Args:
        lengths: tokens of each example.
        budget: rows × longest row of a batch, in tokens; a longer row makes a batch of its own.

    Returns:
        Lists of positions, longest examples first (running out of memory happens at once).
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def collate(
    examples: Sequence[Example], *, pad: int = 0, side: Literal["left", "right"] = "right"
) -> dict[str, Tensor]:
    """Pad examples to one length.

    Args:
        examples: the rows, at least one.
        pad: id written into padding; attention never sees it, so any id does.
        side: where padding goes.

    Returns:
        `input_ids` int64, `attention_mask` int64, `target` bool, all [B, S]; with padding on the
        left also `position_ids`, so that positions count from each row's own first token.
    """
    rows, width = len(examples), max(len(e.ids) for e in examples)
    ids = np.full((rows, width), pad, dtype=np.int64)
    mask = np.zeros((rows, width), dtype=np.int64)
    target = np.zeros((rows, width), dtype=bool)
    for i, example in enumerate(examples):
        n = len(example.ids)
        where = slice(width - n, width) if side == "left" else slice(0, n)
        ids[i, where], mask[i, where], target[i, where] = example.ids, 1, example.target
    batch = {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "target": torch.from_numpy(target),
    }
    if side == "left":
        batch["position_ids"] = torch.from_numpy((mask.cumsum(-1) - 1).clip(min=0))
    return batch
