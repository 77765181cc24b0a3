"""Fine-tune on a few records that have nothing to do with the forgotten ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unlearn.errors import DataError
from unlearn.model.state import ModelState
from unlearn_eval.robustness.treatments.options import RECORDS, STEPS
from unlearn_eval.robustness.treatments.relearn import teach, training_options
from unlearn_eval.robustness.treatments.treated import Examples, Setting, TreatedState

__all__ = ["benign"]


def benign(
    state: ModelState,
    examples: Examples,
    setting: Setting,
    k: int = RECORDS,
    steps: int = STEPS,
    learning_rate: float | None = None,
    seeds: Sequence[int] | None = None,
) -> Iterator[TreatedState]:
    """Fine-tune a state on a few holdout records (else retain ones), and score the forgotten ones.

    This happens without any ill will: the next customer fine-tunes the model. New records are used
    where there are any, as the model knows the ones to keep already and would not move.

    Args:
        state: the state, as before afterwards.
        examples: the records.
        setting: learning rate and seed.
        k: records to train on; as many as `relearn`, so that the two can be compared.
        steps: optimizer steps, as many as `relearn`.
        learning_rate: step size; by default the setting's, that of the original training.
        seeds: a run each, with a draw of records of its own; by default the setting's.

    Yields:
        A treated state a seed; its holdout (or retain) records are those not trained on.

    Raises:
        DataError: if there are neither holdout nor retain records.

    Source: 2406.13356 (relearning on public data that is only loosely related).
    """
    for split in ("holdout", "retain"):
        if len(examples.get(split, ())) >= 2:
            options = training_options(k, steps, learning_rate, seeds)
            yield from teach(state, examples, setting, split, "fine-tuned", options)
            return
    raise DataError("benign fine-tuning needs two records of the holdout, or to keep")
