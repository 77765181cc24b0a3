"""`unlearn request add | locate | list | show | check | close`; `work` holds the rest."""

from __future__ import annotations

import csv
from typing import Any

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

__all__ = ["add", "check", "close", "list_", "locate", "show"]


def add(options: AddOptions) -> None:
    """Enter a request: which records, of which adapter.

    What names the records is kept encrypted, beside the ledger, until the request is closed.

    Example: unlearn request add --model BASE --adapter adapter --data records.jsonl
    --forget subject:ann --label T-1042
    """
    from unlearn.apps.cli.request.show import echo_json, said
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
    if options.json:
        echo_json(request_content(entered))
    else:
        said(f"Request [bold]{name}[/bold] (number {entered.number}) is received.")
        said(f"Next: unlearn request locate {name}")


def locate(options: LocateOptions) -> None:
    """Find a request's records, what nearly repeats them, and their secrets in other records.

    What was found is shown and must be confirmed (--yes confirms; with --json and without --yes
    nothing is noted). The records are put in escrow, encrypted. May be repeated until the request
    is run.
    """
    from unlearn.apps.cli.request.show import confirmed, echo_json, located, said
    from unlearn.apps.cli.screen import progress_bar, show_note
    from unlearn.apps.requests import intake as desk
    from unlearn.apps.requests.embeddings import Encoder
    from unlearn.apps.requests.locate import Located
    from unlearn.apps.requests.locate import locate as search

    opened = options.open_ledger()
    found_request = opened.get(options.name)
    setup = desk.setup_of(opened, found_request)
    selectors = desk.selectors_of(opened, found_request)

    def never(which: Located) -> int:
        digests = (opened.key.digest(record) for record in which.records)
        return desk.untrained(opened, setup.changing, digests)

    # as CSV has it, so that an id may hold a comma between quotes
    cells = next(csv.reader([options.include or ""], skipinitialspace=True), [])
    chosen = [part.strip() for part in cells if part.strip()]
    with progress_bar("encoding texts") as progress:
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

        def look(ids: list[str]) -> Any:
            return search(
                setup.data,
                selectors,
                retain=setup.retain,
                near=options.near or None,
                encoder=coder,
                meaning=options.meaning,
                include=ids,
            )

        found = look([] if chosen == ["all"] else chosen)
    if not options.json:
        located(found, options.show_text)
        if strange := never(found):
            show_note(
                f"{strange} of these records the adapter never learned, by its lineage: is it the "
                "right adapter, and are they the right records?"
            )
    if found.near and (
        chosen == ["all"]
        or (
            options.include is None
            and not options.yes
            and not options.json
            and confirmed("Delete these too?", options.yes)
        )
    ):
        chosen = [entry.id for entry in found.near]
        found = look(chosen)
    if options.json and not options.yes:
        told = {**search_content(found), "never_trained_on": never(found)}
        echo_json({**request_content(found_request), "confirmed": False, "found": told})
        return
    if not confirmed(f"Delete these {len(found.records)} record(s)?", options.yes):
        said("Nothing was noted.")
        raise typer.Exit(0)
    done = desk.settle(
        opened,
        found_request,
        found,
        threshold=options.near or None,
        meaning=options.meaning if options.encoder else None,
        included=len(chosen),
    )
    if options.json:
        told = {**search_content(found), "never_trained_on": never(found)}
        echo_json({**request_content(done), "confirmed": True, "found": told})
    else:
        said(f"Request [bold]{done.id}[/bold]: {len(found.records)} record(s) located.")
        said("Next: unlearn request run")


def list_(options: ListOptions) -> None:
    """List requests."""
    from unlearn.apps.cli.request.show import checked, echo_json, listed
    from unlearn.apps.requests.check import check
    from unlearn.apps.requests.ledger.states import OPEN, State, known_state

    states: list[State] = []
    for word in (options.state or "").replace(" ", "").split(","):
        states += OPEN if word == "open" else [known_state(word)] if word else []
    ledger = options.open_ledger(examine=options.check)
    requests = ledger.requests(states, person=options.person)
    result = check(ledger) if options.check else None
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
    copy, nor what somebody who has the key has changed.
    """
    from unlearn.apps.cli.request.show import checked, echo_json
    from unlearn.apps.cli.verbs import certificate
    from unlearn.apps.requests.check import check as check_ledger
    from unlearn_eval.certificate.options import CertificateCheckOptions

    if (options.file is None) != (options.key is None):
        raise OptionError("check a certificate with its signer's public key: CERTIFICATE --key PUB")
    if options.file is not None and options.key is not None:
        certificate.check(CertificateCheckOptions(options.file, options.key, json=options.json))
    result = check_ledger(options.open_ledger(examine=True), expect_head=options.expect_head)
    if options.json:
        echo_json(check_content(result))
    else:
        checked(result)
    if not result.ok:
        raise typer.Exit(1)


def close(options: CloseOptions) -> None:
    """Close a request, and shred its records in the escrow."""
    from unlearn.apps.cli.request.show import confirmed, echo_json, said
    from unlearn.apps.requests import intake

    ledger = options.open_ledger()
    entered = ledger.get(options.name)
    outcome = intake.outcome_named(options.outcome)
    if not confirmed(f"Close request {entered.id} and shred its records?", options.yes):
        raise typer.Exit(0)
    closed = intake.close(ledger, entered, outcome)
    if options.json:
        echo_json(request_content(closed))
    else:
        said(f"Request [bold]{closed.id}[/bold] is closed: {closed.facts['outcome']}.")
