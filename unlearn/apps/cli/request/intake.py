"""`unlearn request add | locate | list | show | check | close`; the rest is in `request_work`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unlearn.apps.cli import flags
from unlearn.apps.cli.request.work import certificate, run, sweep, verify
from unlearn.errors import OptionError

if TYPE_CHECKING:
    from unlearn.apps.requests.ledger.ledger import Ledger
    from unlearn.apps.requests.ledger.writer import Request
    from unlearn.apps.requests.locate import Located
    from unlearn.apps.requests.search import Search

__all__ = ["request"]

request = typer.Typer(
    name="request",
    no_args_is_help=True,
    help="Deletion requests: what was asked, what was done about it, and the proof.",
    epilog="In order: add, locate, run, verify, sweep, certificate, close.",
)

_PERSON = "stored as a keyed digest only"


def add(
    model: flags.Model,
    data: flags.Data,
    forget: Annotated[
        list[str],
        typer.Option(
            "--forget",
            "-f",
            metavar="WHICH",
            help="Records to delete: id1,id2 | @file | subject:NAME | rows:180-199 | text:EXACT | "
            "contains:VALUE | field:COLUMN=VALUE (repeat for several).",
        ),
    ],
    adapter: flags.Adapters = None,
    holdout: flags.Holdout = None,
    retain: flags.Retain = None,
    template: flags.Template = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="Shown in lists and stored as it is: a ticket's number, never a person's name."
        ),
    ] = None,
    person: Annotated[str | None, typer.Option(help=f"Who asks; {_PERSON}.")] = None,
    due: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="By when it must be done; shown in lists."),
    ] = None,
    ledger: flags.LedgerUrl = None,
    as_json: flags.Json = False,
) -> None:
    """Enter a request: which records, of which adapter.

    What names the records is kept encrypted, beside the ledger, until the request is closed.

    Example: unlearn request add --model BASE --adapter adapter --data records.jsonl
    --forget subject:ann --label T-1042
    """
    from unlearn.apps.cli.request.show import echo_json, plain, said
    from unlearn.apps.requests import intake as desk
    from unlearn.apps.requests.ledger.ledger import Ledger

    opened = Ledger.open(ledger)
    setup = desk.Setup(model, tuple(adapter or ()), data, retain, holdout, template)
    name = desk.add(opened, setup, forget, label=label, person=person, due=due)
    entered = opened.get(name)
    if as_json:
        echo_json(plain(entered))
    else:
        said(f"Request [bold]{name}[/bold] (number {entered.number}) is received.")
        said(f"Next: unlearn request locate {name}")


def locate(
    name: flags.RequestName,
    near: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Least similarity (Jaccard, 5-character pieces) of near-duplicates; 0 looks for "
            "none.",
        ),
    ] = 0.8,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|NAME",
            help="Also find records that say the same in other words, by the vectors of this text "
            "encoder (a folder or a hub name).",
        ),
    ] = None,
    meaning: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1,
            help="Least similarity (cosine) of those; encoders differ, so look at what comes.",
        ),
    ] = 0.9,
    include: Annotated[
        str | None,
        typer.Option(
            metavar="IDS|all",
            help="Near-duplicates to delete too, by id, or all that are shown. An id that holds a "
            "comma stands between double quotes: '\"a,b\",c'.",
        ),
    ] = None,
    yes: flags.Yes = False,
    show_text: Annotated[
        bool, typer.Option("--show-text", help="Show the records' text on the screen.")
    ] = False,
    device: flags.Device = None,
    trust_remote_code: flags.RemoteCode = False,
    ledger: flags.LedgerUrl = None,
    as_json: flags.Json = False,
) -> None:
    """Find a request's records, what nearly repeats them, and their secrets in other records.

    What was found is shown and must be confirmed (--yes confirms; with --json and without --yes
    nothing is noted). The records are put in escrow, encrypted. May be repeated until the request
    is run.
    """
    from unlearn.apps.cli.request.show import confirmed, echo_json, located, said
    from unlearn.apps.cli.screen import progress_bar, show_note
    from unlearn.apps.requests import search as desk
    from unlearn.apps.requests.embeddings import Encoder
    from unlearn.apps.requests.ledger.ledger import Ledger

    opened = Ledger.open(ledger)
    request = opened.get(name)
    named = desk.ids_in(include)
    include_all = named == ["all"]
    included = [] if include_all else named
    with progress_bar("encoding texts") as progress:
        coder = (
            Encoder(encoder, device=device, trust_remote_code=trust_remote_code, progress=progress)
            if encoder
            else None
        )
        search = desk.search_of(opened, request, near or None, coder, meaning)
        result = desk.matches(search, included)
    if not as_json:
        located(result, show_text)
        if strange := desk.never_trained_on(opened, search, result):
            show_note(
                f"{strange} of these records the adapter never learned, by its lineage: is it the "
                "right adapter, and are they the right records?"
            )
    asks = include is None and not yes and not as_json
    if result.near and (include_all or (asks and confirmed("Delete these too?", yes))):
        included = [entry.id for entry in result.near]
        result = desk.matches(search, included)
    if as_json and not yes:
        echo_json(_located_json(opened, request, search, result, settled=False))
        return
    if not confirmed(f"Delete these {len(result.records)} record(s)?", yes):
        said("Nothing was noted.")
        raise typer.Exit(0)
    request = desk.note_matches(opened, request, search, result, len(included))
    if as_json:
        echo_json(_located_json(opened, request, search, result, settled=True))
    else:
        said(f"Request [bold]{request.id}[/bold]: {len(result.records)} record(s) located.")
        said("Next: unlearn request run")


def _located_json(
    ledger: Ledger, request: Request, search: Search, result: Located, *, settled: bool
) -> dict[str, Any]:
    """Return a request and what was found for it as JSON has it."""
    from unlearn.apps.cli.request.show import located_plain, plain
    from unlearn.apps.requests.search import never_trained_on

    strange = never_trained_on(ledger, search, result)
    matches = {**located_plain(result), "never_trained_on": strange}
    return {**plain(request), "confirmed": settled, "found": matches}


def list_(
    state: Annotated[
        str | None,
        typer.Option(
            help="Only requests in these states, by commas; `open` stands for all but closed."
        ),
    ] = None,
    person: Annotated[
        str | None, typer.Option(help="Only those that this person asked for.")
    ] = None,
    check_too: Annotated[
        bool, typer.Option("--check", help="Check the ledger too, as `unlearn request check`.")
    ] = False,
    ledger: flags.LedgerUrl = None,
    as_json: flags.Json = False,
) -> None:
    """List requests."""
    from unlearn.apps.cli.request.show import checked, checked_plain, echo_json, listed, plain
    from unlearn.apps.requests.check import check
    from unlearn.apps.requests.ledger.ledger import Ledger
    from unlearn.apps.requests.ledger.states import OPEN, State, known_state

    wanted: list[State] = []
    for word in (state or "").replace(" ", "").split(","):
        wanted += OPEN if word == "open" else [known_state(word)] if word else []
    opened = Ledger.open(ledger, examine=check_too)
    rows = opened.requests(wanted, person=person)
    result = check(opened) if check_too else None
    if as_json:
        both = {"requests": [plain(row) for row in rows]}
        echo_json(both | ({"check": checked_plain(result)} if result else {}))
    else:
        listed(rows)
        if result:
            checked(result)
    if result and not result.ok:
        raise typer.Exit(1)


def show(
    name: flags.RequestName, ledger: flags.LedgerUrl = None, as_json: flags.Json = False
) -> None:
    """Show one request: where it stands, its artifacts and verdict, and its history."""
    from unlearn.apps.cli.request.show import echo_json, shown, shown_plain
    from unlearn.apps.requests.ledger.ledger import Ledger

    opened = Ledger.open(ledger)
    found = opened.get(name)
    if as_json:
        echo_json(shown_plain(opened, found))
    else:
        shown(opened, found)


def check(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CERTIFICATE]",
            help="A certificate.json to check by itself instead, offline and without a ledger, as "
            "`unlearn certificate check` does.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="PUB", help="Of the certificate: its signer's public key."),
    ] = None,
    expect_head: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            help="A head noted earlier: must still be in the history (finds a ledger that was put "
            "back to an old copy).",
        ),
    ] = None,
    ledger: flags.LedgerUrl = None,
    as_json: flags.Json = False,
) -> None:
    """Check that the ledger is as it was written, and that escrow, adapters and audits match it.

    Exit code 1 when something does not hold; the first broken entry is named. Note the head
    somewhere else: from the ledger alone it cannot be seen that all of it was put back to an older
    copy, nor what somebody who has the key has changed.
    """
    if (file is None) != (key is None):
        raise OptionError("check a certificate with its signer's public key: CERTIFICATE --key PUB")
    if file is not None and key is not None:
        from unlearn.apps.cli.verbs.certificate import check as check_alone

        check_alone(file, key, as_json=as_json)
    from unlearn.apps.cli.request.show import checked, checked_plain, echo_json
    from unlearn.apps.requests.check import check as check_ledger
    from unlearn.apps.requests.ledger.ledger import Ledger

    result = check_ledger(Ledger.open(ledger, examine=True), expect_head=expect_head)
    if as_json:
        echo_json(checked_plain(result))
    else:
        checked(result)
    if not result.ok:
        raise typer.Exit(1)


def close(
    name: flags.RequestName,
    outcome: Annotated[
        str | None,
        typer.Option(
            help="pass | incomplete | fail | inconclusive | withdrawn. Default: what its state "
            "says. pass needs a sweep, and no artifact left; withdrawn is for what no run carried "
            "out, and fail gives up on what one did."
        ),
    ] = None,
    yes: flags.Yes = False,
    ledger: flags.LedgerUrl = None,
    as_json: flags.Json = False,
) -> None:
    """Close a request, and shred its records in the escrow."""
    from unlearn.apps.cli.request.show import confirmed, echo_json, plain, said
    from unlearn.apps.requests import intake as desk
    from unlearn.apps.requests.ledger.ledger import Ledger

    opened = Ledger.open(ledger)
    found = opened.get(name)
    chosen = desk.outcome_named(outcome)
    if not confirmed(f"Close request {found.id} and shred its records?", yes):
        raise typer.Exit(0)
    done = desk.close(opened, found, chosen)
    if as_json:
        echo_json(plain(done))
    else:
        said(f"Request [bold]{done.id}[/bold] is closed: {done.facts['outcome']}.")


for _verb in (add, locate, run, verify, sweep, certificate, close, list_, show, check):
    request.command(_verb.__name__.rstrip("_"), help=flags.unwrapped(_verb))(_verb)
