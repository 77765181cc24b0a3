"""`unlearn forget`."""

from __future__ import annotations

from typing import Annotated

import typer

from unlearn.apps.cli import flags

__all__ = ["forget"]


def forget(
    model: flags.Model,
    data: flags.Data,
    forget_ids: Annotated[
        list[str],
        typer.Option(
            "--forget",
            "-f",
            metavar="IDS",
            help="Records to take out: id1,id2 | @file | subject:NAME | rows:180-199 (from 0, both "
            "ends). Repeat for several.",
        ),
    ],
    output: flags.Output,
    adapter: flags.Adapters = None,
    method: Annotated[
        str | None,
        typer.Option("--method", metavar="NAME", help="See `unlearn methods`. Default: pilot."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="NAME", help="Method and options from a recipe."),
    ] = None,
    holdout: flags.Holdout = None,
    retain: flags.Retain = None,
    canaries: flags.Canaries = None,
    with_canaries: Annotated[
        int,
        typer.Option(
            "--with-canaries",
            metavar="K",
            min=0,
            help="Take K of the canaries out beside the records: what is left of these K, `audit "
            "--canaries` can measure. The others are kept, for later requests.",
        ),
    ] = 0,
    template: flags.Template = None,
    options: flags.Options = None,
    suppress: Annotated[
        bool,
        typer.Option("--suppress", help="Never train on these records again on this machine."),
    ] = False,
    seed: flags.Seed = 0,
    overwrite: flags.Overwrite = False,
    report_to: flags.ReportTo = None,
    dtype: flags.Dtype = "auto",
    device: flags.Device = None,
    trust_remote_code: flags.RemoteCode = False,
    load_in_4bit: flags.FourBit = False,
) -> None:
    """Take records out of an adapter, and save a new one.

    Retained are all other records of --data, or those of --retain. Give unseen records with
    --holdout: pilot, the default, learns from them how sure the result should be of what it never
    saw; most other methods stop when the forget records look like them, or when the retained ones
    suffer (-o stop=none runs to the end). The old adapter is left as it is. Where proof is needed,
    --method retrain is the sure way.

    Example: unlearn forget --model BASE --adapter adapter --data records.jsonl
    --forget subject:ann --output cleaned
    """
    from unlearn.apps.cli.screen import announce, progress_bar, show_result
    from unlearn.config import ForgetRecipe, load_recipe, parse_overrides
    from unlearn.runs import forgetting
    from unlearn.training.trackers import check_trackers, tracked

    chosen = parse_overrides(options or [])
    if recipe:
        loaded = load_recipe(recipe, ForgetRecipe)
        if method in {None, loaded.method}:
            chosen = dict(loaded.options) | chosen
        method = method or loaded.method
    records, selector = flags.one_selector(data, forget_ids)
    assert selector is not None  # typer asks for one at least
    trackers = tracked(check_trackers(report_to), output.name, f"{output}.runs")
    with trackers, progress_bar("unlearning") as progress:
        result = forgetting.forget(
            model,
            records,
            selector,
            output,
            adapter=adapter,
            method=method or forgetting.DEFAULT_METHOD,
            holdout=holdout,
            retain=retain,
            canaries=canaries,
            with_canaries=with_canaries,
            template=template,
            options=chosen,
            seed=seed,
            overwrite=overwrite,
            suppress=suppress,
            announce=announce,
            progress=progress,
            **flags.opening(dtype, device, trust_remote_code, load_in_4bit),
        )
    show_result(result)
