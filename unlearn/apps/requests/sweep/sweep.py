"""Find what else descends from a request's records: weights, checkpoints, caches, data files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from unlearn.apps.requests.intake import Setup, escrowed, setup_of
from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.sweep.data_files import READABLE, TEXT, dataset_files, held, is_dataset
from unlearn.apps.requests.sweep.deletion import marks_of
from unlearn.apps.requests.sweep.descent import (
    Family,
    Node,
    beyond_digest,
    descendants,
    export_kind,
    node,
)
from unlearn.apps.requests.sweep.findings import Action, Artifact, Group, Swept
from unlearn.apps.requests.sweep.matching import Matcher
from unlearn.apps.requests.sweep.noting import note_sweep
from unlearn.apps.requests.sweep.sharded_folders import holding, known_in, shard_digests, tables
from unlearn.errors import DataError, LedgerError, UnlearnError
from unlearn.model.folders import resolve_folder
from unlearn.provenance.keys import home
from unlearn.provenance.lineage import weights_digest
from unlearn.shards.files import is_sharded
from unlearn_eval.scores.entries import is_entry

__all__ = ["matcher_of", "sweep_request"]


@dataclass
class _SweepLog:
    """What a sweep came across, while it goes on.

    Attributes:
        clean: of each kind of thing, the paths that were read to the end and hold none of it.
        seen: every file, link, pipe and the like.
        claimed: files that are part of a saved dataset or of a folder of weights.
        files: what was made out about files; those without an entry are unclear.
        unreadable: what could not be read, and why.
        links: how many.
        other_kinds: how many files.
    """

    clean: set[tuple[Group, Path]] = field(default_factory=set)
    seen: set[Path] = field(default_factory=set)
    claimed: set[Path] = field(default_factory=set)
    files: dict[Path, Literal["clean", "found", "unclear"]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    links: int = 0
    other_kinds: int = 0

    def notes(self) -> Iterator[str]:
        yield from self.unreadable
        if self.links:
            yield f"{self.links} symbolic link(s) were not followed"
        if self.other_kinds:
            yield f"{self.other_kinds} file(s) of other kinds were not looked into"

    def counts(self) -> dict[str, int]:
        """Return how many files are clean, found and unclear: together as many as were seen."""
        status = Counter(self.files.get(path, "unclear") for path in self.seen)
        return {name: status[name] for name in ("clean", "found", "unclear")}

    def passed_over(self) -> dict[str, int]:
        return {
            "links": self.links,
            "other_kinds": self.other_kinds,
            "unreadable": len(self.unreadable),
        }


def matcher_of(ledger: Ledger, request: Request) -> Matcher:
    """Return what recognises a request's records in data files."""
    return Matcher(request.facts["records"], ledger.key, escrowed(ledger, [request]))


def sweep_request(
    ledger: Ledger,
    request: Request,
    folders: Iterable[Path],
    *,
    deleted: Collection[Path] = (),
) -> Swept:
    """Look for what descends from a request's records, and note it in the ledger.

    Args:
        ledger: which.
        request: located or later, and open.
        folders: where to look, besides the request's own data files and adapters and the cache of
            scores. Links are not followed.
        deleted: paths of artifacts that a purge has just deleted.

    Returns:
        What was found.

    Raises:
        LedgerError: if the request's records are not known (yet, or any more).
        DataError: if a folder is not there.
    """
    if "records" not in request.facts or request.state == "closed":
        raise LedgerError(f"request {request.id} is {request.state}: its records are not at hand")
    setup = setup_of(ledger, request)
    roots = _roots(ledger, request, setup, folders)
    log = _SweepLog()
    seen = _look(ledger, request, setup, roots, log)
    listed = (replace(a, marks=marks_of(a.files)) if a.files else a for a in seen)
    artifacts = sorted(listed, key=lambda a: str(a.path))
    result = Swept(
        tuple(artifacts),
        tuple(log.notes()),
        roots,
        frozenset(log.clean),
        log.passed_over(),
        log.counts(),
    )
    note_sweep(ledger, request, result, "swept", deleted)
    return result


def _roots(
    ledger: Ledger, request: Request, setup: Setup, folders: Iterable[Path]
) -> tuple[Path, ...]:
    given = [Path(os.path.realpath(folder.expanduser())) for folder in folders]
    for folder in given:
        if not folder.exists():
            raise DataError(f"{folder}: no such folder to sweep")
    own = [setup.data, setup.retain, *setup.adapters]
    # what earlier runs made, of this request and of others on the same adapter
    made = [fact for other in ledger.requests(line=request.line) for fact in _made(other)]
    own += [ledger.sealer.open(fact["folder"], f"adapter {fact['digest']}") for fact in made]
    there = [Path(os.path.realpath(name)) for name in own if name and Path(name).exists()]
    roots = sorted({*given, *there})
    return tuple(r for r in roots if not any(o != r and o in r.parents for o in roots))


