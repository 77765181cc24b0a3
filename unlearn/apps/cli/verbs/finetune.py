"""`unlearn finetune`."""

from __future__ import annotations

from typing import Annotated

import typer

from unlearn.apps.cli import flags

__all__ = ["finetune"]


def finetune(
    model: flags.Model,
    data: flags.Data,
    output: flags.Output,
    exclude: Annotated[
        str | None, typer.Option("--exclude", metavar="IDS", help="Records to leave out.")
    ] = None,
    canaries: Annotated[
        int,
        typer.Option(
            "--canaries",
            metavar="N",
            min=0,
            help="Plant N pairs of made-up records in the form of the data. A coin decides which "
            "of a pair is trained on, so that `audit --canaries` can tell what is left of them, "
            "without references. They go to OUTPUT.canaries.json, for your eyes only, and "
            "lineage.json holds its SHA-256. A FAIL takes 7 to 10 pairs, a PASS by `quick` 64, by "
            "`standard` 143, by `strict` 571.",
        ),
    ] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Train the whole model instead of an adapter.")
    ] = False,
    template: flags.Template = None,
    options: flags.Options = None,
    seed: flags.Seed = 0,
    overwrite: flags.Overwrite = False,
    report_to: flags.ReportTo = None,
    dtype: flags.Dtype = "auto",
    device: flags.Device = None,
    trust_remote_code: flags.RemoteCode = False,
    load_in_4bit: flags.FourBit = False,
) -> None:
    """Train a LoRA adapter on records, and keep its lineage.

    The adapter is a plain PEFT folder. Beside it lies lineage.json: what it was made from, with the
    records as keyed digests only. LoRA options go with -o as well: r, lora_alpha, lora_dropout,
    target_modules, use_rslora, use_dora.

    Example: unlearn finetune --model BASE --data records.jsonl --output adapter
    -o epochs=3 -o r=16
    """
    from unlearn.apps.cli.screen import announce, progress_bar, show_result
    from unlearn.config import parse_overrides
    from unlearn.runs import finetuning
    from unlearn.training.options import LoraOptions
    from unlearn.training.trackers import check_trackers, tracked

    chosen = parse_overrides(options or [])
    lora = {k: v for k, v in chosen.items() if k in LoraOptions.model_fields}
    trackers = tracked(check_trackers(report_to), output.name, f"{output}.runs")
    with trackers, progress_bar("training") as progress:
        result = finetuning.finetune(
            model,
            data,
            output,
            exclude=exclude,
            canaries=canaries,
            full=full,
            template=template,
            lora=lora,
            options={k: v for k, v in chosen.items() if k not in lora},
            seed=seed,
            overwrite=overwrite,
            announce=announce,
            progress=progress,
            **flags.opening(dtype, device, trust_remote_code, load_in_4bit),
        )
    show_result(result)
