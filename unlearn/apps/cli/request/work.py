"""`unlearn request run | verify | sweep | certificate`: what takes time, or changes other files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from unlearn.apps.cli import flags

__all__ = ["certificate", "run", "sweep", "verify"]

_Some = Annotated[
    list[str] | None, typer.Argument(metavar="REQUEST", help="Ids; default: all that wait.")
]


# Which setting of a run each flag chooses.
_CHOOSES = {
    "method": "method",
    "options": "options",
    "output": "output",
    "suppress": "suppress",
    "canaries": "canaries",
    "with_canaries": "with_canaries",
    "seed": "seed",
    "dtype": "opening",
    "device": "opening",
    "trust_remote_code": "opening",
    "load_in_4bit": "opening",
}


def run(
    context: typer.Context,
    names: _Some = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="NAME", help="See `unlearn methods`.")
    ] = None,
    options: flags.Options = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Folder in which each run makes one of its own. Default: beside the ledger.",
        ),
    ] = None,
    suppress: Annotated[
        bool,
        typer.Option(
            "--suppress/--no-suppress",
            help="Never train on these records again on this machine.",
        ),
    ] = True,
    canaries: flags.Canaries = None,
    with_canaries: Annotated[
        int,
        typer.Option(
            "--with-canaries",
            metavar="K",
            min=0,
            help="Take K of the canaries out beside the records; `request verify` measures them, "
            "also for requests that are closed by then. Later runs find --canaries by themselves.",
        ),
    ] = 0,
    seed: flags.Seed = 0,
    dtype: flags.Dtype = "auto",
    device: flags.Device = None,
    trust_remote_code: flags.RemoteCode = False,
    load_in_4bit: flags.FourBit = False,
    ledger: flags.LedgerUrl = None,
    as_json: flags.Json = False,
) -> None:
    """Take the records of all located requests out of their adapters.

    Requests on the same adapter share one run, which starts from the newest adapter that earlier
    runs made of it; requests that are still open must then be verified again. A run that was killed
    or broke off is gone on with, as it was planned, by the same command or one without flags; given
    other settings, or the names of other requests, it is given up and planned anew. Named requests
    that failed or were inconclusive are tried again. Other data than what is to go is read from the
    file given when the request was added, without any record that was ever asked to be deleted.

    What goes wrong on one adapter does not stop the runs on others. Exit codes: 0 all done; 2 some
    run cannot use what it was given; 1 some run broke off for another reason.
    """
    from unlearn.apps.cli.request.show import broken, echo_json, ran, ran_plain
    from unlearn.apps.cli.screen import announce, progress_bar, show_note
    from unlearn.apps.requests.ledger.ledger import Ledger
    from unlearn.apps.requests.run import Settings, run_requests
    from unlearn.config import parse_overrides
    from unlearn.runs import forgetting

    opened = Ledger.open(ledger)
    chosen = [opened.get(name) for name in names or ()]
    settings = Settings(
        method=method or forgetting.DEFAULT_METHOD,
        options=parse_overrides(options or []),
        seed=seed,
        output=str((output or opened.folder("adapters")).absolute()),
        opening=flags.opening(dtype, device, trust_remote_code, load_in_4bit),
        suppress=suppress,
        canaries=str(Path(canaries).absolute()) if canaries else None,
        with_canaries=with_canaries,
    )
    with progress_bar("unlearning") as progress:
        result = run_requests(
            opened,
            settings,
            only=[request.id for request in chosen],
            given={_CHOOSES[name] for name in _CHOOSES if _was_given(context, name)},
            tell=None if as_json else show_note,
            announce=None if as_json else announce,
            progress=progress,
        )
    if as_json:
        echo_json(ran_plain(result))
    else:
        ran(result)
    if result.failed:
        broken(result.failed)
        raise typer.Exit(1 if any(each.trace for each in result.failed) else 2)


def _was_given(context: typer.Context, name: str) -> bool:
    """Say whether a flag is among the words of the command."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def verify(
    names: _Some = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="ADAPTER",
            help="An adapter that never saw the records (repeat for several).",
        ),
    ] = None,
    references: Annotated[
        list[str] | None,
        typer.Option(
            "--references",
            metavar="DIR",
            help="A folder searched for references: each request is compared with those that by "
            "their lineage never saw its records, such as half-splits that serve them all.",
        ),
    ] = None,
    policy: Annotated[str | None, typer.Option(metavar="NAME", help="By which to decide.")] = None,
    canaries: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Where the canaries are now, if the file was moved."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Folder in which each audit makes one of its own. Default: beside the ledger.",
        ),
    ] = None,
    also: Annotated[
        str, typer.Option(metavar="NAMES", help="Further passes, as `unlearn audit --also`.")
    ] = "",
    robustness: Annotated[
        str, typer.Option(metavar="NAMES", help="As `unlearn audit --robustness`.")
    ] = "",
    generate: Annotated[int, typer.Option(min=0, help="As `unlearn audit --generate`.")] = 64,
    seed: flags.Seed = 0,
    dtype: flags.Dtype = "auto",
    device: flags.Device = None,
    trust_remote_code: flags.RemoteCode = False,
    load_in_4bit: flags.FourBit = False,
    ledger: flags.LedgerUrl = None,
    as_json: flags.Json = False,
) -> None:
    """Measure the newest adapter for the records of each request, and decide.

    With --references, those trained on all kept records are preferred; where they are fewer than
    the policy asks for, adapters trained on half of the data (`unlearn references --kind half`)
    stand in, and levels of loss, which depend on how much was trained on, are not compared.

    Where runs took canaries out, all of these are measured too, those of closed requests among
    them, whose records are gone: a FAIL of either holds, references decide before canaries, and
    these before records that were never trained on.

    Exit codes: 0 all verified; 3 one failed; 4 one could not be decided.
    """
    from unlearn.apps.cli.request.show import echo_json, listed, plain, said
    from unlearn.apps.cli.screen import progress_bar, show_note
    from unlearn.apps.requests.evidence import audit_of
    from unlearn.apps.requests.ledger.ledger import Ledger
    from unlearn.apps.requests.verify import AuditSettings, verify_request

    opened = Ledger.open(ledger)
    chosen = [opened.get(name) for name in names or ()] or opened.requests(["unlearned"])
    words: dict[str, Any] = {
        "also": [name for name in also.replace(" ", "").split(",") if name],
        "robustness": [name for name in robustness.replace(" ", "").split(",") if name],
        "generate": generate,
        "seed": seed,
    }
    opening = flags.opening(dtype, device, trust_remote_code, load_in_4bit)
    folder = str(output or opened.folder("audits"))
    done = []
    for request in chosen:
        with progress_bar("scoring") as progress:
            settings = AuditSettings(
                folder,
                reference or (),
                references or (),
                policy,
                words | opening | {"progress": progress},
                canaries,
            )
            told = None if as_json else show_note
            done.append(verify_request(opened, request, settings, announce=told))
    if as_json:
        echo_json({"requests": [plain(request) for request in done]})
    else:
        listed(done)
        for request in done:
            where, reasons = audit_of(opened, request)
            said(f"[bold]{request.id}[/bold] {request.facts['verdict']['outcome']}, because")
            for reason in reasons:
                said(f"  · {escape(reason)}")
            said(f"  all numbers: [bold]{escape(str(where))}[/bold] (report.html, verdict.json)")
    states = {request.state for request in done}
    if "failed" in states:
        raise typer.Exit(3)
    if "inconclusive" in states:
        raise typer.Exit(4)


