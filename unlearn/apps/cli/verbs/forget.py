"""`unlearn forget`."""

from __future__ import annotations

from dataclasses import replace

from unlearn.runs.options import ForgetOptions

__all__ = ["forget"]


def forget(options: ForgetOptions) -> None:
    """Take records out of an adapter, and save a new one.

    Retained are all other records of --data, or those of --retain. The default trains a new adapter
    on these alone, with as much of the original training as its quality takes (retrain with
    budget=auto): exact, and at a part of the price where that had slack. It must know how the
    adapter was trained. Approximate methods start from the old adapter; give them unseen records
    with --holdout: pilot learns from them how sure the result should be of what it never saw, most
    others stop when the forget records look like them, or when the retained ones suffer
    (-o stop=none runs to the end). The old adapter is left as it is.

    Example: unlearn forget --model BASE --adapter adapter --data records.jsonl
    --forget subject:ann --output cleaned
    """
    from unlearn.apps.cli.screen import announce, progress_bar, show_result
    from unlearn.runs.forgetting import plan_forget, run_forget

    if options.plan:
        announce(plan_forget(options))
        return
    with progress_bar("unlearning") as progress:
        show_result(run_forget(replace(options, announce=announce, progress=progress)))
