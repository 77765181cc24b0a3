"""Drift: how far a model's predictions have moved from those of another, token by token."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from unlearn.model.scoring import Head
from unlearn_eval.arrays import FloatArray

__all__ = ["Anchor", "kl_divergence"]

# Tokens projected at once: two sets of logits of a vocabulary of 128,000 are 256 MB then.
_CHUNK = 256


def kl_divergence(before: Tensor, after: Tensor) -> Tensor:
    """Return KL(before ‖ after) = Σ_v p_v (log p_v − log q_v) of each row, in nats.

    Limits: an entry with p_v = 0 contributes 0; one with q_v = 0 < p_v makes the row infinite.

    Args:
        before: logits z of p, float32 [n, V].
        after: logits of q, float32 [n, V].

    Returns:
        float32 [n], ≥ 0 but for rounding.
    """
    log_p, log_q = before.log_softmax(-1), after.log_softmax(-1)
    p = log_p.exp()
    terms = torch.where(p > 0, p * (log_p - log_q), torch.zeros_like(p))
    return terms.sum(-1)


class Anchor:
    """The predictions of one model on some records, to measure other models against.

    It watches the scoring passes (`observe` of `score_model`), so it costs no forward pass: only
    hidden states of the chosen records are kept, and the projection of the first model.

    Args:
        chosen: positions of the records to keep.
        targets: target tokens of every record, in order.
    """

    def __init__(self, chosen: Collection[int], targets: Sequence[int]) -> None:
        self.positions = np.array(sorted(chosen), dtype=np.int64)
        self._chosen = frozenset(chosen)
        self._targets = targets
        self._hidden: dict[int, Tensor] = {}
        self._head: Head | None = None

    def remember(self, head: Head) -> Callable[[Sequence[int], Tensor], None]:
        """Return an observer that keeps what the first model predicts."""
        # a projection that carries an adapter changes when adapters are switched
        same = type(head.module) is nn.Linear
        self._head = head if same else Head(copy.deepcopy(head.module), head.scale, head.softcap)

        def observe(batch: Sequence[int], hidden: Tensor) -> None:
            for i, part in self._parts(batch, hidden):
                self._hidden[i] = part.to("cpu", copy=True)

        return observe

    def compare(
        self, head: Head
    ) -> tuple[Callable[[Sequence[int], Tensor], None], dict[int, float]]:
        """Return an observer that measures another model, and where it puts the results.

        Args:
            head: the other model's projection.

        Returns:
            (for `observe`, mean KL(first ‖ other) over the target tokens by position).
        """
        first, divergences = self._head, dict[int, float]()
        assert first is not None, "remember a model before comparing another with it"

        @torch.no_grad()
        def observe(batch: Sequence[int], hidden: Tensor) -> None:
            for i, part in self._parts(batch, hidden):
                total = 0.0
                for ours, theirs in zip(
                    torch.split(self._hidden[i], _CHUNK), torch.split(part, _CHUNK), strict=True
                ):
                    place = ours.to(next(first.module.parameters()).device)
                    divergence = kl_divergence(first(place), head(theirs))
                    total += float(divergence.double().sum())
                divergences[i] = max(0.0, total) / len(part)

        return observe, divergences

    def _parts(self, batch: Sequence[int], hidden: Tensor) -> list[tuple[int, Tensor]]:
        """Split a batch's hidden states by record, and keep the chosen ones."""
        sizes = [self._targets[i] for i in batch]
        parts = zip(batch, torch.split(hidden, sizes), strict=True)
        return [(i, part) for i, part in parts if i in self._chosen]

    def values(self, divergences: dict[int, float]) -> FloatArray:
        """Return the results of `compare` in the order of `positions`.

        Args:
            divergences: what `compare` filled.

        Returns:
            float64, nats a token, one value a chosen record.
        """
        return np.array([divergences[int(i)] for i in self.positions], dtype=np.float64)
