"""Shadow models: others trained on known halves of the records, for attacks that compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unlearn.data.records import Records
from unlearn.errors import LineageError
from unlearn.model.state import resolve_folder
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage, weights_digest
from unlearn_eval.arrays import BoolArray
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["Shadows", "membership"]


@dataclass(frozen=True)
class Shadows:
    """What shadow models say about the records, and which of them they were trained on.

    Attributes:
        scores: for each model its score matrices, by split.
        member: by split, bool [models, records].
    """

    scores: Sequence[Mapping[str, TokenScores]]
    member: Mapping[str, BoolArray]


def membership(
    shadows: Sequence[str | Path], splits: Mapping[str, Records], what: str = "adapter"
) -> dict[str, BoolArray]:
    """Read from lineages which records each shadow model was trained on.

    Args:
        shadows: their folders.
        splits: the records in question.
        what: `adapter` or `model`.

    Returns:
        By split, bool [models, records].

    Raises:
        LineageError: if a lineage is missing or of other weights, or its digests were made under
            another key.
    """
    if not shadows:
        return {}
    key = Key.load()
    digests = {name: [key.digest(record) for record in part] for name, part in splits.items()}
    trained = []
    for path in shadows:
        folder = resolve_folder(path, what)
        line = Lineage.read(folder)
        if line is None:
            raise LineageError(
                f"--shadow {path} has no lineage.json: which records it was trained on is not "
                "known; train shadow models with `unlearn references --kind half`"
            )
        if line.records.key_id != key.id:
            raise LineageError(
                f"--shadow {path}: its records are named under the key {line.records.key_id}, and "
                f"the key in use is {key.id}; set UNLEARN_KEY to the key that it was made with"
            )
        if line.digest != weights_digest(folder):
            raise LineageError(
                f"--shadow {path}: its lineage is of other weights than lie beside it: which "
                "records these were trained on is not known"
            )
        trained.append(set(line.records.trained))
    return {
        name: np.array([[digest in digests_seen for digest in part] for digests_seen in trained])
        for name, part in digests.items()
    }
