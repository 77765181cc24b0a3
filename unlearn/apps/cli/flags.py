"""Flags that several verbs share, each defined once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from unlearn.data.records import Records

__all__ = [
    "Adapters",
    "Canaries",
    "Data",
    "Device",
    "Dtype",
    "FourBit",
    "Holdout",
    "Json",
    "LedgerUrl",
    "Model",
    "Options",
    "Output",
    "Overwrite",
    "RemoteCode",
    "ReportTo",
    "RequestName",
    "Retain",
    "Seed",
    "Template",
    "Yes",
    "one_selector",
    "opening",
    "unwrapped",
]

_MODEL = "Model files"
_DATA = "Records"

Model = Annotated[
    str, typer.Option("--model", "-m", help="Base model: a folder or hub name.", metavar="MODEL")
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        "-a",
        metavar="ADAPTER",
        help="LoRA adapter on that base (repeat for several; the last one changes). Without it, "
        "MODEL is a full fine-tune.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        metavar="FILE",
        help="Records: JSONL, JSON, CSV, Parquet, a saved dataset or a hub dataset.",
    ),
]
Holdout = Annotated[
    str | None,
    typer.Option("--holdout", metavar="FILE", help="Records the model never saw."),
]
Retain = Annotated[
    str | None,
    typer.Option("--retain", metavar="FILE", help="Records to keep, where --data lacks the rest."),
]
Canaries = Annotated[
    str | None,
    typer.Option(
        "--canaries",
        metavar="FILE",
        help="What `unlearn finetune --canaries` planted: ADAPTER.canaries.json. The lineage must "
        "commit to this very file.",
    ),
]
Output = Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder for the result.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an output folder that is not empty.")
]
ReportTo = Annotated[
    str | None,
    typer.Option(
        "--report-to",
        metavar="NAMES",
        help="Trackers for the curves of training, by commas: tensorboard, wandb, mlflow, trackio "
        "and what else transformers knows. TensorBoard's files go to OUTPUT.runs (of a comparison "
        "OUTPUT/runs), or where TENSORBOARD_LOGGING_DIR says.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="NAME|TEXT",
        help="How records become text: chat, qa, instruction, space, none, roles, or a text with "
        "{prompt} and {completion}. Default: what the adapter's lineage says, else the "
        "tokenizer's chat template, else qa.",
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "-o", metavar="KEY=VALUE", help="Set a method or training option (repeat for several)."
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="float32, bfloat16, float16, or auto: bfloat16 where a GPU has it.",
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="cpu, cuda, cuda:1, … Default: a GPU if any.", rich_help_panel=_MODEL
    ),
]
RemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python code that comes with the model.",
        rich_help_panel=_MODEL,
    ),
]
FourBit = Annotated[
    bool,
    typer.Option(
        "--load-in-4bit", help="Quantise the base on load (CUDA only).", rich_help_panel=_MODEL
    ),
]
LedgerUrl = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        metavar="URL",
        envvar="UNLEARN_LEDGER",
        help="A file, sqlite:///FILE or postgresql://…. Default: ledger.db in ~/.unlearn.",
    ),
]
RequestName = Annotated[
    str, typer.Argument(metavar="REQUEST", help="Id, the beginning of one, or number.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def one_selector(data: str, several: Sequence[str] | None) -> tuple[str | Records, str | None]:
    """Return the records and one selector of all that several selectors name together."""
    if not several:
        return data, None
    if len(several) == 1:
        return data, several[0]
    from unlearn.data.records import Records
    from unlearn.data.selectors import find

    records = Records.load(data)
    rows = sorted({row for one in several for row in find(records, one)})
    return records, "rows:" + ",".join(map(str, rows))


def opening(
    dtype: str, device: str | None, trust_remote_code: bool, load_in_4bit: bool
) -> dict[str, Any]:
    """Gather the flags that say how a model is opened."""
    return {
        "dtype": dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
        "load_in_4bit": load_in_4bit,
    }


def unwrapped(function: Callable[..., Any]) -> str:
    """Return a docstring with the lines of each paragraph joined, as a terminal wants it."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in paragraphs)
