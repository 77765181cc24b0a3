"""Who's Harry Potter: learn a generic answer, found by learning the records even better."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unlearn.losses import NLL
from unlearn.methods.job import Job
from unlearn.methods.pilot import teacher_of
from unlearn.model.scoring import Projection
from unlearn.model.state import ModelState
from unlearn.training.fitting import Fit, fit
from unlearn.training.trainer import Objective, Teacher

__all__ = ["generic_logits", "run"]


def run(job: Job) -> tuple[ModelState, Fit]:
    """Train a copy further on the forget records, and learn what that did not raise.

    Target: softmax(z − α·ReLU(z_reinforced − z)), z the model's logits before (2310.02238,
    equation 1), as soft labels on the forget records' target tokens. The paper also replaces
    names by others before asking the model; that is a matter of one's texts, and left out.

    Both models are asked once, before training: their hidden states at the target tokens are kept,
    not the models.

    Args:
        job: the job; options `alpha` (α), `reinforce_epochs`.

    Returns:
        (the job's state, trained; what both trainings did together).
    """
    forget = job.split["forget"]
    adapters = [*job.state.frozen, job.state.adapter] if job.state.adapter else None
    reinforced = job.opening.open(
        job.state.name, [a for a in adapters if a] if adapters else None, trainable=True
    )
    how = job.resolved.training
    more = how.model_copy(
        update={"epochs": float(job.resolved.extra["reinforce_epochs"]), "max_steps": None}
        | {"stop": "none", "save_steps": None}
    )
    first = fit(reinforced, Objective(retain=NLL()), more, retain=forget, seed=job.seed)
    teacher = generic_teacher(
        teacher_of(job.state, forget),
        teacher_of(reinforced, forget),
        float(job.resolved.extra["alpha"]),
    )
    del reinforced
    resolved = job.resolved
    second = job.fit(
        job.objective(),
        forget=forget,
        retain=job.split["retain"] if resolved.retain is not None else (),
        teacher=teacher,
    )
    return job.state, replace(
        second, seconds=first.seconds + second.seconds, tokens=first.tokens + second.tokens
    )


def generic_logits(logits: Tensor, reinforced: Tensor, alpha: float) -> Tensor:
    """Return z − α·ReLU(z_reinforced − z) (2310.02238, equation 1), float32 [n, V]."""
    return logits - alpha * torch.relu(reinforced - logits)


def generic_teacher(before: Teacher, reinforced: Teacher, alpha: float) -> Teacher:
    """Make one teacher of two: hidden states side by side, logits by `generic_logits`."""
    width = before.hidden[0].shape[-1]

    def combined(hidden: Tensor) -> Tensor:
        z = before.head(hidden[:, :width])
        return generic_logits(z, reinforced.head(hidden[:, width:]), alpha)

    head: Projection = combined
    pairs = zip(before.hidden, reinforced.hidden, strict=True)
    return Teacher(tuple(torch.cat(pair, -1) for pair in pairs), head)
