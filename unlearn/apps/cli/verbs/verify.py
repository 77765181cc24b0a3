"""`unlearn verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from unlearn.printable import printable
from unlearn_eval.verdict.options import VerifyFileOptions

if TYPE_CHECKING:
    from unlearn_eval.verdict.decision import Verdict

__all__ = ["verify"]

_CODES = {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}
_COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}
_TIERS = {
    "A": "compared with references retrained without the records",
    "B": "compared with canaries that a coin left out",
    "C": "compared with records that were never trained on",
    "E": "trained again without the records",
}


def verify(options: VerifyFileOptions) -> None:
    """Decide whether records are gone: PASS, FAIL or INCONCLUSIVE.

    PASS takes evidence that the model cannot be told from models that never saw the records; where
    there is too little of it, the verdict is INCONCLUSIVE and says what would decide. No model is
    run. With --replay, training again that gave the same weights decides, with no statistics.

    Exit codes: 0 PASS; 3 FAIL; 4 INCONCLUSIVE; 2 the input is wrong.

    Example: unlearn verify --audit audit --policy standard --adapter cleaned
    """
    from unlearn.errors import OptionError, OutputError
    from unlearn.files import staged_file
    from unlearn_eval.verdict.verify import decided

    folder = options.output or options.audit or options.replay
    if folder is None:
        raise OptionError("verify: name an audit with --audit, or a replay with --replay")
    folder = folder.parent if folder.is_file() else folder
    file, signed = folder / "verdict.json", folder / "certificate.json"
    for known in [file, *([signed] if options.adapter else [])]:
        if known.exists() and not options.overwrite:
            raise OutputError(f"{known} exists; pass --overwrite to replace it, or --output")
    verdict = decided(options)
    if options.adapter is not None:
        from unlearn_eval.certify import Models, certify, refuse_hopeless

        refuse_hopeless(verdict.as_dict())
    text = json.dumps(verdict.as_dict(), indent=1, allow_nan=False, ensure_ascii=False)
    with staged_file(file) as stage:
        stage.write_text(text + "\n", encoding="utf-8")
    if options.audit is not None and options.replay is not None:
        _beside(options.replay, options.audit)
    if options.adapter is not None:
        models = Models(options.adapter, options.before)
        certify(options.audit, signed, models, verdict=verdict.as_dict(), replay=options.replay)
    if options.json:
        typer.echo(printable(text))
    else:
        _show(verdict, options.audit, file, signed if options.adapter else None)
    raise typer.Exit(_CODES[verdict.outcome])


def _beside(replay: Path, audit: Path) -> None:
    """Keep a replay with the audit that was decided on with it: a certificate is of both."""
    from unlearn.files import staged_file
    from unlearn_eval.replay.result import FILE

    file = replay / FILE if replay.is_dir() else replay
    if audit.is_dir() and not (audit / FILE).exists():
        with staged_file(audit / FILE) as stage:
            stage.write_bytes(file.read_bytes())


def _show(verdict: Verdict, audit: Path | None, file: Path, signed: Path | None) -> None:
    """Print a verdict for people, on which try it is, and where it is."""
    from unlearn.apps.cli.screen import console
    from unlearn_eval.certificate.looks import bound_of_tries, tries
    from unlearn_eval.certificate.policies import origin
    from unlearn_eval.verdict.load import read_audit

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
    replay = verdict.replay or {}
    if replay:
        console.print("[bold]Not looked at by the replay[/bold]")
    for line in replay.get("not_looked_at", ()):
        console.print(f"  · {escape(line)}")
    console.print(
        f"Policy {escape(verdict.policy['name'])} ({verdict.policy['sha256'][:12]}), chosen "
        f"{verdict.policy['chosen']} the audit; {escape(origin(verdict.policy))}. "
        f"{escape(verdict.power)}."
    )
    looks = None if audit is None else read_audit(audit).get("looks")
    if looks is not None:
        bound = bound_of_tries(looks, verdict.policy["content"].get("alpha"))
        console.print(escape(f"{tries(looks)}. {bound}".rstrip()))
    console.print(f"Saved to [bold]{escape(str(file))}[/bold]", soft_wrap=True)
    if signed is not None:
        page = escape(str(signed.with_suffix(".html")))
        console.print(f"Signed   [bold]{escape(str(signed))}[/bold]", soft_wrap=True)
        console.print(f"Look at  [bold]{page}[/bold] in a browser", soft_wrap=True)


def _mark(passed: bool | None) -> str:
    """Write how a gate came out."""
    return {True: " held", False: " did not hold", None: ""}[passed]
