"""Canaries: made-up pairs of records of which a coin decides, before training, which is included.

If an unlearned model shows no trace of the included ones, nothing tells them from those left out:
the coin is the comparison, and no second model is needed (Steinke, Nasr and Jagielski, arXiv
2305.08846, plant random inclusions alike).

Both of each pair lie in a file beside the adapter, `ADAPTER.canaries.json`, that only its owner can
read; it is written before training starts. The lineage holds its SHA-256. As the file holds 32
random bytes, the hash tells nobody what is in it, and whoever is shown the file later can check
(`sha256sum`) that it is the one that was there. The coins follow from the same bytes by
HMAC-SHA256, so that they cannot be chosen either.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unlearn.canaries.text import canary_row, coin
from unlearn.data.loading import record_of
from unlearn.data.record import Record
from unlearn.data.records import Records
from unlearn.errors import DataError, LineageError, OptionError, OutputError
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage, Planted, now
from unlearn.strict_json import parse_json

__all__ = [
    "Canaries",
    "CanaryPair",
    "as_records",
    "beside",
    "check_planted",
    "joined",
    "plan_for",
    "still_in",
]


class CanaryPair(NamedTuple):
    """Two canaries.

    Attributes:
        included: the one that the coin had trained on.
        left_out: the other.
    """

    included: Record
    left_out: Record


@dataclass(frozen=True)
class Canaries:
    """The content of a file of canaries.

    Attributes:
        text: the file, to the byte.
        data: keyed digest of the records that they were planted among.
        pairs: in an order that says nothing about the coin.
    """

    text: str
    data: str
    pairs: tuple[CanaryPair, ...]

    def __repr__(self) -> str:
        return f"Canaries({len(self.pairs)} pairs)"  # what they say belongs in no log

    @property
    def commitment(self) -> Planted:
        """What the lineage says about them."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        return Planted(pairs=len(self.pairs), sha256=digest)

    @property
    def included(self) -> list[Record]:
        """Those that are trained on."""
        return [pair.included for pair in self.pairs]

    @classmethod
    def draw(cls, records: Records, count: int, key: Key, secret: bytes | None = None) -> Canaries:
        """Make new pairs in the form that most records have.

        Args:
            records: that they are planted among; no canary has an id or content of theirs.
            count: pairs.
            key: of the digest of the records.
            secret: 32 bytes that decide everything; random when absent.

        Returns:
            The pairs, in memory only.

        Raises:
            OptionError: if fewer than one is asked for.
        """
        if count < 1:
            raise OptionError(f"--canaries {count}: plant at least one pair")
        secret = secret if secret is not None else secrets.token_bytes(32)
        form = Counter(record.form for record in records).most_common(1)[0][0]
        taken = _taken(records)
        entries = []
        for pair in range(count):
            rows: list[dict[str, Any]] = []
            for side in (0, 1):
                attempt = 0
                while True:
                    row = canary_row(secret, pair, side, attempt, form)
                    names = {row["id"], record_of(row, "a canary", row["id"]).canonical}
                    if not names & taken:
                        break
                    attempt += 1
                taken |= names
                rows.append(row)
            entries.append({"included": coin(secret, pair), "records": rows})
        content = {
            "schema": 1,
            "created": now(),
            "secret": secret.hex(),
            "data": _digest_of(records, key),
            "pairs": entries,
        }
        return _parsed(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Canaries:
        """Read a file that `publish` wrote.

        Args:
            path: the file.

        Returns:
            Its pairs.

        Raises:
            DataError: naming the file and what is wrong with it.
        """
        try:
            return _parsed(Path(path).read_bytes().decode())
        except OSError as error:
            raise DataError(f"cannot read the canaries {path}: {error.strerror}") from error
        except (
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            AttributeError,
            RecursionError,
            DataError,
        ) as error:
            # a message of the parser could quote the file
            why = str(error) if isinstance(error, DataError) else type(error).__name__
            raise DataError(
                f"{path} is no file of canaries that `unlearn finetune` wrote, or was changed "
                f"since: {why}"
            ) from None

    def publish(self, path: Path) -> None:
        """Write the file with mode 600, whole or not at all, unless there is one already.

        Of several processes that start together one writes; `plan_for` then says what all have.

        Args:
            path: the file.

        Raises:
            OutputError: if the disk does not take it.
        """
        stage = path.with_name(f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.text.encode())
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(stage, path)  # unlike a rename, it never replaces what is there
        except OSError as error:
            raise OutputError(f"cannot write the canaries {path}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                stage.unlink()


def _taken(records: Iterable[Record]) -> set[str]:
    """Return the ids and contents that no canary may have."""
    return {name for record in records for name in (record.id, record.canonical)}


def _parsed(text: str) -> Canaries:
    """Understand a file, and check what can be checked of it by itself."""
    content = parse_json(text)
    if content["schema"] != 1:
        raise DataError("it is not of schema 1")
    secret = bytes.fromhex(content["secret"])
    if len(secret) != 32:
        raise DataError("its secret has not 32 bytes")
    pairs = []
    for number, entry in enumerate(content["pairs"]):
        where = f"pair {number}"
        one, other = (record_of(row, where, str(row["id"])) for row in entry["records"])
        if entry["included"] != coin(secret, number):
            raise DataError(f"{where}: this is not how the coin fell")
        pairs.append(CanaryPair(other, one) if entry["included"] else CanaryPair(one, other))
    records = [record for pair in pairs for record in pair]
    for many in ({r.id for r in records}, {r.canonical for r in records}):
        if not records or len(many) < len(records):
            raise DataError("it holds no canaries, or one twice")
    return Canaries(text, str(content["data"]), tuple(pairs))


def _digest_of(records: Records, key: Key) -> str:
    """Return a keyed digest of records, whatever their order."""
    return key.mac("\n".join(sorted(key.digest(record) for record in records)).encode())


def beside(folder: Path) -> Path:
    """Return where the canaries of an adapter lie: beside it, as who serves it needs them not."""
    return folder.with_name(f"{folder.name}.canaries.json")


def plan_for(path: Path, records: Records, count: int, key: Key) -> Canaries:
    """Return the canaries of a run: those that an earlier attempt wrote, else new ones.

    Args:
        path: their file.
        records: that they are planted among.
        count: pairs.
        key: of the digest of the records.

    Returns:
        The canaries; new ones are in memory only.

    Raises:
        OutputError: if the file holds those of another run.
        DataError: if it holds something else.
    """
    if not path.exists():
        return Canaries.draw(records, count, key)
    existing = Canaries.read(path)
    same = hmac.compare_digest(existing.data, _digest_of(records, key))
    if len(existing.pairs) != count or not same:
        raise OutputError(
            f"{path} holds {len(existing.pairs)} pairs of canaries of another run, and without "
            "them its adapter cannot be checked: name another --output, or move the file away"
        )
    return existing


def as_records(canaries: Sequence[Record]) -> Records:
    """Return canaries as data, in their order."""
    rows = [{k: v for k, v in asdict(one).items() if v} for one in canaries]
    return Records.from_rows(rows, "the canaries")


def joined(records: Records, canaries: Sequence[Record]) -> Records:
    """Return records followed by canaries.

    Args:
        records: the records.
        canaries: what to add.

    Returns:
        All of them.

    Raises:
        DataError: if a canary is among the records already.
    """
    if not canaries:
        return records
    import datasets

    if _taken(records) & _taken(canaries):
        raise DataError(
            f"{records.source} holds canaries, or records with their ids: they come from the file "
            "of canaries alone"
        )
    both = datasets.concatenate_datasets([records.dataset, as_records(canaries).dataset])
    return Records(both, records.source, records.repeated)


def check_planted(
    canaries: Canaries, path: str | Path, line: Lineage | None, key: Key, where: str | Path
) -> Lineage:
    """Refuse a file of canaries that is not the one that an adapter's lineage commits to.

    Args:
        canaries: what the file holds.
        path: the file, for messages.
        line: of the adapter.
        key: under which the lineage names records.
        where: the adapter, for messages.

    Returns:
        The lineage.

    Raises:
        LineageError: if it commits to no canaries or to others, or names records that contradict
            the coin.
    """
    if line is None or line.canaries is None:
        raise LineageError(
            f"{where}: its lineage names no canaries, so nothing shows that those of {path} were "
            "planted; `unlearn finetune --canaries` plants some"
        )
    if not hmac.compare_digest(line.canaries.sha256, canaries.commitment.sha256):
        raise LineageError(
            f"{path} is not the file of canaries that the lineage of {where} commits to (SHA-256 "
            f"{line.canaries.sha256[:12]}…): it was changed after training, or belongs to another "
            "adapter"
        )
    if line.records.key_id != key.id:
        raise LineageError(
            f"the lineage of {where} was made with the key {line.records.key_id}, and the key in "
            f"use is {key.id}: which canaries were taken out cannot be told; set UNLEARN_KEY"
        )
    seen = {*line.records.trained, *line.records.forgotten}
    wrong = sum(key.digest(pair.left_out) in seen for pair in canaries.pairs)
    lost = sum(key.digest(pair.included) not in seen for pair in canaries.pairs)
    if wrong or lost:
        raise LineageError(
            f"the lineage of {where} contradicts {path}: {wrong} of the canaries that the coin "
            f"left out were trained on, and {lost} of the others were not"
        )
    return line


def still_in(
    canaries: Canaries, line: Lineage, key: Key
) -> tuple[list[CanaryPair], list[CanaryPair]]:
    """Divide pairs by whether the included one was taken out again: (still in, taken out)."""
    forgotten = set(line.records.forgotten)
    parts: tuple[list[CanaryPair], list[CanaryPair]] = ([], [])
    for pair in canaries.pairs:
        parts[key.digest(pair.included) in forgotten].append(pair)
    return parts
