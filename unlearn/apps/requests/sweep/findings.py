"""What a sweep finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unlearn.apps.requests.sweep.deletion import Mark

__all__ = ["Action", "Artifact", "Group", "Status", "Swept"]

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
