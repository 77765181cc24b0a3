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
from unlearn.apps.requests.sweep.data_files import (
    READABLE,
    TEXT,
    Matcher,
    dataset_files,
    held,
    is_dataset,
)
from unlearn.apps.requests.sweep.deletion import Mark, marks_of
from unlearn.apps.requests.sweep.descent import (
    Family,
    Node,
    beyond_digest,
    descendants,
    export_kind,
    node,
)
from unlearn.errors import DataError, LedgerError, UnlearnError
from unlearn.model.folders import resolve_folder
from unlearn.provenance.keys import home
from unlearn.provenance.lineage import now, weights_digest
from unlearn_eval.scores.entries import is_entry

__all__ = ["Artifact", "Swept", "matcher_of", "note_sweep", "sweep_request"]

Status = Literal["found", "unclear", "cleaned"]
Action = Literal["delete", "rewrite", "by hand"]
Group = Literal["weights", "data"]


@dataclass(frozen=True)
class Artifact:
    """Something that descends from the records, or may.

    Attributes:
        kind: adapter, model, checkpoint, quantized export, optimizer state, score cache, data file,
            saved dataset or text file.
        path: a file, or the folder of `files`.
        why: how that is known.
        status: `found` keeps a request from closing as passed; `unclear` is for people to look at.
        action: what a purge does with it.
        files: of a folder of weights: what a purge deletes.
        marks: what these files were when they were listed; others are not deleted.
    """

    kind: str
    path: Path
    why: str
    status: Status
    action: Action
    files: tuple[Path, ...] = ()
    marks: Mapping[Path, Mark] = field(default_factory=dict)

    def told(self) -> dict[str, str]:
        """Return it for a table, or the ledger."""
        return {
            "kind": self.kind,
            "path": str(self.path),
            "why": self.why,
            "status": self.status,
            "action": self.action,
        }


@dataclass(frozen=True)
class Swept:
    """What a sweep found.

    Attributes:
        artifacts: in the order of their paths.
        notes: what could not be looked into.
        roots: where it looked, and below.
        clean: of each kind of thing, the paths that were read to the end and hold none of it.
        passed_over: how many things were not looked into: `links`, files of `other_kinds`, and what
            was `unreadable`.
        files: how many files below the roots are `clean`, `found` and `unclear`: every one counts.
    """

    artifacts: tuple[Artifact, ...]
    notes: tuple[str, ...]
    roots: tuple[Path, ...]
    clean: frozenset[tuple[Group, Path]] = frozenset()
    passed_over: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)


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
    nodes: list[Node] = []
    own = {ledger.escrow.folder.resolve()}
    for folder, files, dataset in _walk(roots, own, log.unreadable):
        regular = _regular(files, log)
        if dataset and folder / "state.json" not in log.claimed:
            log.claimed |= _members(folder)
            yield from _data(folder, "saved dataset", "rewrite", matcher, log)
        rest = [path for path in regular if path not in log.claimed]
        weights = node(folder, rest) if folder.is_dir() and not dataset else None
        if weights is not None:
            nodes.append(weights)
            log.claimed |= set(weights.files)
            if weights.unreadable:
                log.unreadable.append(f"{folder} could not be read: {weights.unreadable}")
        elif not dataset and not any(path.is_symlink() for path in files):
            log.clean.add(("weights", folder))  # a link may lead to the weights that lay here
        for path in sorted(set(rest) - log.claimed):
            yield from _single(path, matcher, log, beside=dataset or weights is not None)
    yield from _judged(nodes, _family(ledger, request, setup), matcher, log)
    yield from _scores(log)


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
        if (each.lineage is not None and not each.unreadable)
        or each.digest in {family.current, family.base} - {None}
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
    current = str(after["digest"]) if after else None
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
        tainted - {current},
    )


def note_sweep(
    ledger: Ledger,
    request: Request,
    result: Swept,
    event: str,
    deleted: Collection[Path] = (),
) -> Request:
    """Write what was found into the request, beside what was cleaned before.

    What an earlier sweep found counts as cleaned once a purge has deleted it, once it is gone from
    below a folder that this sweep looked into, or once this one has read it and found none of the
    records there. What could not be read, has become a link, or lies where this sweep did not look
    stays found: a disk that is not mounted today is not clean.

    Args:
        ledger: which.
        request: which.
        result: of the sweep.
        event: `swept` or `cleaned`.
        deleted: paths of artifacts that a purge has just deleted.

    Returns:
        The request.
    """
    with ledger.writing() as writer:
        current = writer.get(request.id)
        entries: dict[str, dict[str, Any]] = {}
        for entry in current.facts.get("artifacts", ()):
            facts = ledger.sealer.open(entry["sealed"], f"artifact {entry['name']}")
            entries[entry["name"]] = _noted(entry, facts, result, deleted)
        for artifact in result.artifacts:
            facts = artifact.told()
            name = ledger.key.mac(b"unlearn artifact\0" + os.fsencode(artifact.path))
            if entries.get(name, {}).get("status") == "found":
                facts["status"] = "found"  # what made it known may have been taken from beside it
            hidden = {key: facts.pop(key) for key in ("path", "why")}
            sealed = ledger.sealer.seal(hidden, f"artifact {name}")
            entries[name] = {**facts, "name": name, "sealed": sealed}
        noted = [e for e in entries.values() if e["status"] != "forgotten"]
        swept = {
            "at": now(),
            "roots": len(result.roots),
            **result.passed_over,
            "files": result.files,
        }
        return writer.change(request.id, event, artifacts=noted, swept=swept)


def _noted(
    entry: Mapping[str, Any], facts: Mapping[str, str], result: Swept, deleted: Collection[Path]
) -> dict[str, Any]:
    """Return what an earlier sweep noted, with its status now, and why that could not be told."""
    path = Path(facts["path"])
    status = _now(path, entry, result, deleted)
    noted = {key: value for key, value in entry.items() if key != "missed"} | {"status": status}
    missed = _missed(path, result.roots) if status in {"found", "unclear"} else None
    return noted | ({"missed": missed} if missed else {})


def _now(path: Path, entry: Mapping[str, Any], result: Swept, deleted: Collection[Path]) -> str:
    """Say what has become of an artifact that an earlier sweep noted."""
    status = str(entry["status"])
    group: Group = "data" if entry["kind"] in _DATA else "weights"
    is_gone = _gone(path) and (path in deleted or not _missed(path, result.roots))
    if (group, path) in result.clean or is_gone:
        return "cleaned" if status in {"found", "cleaned"} else "forgotten"
    if not _gone(path) and _within(path, result.roots):
        return "unclear" if status == "cleaned" else status  # there again, and not read
    return status


def _within(path: Path, roots: Iterable[Path]) -> bool:
    return any(root == path or root in path.parents for root in roots if not _gone(root))


def _missed(path: Path, roots: Iterable[Path]) -> str | None:
    """Say why a sweep cannot tell whether an artifact is gone; None when it can."""
    if not _within(path, roots):
        return "not looked into this time; sweep a folder that it lies in, or lay in"
    place = next(folder for folder in path.parents if not _gone(folder))
    if _gone(path) and place.is_dir() and not any(place.iterdir()):
        # as where a disk was mounted
        return (
            f"not looked into this time: {place} is empty; mount what belongs there, or delete the "
            "empty folder and sweep the one above"
        )
    return None


_DATA = {"data file", "saved dataset", "text file"}


def _gone(path: Path) -> bool:
    """Say whether nothing lies at a path any more, not even a link that leads nowhere."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
