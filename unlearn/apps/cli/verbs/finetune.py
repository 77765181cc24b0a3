"""`unlearn finetune`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from unlearn.runs.options import FinetuneShardsOptions

if TYPE_CHECKING:
    from unlearn.shards.costs import Forecast

__all__ = ["finetune"]


def finetune(options: FinetuneShardsOptions) -> None:
    """Train a LoRA adapter on records, and keep its lineage.

    The adapter is a plain PEFT folder. Beside it lies lineage.json: what it was made from, with the
    records as keyed digests only. `unlearn methods finetune` lists the options that go with -o,
    those of the adapter (r, lora_alpha, target_modules, …) among them.

    With --shards K it trains K adapters, each on the people that your key deals to it: `unlearn
    forget` then trains one of them again, and the others stay as they are, bit by bit.

    --plan trains nothing and says what it would take; with --shards, what a deletion will cost.

    Example: unlearn finetune --model BASE --data records.jsonl --output adapter
    -o epochs=3 -o r=16
    """
    from unlearn.apps.cli.screen import announce, progress_bar, show_plan, show_result
    from unlearn.errors import OptionError
    from unlearn.runs.finetuning import run_finetune
    from unlearn.runs.plan import finetune_plan
    from unlearn.shards.assignment import BY_SUBJECT

    if options.plan and options.shards is None:
        show_plan(finetune_plan(options))
    elif options.plan:
        _plan(options)
    elif options.shards is not None:
        _shards(options)
    elif options.jobs > 1 or options.shard_by != BY_SUBJECT or options.engine != "local":
        raise OptionError("--jobs, --engine and --shard-by are for shards: give --shards, too")
    else:
        with progress_bar("training") as progress:
            show_result(run_finetune(replace(options, announce=announce, progress=progress)))


def _shards(options: FinetuneShardsOptions) -> None:
    """Train shards, and say what lies where."""
    from rich.markup import escape

    from unlearn.apps.cli.screen import announce, console, progress_bar, show_note, table
    from unlearn.runs.sharded_finetuning import run_finetune_shards
    from unlearn.shards.files import shard_name

    with progress_bar("training shards") as progress:
        made = run_finetune_shards(replace(options, announce=announce, progress=progress))
    rows = [
        [shard_name(i), str(shard.units), str(shard.records), f"{shard.whole.tokens:,}"]
        for i, shard in enumerate(made.shards.shards)
    ]
    table("", ["shard", "units", "records", "tokens of training"], rows)
    for note in made.notes:
        show_note(note)
    console.print(f"Saved to [bold]{escape(str(made.folder))}[/bold]")


def _plan(options: FinetuneShardsOptions) -> None:
    """Print what a deletion would cost."""
    from unlearn.apps.cli.screen import console, table
    from unlearn.runs.sharded_finetuning import plan_shards

    found = plan_shards(options)
    table(
        "What deleting one unit costs, relative to training everything again without it",
        ["shards", "expected", "at worst", "largest shard", "records of the smallest"],
        [_row(each) for each in found],
    )
    if not all(each.possible for each in found):
        console.print(
            "  In brackets: a shard would have fewer records than a batch; such numbers are refused"
        )


def _row(forecast: Forecast) -> list[str]:
    name = str(forecast.shards) if forecast.possible else f"({forecast.shards})"
    shares = (forecast.expected, forecast.worst, forecast.largest)
    return [name, *(f"{share:.1%}" for share in shares), str(forecast.smallest)]
