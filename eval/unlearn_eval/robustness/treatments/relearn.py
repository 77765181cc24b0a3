"""Fine-tune on a few of the forgotten records, and see whether the others come back too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from unlearn.config import validated
from unlearn.data.tokenization import Example
from unlearn.errors import DataError, ModelError
from unlearn.losses import NLL
from unlearn.model.lora import TRAINABLE
from unlearn.model.state import ModelState
from unlearn.training.fitting import fit
from unlearn.training.options import TrainingOptions
from unlearn.training.trainer import Objective
from unlearn_eval.robustness.treatments.options import RECORDS, STEPS, TrainingTreatment
from unlearn_eval.robustness.treatments.treated import Examples, Setting, TreatedState, score
from unlearn_eval.scores.processes import alone

__all__ = ["pick", "relearn", "taught", "teach", "training_options"]


@contextlib.contextmanager
def taught(
    state: ModelState, records: Sequence[Example], steps: int, setting: Setting
) -> Iterator[None]:
    """Let a state run after some more ordinary training, and put its weights back afterwards.

    AdamW at a constant rate, a step over all the records at once, NLL of their targets. The last
    adapter is trained, or the whole model where there is none. The weights that train are copied
    beforehand: the cost of one adapter, or of a second model for a full fine-tune. Of several
    processes each trains alike, as the few records could not be split evenly over any number.

    Raises ModelError if a whole model is quantised, which cannot be trained; TrainingError if the
    loss is not finite.
    """
    if not state.stack and getattr(state.model, "is_quantized", False):
        raise ModelError("a quantised model without adapter cannot be trained further")
    parameters = [
        p
        for name, p in state.model.named_parameters()
        if p.is_floating_point() and (not state.stack or f".{TRAINABLE}" in name)
    ]
    before = [p.detach().clone() for p in parameters]
    wanted = [(p, p.requires_grad) for p in state.model.parameters()]
    options = {"learning_rate": setting.learning_rate, "max_steps": steps}
    training = validated(TrainingOptions, options | {"batch_size": len(records)}, "relearning")
    try:
        state.model.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        with alone():
            fit(state, Objective(retain=NLL()), training, retain=records, seed=setting.seed)
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(old)
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
            parameter.grad = None
        state.model.eval()


def pick(records: Sequence[Example], k: int, seed: int) -> list[Example]:
    """Draw records to train on, at most half, so that as many are left to look at.

    Args:
        records: the records.
        k: how many.
        seed: of the draw.

    Returns:
        The records drawn, the same for the same ids and seed.

    Raises:
        DataError: if there are fewer than two.
    """
    if len(records) < 2:
        raise DataError("relearning needs two records: one to train on and one to look at")
    size = min(k, len(records) // 2)
    drawn = np.random.default_rng(seed).permutation(len(records))[:size]
    return [records[i] for i in sorted(drawn)]


def teach(
    state: ModelState,
    examples: Examples,
    setting: Setting,
    split: str,
    name: str,
    options: TrainingTreatment,
) -> Iterator[TreatedState]:
    """Train on some records of a split, and score all the others of every split, once a seed.

    Args:
        state: the state, as before afterwards.
        examples: the records.
        setting: learning rate and seed, where the options have none.
        split: where the training records come from.
        name: the treatment in a word.
        options: of the training.

    Yields:
        A treated state a seed; several name what they are averaged under.
    """
    rate = options.learning_rate or setting.learning_rate
    seeds = options.seeds or (setting.seed,)
    several = len(seeds) > 1
    for seed in seeds:
        records = pick(examples[split], options.k, seed)
        with taught(state, records, options.steps, Setting(rate, seed)):
            scores = score(state, examples, without=[e.id for e in records])
        params = {"k": len(records), "steps": options.steps, "records": split}
        params |= {"learning_rate": rate, "seed": seed}
        how = f" k={len(records)} steps={options.steps}"
        yield TreatedState(
            (f"{name} seed={seed}" if several else name) + how,
            scores,
            params,
            f"{name} seeds={len(seeds)}{how}" if several else "",
        )


def training_options(
    k: int, steps: int, learning_rate: float | None, seeds: Sequence[int] | None
) -> TrainingTreatment:
    """Return the options of a treatment that trains as one value."""
    return TrainingTreatment(
        k=k, steps=steps, learning_rate=learning_rate, seeds=None if seeds is None else tuple(seeds)
    )


def relearn(
    state: ModelState,
    examples: Examples,
    setting: Setting,
    k: int = RECORDS,
    steps: int = STEPS,
    learning_rate: float | None = None,
    seeds: Sequence[int] | None = None,
) -> Iterator[TreatedState]:
    """Fine-tune a state on some of the forgotten records, and score the others.

    Whoever has a part of the records can try this. Where the others come back faster than in a
    model that never saw them, they were hidden, not gone.

    Args:
        state: the state, as before afterwards.
        examples: the records.
        setting: learning rate and seed.
        k: records to train on, at most half of those there are.
        steps: optimizer steps, each on all of these records.
        learning_rate: step size; by default the setting's, that of the original training.
        seeds: a run each, with a draw of records of its own; by default the setting's.

    Yields:
        A treated state a seed; its forget records are those not trained on.

    Source: 2410.08827 (retrain on some, test on others).
    """
    options = training_options(k, steps, learning_rate, seeds)
    yield from teach(state, examples, setting, "forget", "relearned", options)
