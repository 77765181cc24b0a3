"""Exact deletion: train a new adapter from the base, without the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unlearn.config import validated
from unlearn.errors import LineageError
from unlearn.losses import NLL
from unlearn.methods.defaults import OriginalTraining, original_training
from unlearn.methods.job import Job
from unlearn.model.state import ModelState
from unlearn.provenance.lineage import Lineage
from unlearn.training.fitting import Fit
from unlearn.training.options import TrainingOptions
from unlearn.training.trainer import Objective

__all__ = ["run", "same_training"]

# Without these nobody can say what "the same training" would be.
_ESSENTIAL = ("learning_rate", "epochs")


def same_training(
    parent: Lineage | None,
    given: Mapping[str, Any],
    where: str,
    original: OriginalTraining | None = None,
) -> TrainingOptions:
    """Return the settings of an adapter's original training.

    Args:
        parent: its lineage, if it has one.
        given: what the user sets otherwise.
        where: what is being configured, for messages.
        original: how it was trained; by default what its lineage tells.

    Returns:
        The settings.

    Raises:
        LineageError: if they are known from nowhere.
    """
    known = dict((original or original_training(parent)).options)
    missing = [k for k in _ESSENTIAL if k not in known and k not in given]
    if "epochs" in missing and ("max_steps" in given or "max_steps" in known):
        missing.remove("epochs")
    if "epochs" in given and "max_steps" not in given:
        known.pop("max_steps", None)
    if missing:
        flags = " ".join(f"-o {name}=…" for name in missing)
        raise LineageError(
            f"{where}: the adapter has no lineage that tells how it was trained, and no file "
            f"beside it does; give its settings with {flags} (and batch_size, schedule, … where "
            "they were not the defaults)"
        )
    return validated(TrainingOptions, known | dict(given), where)


def run(job: Job) -> tuple[ModelState, Fit]:
    """Train again on the retain records, with the settings of the original training.

    Settings come from the adapter's lineage, or from what another tool left beside it; options
    given by the user override them, and must give learning rate and epochs where nothing tells.

    Args:
        job: the job.

    Returns:
        (the retrained state, what training did).

    Raises:
        LineageError: if the settings are known from nowhere, or a full fine-tune's base is.
    """
    training = same_training(job.parent, job.resolved.given, "retrain", job.original)
    if job.state.kind == "full":
        if job.parent is None:
            raise LineageError(
                "retrain: this fully fine-tuned model has no lineage that names its base; run "
                "`unlearn finetune --full` on the base with --exclude instead"
            )
        fresh = job.opening.open(job.parent.base.name, trainable=True)
        if fresh.base_digest() != job.parent.base.digest:
            raise LineageError(
                f"retrain: the model at {job.parent.base.name} is not the base that the lineage "
                "names: its weights changed"
            )
    else:
        fresh = job.fresh_adapter()
    again = replace(job, state=fresh)
    result = again.fit(Objective(retain=NLL()), retain=job.split["retain"], training=training)
    return fresh, result
