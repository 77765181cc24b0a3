"""What an adapter was made from: hashes, keyed record digests, settings, versions.

Every folder this toolkit saves carries a `lineage.json`. Records appear in it only as HMAC-SHA256
digests under a key that stays with the user: a plain hash of a short record could be guessed.

The key is taken from the environment variable `UNLEARN_KEY` (64 hexadecimal digits), or from the
file `key` in the home folder of the toolkit (`UNLEARN_HOME`, by default `~/.unlearn`), which is
made on first use with mode 600.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unlearn.errors import LineageError
from unlearn.files import regular_bytes
from unlearn.provenance.digests import weights_digest
from unlearn.strict_json import parse_json
from unlearn.version import __version__

__all__ = [
    "FILE_NAME",
    "Base",
    "Federation",
    "Lineage",
    "Member",
    "Planted",
    "Privacy",
    "RecordDigests",
    "Start",
    "library_versions",
    "now",
    "weights_digest",
]

FILE_NAME = "lineage.json"
_LARGEST = 1 << 30  # bytes: a million digests take a tenth of it


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Base(_Model):
    """The base model: the name it was opened by and the digest of its weights."""

    name: str
    digest: str


class RecordDigests(_Model):
    """Keyed digests of records: those that shaped the weights, and those taken out again."""

    key_id: str
    trained: list[str] = Field(default_factory=list)
    forgotten: list[str] = Field(default_factory=list)

    def left_out(self, forgotten: Iterable[str]) -> RecordDigests:
        """Return these, once it is certain that none of some digests is among the trained ones.

        Args:
            forgotten: digests of what a model that is trained anew must never see.

        Returns:
            These digests.

        Raises:
            LineageError: if the model is to be trained on one of them.
        """
        seen = len(set(self.trained) & set(forgotten))
        if seen:
            raise LineageError(
                f"{seen} record(s) are among those to train on and those to leave out: nothing "
                "was saved"
            )
        return self


class Start(Base):
    """The adapter that a retraining began with instead of a fresh one.

    `others` are keyed digests of the records that shaped it, and that the retraining itself did not
    go through.
    """

    others: list[str] = Field(default_factory=list)


class Planted(_Model):
    """Canaries that training included by a coin: how many pairs, and the SHA-256 of their file."""

    pairs: int
    sha256: str


class _Place(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _FinetunedWith(_Place):
    training: dict[str, Any] | None = None
    lora: dict[str, Any] | None = None
    stages: list[dict[str, Any]] | None = None


class _Cost(_Place):
    seconds: float | None = None
    tokens: float | None = None


class _Budget(_Place):
    used: float | None = None
    kept_loss: dict[str, float | None] | None = None
    cost: dict[str, Any] | None = None


_PLACES: dict[str, type[_Place]] = {
    "finetuned_with": _FinetunedWith,
    "cost": _Cost,
    "budget": _Budget,
}
"""What stands in the free places of a lineage, as far as it is computed with."""


class Privacy(_Model):
    """The differential privacy that a training claims for its weights.

    Weights trained on any two sets of records that differ in one unit are (ε, δ)-indistinguishable.
    `units` and `expected_batch` are taken for public. `accounted` is the ε that the accountant
    finds for δ after all `steps`; it is at most `epsilon`.
    """

    epsilon: float = Field(gt=0, allow_inf_nan=False)
    delta: float = Field(gt=0, lt=1)
    unit: Literal["record", "person", "client"]
    units: int = Field(gt=0)
    relation: Literal["add or remove one unit"] = "add or remove one unit"
    sampler: Literal["Poisson"] = "Poisson"
    accountant: str
    accounted: float
    noise_multiplier: float
    clip: float
    expected_batch: int | float
    sample_rate: float
    steps: int


class Member(_Model):
    """A client of a federation, by its keyed name: digests of its records, and rounds it was in."""

    client: str
    records: list[str] = Field(default_factory=list)
    rounds: list[int] = Field(default_factory=list)


class Federation(_Model):
    """How an adapter was trained over clients.

    `by` is the field of the data that names clients; `lost` holds, by round, who was to take part
    and did not answer; `how` is whether clients were simulated or processes of their own; `flower`
    is its version. `rounds` are those that led to the weights, and `digest` is of their files.
    """

    by: str
    aggregate: Literal["factors", "product"]
    rounds: int = Field(ge=0)
    digest: str | None = None
    fraction: float
    members: list[Member]
    lost: dict[str, list[str]] = Field(default_factory=dict)
    how: Literal["simulation", "processes"] = "simulation"
    flower: str = ""


class Lineage(_Model):
    """The content of `lineage.json`.

    `records.trained` holds every record that ever shaped the weights, those inherited from the
    parent included; `records.forgotten` those that a method was asked to take out. After exact
    retraining the forgotten records are not among the trained ones; after an approximate method
    they are in both. `canaries` is handed down to what is made of the adapter. What is trained from
    the base alone says in `made_from` what else decided its weights, as digests (the order of the
    records among them), and in `environment` what rounded its sums, so that it can be trained
    again. Retraining says in `budget` how much of the original training it was asked for and took,
    and everything that decided it; `finetuned_with.stages` is then how the weights were trained,
    `finetuned_with.training` still how those of the original. `start` is the adapter that it began
    with, if not a fresh one; the records of that one are among the trained ones. `poisoned` counts
    the records marked by `unlearn poison` that shaped the weights. `privacy` is what is claimed of
    these very weights, and is not handed down. `federation` says who took part where clients
    trained it together.
    """

    schema_: Literal[1] = Field(1, alias="schema")
    created: str
    verb: str
    base: Base
    digest: str
    kind: Literal["adapter", "full"]
    parent: str | None = None
    start: Start | None = None
    records: RecordDigests
    canaries: Planted | None = None
    poisoned: int = 0
    template: str
    method: str
    options: dict[str, Any]
    seed: int
    finetuned_with: dict[str, Any] = Field(default_factory=dict)
    cost: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    stopped: str | None = None
    made_from: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    budget: dict[str, Any] = Field(default_factory=dict)
    privacy: Privacy | None = None
    federation: Federation | None = None

    @classmethod
    def read(cls, folder: str | Path) -> Lineage | None:
        """Read the lineage beside an adapter or model.

        Args:
            folder: the adapter's or model's folder.

        Returns:
            The lineage, or None where there is none (it was trained elsewhere).

        Raises:
            LineageError: if the file is there but cannot be understood.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            return None
        try:
            content = regular_bytes(path, _LARGEST)
            parse_json(content)
            line = cls.model_validate_json(content)
            _check_places(line)
            return line
        except (ValidationError, ValueError, OSError) as error:
            raise LineageError(f"{path} is not a lineage of schema 1: {_first(error)}") from error

    def write(self, folder: str | Path) -> None:
        """Write `lineage.json` into a folder."""
        text = self.model_dump_json(indent=2, by_alias=True)
        (Path(folder) / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def _check_places(line: Lineage) -> None:
    """Refuse another type in a place that is computed with; ValueError naming it."""
    for name, place in _PLACES.items():
        try:
            place.model_validate(getattr(line, name))
        except ValidationError as error:
            raise ValueError(f"{name}.{_first(error)}") from None


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"
    return str(error)


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries whose numerics enter the weights."""
    names = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy")
    return {"unlearn": __version__} | {name: metadata.version(name) for name in names}