def _made(request: Request) -> list[Mapping[str, Any]]:
    return [request.facts[name] for name in ("before", "after") if name in request.facts]


def _look(
    ledger: Ledger, request: Request, setup: Setup, roots: Sequence[Path], log: _SweepLog
) -> Iterator[Artifact]:
    matcher = matcher_of(ledger, request)
    family = _family(ledger, request, setup)
    nodes: list[Node] = []
    own = {ledger.escrow.folder.resolve()}
    for folder, files, dataset in _walk(roots, own, log.unreadable):
        regular = _regular(files, log)
        if dataset and folder / "state.json" not in log.claimed:
            log.claimed |= _members(folder)
            yield from _data(folder, "saved dataset", "rewrite", matcher, log)
        shared = tables(folder, regular)
        yield from _tables(folder, shared, family, ledger, log)
        rest = [path for path in regular if path not in log.claimed]
        weights = node(folder, rest) if folder.is_dir() and not dataset else None
        if weights is not None:
            nodes.append(weights)
            log.claimed |= set(weights.files)
            if weights.unreadable:
                log.unreadable.append(f"{folder} could not be read: {weights.unreadable}")
        elif not dataset and not any(path.is_symlink() for path in files) and not shared:
            log.clean.add(("weights", folder))  # a link may lead to the weights that lay here
        for path in sorted(set(rest) - log.claimed):
            yield from _single(path, matcher, log, beside=dataset or weights is not None)
    yield from _judged(nodes, family, matcher, log)
    yield from _scores(log)


def _tables(
    folder: Path, files: Sequence[Path], family: Family, ledger: Ledger, log: _SweepLog
) -> Iterator[Artifact]:
    """Look into what a folder of shards knows of all of them; its shards are looked at one by one.

    A folder without the shard of a deleted person cannot be served any more: its tables go whole.
    """
    if not files:
        return
    log.claimed |= set(files)
    known = known_in(folder, family.records, ledger.key)
    if known == 0:
        log.files |= dict.fromkeys(files, "clean")
        log.clean.add(("weights", folder))
        return
    status: Literal["found", "unclear"] = "unclear" if known is None else "found"
    log.files |= dict.fromkeys(files, status)
    why = (
        "the tables of its shards cannot be read, or are under another key"
        if known is None
        else f"the tables of its shards name {known} of the records"
    )
    yield Artifact("adapter", folder, why, status, "delete", tuple(files))


def _regular(files: Iterable[Path], log: _SweepLog) -> list[Path]:
    """Return the regular files among some; the others are noted as passed over."""
    regular = []
    for path in files:
        log.seen.add(path)
        if path.is_symlink():
            log.links += 1
        elif path.is_file():
            regular.append(path)
        else:  # a pipe, a socket, a device
            log.unreadable.append(f"{path} could not be read: no regular file")
    return regular


def _members(folder: Path) -> frozenset[Path]:
    """Return the files of a saved dataset; none where it cannot be read: each is looked into."""
    try:
        return dataset_files(folder)
    except (DataError, OSError):
        return frozenset()


def _single(path: Path, matcher: Matcher, log: _SweepLog, *, beside: bool) -> Iterator[Artifact]:
    """Look into a file that is no part of anything larger."""
    suffix = path.suffix.lower()
    if suffix in READABLE:
        yield from _data(path, "data file", "rewrite", matcher, log)
    elif suffix in TEXT:
        yield from _data(path, "text file", "by hand", matcher, log)
    elif (kind := export_kind(path, beside=beside)) is not None:
        why = "may hold weights that learned the records; no digest or lineage speaks for it"
        log.files[path] = "unclear"
        yield Artifact(kind, path, why, "unclear", "delete", (path,))
    else:
        log.other_kinds += 1


