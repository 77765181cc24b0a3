"""What a server makes of the weights that clients send: averages, exact or private ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from unlearn.errors import TrainingError

__all__ = [
    "Average",
    "Weights",
    "average",
    "average_products",
    "clipped",
    "noisy_average",
    "norms",
    "rescaled",
    "step",
]

Array: TypeAlias = npt.NDArray[np.float32]
Weights: TypeAlias = Mapping[str, Array]
"""Trained weights by name."""

_FACTOR_A = re.compile(r"\.lora_(embedding_)?A\b")
_NULL = 1e-7  # singular values below this part of the largest are rounding


class Average(NamedTuple):
    """An average, and which part of its squared norm the rank left no room for."""

    weights: dict[str, Array]
    lost: float = 0.0


def average(members: Sequence[Weights], shares: Sequence[float]) -> dict[str, Array]:
    """Return Σ_k p_k·θ_k for each tensor (FedAvg, 1602.05629, algorithm 1).

    Args:
        members: weights θ_k of each client.
        shares: p_k, which add up to 1.

    Returns:
        Weights, summed in the order given, in float64.
    """
    return {
        name: _sum([one[name] for one in members], shares).astype(np.float32) for name in members[0]
    }


def average_products(members: Sequence[Weights], shares: Sequence[float]) -> Average:
    """Return factors of Σ_k p_k·B_k·A_k: what the model adds is averaged, not what it is made of.

    The average of factors is not that: (Σ p_k B_k)(Σ p_k A_k) ≠ Σ p_k B_k A_k. The average has a
    rank of up to K·r; of its singular values σ the largest r are kept, B = U√σ and A = √σVᵀ, which
    is the nearest matrix of rank r. The scale of an adapter is the same for all and drops out.
    Directions that are empty keep a unit row in A, so that they can be learned later.

    Args:
        members: weights of each client, factors of plain LoRA in pairs; others are averaged.
        shares: p_k, which add up to 1.

    Returns:
        The factors; `lost` is Σ_{i>r} σ_i² / Σ_i σ_i² over all pairs together.
    """
    done = average(members, shares)
    kept = total = 0.0
    for name in members[0]:
        if not _FACTOR_A.search(name):
            continue
        partner = _FACTOR_A.sub(lambda match: match[0][:-1] + "B", name)
        tops = np.concatenate(
            [p * one[partner].astype(np.float64) for one, p in zip(members, shares, strict=True)], 1
        )
        bottoms = np.concatenate([one[name].astype(np.float64) for one in members], 0)
        rank = len(members[0][name])
        b, a, values = _refactored(tops, bottoms, rank)
        done[name], done[partner] = (np.ascontiguousarray(x, np.float32) for x in (a, b))
        kept += float((values[:rank] ** 2).sum())
        total += float((values**2).sum())
    return Average(done, max(0.0, 1 - kept / total) if total else 0.0)


def _refactored(
    tops: npt.NDArray[np.float64], bottoms: npt.NDArray[np.float64], rank: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return B, A and the singular values of a product of tall and wide, by its small core."""
    left, left_core = np.linalg.qr(tops)
    right, right_core = np.linalg.qr(bottoms.T)
    u, values, v = np.linalg.svd(left_core @ right_core.T)
    u, v = left @ u[:, : len(values)], v[: len(values)] @ right.T
    # a pair of singular vectors is determined up to its sign
    signs = np.sign(u[np.abs(u).argmax(0), np.arange(u.shape[1])])
    u, v = u * signs, v * signs[:, None]
    u, v, chosen = u[:, :rank], v[:rank], values[:rank]
    roots = np.sqrt(chosen)
    empty = chosen <= _NULL * max(values.max(initial=0.0), np.finfo(np.float32).tiny)
    b, a = u * np.where(empty, 0.0, roots), v * np.where(empty, 1.0, roots)[:, None]
    short = rank - b.shape[1]  # fewer singular values than the rank, of very small layers
    b = np.pad(b, ((0, 0), (0, short)))
    a = np.pad(a, ((0, short), (0, 0)))
    return b, a, values


def step(before: Weights, after: Weights) -> dict[str, Array]:
    """Return the update θ_k − θ of a client, by name."""
    return {name: after[name] - before[name] for name in before}


def norms(update: Weights) -> dict[str, float]:
    """Return the norm of each tensor of an update."""
    return {name: float(np.linalg.norm(value.astype(np.float64))) for name, value in update.items()}


def rescaled(update: Weights, wanted: Mapping[str, float]) -> dict[str, Array]:
    """Return an update with other lengths: |U|·Û/‖Û‖ of each tensor (FedEraser, 2012.13891, eq. 2).

    Args:
        update: Û, which gives the direction.
        wanted: |U|, the norm that each tensor is to have.

    Returns:
        The update; a tensor that did not move stays so.
    """
    own = norms(update)
    return {
        name: (value * (wanted[name] / own[name] if own[name] else 0.0)).astype(np.float32)
        for name, value in update.items()
    }


def clipped(update: Weights, clip: float) -> dict[str, npt.NDArray[np.float64]]:
    """Return Δ·min(1, C/‖Δ‖), the norm over all tensors together.

    Args:
        update: Δ.
        clip: C.

    Returns:
        float64 by name.

    Raises:
        TrainingError: if the update is not finite.
    """
    norm = float(np.sqrt(sum(each**2 for each in norms(update).values())))
    if not np.isfinite(norm):
        raise TrainingError("a client's update is not finite: lower learning_rate")
    factor = min(1.0, clip / norm) if norm else 1.0
    return {name: value.astype(np.float64) * factor for name, value in update.items()}


def noisy_average(
    before: Weights,
    updates: Sequence[Weights],
    noise: npt.NDArray[np.float64],
    *,
    clip: float,
    expected: float,
) -> dict[str, Array]:
    """Return θ + (Σ_k clip_C(Δ_k) + z) / m (DP-FedAvg, 1710.06963, algorithm 1, fixed denominator).

    Args:
        before: θ.
        updates: Δ_k of the clients that take part, none weighted by its records; there may be none.
        noise: z, with standard deviation σ·C, as long as all tensors together.
        clip: C.
        expected: m, the number of clients *expected* in a round, whatever it was.

    Returns:
        Weights.
    """
    names, place = [*before], 0
    parts = [clipped(update, clip) for update in updates]
    after = {}
    for name in names:
        value = before[name]
        own = noise[place : place + value.size].reshape(value.shape)
        place += value.size
        total = own + sum(part[name] for part in parts)
        after[name] = (value + total / expected).astype(np.float32)
    return after


def _sum(tensors: Sequence[Array], shares: Sequence[float]) -> npt.NDArray[np.float64]:
    total = np.zeros(tensors[0].shape)
    for tensor, share in zip(tensors, shares, strict=True):
        total += share * tensor.astype(np.float64)
    return total
