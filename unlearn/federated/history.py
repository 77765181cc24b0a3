"""The rounds of a federation on disk: each whole or not there, so that they can be gone on with.

`rounds/round-000` holds the weights that everything began with, `round-001` and so on those after
each round, who took part, and what each client sent, unless differential privacy forbids to keep
that. Clients are called by their keyed names alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError
from safetensors.numpy import load_file, save_file

from unlearn.config import StrictModel
from unlearn.errors import LineageError, OutputError
from unlearn.federated.aggregation import Weights
from unlearn.files import staged_folder
from unlearn.strict_json import NotJsonError, read_json_file

__all__ = ["FOLDER", "Part", "Round", "Rounds"]

FOLDER = "rounds"

_GLOBAL = "global.safetensors"
_FILE = "round.json"


class Part(StrictModel):
    """What a client did in a round.

    Attributes:
        client: its keyed name.
        records: that it trained on.
        steps: of its optimizer.
        tokens: that it went through.
        seconds: that it took.
        loss: of training in the end, nats a token.
    """

    client: str
    records: int
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float | None = None


class Round(StrictModel):
    """One round.

    Attributes:
        number: the first is 1; 0 is what it began with.
        parts: of the clients that took part.
        lost: keyed names of those that were to take part and did not answer, with the reason.
        rank_lost: part of the exact average's squared norm for which the rank had no room.
    """

    number: int
    parts: Sequence[Part] = ()
    lost: Mapping[str, str] = Field(default_factory=dict)
    rank_lost: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of all clients."""
        return sum(part.tokens for part in self.parts)


class Rounds:
    """The rounds in a folder.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def last(self) -> int:
        """Return the number of the last round that is there with all before it; −1 for none."""
        number = -1
        while (self._place(number + 1) / _FILE).is_file():
            number += 1
        return number

    def round(self, number: int) -> Round:
        """Read what a round was.

        Args:
            number: of the round.

        Returns:
            It.

        Raises:
            LineageError: if it is not there, or something else.
        """
        path = self._place(number) / _FILE
        try:
            return Round.model_validate(read_json_file(path))
        except (OSError, NotJsonError, ValidationError) as error:
            words = " ".join(str(error).split())[:200]
            raise LineageError(f"{path} is no round of a federation: {words}") from None

    def all(self) -> list[Round]:
        """Return all rounds after the beginning."""
        return [self.round(number) for number in range(1, self.last() + 1)]

    def weights(self, number: int) -> dict[str, Any]:
        """Return the weights after a round.

        Args:
            number: of the round; 0 for the beginning.

        Returns:
            float32 by name.

        Raises:
            LineageError: if they are not there, or not finite.
        """
        return _read(self._place(number) / _GLOBAL)

    def sent(self, number: int, client: str) -> dict[str, Any]:
        """Return the weights that a client sent in a round.

        Raises LineageError if they were not kept.
        """
        return _read(self._place(number) / f"{client}.safetensors")

    def digest(self) -> str:
        """Return a SHA-256 over the files of all rounds, which says whether they are the same."""
        total = hashlib.sha256()
        for path in sorted(self.folder.glob("round-*/*")):
            name = path.relative_to(self.folder).as_posix()
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{name}\0{content}\n".encode())
        return f"sha256:{total.hexdigest()}"

    def write(self, done: Round, weights: Weights, sent: Mapping[str, Weights]) -> None:
        """Write a round, whole or not at all.

        Args:
            done: what it was.
            weights: after it.
            sent: weights of each client, to be kept.

        Raises:
            OutputError: if the disk does not take it.
        """
        if not all(bool(np.isfinite(value).all()) for value in weights.values()):
            raise OutputError(
                f"round {done.number} ended in weights that are not finite: lower learning_rate; "
                "the rounds before it are kept"
            )
        with staged_folder(self._place(done.number), overwrite=True) as stage:
            save_file(_plain(weights), stage / _GLOBAL)
            for client, own in sent.items():
                save_file(_plain(own), stage / f"{client}.safetensors")
            text = json.dumps(done.model_dump(), indent=1, allow_nan=False)
            (stage / _FILE).write_text(text + "\n", encoding="utf-8")

    def _place(self, number: int) -> Path:
        return self.folder / f"round-{number:03}"


def _plain(weights: Weights) -> dict[str, Any]:
    """Return tensors laid out as they are written: the format takes bytes as they lie."""
    return {name: np.ascontiguousarray(value) for name, value in weights.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except Exception as error:  # safetensors has many ways to say that a file is not there or whole
        words = " ".join(str(error).split())[:200]
        raise LineageError(f"{path} cannot be read as weights of a federation: {words}") from None
