"""`unlearn benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from unlearn.apps.cli import flags

__all__ = ["benchmark"]


def benchmark(
    name: Annotated[str, typer.Argument(metavar="NAME", help="tofu, muse or wmdp.")],
    model: flags.Model,
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="JSON file for the numbers.")
    ],
    adapter: flags.Adapters = None,
    retrained: Annotated[
        str | None,
        typer.Option(
            "--retrained",
            metavar="ADAPTER",
            help="An adapter on the same base (or, without --adapter, a model) that never saw the "
            "records to forget: for forget_quality of tofu and privacy_leakage of muse.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            metavar="DATASET|DIR",
            help="A hub dataset, or a folder of its tables as JSON lines, JSON, CSV or Parquet. "
            "Default: the published one.",
        ),
    ] = None,
    subset: Annotated[
        str | None,
        typer.Option(
            "--subset",
            metavar="NAME",
            help="tofu: forget10 (default), forget05, forget01; muse: news (default), books; wmdp: "
            "wmdp-bio (default), wmdp-chem, wmdp-cyber.",
        ),
    ] = None,
    template: flags.Template = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=1,
            help="The first so many rows of each table only: a quick look, not the published "
            "figure.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file, if there is one.")
    ] = False,
    dtype: flags.Dtype = "auto",
    device: flags.Device = None,
    trust_remote_code: flags.RemoteCode = False,
    load_in_4bit: flags.FourBit = False,
) -> None:
    """Run a published protocol on a model: TOFU, MUSE or WMDP.

    TOFU (2401.06121): model utility, and for each of its four splits probability, ROUGE-L recall
    and truth ratio; with --retrained, forget quality (a p-value). A folder of your own needs the
    tables forget10_perturbed, retain_perturbed, real_authors_perturbed and world_facts_perturbed.

    MUSE (2407.06460): verbatim and knowledge memorisation, utility preservation, AUC of Min-40 %;
    with --retrained, privacy leakage. Tables: verbmem/forget, knowmem/forget_qa,
    knowmem/forget_qa_icl, knowmem/retain_qa, knowmem/retain_qa_icl, privleak/forget,
    privleak/holdout.

    WMDP (2403.03218): accuracy of four-way choices; ¼ is chance. Table: wmdp-bio, wmdp-chem or
    wmdp-cyber.

    These protocols make a model comparable with published ones. Whether your own records are gone
    is a question for `unlearn audit`.

    Example: unlearn benchmark tofu --model BASE --adapter cleaned --retrained retrained
    --output tofu.json
    """
    from unlearn.apps.cli.screen import console, progress_bar, show_note, table
    from unlearn.errors import OutputError
    from unlearn.files import staged_file
    from unlearn_eval.benchmarks.run import run_benchmark

    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists: choose another file, or pass --overwrite")
    if output.is_dir():
        raise OutputError(f"{output} is a folder: name a file for the numbers")
    with progress_bar(name) as progress:
        result = run_benchmark(
            name,
            model,
            adapter=adapter,
            retrained=retrained,
            data=data,
            subset=subset,
            template=template,
            limit=limit,
            progress=lambda done, total: progress(done, max(done, total)),
            **flags.opening(dtype, device, trust_remote_code, load_in_4bit),
        )
    with staged_file(output) as stage:
        stage.write_text(result.as_json() + "\n", encoding="utf-8")
    rows, notes = [], dict[str, None]()
    for metric, found in result.metrics.items():
        limits = "" if found.low != found.low else f"{found.low:.4f} to {found.high:.4f}"
        rows.append([metric, f"{found.value:.4g}", limits, f"{found.n:,}"])
        if found.note:
            notes[f"{metric}: {found.note}"] = None
    table(f"{name}, {result.subset}", ["", "value", "95 % interval", "n"], rows)
    for note in notes:
        show_note(note)
    if limit is not None:
        show_note(f"the first {limit} rows of each table only: not the published figure")
    console.print(f"Saved to [bold]{escape(str(output))}[/bold]")
