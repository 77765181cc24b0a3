"""What a user can choose of a scan."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Annotated

from pydantic import Field

from unlearn.config import PYTHON_ONLY, Flag, options
from unlearn.model.opening import Opening
from unlearn.runs.fields import Adapters, Data, Folder, Model, Overwrite, Place, Template, Watcher

__all__ = ["SHARE", "ScanOptions"]

SHARE = 0.1
"""Share of poisoned records that a scan assumes at most, unless told otherwise."""


@options
class ScanOptions(Opening):
    """Of `scan`."""

    model: Model
    data: Data
    output: Folder
    _: KW_ONLY
    adapter: Adapters = None
    share: Annotated[
        float,
        Field(
            gt=0,
            le=0.5,
            description="Most records that may be poisoned, as a share; 1.5 times as many are "
            "named.",
        ),
    ] = SHARE
    trigger: Annotated[
        Place | None,
        Field(
            description="manifest.json of `unlearn poison`, where the answer is known: the scan "
            "says how many of the planted records it finds. It is not used to find them."
        ),
        Flag(metavar="FILE"),
    ] = None
    template: Template = None
    overwrite: Overwrite = False
    progress: Annotated[
        Watcher,
        PYTHON_ONLY,
        Field(description="Called with (texts scored, texts in all); False for nothing."),
    ] = None
