"""What `unlearn request` shows: tables for people, JSON for programs. Neither holds a record."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from unlearn.apps.cli.screen import console, show_note, table
from unlearn.apps.requests.as_json import request_content, whole_request
from unlearn.apps.requests.price import Price
from unlearn.errors import OptionError
from unlearn.printable import printable

if TYPE_CHECKING:
    from unlearn.apps.requests.check import LedgerCheck
    from unlearn.apps.requests.ledger.book import Request
    from unlearn.apps.requests.ledger.ledger import Ledger
    from unlearn.apps.requests.locate import Located
    from unlearn.apps.requests.run import Failed, Ran

__all__ = [
    "answer",
    "broken",
    "checked",
    "confirmed",
    "echo_json",
    "listed",
    "located",
    "ran",
    "said",
    "shown",
    "verdicts",
]


def said(text: str) -> None:
    """Print a line for people."""
    console.print(text)


def echo_json(content: Mapping[str, Any]) -> None:
    """Print an object for programs."""
    typer.echo(json.dumps(content, indent=2))


def answer(as_json: bool, content: Mapping[str, Any], *lines: str) -> None:
    """Print an object for programs, or lines for people."""
    if as_json:
        echo_json(content)
    else:
        console.print("\n".join(lines))


def confirmed(question: str, yes: bool) -> bool:
    """Ask, unless told not to.

    Args:
        question: what to ask.
        yes: whether --yes was given.

    Returns:
        The answer.

    Raises:
        OptionError: if there is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise OptionError("nobody is here to confirm: pass --yes")
    return typer.confirm(printable(question))


def listed(requests: Sequence[Request]) -> None:
    """Print requests as a table."""
    from unlearn.apps.requests.ledger.due import due_words

    rows = []
    for request in requests:
        told = request_content(request)
        verdict = (told["verdict"] or {}).get("outcome") or ""
        left = told["artifacts"]["found"]
        rows.append(
            [
                f"{request.number}  {request.id}",
                escape(str(told["label"] or "")),
                request.state + (f" ({told['outcome']})" if told["outcome"] else ""),
                due_words(request),
                "" if told["records"] is None else str(told["records"]),
                verdict,
                str(left) if left else "",
                request.changed,
            ]
        )
    columns = ["request", "label", "state", "due", "records", "verdict", "artifacts left"]
    columns += ["changed"]
    table("", columns, rows)
    said(f"{len(rows)} request(s)")


def verdicts(ledger: Ledger, requests: Sequence[Request]) -> None:
    """Print requests that were verified, each with its reasons."""
    from unlearn.apps.requests.evidence import audit_of

    listed(requests)
    for request in requests:
        where, reasons = audit_of(ledger, request)
        said(f"[bold]{request.id}[/bold] {request.facts['verdict']['outcome']}, because")
        for reason in reasons:
            said(f"  · {escape(reason)}")
        files = [name for name in ("report.html", "replay.json") if (where / name).is_file()]
        names = ", ".join([*files, "verdict.json"])
        said(f"  all numbers: [bold]{escape(str(where))}[/bold] ({names})")


def shown(ledger: Ledger, request: Request) -> None:
    """Print a request with artifacts, reasons and history."""
    from unlearn.apps.requests.ledger.due import due_words

    told = whole_request(ledger, request)
    label = f"  {escape(told['label'])}" if told["label"] else ""
    said(f"[bold]Request {request.id}[/bold] (number {request.number}){label}")
    outcome = f", closed as {told['outcome']}" if told["outcome"] else ""
    said(f"  {request.state}{outcome}; {told['records'] or 'no'} record(s) located")
    if due := due_words(request):
        said(f"  due {due}")
    if (price := Price.noted(request.facts)) is not None:
        said(f"  taken out by {escape(price.words)}")
    if told["secrets_in_kept_records"]:
        show_note(f"{told['secrets_in_kept_records']} kept record(s) hold one of its secrets")
    if told["secrets_that_come_out"]:
        show_note(f"the model completes a secret of {told['secrets_that_come_out']} record(s)")
    if told["verdict"]:
        tier = f" (tier {told['verdict']['tier']})" if told["verdict"]["tier"] else ""
        said(f"  verdict: [bold]{told['verdict']['outcome']}[/bold]{tier}")
        for reason in told["reasons"]:
            said(f"    {escape(reason)}")
    if told["reason"]:
        said(f"  closed all the same, because: {escape(told['reason'])}")
    if told["artifacts_list"]:
        artifact_table(told["artifacts_list"])
    rows = [[str(e["seq"]), e["at"], e["event"], e["state"]] for e in told["history"]]
    table("History", ["entry", "at", "event", "state"], rows)


