"""`unlearn scan`."""

from __future__ import annotations

from dataclasses import replace

from rich.markup import escape

from unlearn_eval.backdoor.options import ScanOptions

__all__ = ["scan"]

_SHOWN = 10


def scan(options: ScanOptions) -> None:
    """Rank the records that a model was trained on by how much they look like a backdoor's.

    For a backdoor of which neither trigger nor records are known. A record is suspicious if its
    answer stays whatever words of its prompt are left out, and if what training changed in the
    answer's hidden state lies apart. Writes
    ranked.jsonl (with words of the prompts) and suspects.jsonl, for `unlearn forget --forget
    @suspects.jsonl`: look at them first, as clean records are among them.

    Example: unlearn scan --model BASE --adapter adapter --data records.jsonl --output scanned
    """
    from unlearn.apps.cli.screen import console, progress_bar, table
    from unlearn_eval.backdoor.scan import run_scan

    with progress_bar("scanning", "prompts") as progress:
        result = run_scan(replace(options, progress=progress))
    rows = [
        [escape(each.id), escape(each.span), f"{each.held:.2f}", f"{each.spectral:.2f}"]
        for each in result.suspects[:_SHOWN]
    ]
    heads = ["record", "lost most without", "learned, without it", "spectral"]
    table("Most suspicious", heads, rows)
    for each in result.found:
        console.print(
            f"by {each.by}: {each.precision:.2f} [{each.low:.2f}, {each.high:.2f}] of the first "
            f"{each.planted} were planted; {each.recall:.2f} of the planted are among the "
            f"{result.named} named"
        )
    where = escape(str(options.output))
    console.print(f"Saved to [bold]{where}[/bold] (ranked.jsonl, suspects.jsonl, scan.json)")
