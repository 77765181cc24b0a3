"""A row of comparisons: training with differential privacy, which forgets nothing."""

from __future__ import annotations

from unlearn.config import validated
from unlearn.losses import NLL
from unlearn.methods.job import Job
from unlearn.methods.method import Method
from unlearn.methods.plans import Cost, tokens_of
from unlearn.model.state import ModelState
from unlearn.provenance.keys import Key
from unlearn.training.expected_time import expected_seconds
from unlearn.training.fitting import Fit
from unlearn.training.objective import Objective
from unlearn.training.private.options import PrivacyOptions
from unlearn.training.private.promise import PrivateTraining

__all__ = ["PRIVATE", "run"]

PRIVATE = Method(
    "private",
    "train anew on all records with differential privacy: it forgets nothing",
    "1607.00133",
    "beside methods that forget: what ε alone hides of records that stay",
    "as training, with the gradient of each record by itself",
    kind="edit",
    extra={"epsilon": 8.0, "delta": None, "clip": 1.0},
    run="unlearn.methods.private:run",
    rate=1.0,
)
"""Named as `unlearn.methods.private:PRIVATE`. What remains of records that a model was trained on
with some ε is measured as for any method, beside models that never saw them."""


def run(job: Job) -> tuple[ModelState, Fit]:
    """Train a new adapter on all records, those in question among them.

    Args:
        job: the job; options `epsilon`, `delta`, `clip`.

    Returns:
        (the new state, what training did).

    Raises:
        OptionError: if the promise cannot be kept.
    """
    privacy = validated(PrivacyOptions, job.resolved.extra, job.resolved.method.name)
    examples = [*job.split["retain"], *job.split["forget"]]
    training = job.resolved.training
    private = PrivateTraining.of(privacy, training, [[i] for i in range(len(examples))])
    if job.announce:
        plain, steps = Objective(retain=NLL()), private.steps
        seconds = expected_seconds(job.state, plain, training, steps, retain=examples)
        cost = Cost(tokens_of(training, steps, (), examples), seconds)
        job.announce(job.plan(steps, cost, private.note))
    fresh, key = job.fresh_adapter(), Key.load()
    facts = {
        "method": job.resolved.as_dict(),
        "seed": job.seed,
        "tokens": key.mac(b"".join(example.ids.tobytes() for example in examples)),
    }
    return fresh, private.fit(
        fresh,
        examples,
        facts,
        key,
        seed=job.seed,
        checkpoints=job.checkpoints,
        progress=job.progress,
    )
