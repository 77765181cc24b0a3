"""Replay a folder of shards: the touched ones are trained again, the others compared."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unlearn.config import called_with
from unlearn.data.record import Record
from unlearn.data.records import Records
from unlearn.data.splits import loaded
from unlearn.errors import LineageError
from unlearn.model.folders import resolve_folder
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import FILE_NAME, Lineage, now, weights_digest
from unlearn.runs.signature import records_digest
from unlearn.shards.assignment import BY_RECORD, BY_SUBJECT, shard_of, units_of
from unlearn.shards.files import FILE, Shards, shard_name
from unlearn_eval.certificate.files import deciding_files
from unlearn_eval.replay.options import ReplayOptions
from unlearn_eval.replay.result import Finding, Kind, Outcome, Replay
from unlearn_eval.replay.run import run_replay

__all__ = ["replay_shards", "run_replay_shards"]

_UNTOUCHED = (
    "Shards that no deletion touched were not trained again: that they never saw the records is "
    "what their lineages say, and how the key deals people out; `unlearn replay` of one of them "
    "trains it again."
)


@dataclass(frozen=True)
class _Folder:
    """A folder of shards with the lineages of those that are on."""

    place: Path
    shards: Shards
    lines: Mapping[int, Lineage]
    key: Key

    @classmethod
    def read(cls, place: Path) -> _Folder:
        """Read a folder under the key that dealt people out."""
        shards, key = Shards.read(place), Key.load()
        if shards.key_id != key.id:
            raise LineageError(
                f"{place} was made with the key {shards.key_id}, and the key in use is {key.id}: "
                "which records its shards saw cannot be told"
            )
        lines = {}
        for number, shard in enumerate(shards.shards):
            line = Lineage.read(place / shard_name(number))
            if shard.state == "on" and line is not None:
                lines[number] = line
        return cls(place, shards, lines, key)

    def numbers(self, state: str) -> list[int]:
        """Return the shards of a state."""
        return [i for i, shard in enumerate(self.shards.shards) if shard.state == state]

    def touched(self, forgotten: Collection[str]) -> list[int]:
        """Return the shards on that were trained again without one of some records."""
        return [
            number
            for number, line in self.lines.items()
            if not set(line.records.forgotten).isdisjoint(forgotten)
        ]


def run_replay_shards(options: ReplayOptions) -> Replay:
    """Replay a folder of shards.

    The shards that were trained again without forgotten records are replayed, each as `replay`
    does. Of the others the weights must be bit by bit those that their lineages and `shards.json`
    name, and none of the forgotten records may be among those that they were trained on. Where the
    forgotten records are at hand, the key must deal each to a shard that was touched or dropped.

    Raises UnlearnError for any input that cannot be used.
    """
    folder = _Folder.read(resolve_folder(options.adapter, "adapter"))
    records = Records.load(options.data)
    asked = {folder.key.digest(record) for record in _named(options, records)}
    forgotten = sorted(asked or set(folder.shards.forgotten))
    findings = [
        *_weights(folder),
        *_whole(folder),
        *_told(folder),
        _forgotten(folder, forgotten),
        *_deal(folder, forgotten, _units(options, records, folder)),
    ]
    again = []
    if not any(each.passed is False for each in findings):
        for number in folder.touched(forgotten):
            place = folder.place / shard_name(number)
            again.append((number, run_replay(replace(options, adapter=place))))
    return _result(folder, findings, again, forgotten)


replay_shards = called_with(ReplayOptions, run_replay_shards, "replay_shards")


def _named(options: ReplayOptions, records: Records) -> list[Record]:
    """Return the records that must be gone, as far as they are named."""
    of_data = () if options.forget is None else records.select(options.forget)
    return [*of_data, *(() if options.forgotten is None else loaded(options.forgotten))]


def _weights(folder: _Folder) -> Iterator[Finding]:
    """Say whether all shards are those that are named."""
    wrong = [
        shard_name(number)
        for number in folder.numbers("on")
        if number not in folder.lines
        or not folder.lines[number].digest
        == folder.shards.shards[number].digest
        == weights_digest(folder.place / shard_name(number))
    ]
    if wrong:
        words = f"{', '.join(wrong)}: the weights are not those that {FILE} and the lineage name"
        yield Finding("shards", False, words)
        return
    on = len(folder.numbers("on"))
    words = f"all {on} shards are, bit by bit, those that {FILE} and their lineages name"
    yield Finding("shards", True, words)
    if dropped := folder.numbers("off"):
        names = ", ".join(map(shard_name, dropped))
        yield Finding("dropped", True, f"{names}: dropped until trained again, without weights")


def _whole(folder: _Folder) -> Iterator[Finding]:
    """Say whether the lineage of the whole folder says what those of its shards say."""
    line = Lineage.read(folder.place)
    if line is None:  # of a folder that an earlier version made
        return
    trained = {digest for each in folder.lines.values() for digest in each.records.trained}
    if line.digest != weights_digest(folder.place):
        yield Finding("lineage", False, "the folder's own lineage is of other weights")
    elif set(line.records.trained) != trained:
        words = "the folder's own lineage names other records than those of its shards"
        yield Finding("lineage", False, words)
    else:
        words = "the folder's own lineage is of these shards, and of the records that theirs name"
        yield Finding("lineage", True, words)


def _forgotten(folder: _Folder, forgotten: Collection[str]) -> Finding:
    """Say whether a shard was trained on one of some records, by its lineage."""
    if not forgotten:
        words = f"{FILE} names no forgotten record: name those that must be gone with --forget"
        return Finding("forgotten", None, words)
    saw = [
        f"{shard_name(number)} saw {count}"
        for number, line in folder.lines.items()
        if (count := len(set(line.records.trained).intersection(forgotten)))
    ]
    if saw:
        words = f"{', '.join(saw)} of the {len(forgotten)} record(s), by the lineage"
        return Finding("forgotten", False, words, damning=True)
    words = f"none of the {len(forgotten)} forgotten record(s) was any shard trained on"
    return Finding("forgotten", True, words)


def _told(folder: _Folder) -> Iterator[Finding]:
    """Say whether the records that a shard's lineage names are those it says it was trained on.

    What a shard was trained on stands in its lineage twice: as digests, and as one digest of all of
    them in their order, by which its training would be repeated.
    """
    wrong = [
        shard_name(number)
        for number, line in folder.lines.items()
        if "training records" in line.made_from
        and line.records.key_id == folder.key.id
        and records_digest(sorted(line.records.trained), folder.key)
        != line.made_from["training records"]
    ]
    if wrong:
        words = f"{', '.join(wrong)}: the lineage names other records than it was trained on"
        yield Finding("shard records", False, words)


def _units(options: ReplayOptions, records: Records, folder: _Folder) -> dict[str, str]:
    """Return the unit of each record at hand, by its digest."""
    by, key = folder.shards.by, folder.key
    found: dict[str, str] = {}
    loose = () if options.forgotten is None else loaded(options.forgotten)
    if by in {BY_SUBJECT, BY_RECORD}:
        for record in (*records, *loose):
            digest = key.digest(record)
            unit = digest if by == BY_RECORD else record.subject
            if unit is not None:
                found[digest] = unit
    elif not isinstance(options.data, Records):
        units = units_of(options.data, records, by, key)
        found = {key.digest(record): unit for record, unit in zip(records, units, strict=True)}
    return found


def _deal(
    folder: _Folder, forgotten: Collection[str], units: Mapping[str, str]
) -> Iterator[Finding]:
    """Say whether the key deals the records at hand to shards that were touched or dropped."""
    known = [digest for digest in forgotten if digest in units]
    if not known:
        return
    changed = {*folder.touched(known), *folder.numbers("off"), *folder.numbers("empty")}
    count = len(folder.shards.shards)
    strange = sum(shard_of(units[digest], count, folder.key) not in changed for digest in known)
    if strange:
        words = f"the key deals {strange} of the record(s) to a shard that no deletion touched"
        yield Finding("assignment", False, words)
        return
    words = "the key deals the record(s) to shards that were trained again or dropped"
    if some := len(forgotten) - len(known):
        words += f" ({some} more are not at hand)"
    yield Finding("assignment", True, words)


def _result(
    folder: _Folder,
    findings: Sequence[Finding],
    again: Sequence[tuple[int, Replay]],
    forgotten: Sequence[str],
) -> Replay:
    """Put together what was found of the folder and of the shards that were replayed."""
    all_findings = [*findings, *_of_shards(again)]
    if not again:
        words = "no shard was trained again without them: there is nothing to replay"
        all_findings.append(Finding("weights", None, words))
    said = folder.place / (FILE_NAME if (folder.place / FILE_NAME).is_file() else FILE)
    kinds = {each.kind for _, each in again}
    outcome = _outcome(all_findings, kinds)
    kind: Kind | None = "up to rounding" if "up to rounding" in kinds else "exact"
    differ = dict.fromkeys(w for _, each in again for w in each.environment.get("differ") or ())
    return Replay(
        created=now(),
        outcome=outcome,
        kind=kind if outcome == "PASS" else None,
        findings=all_findings,
        not_looked_at=[*_left_open(again), _UNTOUCHED],
        adapter={
            "weights": weights_digest(folder.place),
            "files": deciding_files(folder.place),
            "lineage": hashlib.sha256(said.read_bytes()).hexdigest(),
            "method": "shards",
            "seed": folder.shards.seed,
        },
        base={"name": folder.shards.base.name, "weights": folder.shards.base.digest},
        records={
            "key_id": folder.key.id,
            "trained": len({d for line in folder.lines.values() for d in line.records.trained}),
            "forgotten": list(forgotten),
        },
        environment={"differ": list(differ)},
        cost=_cost(again),
    )


def _of_shards(again: Sequence[tuple[int, Replay]]) -> Iterator[Finding]:
    """Yield what replays of shards found, each with the shard's name."""
    for number, result in again:
        for each in result.findings:
            yield replace(each, words=f"{shard_name(number)}: {each.words}")


def _outcome(findings: Iterable[Finding], kinds: set[Kind | None]) -> Outcome:
    """Decide as for one adapter: all must hold, of every shard."""
    found = list(findings)
    if any(each.damning for each in found):
        return "FAIL"
    whole = bool(kinds) and None not in kinds and all(each.passed for each in found)
    return "PASS" if whole else "INCONCLUSIVE"


def _left_open(again: Sequence[tuple[int, Replay]]) -> list[str]:
    """Return what the replays leave open, once."""
    return list(dict.fromkeys(words for _, each in again for words in each.not_looked_at))


def _cost(again: Sequence[tuple[int, Replay]]) -> dict[str, float]:
    """Add up what the replays took."""
    names = dict.fromkeys(name for _, each in again for name in each.cost)
    return {n: round(sum(each.cost.get(n, 0.0) for _, each in again), 3) for n in names}
