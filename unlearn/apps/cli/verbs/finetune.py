"""`unlearn finetune`."""

from __future__ import annotations

from dataclasses import replace

from unlearn.runs.options import FinetuneOptions

__all__ = ["finetune"]


def finetune(options: FinetuneOptions) -> None:
    """Train a LoRA adapter on records, and keep its lineage.

    The adapter is a plain PEFT folder. Beside it lies lineage.json: what it was made from, with the
    records as keyed digests only. `unlearn methods finetune` lists the options that go with -o,
    those of the adapter (r, lora_alpha, target_modules, …) among them.

    Example: unlearn finetune --model BASE --data records.jsonl --output adapter
    -o epochs=3 -o r=16
    """
    from unlearn.apps.cli.screen import announce, progress_bar, show_result
    from unlearn.runs.finetuning import run_finetune

    with progress_bar("training") as progress:
        show_result(run_finetune(replace(options, announce=announce, progress=progress)))
