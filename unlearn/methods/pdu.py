"""Primal–dual unlearning: flatten the forget records under a limit on the retain loss."""

from __future__ import annotations

from unlearn.errors import OptionError
from unlearn.losses import NLL
from unlearn.methods.job import Job
from unlearn.model.state import ModelState
from unlearn.training.fitting import Fit, mean_loss, sample
from unlearn.training.trainer import Constraint

__all__ = ["run"]

# How far the retain loss may rise over what it was, in nats a token, where no limit is given.
_SLACK = 0.1


def run(job: Job) -> tuple[ModelState, Fit]:
    """Minimise the forget loss subject to l̄_retain ≤ ε, by descent in θ and ascent in λ ≥ 0.

    Lagrangian: L_f(θ) + λ·(l̄_r(θ) − ε); after each optimizer step λ ← max(0, λ + η(l̄_r − ε))
    (2506.05314). λ starts at `retain_weight`. The paper leaves ε to the user; by default it is the
    retain loss before unlearning plus a tenth of a nat.

    Args:
        job: the job; options `retain_limit` (ε) and `dual_rate` (η).

    Returns:
        (the job's state, trained; what training did).

    Raises:
        OptionError: if the retain loss is not the likelihood, which the limit is about.
    """
    resolved = job.resolved
    if not isinstance(resolved.retain, NLL):
        raise OptionError("pdu: the limit is on the likelihood of retain records: retain_loss=nll")
    limit = resolved.extra["retain_limit"]
    if limit is None:
        limit = mean_loss(job.state, sample(job.split["retain"])) + _SLACK
    constraint = Constraint(float(limit), float(resolved.extra["dual_rate"]))
    objective = job.objective(constraint=constraint)
    return job.state, job.fit(objective, forget=job.split["forget"], retain=job.split["retain"])
