"""How many steps of an approximate method cost no more than a part of retraining."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from unlearn.data.tokenization import Example
from unlearn.errors import LineageError, OptionError
from unlearn.methods.defaults import OriginalTraining, same_training
from unlearn.methods.plans import AFFORDABLE, steps_within, tokens_of
from unlearn.methods.registry import Resolved
from unlearn.provenance.lineage import Lineage
from unlearn.training.levels import Level, sample
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions, total_steps
from unlearn.training.stopping import WATCHING
from unlearn.training.tokens import FORWARD, scored_before

__all__ = ["affordable_steps", "trained_first"]


def affordable_steps(
    resolved: Resolved,
    split: Mapping[str, Sequence[Example]],
    parent: Lineage | None,
    original: OriginalTraining,
    level: Level | None,
) -> Callable[[TrainingOptions], int] | None:
    """Return what tells the optimizer steps that take at most half of the tokens of retraining.

    Formula: the largest n with T_first + T_scored(n) + 1.1·T(n) ≤ .5·T_retraining, T(n) being the
    tokens of n steps, T_first what a method trains before, T_scored what is scored for old losses
    and the stop rules (a third of its tokens), and a tenth more what scoring anew may take.

    Args:
        resolved: the method with its options.
        split: encoded records.
        parent: lineage of the adapter, if it has one.
        original: how the adapter was trained.
        level: what was measured before training.

    Returns:
        Options of training → steps, at least 1; None where nobody knows what retraining takes.
    """
    retain = split["retain"]
    try:
        again = same_training(parent, {}, "retrain", original)
    except (LineageError, OptionError):
        return None
    if not retain:
        return None
    limit = AFFORDABLE * tokens_of(again, total_steps(again, len(retain)), (), retain)
    objective = Objective(resolved.forget, resolved.retain)
    forget, own = split["forget"], retain if resolved.retain is not None else ()
    others = split.get("alternate", ()) if "alternates" in objective.needs else ()
    first = trained_first(resolved.extra, forget, retain) + FORWARD * (level.scored if level else 0)

    def steps(training: TrainingOptions) -> int:
        stops = objective.forget is not None and training.stop != "none"
        watching = WATCHING if stops else 0
        kept = FORWARD * sum(len(example.ids) for example in sample(own)) if stops else 0

        def tokens(count: int) -> float:
            trained = (
                tokens_of(training, count, forget, own, others)
                if objective.forget
                else tokens_of(training, count, (), forget)
            )
            scored = scored_before(objective, training, count, forget, own, others)
            return first + kept + scored + (1 + watching) * trained

        return steps_within(limit, tokens, total_steps(training, len(forget)))

    return steps


def trained_first(
    extra: Mapping[str, object], forget: Sequence[Example], retain: Sequence[Example]
) -> float:
    """Return the tokens that a method trains on before its own steps: its pilot, for example.

    Args:
        extra: the method's own options.
        forget: records to forget.
        retain: records to keep.

    Returns:
        Tokens that go forward and backward.
    """
    parts = {"pilot_epochs": retain, "reinforce_epochs": forget}
    return sum(
        float(str(extra[name])) * sum(len(example.ids) for example in examples)
        for name, examples in parts.items()
        if name in extra
    )
