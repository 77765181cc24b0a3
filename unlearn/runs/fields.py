"""Options that several verbs share, each described once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from unlearn.config import Flag, Overrides, parse_overrides

if TYPE_CHECKING:
    from collections.abc import Callable

    from unlearn.data.records import Records
    from unlearn.methods.job import TrainingPlan

    Source = str | Path | Records
    Announce = Callable[[TrainingPlan], None]
    Progress = Callable[[int, int], None]
    Watcher = Progress | bool | None
else:  # these are heavy to import, and the command line needs the names of files only
    Source = Announce = Progress = Watcher = Any

__all__ = [
    "Adapters",
    "Address",
    "Announce",
    "Canaries",
    "Data",
    "Engine",
    "Folder",
    "Holdout",
    "Json",
    "Model",
    "Options",
    "Overwrite",
    "Place",
    "Private",
    "Progress",
    "Replace",
    "ReportTo",
    "Retain",
    "Seed",
    "Selectors",
    "Source",
    "Template",
    "Watcher",
]

Place = str | Path
"""A file or folder, or a name on the hub."""

Selectors = str | Sequence[str]
"""Which records: one selector in IDS syntax, or several."""

Model = Annotated[
    Place,
    Field(description="Base model: a folder or hub name; `demo` is the one that comes along."),
    Flag(("--model", "-m"), metavar="MODEL"),
]
Adapters = Annotated[
    Place | Sequence[Place] | None,
    Field(
        description="LoRA adapter on that base (repeat for several; the last one changes). Without "
        "it, MODEL is a full fine-tune."
    ),
    Flag(("--adapter", "-a"), metavar="ADAPTER", kind=list[str]),
]
Data = Annotated[
    Source,
    Field(description="Records: JSONL, JSON, CSV, Parquet, a saved dataset or a hub dataset."),
    Flag(("--data", "-d"), metavar="FILE"),
]
Holdout = Annotated[
    Source | None, Field(description="Records the model never saw."), Flag(metavar="FILE")
]
Retain = Annotated[
    Source | None,
    Field(description="Records to keep, where --data lacks the rest."),
    Flag(metavar="FILE"),
]
Canaries = Annotated[
    Place | None,
    Field(
        description="What `unlearn finetune --canaries` planted: ADAPTER.canaries.json. The "
        "lineage must commit to this very file."
    ),
    Flag(metavar="FILE"),
]
Folder = Annotated[Path, Field(description="Folder for the result."), Flag(metavar="DIR")]
Overwrite = Annotated[bool, Field(description="Replace an output folder that is not empty.")]
ReportTo = Annotated[
    str | None,
    Field(
        description="Trackers for the curves of training, by commas: tensorboard, wandb, mlflow, "
        "trackio and what else transformers knows. TensorBoard's files go to OUTPUT.runs (of a "
        "comparison OUTPUT/runs), or where TENSORBOARD_LOGGING_DIR says."
    ),
    Flag(metavar="NAMES"),
]
Seed = Annotated[int, Field(ge=0, lt=2**31, description="Seed of everything random.")]
"""NumPy takes 32 bits, and stages and shards of a training add to theirs."""
Template = Annotated[
    str | None,
    Field(
        description="How records become text: chat, qa, instruction, space, none, roles, or a text "
        "with {prompt} and {completion}. Default: what the adapter's lineage says, else the "
        "tokenizer's chat template, else qa."
    ),
    Flag(metavar="NAME|TEXT"),
]
Json = Annotated[bool, Field(description="Print JSON, for programs.")]
Replace = Annotated[bool, Field(description="Replace the file, if there is one.")]
Options = Annotated[
    Overrides, Field(description="Set a method or training option (repeat for several).")
]


def _by_name(value: Any) -> Any:
    """Return what `--dp` was given as values by name."""
    if isinstance(value, Mapping):
        return dict(value)
    words = [value] if isinstance(value, str) else value or ()
    return parse_overrides([part for word in words for part in word.split(",")], "--dp")


Private = Annotated[
    Mapping[str, Any],
    BeforeValidator(_by_name),
    Field(
        description="Train with differential privacy: epsilon=8 and, by commas or repeated, "
        "delta=, clip= (1.0), unit=record or person. Takes the extra `dp`."
    ),
    Flag(("--dp",), metavar="KEY=VALUE", kind=list[str]),
]

Engine = Annotated[
    str,
    Field(description="What does the work: this machine (local), or a cluster (ray)."),
    Flag(metavar="local|ray"),
]
Address = Annotated[
    str | None,
    Field(description="Join this Ray cluster; by default one of --jobs workers is started here."),
    Flag(metavar="HOST:PORT"),
]
