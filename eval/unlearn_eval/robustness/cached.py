"""Keep what treated states said, so that an audit run again after a kill treats none anew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from unlearn.data.tokenization import Example
from unlearn.model.scoring import TOKEN_BUDGET
from unlearn.model.state import ModelState
from unlearn_eval.robustness import Treatment
from unlearn_eval.robustness.treatments.treated import Examples, Setting, TreatedState
from unlearn_eval.scores.cache import Arrays, Cache, examples_digest, pack, unpack
from unlearn_eval.scores.token_scores import SAMPLERS, TokenScores

__all__ = ["apply"]

_ABOUT = "about"


def apply(
    treatment: Treatment,
    state: ModelState,
    examples: Examples,
    setting: Setting,
    options: Mapping[str, Any],
    cache: Cache,
    stamp: str,
) -> list[TreatedState]:
    """Apply a treatment in all its variants, unless the cache holds what came of it.

    Args:
        treatment: which.
        state: the state, as before afterwards.
        examples: the records.
        setting: shared by all treatments.
        options: of this treatment, by name.
        cache: where results are kept.
        stamp: digest of all that decides what the state computes; empty keeps nothing.

    Returns:
        The treated states.
    """
    names = {split: examples_digest(part) for split, part in examples.items()}
    how = (treatment.run, dict(options), asdict(setting), SAMPLERS, TOKEN_BUDGET)
    facts = ("treated", stamp, names, how)
    known = _unpacked(cache.read(*facts), examples) if stamp else None
    if known is None:
        known = list(treatment.function()(state, examples, setting, **options))
        if stamp:
            cache.write(_packed(known, examples), *facts)
    return known


def _packed(treated_states: Sequence[TreatedState], examples: Examples) -> dict[str, Any]:
    """Return treated states as arrays: no ids of records, which are positions here."""
    about = json.dumps(
        [[t.deployment, dict(t.params), t.across, list(t.scores)] for t in treated_states]
    )
    arrays = {_ABOUT: np.frombuffer(about.encode(), dtype=np.int8)}
    for number, treated in enumerate(treated_states):
        for split, matrix in treated.scores.items():
            at = {example.id: i for i, example in enumerate(examples[split])}
            columns = pack(matrix) | {"positions": np.array([at[name] for name in matrix.ids])}
            arrays |= {f"{number}/{split}/{name}": values for name, values in columns.items()}
    return arrays


def _unpacked(arrays: Arrays | None, examples: Examples) -> list[TreatedState] | None:
    """Return treated states from what `_packed` made, or None if they are not of these records."""
    if arrays is None:
        return None
    try:
        treated_states = []
        for number, (deployment, params, across, splits) in enumerate(
            json.loads(arrays[_ABOUT].tobytes().decode())
        ):
            scores = {s: _matrix(arrays, f"{number}/{s}/", examples[s]) for s in splits}
            treated_states.append(TreatedState(deployment, scores, params, across))
    except (KeyError, IndexError, ValueError):
        return None
    return treated_states


def _matrix(arrays: Arrays, prefix: str, part: Sequence[Example]) -> TokenScores:
    columns = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    chosen = [part[i] for i in columns.pop("positions")]
    matrix = unpack(columns, chosen)
    if matrix is None:
        raise ValueError("scores of other records")
    return matrix
