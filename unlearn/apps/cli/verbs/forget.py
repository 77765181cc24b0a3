"""`unlearn forget`."""

from __future__ import annotations

from dataclasses import replace

from unlearn.runs.options import ForgetOptions

__all__ = ["forget"]


def forget(options: ForgetOptions) -> None:
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
    from unlearn.runs.forgetting import plan_forget, run_forget

    if options.plan:
        announce(plan_forget(options))
        return
    with progress_bar("unlearning") as progress:
        show_result(run_forget(replace(options, announce=announce, progress=progress)))
