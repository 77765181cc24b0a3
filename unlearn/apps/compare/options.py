"""What a user can choose of a comparison, beside its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from pydantic import Field

from unlearn.config import Flag, options
from unlearn.model.opening import Device, Dtype
from unlearn.runs.fields import Address, Engine, Folder, ReportTo

__all__ = ["CompareOptions"]


@options
class CompareOptions:
    """Of `compare`; what is compared is the recipe's."""

    recipe: Annotated[
        str, Field(description="A recipe, or a .yaml file."), Flag(metavar="RECIPE", argument=True)
    ]
    overrides: Annotated[
        Sequence[str],
        Field(description="Change the recipe."),
        Flag(metavar="[KEY=VALUE]…", argument=True, kind=list[str]),
    ] = ()
    _: KW_ONLY
    output: Folder = Path("comparison")
    plan: Annotated[
        bool, Field(description="Show cells, tokens and estimated cost; run nothing.")
    ] = False
    jobs: Annotated[
        int,
        Field(ge=1, description="Processes at once, on this machine."),
        Flag(("--jobs", "-j")),
    ] = 1
    engine: Engine = "local"
    address: Address = None
    overwrite: Annotated[bool, Field(description="Begin anew, whatever the folder holds.")] = False
    show_text: Annotated[
        bool,
        Field(
            description="Put the text of records into report.html, which otherwise holds numbers "
            "and names under your key only. Nothing is run again for it."
        ),
    ] = False
    show_ids: Annotated[
        bool,
        Field(
            description="Keep the ids of records, which may be people's names, in report.html and "
            "records.parquet. Without it they stand there as names under your key. Nothing is run "
            "again for it."
        ),
    ] = False
    report_to: ReportTo = None
    dtype: Dtype = "auto"
    device: Device = None