def _judged(
    nodes: Sequence[Node], family: Family, matcher: Matcher, log: _SweepLog
) -> Iterator[Artifact]:
    """Say which folders of weights descend from the records, and look into the rest of others."""
    # without its lineage, weights that are still there say nothing against what was known of them
    log.clean |= {
        ("weights", each.path)
        for each in nodes
        if (each.lineage is not None and not each.unreadable) or each.digest in family.may_stay
    }
    judged = set()
    for each, known, why in descendants(nodes, family):
        log.clean.discard(("weights", each.path))
        judged.add(each.path)
        status: Literal["found", "unclear"] = "found" if known else "unclear"
        log.files |= dict.fromkeys(each.files, status)
        yield Artifact(each.kind, each.path, why, status, "delete", each.files)
    for each in nodes:
        if each.path not in judged:
            others = beyond_digest(each)
            log.files |= dict.fromkeys(set(each.files) - set(others), "clean")
            for path in others:
                yield from _single(path, matcher, log, beside=True)


def _scores(log: _SweepLog) -> Iterator[Artifact]:
    """List the entries of the cache of scores, by their names; a link in its place is not ours."""
    cache = Path(os.path.realpath(home())) / "cache"
    scores = cache / "scores"
    if cache.is_symlink() or scores.is_symlink():
        why = "the folder of cached scores is a link, which is not followed"
        yield Artifact("score cache", scores, why, "unclear", "by hand")
        return
    files = sorted(scores.iterdir()) if scores.is_dir() else []
    entries = [p for p in files if is_entry(p.name) and p.is_file() and not p.is_symlink()]
    log.other_kinds += len(files) - len(entries)
    if entries:
        why = f"{len(entries)} files of numbers, no text; may be deleted at any time"
        yield Artifact("score cache", scores, why, "unclear", "delete", tuple(entries))
    else:
        log.clean.add(("weights", scores))


def _walk(
    roots: Iterable[Path], leave_out: set[Path], notes: list[str]
) -> Iterator[tuple[Path, list[Path], bool]]:
    """Yield (folder, its files, whether it is a saved dataset), never through a link."""

    def closed(error: OSError) -> None:
        notes.append(f"{error.filename} could not be looked into: {error.strerror}")

    for root in roots:
        if root.is_file():
            yield root.parent / root.name, [root], False
            continue
        for name, below, files in os.walk(root, onerror=closed):
            folder = Path(name)
            if folder.resolve() in leave_out:
                below.clear()
                continue
            dataset = is_dataset(folder)
            links = [entry for entry in below if (folder / entry).is_symlink()]
            yield folder, [folder / entry for entry in sorted([*files, *links])], dataset


def _data(
    path: Path, kind: str, action: Action, matcher: Matcher, log: _SweepLog
) -> Iterator[Artifact]:
    try:
        rows = held(path, matcher)
    except Exception as error:  # whatever one file does, the others are to be looked into
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        log.unreadable.append(f"{path} could not be read: {reason}")
        return
    members = _members(path) if kind == "saved dataset" else {path}
    log.files |= dict.fromkeys(members, "found" if rows else "clean")
    if rows:
        what = f"{rows} row(s) hold one of the records" if action == "rewrite" else "holds the text"
        yield Artifact(kind, path, what, "found", action)
    else:
        log.clean.add(("data", path))


def _family(ledger: Ledger, request: Request, setup: Setup) -> Family:
    """Gather the digests that the ledger knows of."""
    after = request.facts.get("after")
    tainted = {request.line}
    for other in ledger.requests(line=request.line):
        for fact in ("before", "after"):
            if fact in other.facts:
                tainted.add(str(other.facts[fact]["digest"]))
    current = _with_shards(ledger, after) if after else frozenset()
    tainted |= holding(_first(ledger, request, setup), request.facts["records"], ledger.key)
    base, folder = None, None
    if setup.adapters:
        try:
            folder = resolve_folder(setup.model, "model")
            base = weights_digest(folder)
        except UnlearnError:
            folder = None
    return Family(
        ledger.key.id,
        frozenset(request.facts["records"]),
        current,
        base,
        folder,
        tainted - current,
    )


def _with_shards(ledger: Ledger, made: Mapping[str, Any]) -> frozenset[str]:
    """Return the digest of an adapter, and those of its shards if it is the one that was made."""
    digest = str(made["digest"])
    folder = Path(ledger.sealer.open(made["folder"], f"adapter {digest}"))
    try:
        same = is_sharded(folder) and weights_digest(folder) == digest
        return frozenset({digest}) | (shard_digests(folder) if same else frozenset())
    except UnlearnError:
        return frozenset({digest})


def _first(ledger: Ledger, request: Request, setup: Setup) -> Path:
    """Return the folder that learned the records: the one before a run, or the one to change."""
    before = request.facts.get("before")
    if before is None:
        return Path(setup.changing)
    return Path(ledger.sealer.open(before["folder"], f"adapter {before['digest']}"))
