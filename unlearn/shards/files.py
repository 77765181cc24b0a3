"""`shards.json`: what a folder of shards holds, so that a mixture is never taken for one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unlearn.errors import LineageError
from unlearn.files import staged_file
from unlearn.provenance.digests import SHARDS, weights_digest
from unlearn.provenance.lineage import Base
from unlearn.strict_json import NotJsonError, read_json_file

__all__ = ["FILE", "Cost", "Shard", "Shards", "State", "is_sharded", "shard_name"]

FILE = SHARDS

State = Literal["on", "off", "empty"]
"""Of a shard: trained and served; dropped until it is trained again; without records."""

_MOST = 4096
_DIGEST = r"^sha256:[0-9a-f]{64}$"
_HEX = r"^[0-9a-f]{64}$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Cost(_Strict):
    """What training a shard by the whole recipe took: tokens, seconds, and on how many records."""

    tokens: int = Field(ge=0)
    seconds: float = Field(ge=0, allow_inf_nan=False)
    records: int = Field(ge=1)


class Shard(_Strict):
    """One shard.

    Attributes:
        state: whether it can be served.
        digest: of its weights; None while it is off or empty.
        before: of the weights that a deletion replaced or dropped; None where none touched it.
        seed: of its weights and order.
        records: that shaped it.
        units: that these belong to.
        whole: what training it took by the whole recipe, once.
        pending: keyed digests of records that a shard which is off must be trained without.
    """

    state: State
    digest: str | None = Field(default=None, pattern=_DIGEST)
    before: str | None = Field(default=None, pattern=_DIGEST)
    seed: int = Field(ge=0)
    records: int = Field(ge=0)
    units: int = Field(ge=0)
    whole: Cost
    pending: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole_or_not(self) -> Self:
        if (self.state == "on") != (self.digest is not None):
            raise ValueError("a shard has a digest where it is on, and only there")
        if self.pending and self.state == "on":
            raise ValueError("a shard that is on has nothing pending")
        return self


class Shards(_Strict):
    """The content of `shards.json`.

    Attributes:
        created: ISO time.
        key_id: of the key that deals records out.
        base: of all shards.
        by: what a unit is.
        seed: that the user chose, from which those of the shards follow.
        template: how records are written.
        made_with: options of training and shape, those of `finetune`.
        shards: one each, in order.
        forgotten: keyed digests of all records that were ever taken out.
        touched: numbers of the shards that the last deletion touched.
        digest: over the shards' states and weights; see `of`.
    """

    schema_: Literal[1] = Field(1, alias="schema")
    created: str
    key_id: str = Field(pattern=r"^[0-9a-f]{12}$")
    base: Base
    by: str
    seed: int = Field(ge=0)
    template: str
    made_with: dict[str, Any]
    shards: list[Shard] = Field(min_length=1, max_length=_MOST)
    forgotten: list[str] = Field(default_factory=list)
    touched: list[int] = Field(default_factory=list)
    digest: str = Field(pattern=_DIGEST)

    @model_validator(mode="after")
    def _own_digest(self) -> Self:
        if self.digest != self.of(self.shards):
            raise ValueError("its digest is not that of its shards")
        if any(not 0 <= number < len(self.shards) for number in self.touched):
            raise ValueError("touched: there is no such shard")
        return self

    @staticmethod
    def of(shards: Sequence[Shard]) -> str:
        """Return the SHA-256 over (number, state, digest of weights) of shards in their order."""
        rows = [[i, shard.state, shard.digest] for i, shard in enumerate(shards)]
        return f"sha256:{hashlib.sha256(json.dumps(rows).encode()).hexdigest()}"

    @classmethod
    def read(cls, folder: str | Path) -> Shards:
        """Read `shards.json` of a folder.

        Args:
            folder: the folder.

        Returns:
            Its content.

        Raises:
            LineageError: if it is missing or something else.
        """
        path = Path(folder) / FILE
        try:
            return cls.model_validate(read_json_file(path))
        except (OSError, NotJsonError) as error:
            problem = getattr(error, "strerror", None) or error
            raise LineageError(
                f"{folder} is no folder of shards: {FILE} cannot be read ({problem}); "
                "`unlearn finetune --shards` makes one"
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "file"
            raise LineageError(
                f"{path} is no {FILE} of schema 1: {where}: {first['msg']}"
            ) from None

    def write(self, folder: Path) -> None:
        """Write it into a folder, whole or not at all."""
        text = self.model_dump_json(indent=1, by_alias=True)
        with staged_file(folder / FILE) as stage:
            stage.write_text(text + "\n", encoding="utf-8")

    def check(self, folder: Path) -> None:
        """Refuse a folder whose weights are not those that this names.

        Args:
            folder: the folder.

        Raises:
            LineageError: naming the shard.
        """
        for number, shard in enumerate(self.shards):
            place = folder / shard_name(number)
            if shard.state == "on" and weights_digest(place) != shard.digest:
                raise LineageError(
                    f"{place}: its weights are not those that {FILE} names: they were changed since"
                )


def shard_name(number: int) -> str:
    """Return the name of the folder of a shard."""
    return f"shard-{number:02}"


def is_sharded(adapter: str | Path | Sequence[str | Path] | None) -> bool:
    """Say whether what is named as an adapter is a folder of shards, and nothing else beside it."""
    places = [adapter] if isinstance(adapter, str | Path) else list(adapter or ())
    return len(places) == 1 and (Path(places[0]).expanduser() / FILE).is_file()
