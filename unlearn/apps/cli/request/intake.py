"""`unlearn request add | locate | list | show | check | close`; `work` holds the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from unlearn.apps.requests.as_json import (
    check_content,
    request_content,
    search_content,
    whole_request,
)
from unlearn.apps.requests.options import (
    AddOptions,
    CheckOptions,
    CloseOptions,
    ListOptions,
    LocateOptions,
    ShowOptions,
)
from unlearn.errors import OptionError

if TYPE_CHECKING:
    from unlearn.apps.requests.ledger.book import Request
    from unlearn.apps.requests.ledger.ledger import Ledger
    from unlearn.apps.requests.locate import Located
    from unlearn.apps.requests.search import Search

__all__ = ["add", "check", "close", "list_", "locate", "show"]


def add(options: AddOptions) -> None:
    """Enter a request: which records, of which adapter.

    What names the records is kept encrypted, beside the ledger, until the request is closed.

    Example: unlearn request add --model BASE --adapter adapter --data records.jsonl
    --forget subject:ann --label T-1042
    """
    from unlearn.apps.cli.request.show import answer
    from unlearn.apps.requests import intake
    from unlearn.model.folders import stacked

    ledger = options.open_ledger()
    setup = intake.Setup(
        str(options.model),
        tuple(map(str, stacked(options.adapter))),
        str(options.data),
        str(options.retain) if options.retain else None,
        str(options.holdout) if options.holdout else None,
        options.template,
    )
    name = intake.add(
        ledger,
        setup,
        options.forget,
        label=options.label,
        person=options.person,
        due=options.due,
    )
    entered = ledger.get(name)
    answer(
        options.json,
        request_content(entered),
        f"Request [bold]{name}[/bold] (number {entered.number}) is received.",
        f"Next: unlearn request locate {name}",
    )


def locate(options: LocateOptions) -> None:
    """Find a request's records, what nearly repeats them, and their secrets in other records.

    What was found is shown and must be confirmed (--yes confirms; with --json and without --yes
    nothing is noted). The records are put in escrow, encrypted. May be repeated until the request
    is run.
    """
    from unlearn.apps.cli.request.show import answer, confirmed, echo_json, located, said
    from unlearn.apps.cli.screen import progress_bar, show_note
    from unlearn.apps.requests import search as desk
    from unlearn.apps.requests.embeddings import Encoder

    ledger = options.open_ledger()
    request = ledger.get(options.name)
    named = desk.ids_in(options.include)
    include_all = named == ["all"]
    included = [] if include_all else named
    with progress_bar("encoding", "texts") as progress:
        coder = (
            Encoder(
                options.encoder,
                device=options.device,
                trust_remote_code=options.trust_remote_code,
                progress=progress,
            )
            if options.encoder
            else None
        )
        search = desk.search_of(ledger, request, options.near or None, coder, options.meaning)
        result = desk.matches(search, included)
    if not options.json:
        located(result, options.show_text)
        if strange := desk.never_trained_on(ledger, search, result):
            show_note(
                f"{strange} of these records the adapter never learned, by its lineage: is it the "
                "right adapter, and are they the right records?"
            )
    asks = options.include is None and not options.yes and not options.json
    if result.near and (include_all or (asks and confirmed("Delete these too?", options.yes))):
        included = [entry.id for entry in result.near]
        result = desk.matches(search, included)
    if options.json and not options.yes:
        echo_json(_located_json(ledger, request, search, result, settled=False))
        return
    if not confirmed(f"Delete these {len(result.records)} record(s)?", options.yes):
        said("Nothing was noted.")
        raise typer.Exit(0)
    request = desk.note_matches(ledger, request, search, result, len(included))
    answer(
        options.json,
        _located_json(ledger, request, search, result, settled=True),
        f"Request [bold]{request.id}[/bold]: {len(result.records)} record(s) located.",
        "Next: unlearn request run",
    )


def _located_json(
    ledger: Ledger, request: Request, search: Search, result: Located, *, settled: bool
) -> dict[str, Any]:
    """Return a request and what was found for it as JSON has it."""
    from unlearn.apps.requests.search import never_trained_on

    strange = never_trained_on(ledger, search, result)
    matches = {**search_content(result), "never_trained_on": strange}
    return {**request_content(request), "confirmed": settled, "found": matches}


def list_(options: ListOptions) -> None:
    """List requests."""
    from unlearn.apps.cli.request.show import checked, echo_json, listed
    from unlearn.apps.requests.check import check
    from unlearn.apps.requests.ledger.states import OPEN, State, known_state

    states: list[State] = []
    for word in (options.state or "").replace(" ", "").split(","):
        states += OPEN if word == "open" else [known_state(word)] if word else []
    ledger = options.open_ledger(examine=options.check)
    result = check(ledger) if options.check else None
    readable = result is None or result.readable
    requests = ledger.requests(states, person=options.person) if readable else []
    if options.json:
        content = {"requests": [request_content(each) for each in requests]}
        echo_json(content | ({"check": check_content(result)} if result else {}))
    else:
        listed(requests)
        if result:
            checked(result)
    if result and not result.ok:
        raise typer.Exit(1)


def show(options: ShowOptions) -> None:
    """Show one request: where it stands, its artifacts and verdict, and its history."""
    from unlearn.apps.cli.request.show import echo_json, shown

    ledger = options.open_ledger()
    entered = ledger.get(options.name)
    if options.json:
        echo_json(whole_request(ledger, entered))
    else:
        shown(ledger, entered)


def check(options: CheckOptions) -> None:
    """Check that the ledger is as it was written, and that escrow, adapters and audits match it.

    Exit code 1 when something does not hold; the first broken entry is named. Note the head
    somewhere else: from the ledger alone it cannot be seen that all of it was put back to an older
    copy, nor what somebody who has the key has changed. Records in escrow that an interrupted close
    left behind are shredded, if all else holds.
    """
    from unlearn.apps.cli.request.show import checked, echo_json
    from unlearn.apps.cli.verbs import certificate
    from unlearn.apps.requests.check import check_and_finish
    from unlearn_eval.certificate.options import CertificateCheckOptions

    if (options.file is None) != (options.key is None):
        raise OptionError("check a certificate with its signer's public key: CERTIFICATE --key PUB")
    if options.file is not None and options.key is not None:
        certificate.check(CertificateCheckOptions(options.file, options.key, json=options.json))
    result = check_and_finish(options.open_ledger(examine=True), expect_head=options.expect_head)
    if options.json:
        echo_json(check_content(result))
    else:
        checked(result)
    if not result.ok:
        raise typer.Exit(1)


def close(options: CloseOptions) -> None:
    """Close a request, and shred its records in the escrow.

    What stands beside the verdict (a secret in a kept record, what a sweep left open, a verdict
    before that was none) asks for a --reason. May be repeated where it was interrupted.
    """
    from unlearn.apps.cli.request.show import answer, confirmed
    from unlearn.apps.requests import closing

    ledger = options.open_ledger()
    entered = ledger.get(options.name)
    outcome = closing.outcome_named(options.outcome)
    if not confirmed(f"Close request {entered.id} and shred its records?", options.yes):
        raise typer.Exit(0)
    closed = closing.close(ledger, entered, outcome, reason=options.reason)
    outcome_line = f"Request [bold]{closed.id}[/bold] is closed: {closed.facts['outcome']}."
    answer(options.json, request_content(closed), outcome_line)
