"""`unlearn benchmark`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rich.markup import escape

from unlearn_eval.benchmarks.options import BenchmarkFileOptions

if TYPE_CHECKING:
    from unlearn_eval.benchmarks.run import BenchmarkResult

__all__ = ["benchmark"]


def benchmark(options: BenchmarkFileOptions) -> None:
    """Run a published protocol on a model: TOFU, MUSE or WMDP.

    TOFU (2401.06121): model utility, and for each of its four splits probability, ROUGE-L recall
    and truth ratio; with --retrained, forget quality (a p-value). A folder of your own needs the
    tables forget10_perturbed, retain_perturbed, real_authors_perturbed and world_facts_perturbed.

    MUSE (2407.06460): verbatim and knowledge memorisation, utility preservation (by stems of words,
    as published, and by the words as written), AUC of Min-40 %; with --retrained, privacy leakage.
    Tables: verbmem/forget, knowmem/forget_qa, knowmem/forget_qa_icl, knowmem/retain_qa,
    knowmem/retain_qa_icl, privleak/forget, privleak/holdout.

    WMDP (2403.03218): accuracy of four-way choices; ¼ is chance. Table: wmdp-bio, wmdp-chem or
    wmdp-cyber.

    These protocols make a model comparable with published ones. Whether your own records are gone
    is a question for `unlearn audit`.

    Example: unlearn benchmark tofu --model BASE --adapter cleaned --retrained retrained
    --output tofu.json
    """
    from unlearn.apps.cli.screen import console, progress_bar, show_note
    from unlearn.errors import OutputError
    from unlearn.files import staged_file
    from unlearn_eval.benchmarks.run import benchmarked

    output = options.output
    if output.exists() and not options.overwrite:
        raise OutputError(f"{output} exists: choose another file, or pass --overwrite")
    if output.is_dir():
        raise OutputError(f"{output} is a folder: name a file for the numbers")
    with progress_bar(options.name, "rows") as progress:
        result = benchmarked(replace(options, progress=progress))
    with staged_file(output) as stage:
        stage.write_text(result.as_json() + "\n", encoding="utf-8")
    _show(options.name, result)
    if options.limit is not None:
        show_note(f"the first {options.limit} rows of each table only: not the published figure")
    console.print(f"Saved to [bold]{escape(str(output))}[/bold]")


def _show(name: str, result: BenchmarkResult) -> None:
    """Print the metrics with their intervals, and what is to know of them."""
    from unlearn.apps.cli.screen import show_note, table

    rows = []
    for metric, row in result.metrics.items():
        limits = "" if row.low != row.low else f"{row.low:.4f} to {row.high:.4f}"
        rows.append([metric, f"{row.value:.4g}", limits, f"{row.n:,}"])
    table(f"{name}, {result.subset}", ["", "value", "95 % interval", "n"], rows)
    notes = {f"{metric}: {row.note}": None for metric, row in result.metrics.items() if row.note}
    for note in notes:
        show_note(note)
