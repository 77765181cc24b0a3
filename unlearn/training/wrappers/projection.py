"""Gradient projection: do not let forgetting undo what the retain term is there for."""

from __future__ import annotations

from unlearn.training.wrappers._gradient import Gradient, dot

__all__ = ["rectified"]


def rectified(forget: Gradient, retain: Gradient) -> Gradient:
    """Return the forget gradient without what would raise the retain loss.

    Formula: where ⟨g_f, g_r⟩ < 0, g_f − (⟨g_f, g_r⟩ / ‖g_r‖²)·g_r, else g_f as it is: the closest
    gradient to g_f with ⟨g, g_r⟩ ≥ 0. It is the closed form of gradient rectified unlearning (GRU,
    2503.09117, section 3.2) and of gradient surgery for a pair of tasks (PCGrad, 2001.06782,
    algorithm 1) with only one of the two gradients changed: keeping the other records comes first.
    Inner products are over all trainable weights together, in float64. GRU also keeps a running
    mean of g_r over steps and may bound the cosine, against the noise of small batches; neither is
    done here: g_r is that of the whole optimizer step.

    Limits: with g_r = 0 there is no conflict; a g_f straight against g_r becomes zero.

    Args:
        forget: g_f, one entry a parameter; None counts as zero.
        retain: g_r, the same.

    Returns:
        What to use in place of g_f.
    """
    conflict = dot(forget, retain)
    if conflict >= 0:
        return forget
    share = conflict / dot(retain, retain)
    return [
        f if r is None else (-share * r if f is None else f - share * r)
        for f, r in zip(forget, retain, strict=True)
    ]