def sweep(
    name: flags.RequestName,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Where to look besides its own files."),
    ] = None,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge",
            help="Delete what was found, asking each time. Data files are rewritten without the "
            "records; what is retained stays.",
        ),
    ] = False,
    unclear: Annotated[
        bool,
        typer.Option(
            "--unclear",
            help="Purge too what may descend from the records; without it, only what is known to.",
        ),
    ] = False,
    yes: flags.Yes = False,
    ledger: flags.LedgerUrl = None,
    as_json: flags.Json = False,
) -> None:
    """Find what else descends from a request's records: adapters, checkpoints, merges, data files.

    Weights are told by lineage, by their digest, by the folder they lie in, and merges also by
    comparing weights; data files by digest and by exact text. Of a folder with weights, only the
    files that belong to them are deleted. Symbolic links are not followed. What an earlier sweep
    found stays found until it was purged, or a folder that it lay in is looked into again and it is
    gone from there or clean. Exit code 1 when something known is left.
    """
    from unlearn.apps.cli.request.show import (
        artifact_table,
        confirmed,
        echo_json,
        said,
        shown_plain,
    )
    from unlearn.apps.cli.screen import show_note
    from unlearn.apps.requests.ledger.ledger import Ledger
    from unlearn.apps.requests.sweep.purge import purge_request
    from unlearn.apps.requests.sweep.sweep import Artifact, sweep_request

    opened = Ledger.open(ledger)
    request = opened.get(name)
    result = sweep_request(opened, request, folders or ())
    if not as_json:
        if result.artifacts:
            artifact_table([artifact.told() for artifact in result.artifacts])
        for note in result.notes:
            show_note(note)

    def agreed(artifact: Artifact) -> bool:
        return (unclear or artifact.status == "found") and confirmed(
            f"{artifact.action} {artifact.path} ({artifact.kind})?", yes
        )

    if purge and result.artifacts:
        result = purge_request(opened, request, folders or (), result, agreed)
    request = opened.get(request.id)
    left = [entry for entry in request.facts["artifacts"] if entry["status"] == "found"]
    told = shown_plain(opened, request)
    if as_json:
        echo_json(told | {"notes": list(result.notes)})
    else:
        for entry in told["artifacts_list"]:
            if "missed" in entry:
                show_note(f"{entry['path']} is {entry['status']} as before: {entry['missed']}")
        cleaned = [e for e in request.facts["artifacts"] if e["status"] == "cleaned"]
        said(f"{len(left)} known artifact(s) left, {len(cleaned)} cleaned")
    if left:
        raise typer.Exit(1)


def certificate(
    name: flags.RequestName,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The certificate.")],
    ledger: flags.LedgerUrl = None,
    as_json: flags.Json = False,
) -> None:
    """Write the signed certificate of a request that was verified."""
    from unlearn.apps.cli.request.show import echo_json, plain, said
    from unlearn.apps.requests.certificate import certify_request
    from unlearn.apps.requests.ledger.ledger import Ledger

    opened = Ledger.open(ledger)
    file = certify_request(opened, opened.get(name), output)
    if as_json:
        echo_json({**plain(opened.get(name)), "certificate": str(file)})
    else:
        said(f"Saved to [bold]{escape(str(file))}[/bold]")
