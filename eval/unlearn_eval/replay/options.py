"""What a user can choose of a replay."""

from __future__ import annotations

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from pydantic import Field

from unlearn.config import PYTHON_ONLY, Flag, options
from unlearn.model.opening import Opening
from unlearn.runs.fields import Json, Place, Selectors, Source

__all__ = ["ReplayFileOptions", "ReplayOptions"]


@options
class ReplayOptions(Opening):
    """Of `replay`."""

    adapter: Annotated[
        Place,
        Field(description="What `unlearn forget --method retrain` made, with its lineage.json."),
        Flag(metavar="ADAPTER", argument=True),
    ]
    data: Annotated[
        Place,
        Field(
            description="The kept records, or the whole data: the lineage says which of them were "
            "trained on. With those to forget, too, near-copies are looked for."
        ),
        Flag(("--data", "-d"), metavar="FILE"),
    ]
    _: KW_ONLY
    model: Annotated[
        Place | None,
        Field(description="The base model. Default: where the lineage says that it lies."),
        Flag(("--model", "-m"), metavar="MODEL"),
    ] = None
    forget: Annotated[
        Selectors | None,
        Field(
            description="Records of --data that must not be among those trained on. Default: those "
            "that the lineage calls forgotten."
        ),
        Flag(("--forget", "-f"), metavar="IDS", kind=list[str]),
    ] = None
    holdout: Annotated[
        Place | None,
        Field(
            description="Records that no model saw: where machines differ, distances are measured "
            "on them, too."
        ),
        Flag(metavar="FILE"),
    ] = None
    canaries: Annotated[
        Place | None,
        Field(
            description="What `unlearn finetune --canaries` planted in it, ADAPTER.canaries.json: "
            "the planted ones were trained on beside --data. The lineage must commit to this very "
            "file."
        ),
        Flag(metavar="FILE"),
    ] = None
    start: Annotated[
        Place | None,
        Field(
            description="The adapter that training began with, if `forget --start` named one. "
            "Default: where the lineage says that it lies. It is trained again, too."
        ),
        Flag(metavar="ADAPTER"),
    ] = None
    forgotten: Annotated[
        Source | None,
        PYTHON_ONLY,
        Field(description="Records that must be gone, where --data may hold them no more."),
    ] = None
    quiet: Annotated[bool, PYTHON_ONLY, Field(description="Show no progress of training.")] = False


@options
class ReplayFileOptions(ReplayOptions):
    """Of `replay`: where the result goes."""

    _: KW_ONLY
    output: Annotated[
        Path | None,
        Field(description="Folder for replay.json. Default: ADAPTER.replay."),
        Flag(metavar="DIR"),
    ] = None
    overwrite: Annotated[bool, Field(description="Replace a replay.json that is there.")] = False
    json: Json = False
