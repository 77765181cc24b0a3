"""Delete what a sweep found, as far as the user agrees, and look again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.ledger.states import State
from unlearn.apps.requests.sweep.data_files import rewrite
from unlearn.apps.requests.sweep.deletion import Trash, anchored, delete_files
from unlearn.apps.requests.sweep.findings import Artifact, Swept
from unlearn.apps.requests.sweep.matching import Matcher
from unlearn.apps.requests.sweep.noting import note_sweep
from unlearn.apps.requests.sweep.sweep import matcher_of, sweep_request
from unlearn.errors import LedgerError, LineageError, OutputError, UnlearnError
from unlearn.provenance.digests import weight_files, weights_digest
from unlearn.provenance.looks import LookLog

__all__ = ["check_purgeable", "purge", "purge_request"]


def purge_request(
    ledger: Ledger,
    request: Request,
    folders: Iterable[Path],
    result: Swept,
    agreed: Callable[[Artifact], bool],
    trash: Path | None = None,
) -> Swept:
    """Purge what a sweep found, sweep again, and note what is left.

    An adapter that an open request must still be compared with, as the one before its run, stays
    until that request is verified.

    Args:
        ledger: which.
        request: located or later, and open.
        folders: as given to the sweep.
        result: of the sweep.
        agreed: asked of each artifact that can be purged.
        trash: a folder on the same file system that files are moved to instead. What lies there is
            found, until it is deleted.

    Returns:
        The second sweep, its notes naming what could not be purged.

    Raises:
        LedgerError: if the request is past that, or another process is at work on its line.
    """
    with ledger.hold(request.line):
        to = None if trash is None else Trash(trash)
        return _purge_all(ledger, ledger.get(request.id), folders, result, agreed, to)


def check_purgeable(request: Request) -> None:
    """Refuse to purge what a request is about before it was carried out.

    Args:
        request: which.

    Raises:
        LedgerError: if it was not.
    """
    if request.state in {"received", "located"}:
        raise LedgerError(
            f"request {request.id} is {request.state}: run it before purging, as the adapter that "
            "learned the records is what a run starts from"
        )


def _purge_all(
    ledger: Ledger,
    request: Request,
    folders: Iterable[Path],
    result: Swept,
    agreed: Callable[[Artifact], bool],
    trash: Trash | None,
) -> Swept:
    """Purge while no other process changes what the line needs."""
    check_purgeable(request)
    matcher = matcher_of(ledger, request)
    needed = _needed(ledger, request.line)
    notes, deleted, moved = [], set(), []
    for artifact in result.artifacts:
        if artifact.action == "by hand":
            notes.append(f"{artifact.path} must be cleaned by hand")
        elif artifact.action == "delete" and (waiting := _waits_for(artifact.path, needed)):
            notes.append(
                f"{artifact.path} was not purged: request {waiting} was carried out "
                "and not verified yet, and a verification compares with the adapter before; verify "
                "that request first, or close it"
            )
        elif agreed(artifact):
            try:
                weights = _weights(artifact)
                to = purge(artifact, matcher, result.roots, trash)
                deleted.add(artifact.path)
                if to is not None:
                    moved.append(replace(artifact, path=to, status="found"))
                if weights is not None:
                    LookLog(ledger.key).note_purge(weights)
            except (UnlearnError, OSError) as error:
                notes.append(f"{artifact.path} was not purged: {error}")
    there = [f for f in folders if f.exists()] + ([trash.folder] if trash else [])
    again = sweep_request(ledger, request, there, deleted=deleted)
    again = replace(again, artifacts=_with_moved(again.artifacts, moved))
    note_sweep(ledger, request, again, "cleaned", deleted)
    return replace(again, notes=(*again.notes, *notes))


def _with_moved(artifacts: Iterable[Artifact], moved: Iterable[Artifact]) -> tuple[Artifact, ...]:
    """Return what a sweep found, with what was moved to the trash as found there."""
    known = {artifact.path: artifact for artifact in artifacts}
    for artifact in moved:
        here = replace(artifact, why="was moved to the trash by a purge", files=(), marks={})
        known[artifact.path] = replace(known.get(artifact.path, here), status="found")
    return tuple(known.values())


def _needed(ledger: Ledger, line: str) -> dict[Path, str]:
    """Return the folders that requests on a line must still be compared with, by request."""
    states: list[State] = ["located", "unlearned", "failed", "inconclusive"]
    needed = {}
    for request in ledger.requests(states, line=line):
        before = request.facts.get("before")
        if before is not None:
            folder = ledger.sealer.open(before["folder"], f"adapter {before['digest']}")
            needed[Path(os.path.realpath(str(folder)))] = request.id
    return needed


def _waits_for(path: Path, needed: Mapping[Path, str]) -> str | None:
    """Return the request that needs a folder, or the folder of shards that it lies in."""
    return needed.get(path) or needed.get(path.parent)


def _weights(artifact: Artifact) -> str | None:
    """Return the digest of a model that will go: it may be a reference of other requests."""
    if artifact.action != "delete" or not artifact.path.is_dir():
        return None
    try:
        return weights_digest(artifact.path) if weight_files(artifact.path) else None
    except LineageError:  # no model could be opened from it
        return None


def purge(
    artifact: Artifact, matcher: Matcher, roots: Iterable[Path], trash: Trash | None = None
) -> Path | None:
    """Delete the files of an artifact, or rewrite a data file without the records.

    Args:
        artifact: with the action `delete` or `rewrite`.
        matcher: of the records.
        roots: what was swept: nothing outside is touched. The cache of scores lies elsewhere and
            is deleted where the sweep found it.
        trash: where deleted files are moved to, and what rewritten ones were before is kept.

    Returns:
        Where the artifact lies in the trash; None without one.

    Raises:
        OutputError: if a link has come into the way since the sweep, or a file is not the one that
            the sweep listed.
    """
    if artifact.kind != "score cache":
        _inside(artifact.path, roots)
    for path in artifact.files:
        if path.is_symlink() or not (path == artifact.path or artifact.path in path.parents):
            raise OutputError(f"{path} is a link, or lies elsewhere")
    to = None if trash is None else trash.place(artifact.path.name)
    if artifact.action == "rewrite":
        with anchored(artifact.path) as path:
            if to is not None:
                _keep(path, to)
            rewrite(path, matcher)
    else:
        delete_files(artifact.path, artifact.files, artifact.marks, to)
    return to


def _keep(path: Path, to: Path) -> None:
    """Lay the files of a data file or saved dataset into the trash, too, before it is rewritten."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        place = to if file == path else to / file.relative_to(path)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.link(file, place, follow_symlinks=False)
        except OSError as error:
            raise OutputError(f"{file} cannot be kept in {place}: {error.strerror}") from None


def _inside(path: Path, roots: Iterable[Path]) -> None:
    """Refuse a path that leads out of what was swept, through a link made meanwhile."""
    real = Path(os.path.realpath(path))
    if real != path or not any(root == real or root in real.parents for root in roots):
        raise OutputError(f"{path} leads out of what was swept")
