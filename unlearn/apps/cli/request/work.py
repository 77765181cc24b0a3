"""`unlearn request run | verify | sweep | certificate`: what takes time, or changes other files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from unlearn.apps.requests.as_json import request_content, runs_content, whole_request
from unlearn.apps.requests.options import (
    CertificateOptions,
    RunOptions,
    SweepOptions,
    VerifyOptions,
)

if TYPE_CHECKING:
    from unlearn.apps.requests.ledger.book import Request
    from unlearn.apps.requests.ledger.ledger import Ledger
    from unlearn.apps.requests.sweep.findings import Swept

__all__ = ["certificate", "run", "sweep", "verify"]


def run(options: RunOptions, given: frozenset[str]) -> None:
    """Take the records of all located requests out of their adapters.

    Where no method is named, a new adapter is trained on what is kept, with as much of the original
    training as its quality takes (retrain with budget=auto, as `unlearn forget`): exact, and
    provable by replay. Requests on the same adapter share one run, so that ten that wait cost as
    much as one. It follows on the newest adapter that earlier runs made of it; requests that are
    still open must then be verified again. A run that was killed or broke off is gone on with, as
    it was planned, by the same command or one without flags; given other settings, or the names of
    other requests, it is given up and planned anew. Named requests that failed or were inconclusive
    are tried again. Other data than what is to go is read from the file given when the request was
    added, without any record that was ever asked to be deleted.

    Of a folder of shards those that hold the records are trained again, by what every request asked
    for at once; with --off-now they are dropped first, which takes seconds.

    What goes wrong on one adapter does not stop the runs on others. Exit codes: 0 all done; 2 some
    run cannot use what it was given; 1 some run broke off for another reason.
    """
    from unlearn.apps.cli.request.show import broken, echo_json, ran
    from unlearn.apps.cli.screen import announce, progress_bar, show_note
    from unlearn.apps.requests.run import Settings, run_requests
    from unlearn.runs.options import DEFAULT_METHOD, DEFAULT_OPTIONS

    ledger = options.open_ledger()
    chosen = [ledger.get(name) for name in options.names]
    usual = {} if options.method else DEFAULT_OPTIONS
    settings = Settings(
        method=options.method or DEFAULT_METHOD,
        options={**usual, **options.options},
        seed=options.seed,
        output=str((options.output or ledger.folder("adapters")).absolute()),
        opening=options.as_dict(),
        suppress=options.suppress,
        canaries=str(Path(options.canaries).absolute()) if options.canaries else None,
        with_canaries=options.with_canaries,
    )
    opening = set(options.as_dict())
    with progress_bar("unlearning") as progress:
        result = run_requests(
            ledger,
            settings,
            only=[request.id for request in chosen],
            given={"opening" if name in opening else name for name in given}
            & set(Settings.__annotations__),
            tell=None if options.json else show_note,
            announce=None if options.json else announce,
            progress=progress,
            off_now=options.off_now,
        )
    if options.json:
        echo_json(runs_content(result))
    else:
        ran(result)
    if result.failed:
        broken(result.failed)
        raise typer.Exit(1 if any(each.trace is not None for each in result.failed) else 2)


def verify(options: VerifyOptions) -> None:
    """Show that the records of each request are gone from the newest adapter, and decide.

    What retraining made is trained again, if neither references nor a policy are named: where that
    gives the same weights, from records without those that were to go, nothing is left to chance
    (tier E, as `unlearn replay`). One replay serves all requests that the adapter carries out.
    Otherwise the adapter is measured; with --replay it is replayed, too, and as with `unlearn
    verify` a PASS of the replay holds unless the audit FAILs. A replay after an audit of the same
    adapter is laid beside that one.

    With --references, those trained on all kept records are preferred; where they are fewer than
    the policy asks for, adapters trained on half of the data (`unlearn references --kind half`)
    stand in, and levels of loss, which depend on how much was trained on, are not compared.

    Where runs took canaries out, all of these are measured too, those of closed requests among
    them, whose records are gone: a FAIL of either holds, references decide before canaries, and
    these before records that were never trained on.

    Exit codes: 0 all verified; 3 one failed; 4 one could not be decided.
    """
    from unlearn.apps.cli.request.show import echo_json, verdicts
    from unlearn.apps.cli.screen import progress_bar, show_note
    from unlearn.apps.requests.verify import AuditSettings, verify_request

    ledger = options.open_ledger()
    chosen = [ledger.get(name) for name in options.names] or ledger.requests(["unlearned"])
    audit = {
        "also": options.also,
        "robustness": options.robustness,
        "generate": options.generate,
        "show_ids": options.show_ids,
        "seed": options.seed,
        **options.as_dict(),
    }
    verified = []
    for request in chosen:
        with progress_bar("scoring", "records") as progress:
            settings = AuditSettings(
                str(options.output or ledger.folder("audits")),
                options.reference,
                options.references,
                options.policy,
                {**audit, "progress": progress},
                None if options.canaries is None else str(options.canaries),
                options.replay,
            )
            tell = None if options.json else show_note
            verified.append(verify_request(ledger, request, settings, announce=tell))
    if options.json:
        echo_json({"requests": [request_content(request) for request in verified]})
    else:
        verdicts(ledger, verified)
    states = {request.state for request in verified}
    if states & {"failed", "inconclusive"}:
        raise typer.Exit(3 if "failed" in states else 4)


def sweep(options: SweepOptions) -> None:
    """Find what else descends from a request's records: adapters, checkpoints, merges, data files.

    Weights are told by lineage, by their digest, by the folder they lie in, and merges also by
    comparing weights; data files by digest and by exact text. Of a folder with weights, only the
    files that belong to them are deleted. Symbolic links are not followed. What an earlier sweep
    found stays found until it was purged, or a folder that it lay in is looked into again and it is
    gone from there or clean. Exit code 1 when something known is left.
    """
    from unlearn.apps.cli.request.show import artifact_table
    from unlearn.apps.cli.screen import show_note
    from unlearn.apps.requests.sweep.purge import check_purgeable
    from unlearn.apps.requests.sweep.sweep import sweep_request

    ledger = options.open_ledger()
    request = ledger.get(options.name)
    if options.purge:
        check_purgeable(request)  # a sweep takes long
    result = sweep_request(ledger, request, options.folders)
    if not options.json:
        if result.artifacts:
            artifact_table([artifact.told() for artifact in result.artifacts])
        for note in result.notes:
            show_note(note)
    if options.purge and result.artifacts:
        result = _purged(options, ledger, request, result)
    _show_swept(options, ledger, ledger.get(request.id), result.notes)


def _purged(options: SweepOptions, ledger: Ledger, request: Request, result: Swept) -> Swept:
    """Delete what a sweep found, as far as it is agreed to."""
    from unlearn.apps.cli.request.show import confirmed
    from unlearn.apps.requests.sweep.findings import Artifact
    from unlearn.apps.requests.sweep.purge import purge_request

    def agreed(artifact: Artifact) -> bool:
        return (options.unclear or artifact.status == "found") and confirmed(
            f"{artifact.action} {artifact.path} ({artifact.kind})?", options.yes
        )

    return purge_request(ledger, request, options.folders, result, agreed, options.trash)


def _show_swept(
    options: SweepOptions, ledger: Ledger, request: Request, notes: Sequence[str]
) -> None:
    """Print what is left; exit code 1 when something known is."""
    from unlearn.apps.cli.request.show import echo_json, said
    from unlearn.apps.cli.screen import show_note

    statuses = [entry["status"] for entry in request.facts["artifacts"]]
    content = whole_request(ledger, request)
    if options.json:
        echo_json(content | {"notes": list(notes)})
    else:
        for entry in content["artifacts_list"]:
            if "missed" in entry:
                show_note(f"{entry['path']} is {entry['status']} as before: {entry['missed']}")
        said(
            f"{statuses.count('found')} known artifact(s) left, {statuses.count('cleaned')} cleaned"
        )
    if "found" in statuses:
        raise typer.Exit(1)


def certificate(options: CertificateOptions) -> None:
    """Write the signed certificate of a request that was verified."""
    from unlearn.apps.cli.request.show import answer
    from unlearn.apps.requests.certificate import certify_request

    ledger = options.open_ledger()
    file = certify_request(ledger, ledger.get(options.name), options.output)
    content = {**request_content(ledger.get(options.name)), "certificate": str(file)}
    answer(options.json, content, f"Saved to [bold]{escape(str(file))}[/bold]")
