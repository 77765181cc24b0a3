"""Write into a request what a sweep found, beside what was found and cleaned before."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.sweep.findings import Group, Swept
from unlearn.provenance.lineage import now

__all__ = ["note_sweep"]


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
