"""`unlearn references`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from unlearn.apps.cli import flags

__all__ = ["references"]


def references(
    model: flags.Model,
    data: flags.Data,
    output: flags.Output,
    forget_ids: Annotated[
        list[str] | None,
        typer.Option(
            "--forget",
            "-f",
            metavar="IDS",
            help="Records that no reference sees (--kind full; repeat for several).",
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many references.")] = 8,
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar="full|half",
            help="full: on all records but those to forget. half: each on a random half, every "
            "record in exactly half of them, for any later request.",
        ),
    ] = "full",
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            metavar="ADAPTER",
            help="Train as this adapter was trained, by its lineage; the one to be audited.",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Processes that train at once.")
    ] = 1,
    template: flags.Template = None,
    options: flags.Options = None,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of the first reference; the others count on.")
    ] = 1000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Train those again that were made otherwise.")
    ] = False,
    dtype: flags.Dtype = "auto",
    device: flags.Device = None,
    trust_remote_code: flags.RemoteCode = False,
    load_in_4bit: flags.FourBit = False,
) -> None:
    """Train the references of an audit.

    Each is an adapter of its own, DIR/reference-00 and so on, with its lineage: what `unlearn
    finetune` makes of the same records, settings and seed. Run it again to go on after an
    interruption, or for a larger --count: references that are there and were made alike are kept.

    References that never saw the records (--kind full) go to `unlearn audit --reference DIR`.
    Half-splits (--kind half) serve every request: they go to `unlearn audit --shadow DIR`, and to
    `unlearn request verify --references DIR`, which takes those that never saw its records. The
    others learned them: they are to go when a request is closed, as `unlearn request sweep` says.

    Example: unlearn references --model BASE --data records.jsonl --forget subject:ann
    --like adapter --count 8 --output references
    """
    from unlearn.apps.cli.screen import announce, console, progress_bar, show_note
    from unlearn.config import parse_overrides
    from unlearn.runs.references import train_references
    from unlearn.training.options import LoraOptions

    chosen = parse_overrides(options or [])
    lora = {k: v for k, v in chosen.items() if k in LoraOptions.model_fields}
    records, selector = flags.one_selector(data, forget_ids)
    with progress_bar("training") as progress:
        result = train_references(
            model,
            records,
            output,
            forget=selector,
            count=count,
            kind=kind,
            like=like,
            jobs=jobs,
            template=template,
            lora=lora,
            options={k: v for k, v in chosen.items() if k not in lora},
            seed=seed,
            overwrite=overwrite,
            announce=announce,
            progress=progress,
            **flags.opening(dtype, device, trust_remote_code, load_in_4bit),
        )
    if result.kept == count:
        for note in result.notes:
            show_note(note)
    console.print(f"{count} references are in [bold]{escape(str(output))}[/bold]")
