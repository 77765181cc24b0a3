"""Verifying by replay at the desk: train the newest adapter again, once for all its requests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from unlearn.apps.requests import canaries
from unlearn.apps.requests.evidence import audit_digest, verdict_details
from unlearn.apps.requests.intake import Setup, escrowed, setup_of
from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.ledger.states import State
from unlearn.apps.requests.line import Newest
from unlearn.files import staged_file
from unlearn.methods.registry import METHODS
from unlearn.model.opening import Opening
from unlearn.provenance.lineage import Lineage
from unlearn.shards.files import is_sharded

__all__ = ["FILE", "can_be_replayed", "maker", "replay_into", "standing_audit"]

FILE = "replay.json"

_CARRIED_OUT: tuple[State, ...] = ("unlearned", "verified", "failed", "inconclusive")


def can_be_replayed(ledger: Ledger, newest: Newest) -> bool:
    """Say whether a lineage holds what it takes to train the newest adapter of a line again.

    Args:
        ledger: under whose key.
        newest: the adapter.

    Returns:
        Whether retraining made it, and its lineage names all that decided the weights; of shards,
        each of which is replayed by its own, always.
    """
    line = Lineage.read(newest.folder)
    if line is None or line.records.key_id != ledger.key.id or line.digest != newest.digest:
        return False
    if is_sharded(newest.folder):
        return True
    method = METHODS.get(line.method)
    exact = method is not None and method.kind == "exact"
    return exact and line.parent is None and "training records" in line.made_from


def maker(ledger: Ledger, line: str, newest: Newest) -> Request | None:
    """Return a request of the run that made the newest adapter of a line, if a run did."""
    for request in ledger.requests(line=line):
        run = (request.facts.get("price") or {}).get("run")
        made = request.facts.get("after") or {}
        if run is not None and run == made.get("run") and made["digest"] == newest.digest:
            return request
    return None


def replay_into(
    folder: Path,
    ledger: Ledger,
    request: Request,
    newest: Newest,
    options: Mapping[str, Any],
    announce: Callable[[str], None] | None = None,
) -> None:
    """Train the newest adapter of a request's line again, and write what that shows into a folder.

    One replay is of all records that the adapter must never have seen. So where that of another
    request, on this very adapter, PASSed and covers the records, it is copied.

    Args:
        folder: made where it is not there yet.
        ledger: which.
        request: whose records must be gone.
        newest: the adapter.
        options: how the base is opened, and the file of `canaries` where it was moved.
        announce: told what is done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (known := _known(ledger, request, newest)) is not None:
        other, file = known
        if announce is not None:
            announce(
                f"this adapter was trained again for request {other.id}, which is of these records "
                "too"
            )
        shutil.copyfile(file, folder / FILE)
        return
    line = Lineage.read(newest.folder)
    if announce is not None and line is not None:
        announce(
            "the adapter is trained again, as its lineage says, which took "
            f"{line.cost.get('seconds') or 0:.0f} s when it was made, trials counted"
        )
    content = _replayed(ledger, request, newest, line, options)
    with staged_file(folder / FILE) as stage:
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
        stage.write_text(text + "\n", encoding="utf-8")


def _replayed(
    ledger: Ledger,
    request: Request,
    newest: Newest,
    line: Lineage | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Train again on the data of the run that made the adapter."""
    from unlearn_eval.replay.run import replay
    from unlearn_eval.replay.sharded import replay_shards

    # the records of all requests that are open: one replay then serves them all
    beside = [r for r in ledger.requests(_CARRIED_OUT, line=request.line) if "escrow" in r.facts]
    made_by = maker(ledger, request.line, newest) or request
    setup = setup_of(ledger, made_by)
    planted = line is not None and line.canaries is not None
    file = (options.get("canaries") or canaries.file_of(ledger, request.line)) if planted else None
    opening = {each.name for each in fields(Opening)}
    work = replay_shards if is_sharded(newest.folder) else replay
    return work(
        newest.folder,
        setup.retain or setup.data,
        model=_base(setup),
        forgotten=escrowed(ledger, {r.id: r for r in (request, *beside)}.values()),
        canaries=file,
        quiet=True,
        **{name: value for name, value in options.items() if name in opening},
    ).as_dict()


def _base(setup: Setup) -> str | None:
    """Return the base of an adapter; None for what the lineage of a whole model says."""
    return setup.model if setup.adapters else None


def _known(ledger: Ledger, request: Request, newest: Newest) -> tuple[Request, Path] | None:
    """Return a replay of this very adapter that PASSed, and is of a request's records, too."""
    from unlearn_eval.replay.result import read_replay

    wanted = set(request.facts["records"])
    for other in ledger.requests(line=request.line):
        verdict = other.facts.get("verdict")
        if verdict is None or verdict["adapter"] != newest.digest:
            continue
        folder = Path(verdict_details(ledger, other, verdict)["folder"])
        file = folder / FILE
        if not file.is_file() or audit_digest(folder) != verdict["audit"]:
            continue
        content = read_replay(file)
        if content["outcome"] == "PASS" and wanted <= set(content["records"]["forgotten"]):
            return other, file
    return None


def standing_audit(ledger: Ledger, request: Request, newest: Newest) -> dict[str, Any] | None:
    """Return what is sealed of a request's verdict by an audit of the newest adapter, if any.

    Args:
        ledger: which.
        request: whose.
        newest: the adapter.

    Returns:
        `folder`, `references`, `records`; None where no such audit is there, unchanged.
    """
    verdict = request.facts.get("verdict")
    if verdict is None or verdict["adapter"] != newest.digest:
        return None
    details = verdict_details(ledger, request, verdict)
    folder = Path(details["folder"])
    try:
        same = audit_digest(folder) == verdict["audit"]
    except OSError:
        return None
    return details if same and (folder / "audit.json").is_file() else None
