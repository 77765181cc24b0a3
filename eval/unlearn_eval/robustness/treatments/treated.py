"""What every treatment takes and gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from unlearn.data.tokenization import Example
from unlearn.model.state import ModelState
from unlearn.training.options import USUAL_RATE
from unlearn_eval.scores.model_scores import score_model
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["Examples", "Setting", "TreatedState", "score", "treated_by"]

Examples = Mapping[str, Sequence[Example]]
"""Encoded records by split."""


@dataclass(frozen=True)
class Setting:
    """What all treatments of an audit share.

    Attributes:
        learning_rate: of treatments that train: that of the original training, else the usual one.
        seed: of everything random.
    """

    learning_rate: float = USUAL_RATE
    seed: int = 0


@dataclass(frozen=True, eq=False)
class TreatedState:
    """Scores of one state after one treatment.

    Attributes:
        deployment: the treatment in words, as rows of an audit show it: `int8`, `scale=0.5`.
        params: its parameters.
        scores: by split; records that the treatment trained on are left out.
        across: the deployment under which runs that differ by their seed are averaged; empty for a
            run that stands by itself.
    """

    deployment: str
    scores: Mapping[str, TokenScores]
    params: Mapping[str, Any] = field(default_factory=dict)
    across: str = ""


def score(
    state: ModelState, examples: Examples, without: Iterable[str] = ()
) -> dict[str, TokenScores]:
    """Score a state as it is now, with one forward pass a record.

    Args:
        state: the state, treated in place.
        examples: the records.
        without: ids of records to leave out.

    Returns:
        The score matrices by split.
    """
    left_out = set(without)
    return {
        split: score_model(state.model, state.head, [e for e in part if e.id not in left_out])
        for split, part in examples.items()
    }


def treated_by(
    treatment: AbstractContextManager[Any],
    state: ModelState,
    examples: Examples,
    deployment: str,
    params: Mapping[str, Any],
) -> TreatedState:
    """Score a state while a treatment lasts, which leaves the state as it was."""
    with treatment:
        scores = score(state, examples)
    return TreatedState(deployment, scores, params)
