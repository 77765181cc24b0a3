"""Delete what a sweep found, as far as the user agrees, and look again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.ledger.states import State
from unlearn.apps.requests.ledger.writer import Request
from unlearn.apps.requests.sweep.data_files import Matcher, rewrite
from unlearn.apps.requests.sweep.sweep import Artifact, Swept, matcher_of, note_sweep, sweep_request
from unlearn.errors import LedgerError, OutputError, UnlearnError
from unlearn.provenance.digests import weights_digest
from unlearn.provenance.looks import LookLog

__all__ = ["purge", "purge_request"]


def purge_request(
    ledger: Ledger,
    request: Request,
    folders: Iterable[Path],
    result: Swept,
    agreed: Callable[[Artifact], bool],
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

    Returns:
        The second sweep, its notes naming what could not be purged.

    Raises:
        LedgerError: if the request is past that, or another process is at work on its line.
    """
    with ledger.lease_of(request):
        return _purge_all(ledger, ledger.get(request.id), folders, result, agreed)


def _purge_all(
    ledger: Ledger,
    request: Request,
    folders: Iterable[Path],
    result: Swept,
    agreed: Callable[[Artifact], bool],
) -> Swept:
    """Purge while no other process changes what the line needs."""
    if request.state in {"received", "located"}:
        raise LedgerError(
            f"request {request.id} is {request.state}: run it before purging, as the adapter that "
            "learned the records is what a run starts from"
        )
    matcher = matcher_of(ledger, request)
    needed = _needed(ledger, request.line)
    notes, deleted = [], set()
    for artifact in result.artifacts:
        if artifact.action == "by hand":
            notes.append(f"{artifact.path} must be cleaned by hand")
        elif artifact.action == "delete" and artifact.path in needed:
            notes.append(
                f"{artifact.path} was not purged: request {needed[artifact.path]} was carried out "
                "and not verified yet, and a verification compares with the adapter before; verify "
                "that request first, or close it"
            )
        elif agreed(artifact):
            try:
                weights = _weights(artifact)
                purge(artifact, matcher, result.roots)
                deleted.add(artifact.path)
                if weights is not None:
                    LookLog(ledger.key).note_purge(weights)
            except (UnlearnError, OSError) as error:
                notes.append(f"{artifact.path} was not purged: {error}")
    there = [f for f in folders if f.exists()]
    again = sweep_request(ledger, request, there, deleted=deleted)
    note_sweep(ledger, request, again, "cleaned", deleted)
    return replace(again, notes=(*again.notes, *notes))


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


def _weights(artifact: Artifact) -> str | None:
    """Return the digest of a model that will go: it may be a reference of other requests."""
    if artifact.action != "delete" or not any(artifact.path.glob("*.safetensors")):
        return None
    return weights_digest(artifact.path)


def purge(artifact: Artifact, matcher: Matcher, roots: Iterable[Path]) -> None:
    """Delete the files of an artifact, or rewrite a data file without the records.

    Args:
        artifact: with the action `delete` or `rewrite`.
        matcher: of the records.
        roots: what was swept: nothing outside is touched. The cache of scores lies elsewhere and
            is deleted where the sweep found it.

    Raises:
        OutputError: if a link has come into the way since the sweep.
    """
    if artifact.kind != "score cache":
        _inside(artifact.path, roots)
    if artifact.action == "rewrite":
        rewrite(artifact.path, matcher)
        return
    for path in artifact.files:
        if path.is_symlink() or not (path == artifact.path or artifact.path in path.parents):
            raise OutputError(f"{path} is a link, or lies elsewhere")
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty: what else lies there is not ours
        artifact.path.rmdir()


def _inside(path: Path, roots: Iterable[Path]) -> None:
    """Refuse a path that leads out of what was swept, through a link made meanwhile."""
    real = Path(os.path.realpath(path))
    if real != path or not any(root == real or root in real.parents for root in roots):
        raise OutputError(f"{path} leads out of what was swept")