def artifact_table(artifacts: Sequence[Mapping[str, Any]]) -> None:
    """Print artifacts as a table."""
    rows = [
        [
            escape(a["path"]),
            a["kind"],
            escape("; ".join(filter(None, (a["why"], a.get("missed"))))),
            a["status"],
            a["action"],
        ]
        for a in artifacts
    ]
    table("What else descends from the records", ["path", "kind", "why", "status", "to do"], rows)


def located(found: Located, show_text: bool) -> None:
    """Print what a search found."""
    rows = []
    for record in found.records:
        text = " / ".join(record.parts)
        secrets = ", ".join(sorted({secret.kind for secret in record.secrets}))
        rows.append([escape(record.id), secrets, *([escape(text[:300])] if show_text else [])])
    columns = ["record", "marked secrets", *(["text"] if show_text else [])]
    table(f"{len(rows)} record(s)", columns, rows)
    if found.near:
        near = [[escape(e.id), escape(e.like), e.by, f"{e.similarity:.2f}"] for e in found.near]
        table(
            "Others that nearly repeat them (--include adds them)",
            ["record", "is like", "by", "similarity"],
            near,
        )
    if found.elsewhere:
        rows = [[escape(e.id), e.field, escape(e.kind), escape(e.of)] for e in found.elsewhere]
        table("Kept records that hold one of their secrets", ["record", "in", "kind", "of"], rows)
        show_note(
            "the model goes on learning these values from the records above: delete those too, or "
            "take the values out of them"
        )


def checked(result: LedgerCheck) -> None:
    """Print a check."""
    for problem in result.problems:
        said(f"[bold red]problem:[/bold red] {escape(problem)}")
    for note in result.notes:
        show_note(note)
    verdict = "everything holds" if result.ok else "the ledger or a file it names was changed"
    said(f"{result.requests} request(s), {result.entries} entries of history: {verdict}")
    said(f"head {result.head}")


def ran(result: Ran) -> None:
    """Print what runs did; the notes were shown when they came."""
    for each in result.done:
        how = "was finished before; noted now" if each.adopted else "done"
        said(
            f"Run [bold]{each.run}[/bold] {how}: {each.records} record(s) of "
            f"{len(each.requests)} request(s) taken out"
        )
        if each.price is not None:
            said(f"  {escape(each.price.words)}")
        said(f"  saved to [bold]{escape(each.folder)}[/bold]")
        if each.untrained:
            show_note(
                f"{each.untrained} of the records the adapter never learned, by its lineage: there "
                "was nothing to take out, and a verification cannot show that they were there"
            )
        if each.copies:
            show_note(
                f"{each.copies} more record(s) of the data have the same content: these copies "
                "were not kept either"
            )
        if each.again:
            show_note(f"to be verified again, on this adapter: {', '.join(each.again)}")
    for who in result.busy.values():
        show_note(who)
    if not (result.done or result.busy or result.failed):
        said("No request is located and waiting.")


def broken(failures: Sequence[Failed]) -> None:
    """Say on stderr what went wrong, of each line of adapters."""
    for each in failures:
        problem = each.problem
        if each.trace is not None:
            sys.stderr.write(printable(each.trace))
            names = " ".join(each.requests)
            problem = (
                f"the run of {names} broke off: {problem}; `unlearn request run {names}` goes on "
                "with it as it was planned, and plans it anew when given other settings, such as "
                "-o batch_size=1"
            )
        sys.stderr.write("unlearn: " + printable(" ".join(problem.split())) + "\n")
