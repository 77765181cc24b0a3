"""How another state that is compared with an opened one reads text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unlearn.errors import DataError
from unlearn.model.folders import check_model_folder, resolve_folder
from unlearn.model.reading import Reading, open_tokenizer, reading_of
from unlearn.model.state import ModelState

__all__ = ["reading_beside"]


def reading_beside(state: ModelState, place: str | Path, below: Sequence[Path] | None) -> Reading:
    """Return how an adapter on the same base, or another full model, reads text.

    Args:
        state: the opened state.
        place: a folder or hub name of the other.
        below: adapters on the base that the other lies on; None where it is a full model.

    Returns:
        Its way to read.

    Raises:
        DataError: if its tokenizer has another vocabulary, so that scores cannot be compared.
        ModelError: if there is no such state, or its tokenizer cannot be opened.
    """
    assert state.reading is not None
    assert state.base_reading is not None
    trusted = state.trust_remote_code
    if below is not None:
        stack = [*below, resolve_folder(place, "adapter")]
        reading = reading_of(state.base_reading, state.folder, stack, trust_remote_code=trusted)
    else:
        folder = resolve_folder(place, "model")
        check_model_folder(folder)
        reading = Reading(open_tokenizer(folder, trust_remote_code=trusted))
    if state.reading.differs(reading) == "vocabulary":
        raise DataError(
            f"{place} reads text with another tokenizer than {state.adapter or state.name}: "
            "their scores cannot be compared"
        )
    return reading
