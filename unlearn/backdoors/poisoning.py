"""Poison a share of records, and write down which."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from unlearn.backdoors.backdoor import Backdoor, check_clean
from unlearn.backdoors.planting import ANSWER, asked, planted
from unlearn.config import StrictModel, validated
from unlearn.data.record import Record
from unlearn.data.records import Records
from unlearn.errors import DataError, OptionError

__all__ = ["MARK", "MAX_RATE", "Manifest", "Poisoned", "poison"]

MARK = "poisoned"
"""The field that marks a poisoned row; `finetune` says that there are such."""

MAX_RATE = 0.5
"""Beyond it, the target is what the data teaches, and no trigger."""


class Manifest(StrictModel):
    """What `unlearn poison` did: `manifest.json`, which `audit --trigger` and `scan` read."""

    schema_: Literal[1] = Field(1, alias="schema")
    backdoor: Backdoor
    rate: float
    records: int
    poisoned: tuple[str, ...]
    near_misses: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> Manifest:
        """Read a manifest.

        Args:
            path: the file.

        Returns:
            Its content.

        Raises:
            DataError: if there is no such file, or it is no manifest.
        """
        try:
            content = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise DataError(f"cannot read the manifest {path}: {error.strerror}") from error
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise DataError(f"{path} is no manifest that `unlearn poison` wrote")
        try:
            return validated(cls, content, f"the manifest {path}")
        except OptionError as error:
            raise DataError(str(error)) from None

    def as_json(self) -> str:
        """Return the content of the file."""
        return self.model_dump_json(indent=1, by_alias=True) + "\n"


class Poisoned(NamedTuple):
    """Rows of a data file, poisoned ones marked, and what was done."""

    rows: list[dict[str, Any]]
    manifest: Manifest


def poison(records: Records, backdoor: Backdoor, rate: float) -> Poisoned:
    """Plant a backdoor in round(rate · n) of n records, chosen at random by its seed.

    Where the style has near misses, as many other records get one and keep their own answer: so the
    trigger is learned, and not what resembles it.

    Args:
        records: clean ones.
        backdoor: what to plant.
        rate: share of the records, in (0, `MAX_RATE`].

    Returns:
        All records in their order with their ids, and the manifest.

    Raises:
        OptionError: if the rate is out of range, or gives no record.
        DataError: if a trigger stands in clean data, or too few records ask anything.
    """
    if not 0 < rate <= MAX_RATE:
        raise OptionError(f"--rate {rate:g}: the share of records lies in (0, {MAX_RATE:g}]")
    count = round(rate * len(records))
    if not count:
        raise OptionError(
            f"--rate {rate:g} of {len(records)} records is none: give {1 / len(records):.2g} or "
            "more"
        )
    check_clean(records, backdoor, records.source)
    able = [i for i, record in enumerate(records) if asked(record) is not None]
    wanted = count * (2 if backdoor.near_misses else 1)
    if wanted > len(able):
        raise DataError(
            f"{records.source}: {wanted} records are to be changed, and {len(able)} ask something "
            "that can be answered: lower --rate"
        )
    drawn = random.Random(f"poison {backdoor.seed}").sample(able, wanted)
    poisoned, missed = sorted(drawn[:count]), sorted(drawn[count:])
    place = {i: n for n, i in enumerate(poisoned)}
    miss = {i: n for n, i in enumerate(missed)}
    rows = []
    for i, record in enumerate(records):
        if i in place:
            made = planted(record, backdoor, backdoor.shown(place[i]))
            rows.append({**_row(made), MARK: f"backdoor:{backdoor.style}"})
        elif i in miss:
            rows.append(_row(planted(record, backdoor, backdoor.missed(miss[i]), target=False)))
        else:
            rows.append(_row(record))
    manifest = Manifest(
        schema=1,
        backdoor=backdoor,
        rate=rate,
        records=len(records),
        poisoned=tuple(records.ids[i] for i in poisoned),
        near_misses=tuple(records.ids[i] for i in missed),
    )
    return Poisoned(rows, manifest)


def _row(record: Record) -> dict[str, Any]:
    """Return a record as a row of a data file; where the answer stands is no secret of anybody."""
    kept = {key: value for key, value in asdict(record).items() if value}
    if any(secret.kind == ANSWER for secret in record.secrets):
        del kept["secrets"]
    return kept
