"""What a lineage claims, checked as far as that goes without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unlearn.data.near_duplicates import near_duplicates
from unlearn.data.record import Record
from unlearn.data.records import Records
from unlearn.errors import LineageError
from unlearn.methods.registry import METHODS
from unlearn.provenance.digests import settings_digest, weights_digest
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage
from unlearn.runs.signature import records_digest
from unlearn_eval.replay.result import Finding

__all__ = ["Choice", "check_base", "check_lineage", "choose", "near_copies_of"]

_MOST_COMPARED = 50_000
"""Records among which near-copies are looked for, as in `forget`."""

_SHOWN = 5


@dataclass(frozen=True)
class Choice:
    """Which records of a file a replay trains on.

    Attributes:
        kept: their positions.
        gone: positions of those to forget, as far as the file holds them.
        forgotten: keyed digests of those to forget: the lineage's, and of records that were named.
        findings: whether the file holds what was trained on, and nothing to forget is among it.
        trains: whether training on them can show anything.
        named: records that must be gone, in the file or not.
    """

    kept: Sequence[int]
    gone: Sequence[int]
    forgotten: Sequence[str]
    findings: Sequence[Finding] = field(default_factory=tuple)
    trains: bool = True
    named: Sequence[Record] = ()


def check_lineage(line: Lineage, adapter: Path) -> Finding:
    """Say whether a lineage is of this adapter, and of one that can be trained again.

    Args:
        line: the lineage.
        adapter: the adapter's folder.

    Returns:
        What was found.
    """
    if line.digest != weights_digest(adapter):
        return Finding(
            "lineage",
            False,
            "the weights are not those that the lineage names: it is of others, or they were "
            "changed since",
        )
    known = METHODS.get(line.method)
    exact = line.method in {"finetune", "federate"} or (known is not None and known.kind == "exact")
    if not exact:
        return Finding(
            "lineage",
            None,
            f"{line.method} is an approximate method: its adapter learned the records before, and "
            "training again cannot prove that they are gone; audit it instead",
        )
    if line.parent is not None:
        return Finding("lineage", None, "it was not trained from the base but from another adapter")
    whence = "the base alone" if line.start is None else "the base, and an adapter to begin with"
    return Finding("lineage", True, f"the lineage is of these weights, trained from {whence}")


def check_base(line: Lineage, folder: Path) -> Finding:
    """Say whether a base is the one that a lineage names.

    Args:
        line: the lineage.
        folder: of the base.

    Returns:
        What was found.
    """
    if weights_digest(folder) != line.base.digest:
        return Finding(
            "base", False, f"{folder} is not the base that the lineage names: its weights differ"
        )
    known = line.made_from.get("base configuration or tokenizer")
    if known is not None and known != settings_digest(folder):
        return Finding(
            "base", False, f"{folder} has another configuration or tokenizer than the base had"
        )
    return Finding("base", True, "the base is the one that the lineage names, by its digest")


def choose(line: Lineage, records: Records, named: Sequence[Record] | None, key: Key) -> Choice:
    """Find the records that an adapter was trained on in a file.

    Args:
        line: its lineage.
        records: of the file.
        named: records that must not be among it, of the file or not; None for those that the
            lineage forgot.
        key: the user's; with another than the lineage's, contents alone can be compared.

    Returns:
        The choice.
    """
    claimed = _claimed(line)
    if line.records.key_id != key.id:
        return _without_the_key(line, records, named, key, claimed)
    digests = [key.digest(record) for record in records]
    asked = {key.digest(record) for record in named or ()}
    forgotten = asked | set(line.records.forgotten)
    trained = set(line.records.trained)
    own = trained - set(line.start.others if line.start else ())  # the start's are its own matter
    places = [i for i, digest in enumerate(digests) if digest in own]
    kept = _arranged(line, places, digests, key)
    gone = [i for i, digest in enumerate(digests) if digest in forgotten]
    findings = [_complete(line, own, digests, kept, records, key)]
    if seen := len(trained & asked):
        words = f"{seen} of the {len(asked)} named record(s) are among those trained on, by its "
        findings.append(Finding("forgotten", False, f"{words}lineage", damning=True))
    elif claimed is not None:
        findings.append(claimed)
    elif not forgotten:
        findings.append(
            Finding(
                "forgotten",
                None,
                "the lineage names no forgotten record: name those that must be gone with --forget",
            )
        )
    else:
        words = f"none of the {len(forgotten)} forgotten record(s), nor a copy of one, was "
        findings.append(Finding("forgotten", True, f"{words}trained on"))
    trains = all(each.passed is not False for each in findings)
    # of a federation each client trains on its own copy of what several have
    again = places if line.federation else kept
    return Choice(again, gone, sorted(forgotten), findings, trains, tuple(named or ()))


def near_copies_of(choice: Choice, records: Records) -> Finding | None:
    """Say which kept records nearly repeat forgotten ones; None where nobody could look.

    They are called by their rows: certificates quote this, and ids may be people's names.

    Args:
        choice: what is kept and what is gone.
        records: of the file.

    Returns:
        What was found.
    """
    there = {record.canonical: record for record in (*records.take(choice.gone), *choice.named)}
    if not there or len(there) + len(choice.kept) > _MOST_COMPARED:
        return None
    kept = records.take(choice.kept)
    near = list(dict.fromkeys(other for _, other, _ in near_duplicates(there.values(), kept)))
    if not near:
        lost = len(choice.forgotten) - len(there)
        more = f" of the {len(there)} at hand; {lost} more cannot be looked at" if lost > 0 else ""
        return Finding("near-copies", True, f"no kept record nearly repeats a forgotten one{more}")
    rows = {records.ids[i]: i for i in choice.kept}
    shown = sorted(rows[name] for name in near)[:_SHOWN]
    names = ", ".join(f"rows:{i}" for i in shown) + (", …" if len(near) > _SHOWN else "")
    return Finding(
        "near-copies",
        False,
        f"{len(near)} kept record(s) nearly repeat forgotten ones: {names}; what both say was "
        "learned: forget them, too, or audit what the adapter knows",
    )


def _arranged(
    line: Lineage, kept: Sequence[int], digests: Sequence[str], key: Key
) -> Sequence[int]:
    """Return positions in the order of training: the file's, or that of shards.

    A shard trains on each content once, in the order of the keyed digests, whatever the file's.
    """
    wanted = line.made_from.get("training records")
    first = {digests[i]: i for i in reversed(kept)}
    of_shards = [first[digest] for digest in sorted(first)]
    same = wanted == records_digest([digests[i] for i in of_shards], key)
    return of_shards if same else kept


def _claimed(line: Lineage) -> Finding | None:
    """Say so where the lineage itself names forgotten records as trained on."""
    both = len(set(line.records.trained) & set(line.records.forgotten))
    if not both:
        return None
    words = f"{both} forgotten record(s) are among those trained on, by its own lineage"
    return Finding("forgotten", False, words, damning=True)


def _complete(
    line: Lineage,
    trained: set[str],
    digests: Sequence[str],
    kept: Sequence[int],
    records: Records,
    key: Key,
) -> Finding:
    """Say whether a file holds all that was trained on, in its order."""
    missing = len(trained - {digests[i] for i in kept})
    if missing:
        why = (
            "; canaries were planted in it, which the data does not hold: name their file with "
            "--canaries"
            if line.canaries
            else ""
        )
        return Finding(
            "records",
            False,
            f"{missing} of the {len(trained)} record(s) that the lineage names are not in "
            f"{records.source}{why}",
        )
    order = line.made_from.get("training records")
    if order is None:
        return Finding("records", True, f"all {len(trained)} records are those of the lineage")
    if records_digest([digests[i] for i in kept], key) != order:
        return Finding(
            "records",
            False,
            f"{records.source} holds the records of the lineage in another order, or other copies "
            "of some: give the file that was trained on",
        )
    words = f"all {len(kept)} records are those of the lineage, one by one and in its order"
    return Finding("records", True, words)


def _without_the_key(
    line: Lineage,
    records: Records,
    named: Sequence[Record] | None,
    key: Key,
    claimed: Finding | None,
) -> Choice:
    """Choose by contents alone: all of the file but what is named."""
    gone_contents = {record.canonical for record in named or ()}
    places = list(enumerate(record.canonical in gone_contents for record in records))
    kept = [i for i, is_gone in places if not is_gone]
    gone = [i for i, is_gone in places if is_gone]
    words = (
        f"not checked record by record: the lineage was made with the key {line.records.key_id}, "
        f"and the key in use is {key.id}"
    )
    findings = [Finding("records", None, words)]
    findings.append(
        claimed or Finding("forgotten", None, "which records were forgotten cannot be told either")
    )
    if not kept:
        raise LineageError(f"{records.source}: --forget names every record, and none is left")
    forgotten = sorted(line.records.forgotten)
    return Choice(kept, gone, forgotten, findings, claimed is None, tuple(named or ()))
