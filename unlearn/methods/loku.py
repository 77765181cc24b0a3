"""LoKU: the inverted hinge on that part of an adapter which matters to the forget records.

The paper (2408.06621) unlearns a whole model W with a new adapter. It initialises the adapter to
the rank-r part of W that matters most to the forget records relative to the others (FILA), takes
that part out of the frozen weights, W − BA, and trains B and A alone, with the inverted hinge.

Here the records were learned by an adapter, on a base that must stay as it is, and the result must
be a plain adapter again. So what is taken apart is ΔW = s·B·A rather than W:

- ΔW = s·(B₁A₁ + B₂A₂), where B₁A₁ is the rank-k part that matters most and B₂A₂ the rest. It is
  exact, since ΔW has rank r: the function is unchanged before the first step. The rest takes the
  place of the paper's W − BA: it does not train. The base never saw the records, so that what is
  to be forgotten is in ΔW, and the adapter keeps its rank, its scale and its configuration; with W
  in place of ΔW each run would add 2k to the rank.
- k is a share of the adapter's own rank. The paper's rank 32 is a small part of W's; of ΔW's it
  would be all, and with k = r only the factors' balance would change.
- A row weighs √(F_f,i / F_r,i), with information summed over the row before dividing. The paper
  divides entry by entry, then sums; its code adds 1e-5 to the divisor, which is more than most
  entries, so that little is left of the division.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearn.errors import ModelError, OptionError
from unlearn.methods.fisher import lora_layers, row_information
from unlearn.methods.job import Job, run_loss
from unlearn.model.lora import TRAINABLE
from unlearn.model.state import ModelState
from unlearn.training.fitting import Fit
from unlearn.training.launched import whole_only

__all__ = ["refactored", "row_weights", "run"]

# Information below this share of a layer's mean is noise: it bounds the weights on both sides.
_FLOOR = 1e-3

# Retain records looked at, however few there are to forget.
_LEAST = 32


def run(job: Job) -> tuple[ModelState, Fit]:
    """Bring the adapter's factors in order of importance, and train the first of them.

    LoRA on embeddings, and `modules_to_save`, train as they are.

    Args:
        job: the job; option `trainable_share`, k / r.

    Returns:
        (the job's state, trained; what training did).

    Raises:
        ModelError: if there is no adapter, or none of linear layers.
        OptionError: if `weight_decay` would shrink what does not train, or weights are split.
    """
    whole_only("loku", "it holds back parts of whole gradients: use inverted_hinge")
    share = float(job.resolved.extra["trainable_share"])
    layers = lora_layers(job.state)
    if not layers:
        raise ModelError(
            "loku: needs a LoRA adapter of linear layers: it takes apart what the adapter adds to "
            "the base; for a full fine-tune use inverted_hinge"
        )
    if share < 1 and job.resolved.training.weight_decay:
        raise OptionError(
            "loku: weight_decay would shrink the part of the adapter that does not train; leave it "
            "at 0, or set trainable_share=1"
        )
    forget, retain = job.split["forget"], job.split["retain"]
    some = np.linspace(0, len(retain) - 1, min(len(retain), max(len(forget), _LEAST)))
    information = [
        row_information(job.state, records)
        for records in (forget, [retain[i] for i in some.round().astype(int)])
    ]
    ranks = {}
    for name, layer in layers.items():
        a, b = layer.lora_A[TRAINABLE].weight, layer.lora_B[TRAINABLE].weight
        with torch.no_grad():
            new_a, new_b = refactored(a, b, row_weights(*(part[name] for part in information)))
            a.copy_(new_a)
            b.copy_(new_b)
        ranks[name] = max(1, round(share * a.shape[0]))
    with _only_first(layers, ranks):
        return run_loss(job)


def row_weights(forget: Tensor, retain: Tensor) -> Tensor:
    """Return how much each row of a weight matters to the forget records relative to the others.

    d_i = √((F_f,i / F̄_f + ε) / (F_r,i / F̄_r + ε)), divided by its mean, with F̄ the mean over rows
    and ε = 1e-3: rows of which neither set says anything are ordinary, and none is weighed
    infinitely. The scale of d moves size between the factors and nothing else, so it is fixed.

    Args:
        forget: F_f, [out], not negative.
        retain: F_r, the same.

    Returns:
        d, float64 [out], of mean 1.
    """
    shares = [
        part.double() / part.double().mean().clamp(min=torch.finfo(torch.float64).tiny) + _FLOOR
        for part in (forget, retain)
    ]
    d = (shares[0] / shares[1]).sqrt()
    return d / d.mean()


def refactored(a: Tensor, b: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors of the same product whose components are in order of weighted importance.

    With U S Vᵀ the singular value decomposition of diag(d)·B·A: A' = √S Vᵀ, B' = diag(1/d) U √S, so
    that B'A' = BA, and the first k components are the rank-k matrix M that minimises
    Σ_ij d_i² (BA − M)_ij²: row-weighted low-rank approximation, as FILA takes it (2408.06621, and
    its code, where S is divided by the scale s because it decomposes s·B·A). It is computed from
    the factors, in float64, without a matrix of full size.

    Args:
        a: A, [r, in].
        b: B, [out, r].
        rows: d, positive, [out].

    Returns:
        (A', B') in the shapes and types of A and B; components beyond the product's rank are zero.
    """
    d = rows.to(b.device, torch.float64)[:, None]
    left, top = torch.linalg.qr(d * b.double())
    right, bottom = torch.linalg.qr(a.double().mT)
    u, s, vt = torch.linalg.svd(top @ bottom.mT, full_matrices=False)
    root = s.sqrt()
    new_a, new_b = root[:, None] * (vt @ right.mT), (left @ u) * root / d
    missing = a.shape[0] - len(s)
    new_a = torch.nn.functional.pad(new_a, (0, 0, 0, missing))
    new_b = torch.nn.functional.pad(new_b, (0, missing))
    return new_a.to(a.dtype), new_b.to(b.dtype)


@contextlib.contextmanager
def _only_first(layers: Mapping[str, Any], ranks: Mapping[str, int]) -> Iterator[None]:
    """Let only the first components of each layer's factors train.

    Their other gradients are zero, and a component whose gradients were always zero is not moved by
    AdamW. They stay one adapter: checkpoints, references and the result need nothing special.
    """

    def first(dim: int, count: int) -> Any:
        def hook(gradient: Tensor) -> Tensor:
            free = torch.arange(gradient.shape[dim], device=gradient.device) < count
            return gradient * (free[:, None] if dim == 0 else free)

        return hook

    handles = []
    for name, layer in layers.items():
        for dim, factor in ((0, layer.lora_A[TRAINABLE]), (1, layer.lora_B[TRAINABLE])):
            if factor.weight.requires_grad:
                handles.append(factor.weight.register_hook(first(dim, ranks[name])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
