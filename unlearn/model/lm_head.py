"""The output projection of a model, and the hidden states just before it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.errors import ModelError

__all__ = ["Head", "hidden_states", "unwrapped"]


@dataclass(frozen=True)
class Head:
    """The output projection of a causal language model: z = cap·tanh(s·(W h + b) / cap).

    Attributes:
        module: the model's own projection (a LoRA or `modules_to_save` wrapper included).
        scale: s, a constant factor some architectures apply (1 otherwise).
        softcap: cap of the soft-capping of Gemma 2; None where there is none.
    """

    module: nn.Module
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: Any) -> Head:
        """Find a model's projection and check it against the model's own logits.

        Args:
            model: a causal language model, with or without adapters.

        Returns:
            The head.

        Raises:
            ModelError: if the model's logits are not the head's (an architecture with another
                kind of output), so that no number from it would be right.
        """
        inner = unwrapped(model)
        module = inner.get_output_embeddings()
        if module is None:
            raise ModelError(f"{type(inner).__name__} has no output projection")
        config = inner.config.get_text_config()
        scale = float(getattr(config, "logit_scale", None) or 1.0)
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        head = cls(module, scale, float(cap) if cap else None)
        head._check(model)
        return head

    @property
    def trainable(self) -> bool:
        """Whether gradients are wanted for the projection itself."""
        return any(p.requires_grad for p in self.module.parameters())

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the float32 logits [n, V] of hidden states [n, H]."""
        return self.finish(self.module(hidden))

    def finish(self, projected: Tensor) -> Tensor:
        """Return the float32 logits z of the projection's own output W h + b, [n, V]."""
        logits = projected.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    @torch.no_grad()
    def _check(self, model: Any) -> None:
        device = next(model.parameters()).device
        ids = torch.tensor([[1, 2, 3]], device=device)
        mode = model.training
        model.eval()
        try:
            with _tap(model) as taken:
                logits = model(input_ids=ids, use_cache=False).logits
            ours = self(taken[0][:, :1]).float()
        finally:
            model.train(mode)
        off = (ours - logits.float()).abs().max() / logits.float().abs().max().clamp(min=1)
        if not bool(off < 2e-2):
            raise ModelError(
                f"the output of {type(unwrapped(model)).__name__} is not a plain projection of its "
                "last hidden state; this architecture is not supported"
            )


def unwrapped(model: Any) -> Any:
    """Return the causal language model inside parallel and adapter wrappers."""
    while hasattr(model, "module") and not hasattr(model, "get_output_embeddings"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextlib.contextmanager
def _tap(model: Any) -> Iterator[list[Tensor]]:
    """Collect what reaches the output projection, and let it project one position only.

    One of one row: for the first position of each row torch would lay out the weights once a row,
    where it multiplies in bfloat16 on a CPU.
    """
    taken: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        taken.append(args[0])
        return (args[0][:1, :1], *args[1:])

    handle = unwrapped(model).get_output_embeddings().register_forward_pre_hook(hook)
    try:
        yield taken
    finally:
        handle.remove()


def hidden_states(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Run a model up to its output projection.

    The call goes through the module as given, so gradient synchronisation of a parallel wrapper
    works; the projection itself only sees one position.

    Args:
        model: a causal language model, wrapped or not.
        batch: `input_ids` and `attention_mask` [B, S]; `position_ids` where rows are padded on
            the left.

    Returns:
        Hidden states [B, S, H] in the model's dtype.
    """
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if "position_ids" in batch and "position_ids" in _forward_arguments(type(unwrapped(model))):
        inputs["position_ids"] = batch["position_ids"]
    with _tap(model) as taken:
        model(**inputs, use_cache=False)
    return taken[0]


def _forward_arguments(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]
