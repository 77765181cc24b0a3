"""`unlearn verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from unlearn_eval.verdict.decision import Verdict

__all__ = ["verify"]

_CODES = {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}
_COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}
_TIERS = {
    "A": "compared with references retrained without the records",
    "B": "compared with canaries that a coin left out",
    "C": "compared with records that were never trained on",
}


def verify(
    audit: Annotated[
        Path, typer.Option("--audit", metavar="DIR", help="What `unlearn audit` wrote.")
    ],
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="quick, standard, strict or a YAML file. Default: the one that the audit was run "
            "with, else standard.",
        ),
    ] = None,
    twins: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='Which holdout records are the twins of each forgotten one: JSON {"twins": {"id": '
            '["id", …]}}. Pairs that a coin chose are measured by `unlearn audit --canaries`.',
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="DIR",
            help="A reference of the audit, or a folder of them, to look at again: is it the one "
            "that was measured, and does its lineage name none of the records?",
        ),
    ] = None,
    canaries: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Check that an audit made with --canaries is of this file, to the byte. Such an "
            "audit holds the pairs itself, and is decided by the coin (tier B).",
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The adapter (or model) that was audited: writes a signed certificate.json about "
            "it, too, and its page certificate.html. It must have a lineage.json.",
        ),
    ] = None,
    before: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The adapter before, for the certificate."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Where results go. Default: --audit."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a verdict that is there.")
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print verdict.json instead of sentences.")
    ] = False,
) -> None:
    """Decide whether records are gone: PASS, FAIL or INCONCLUSIVE.

    PASS takes evidence that the model cannot be told from models that never saw the records; where
    there is too little of it, the verdict is INCONCLUSIVE and says what would decide. No model is
    run.

    Exit codes: 0 PASS; 3 FAIL; 4 INCONCLUSIVE; 2 the input is wrong.

    Example: unlearn verify --audit audit --policy standard --adapter cleaned
    """
    import json

    from rich.markup import escape

    from unlearn.apps.cli.screen import console
    from unlearn.errors import OutputError
    from unlearn.files import staged_file
    from unlearn_eval.verdict.verify import verify as decide

    folder = output or audit
    file, signed = folder / "verdict.json", folder / "certificate.json"
    for known in [file, *([signed] if adapter else [])]:
        if known.exists() and not overwrite:
            raise OutputError(f"{known} exists; pass --overwrite to replace it, or --output")
    verdict = decide(audit, policy, twins=twins, references=reference or (), canaries=canaries)
    text = json.dumps(verdict.as_dict(), indent=1, allow_nan=False, ensure_ascii=False)
    with staged_file(file) as stage:
        stage.write_text(text + "\n", encoding="utf-8")
    if adapter is not None:
        from unlearn_eval.certify import Models, certify

        certify(audit, signed, Models(adapter, before), verdict=verdict.as_dict())
    if json_:
        typer.echo(text)
    else:
        _show(verdict)
        console.print(f"Saved to [bold]{escape(str(file))}[/bold]", soft_wrap=True)
        if adapter is not None:
            page = escape(str(signed.with_suffix(".html")))
            console.print(f"Signed   [bold]{escape(str(signed))}[/bold]", soft_wrap=True)
            console.print(f"Look at  [bold]{page}[/bold] in a browser", soft_wrap=True)
    raise typer.Exit(_CODES[verdict.outcome])


def _show(verdict: Verdict) -> None:
    """Print a verdict for people."""
    from rich.markup import escape

    from unlearn.apps.cli.screen import console
    from unlearn_eval.certificate.policies import origin

    colour = _COLOURS[verdict.outcome]
    console.print(
        f"[bold {colour}]{verdict.outcome}[/bold {colour}]  tier {verdict.tier}: "
        f"{_TIERS[verdict.tier]}"
    )
    for title, lines in (
        ("Because", verdict.reasons),
        ("What would decide", verdict.would_decide),
        ("Controls", [f"{gate.gate}{_mark(gate.passed)}: {gate.words}" for gate in verdict.gates]),
    ):
        if lines:
            console.print(f"[bold]{title}[/bold]")
        for line in lines:
            console.print(f"  · {escape(line)}")
    console.print(
        f"Policy {escape(verdict.policy['name'])} ({verdict.policy['sha256'][:12]}), chosen "
        f"{verdict.policy['chosen']} the audit; {escape(origin(verdict.policy))}. "
        f"{escape(verdict.power)}."
    )


def _mark(passed: bool | None) -> str:
    """Write how a gate came out."""
    return {True: " held", False: " did not hold", None: ""}[passed]
