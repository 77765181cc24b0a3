"""`unlearn replay`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from unlearn.printable import printable
from unlearn.shards.files import is_sharded
from unlearn_eval.replay.options import ReplayFileOptions

if TYPE_CHECKING:
    from unlearn_eval.replay.result import Replay

__all__ = ["replay"]

_CODES = {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}
_COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}
_MARKS = {True: "ok", False: "no", None: "open"}


def replay(options: ReplayFileOptions) -> None:
    """Prove that an adapter never saw the forgotten records: train it again, and compare.

    From the lineage alone, in a fresh process with the same number of threads. PASS takes the same
    base, the kept records one by one, none of the forgotten ones among them, and the same weights,
    bit by bit; no statistics, and one record is proven like a thousand. It takes the lineage's key
    (UNLEARN_KEY): without it nobody can tell which records the lineage names. An approximate method
    cannot be proven so. Of a folder of shards, those are trained again that a deletion touched.

    Exit codes: 0 PASS; 3 FAIL; 4 INCONCLUSIVE; 2 the input is wrong.

    Example: unlearn replay cleaned --data kept.jsonl --model base
    """
    from unlearn.errors import OutputError
    from unlearn.files import staged_file
    from unlearn_eval.replay.result import FILE
    from unlearn_eval.replay.run import run_replay
    from unlearn_eval.replay.sharded import run_replay_shards

    given = Path(options.adapter)
    folder = options.output or given.with_name(f"{given.name}.replay")
    file = folder / FILE
    if file.exists() and not options.overwrite:
        raise OutputError(f"{file} exists; pass --overwrite to replace it, or --output")
    work = run_replay_shards if is_sharded(given) else run_replay
    result = work(options)
    text = json.dumps(result.as_dict(), indent=1, allow_nan=False, ensure_ascii=False)
    with staged_file(file) as stage:
        stage.write_text(text + "\n", encoding="utf-8")
    if options.json:
        typer.echo(printable(text))
    else:
        _show(result, file)
    raise typer.Exit(_CODES[result.outcome])


def _show(result: Replay, file: Path) -> None:
    """Print what was found, what is open, and where it is."""
    from unlearn.apps.cli.screen import console
    from unlearn_eval.report.formats import duration

    colour = _COLOURS[result.outcome]
    console.print(
        f"[bold {colour}]{result.outcome}[/bold {colour}]  tier E: {escape(result.words)}"
    )
    for finding in result.findings:
        words = escape(f"{finding.what}: {finding.words}")
        console.print(f"  · {_MARKS[finding.passed]:<4} {words}")
    console.print("[bold]Not looked at[/bold]")
    for sentence in result.not_looked_at:
        console.print(f"  · {escape(sentence)}")
    if result.cost:
        console.print(
            f"Training took {duration(result.cost['here'])} here and "
            f"{duration(result.cost['there'])} there"
        )
    console.print(f"Saved to [bold]{escape(str(file))}[/bold]", soft_wrap=True)
