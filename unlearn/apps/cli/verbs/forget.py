"""`unlearn forget`."""

from __future__ import annotations

from dataclasses import replace

from unlearn.runs.options import SHARDS as METHOD
from unlearn.runs.options import ForgetShardsOptions
from unlearn.shards.files import is_sharded

__all__ = ["forget"]


def forget(options: ForgetShardsOptions) -> None:
    """Take records out of an adapter, and save a new one.

    Retained are all other records of --data, or those of --retain. The default trains a new adapter
    on these alone, with as much of the original training as its quality takes (retrain with
    budget=auto): exact, and at a part of the price where that had slack. It must know how the
    adapter was trained. Approximate methods start from the old adapter; give them unseen records
    with --holdout: pilot learns from them how sure the result should be of what it never saw, most
    others stop when the forget records look like them, or when the retained ones suffer
    (-o stop=none runs to the end). The old adapter is left as it is.

    Of a folder of shards (finetune --shards) only those that hold the records are trained again;
    --off-now drops them first, at once, and the same command without it trains them.

    Of a federated adapter (unlearn federate) --forget client:NAME names a client. The rounds are
    replayed without it from before it first took part (retrain), or approximately (--method
    fed_eraser, local_npo); other methods work on its records alone.

    Example: unlearn forget --model BASE --adapter adapter --data records.jsonl
    --forget subject:ann --output cleaned
    """
    from unlearn.apps.cli.screen import announce, progress_bar, show_plan, show_result
    from unlearn.errors import OptionError
    from unlearn.runs.forgetting import run_forget
    from unlearn.runs.plan import forget_plan

    if options.method == METHOD or is_sharded(options.adapter):
        _shards(options)
        return
    if _federated(options):
        return
    if options.off_now:
        raise OptionError("--off-now is for a folder of shards, and --adapter names none")
    if options.plan:
        show_plan(forget_plan(options))
        return
    with progress_bar("unlearning") as progress:
        show_result(run_forget(replace(options, announce=announce, progress=progress)))


def _federated(options: ForgetShardsOptions) -> bool:
    """Take a client out of a federated adapter, if it is one, by its rounds."""
    from unlearn.federated.forgetting import run_forget_federated, takes

    if options.off_now or not takes(options):
        return False
    from unlearn.apps.cli.screen import announce, progress_bar, show_result

    with progress_bar("unlearning", "rounds") as progress:
        show_result(run_forget_federated(replace(options, announce=announce, progress=progress)))
    return True


def _shards(options: ForgetShardsOptions) -> None:
    """Take records out of shards, and say what it took."""
    from rich.markup import escape

    from unlearn.apps.cli.screen import announce, console, progress_bar, show_note
    from unlearn.runs.sharded_forgetting import plan_forget_shards, run_forget_shards

    if options.plan:
        for line in plan_forget_shards(options).lines():
            console.print(f"  {escape(line)}")
        return
    with progress_bar("unlearning") as progress:
        made = run_forget_shards(replace(options, announce=announce, progress=progress))
    for line in made.deletion.lines():
        console.print(f"  {escape(line)}")
    for note in made.notes:
        show_note(note)
    console.print(f"Saved to [bold]{escape(str(made.folder))}[/bold]")
