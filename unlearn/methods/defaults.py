"""Decide what a method leaves open until the adapter and the records are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unlearn.methods.registry import Resolved
from unlearn.provenance.lineage import Lineage
from unlearn.training.options import USUAL_RATE

__all__ = ["LEAST_STEPS", "decided", "trained_with"]

LEAST_STEPS = 36
"""Optimizer steps below which a handful of records is not forgotten, however few they are: AdamW
moves a weight by about the learning rate a step, whatever the gradient."""


def trained_with(parent: Lineage | None) -> dict[str, Any]:
    """Return the options of the original training, as far as a lineage tells.

    Args:
        parent: lineage of the adapter, if it has one.

    Returns:
        Fields of `TrainingOptions`; empty where nothing is known.
    """
    return dict((parent.finetuned_with if parent else {}).get("training") or {})


def decided(resolved: Resolved, parent: Lineage | None, records: int) -> tuple[Resolved, list[str]]:
    """Fill in a learning rate and a number of epochs that were left to be decided.

    The learning rate is the method's `rate` times that of the original training: how far a step may
    go depends on the model and the adapter, and the rate that once taught the records tells it. The
    epochs are the method's, or as many as make `LEAST_STEPS` optimizer steps.

    Args:
        resolved: the method with its options.
        parent: lineage of the adapter, if it has one.
        records: forget records.

    Returns:
        (the method with numbers for all its options, what the user should know).
    """
    training, notes = resolved.training, []
    fill: dict[str, float] = {}
    if training.learning_rate is None:
        known = trained_with(parent).get("learning_rate")
        fill["learning_rate"] = resolved.method.rate * (known or USUAL_RATE)
        if not known:
            notes.append(
                "no lineage tells how the adapter was trained: learning_rate "
                f"{fill['learning_rate']:g} follows from the usual {USUAL_RATE:g}; where it was "
                f"another, give {resolved.method.rate:g} times that one as -o learning_rate=…"
            )
    if training.epochs is None:
        least = LEAST_STEPS * training.batch_size / records
        fill["epochs"] = max(resolved.method.epochs, least)
    return replace(resolved, training=training.model_copy(update=fill)), notes
