"""What a user can choose of a benchmark."""

from __future__ import annotations

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from pydantic import Field

from unlearn.config import PYTHON_ONLY, Flag, options
from unlearn.model.opening import Opening
from unlearn.runs.fields import Adapters, Model, Place, Progress, Replace, Template

__all__ = ["BenchmarkFileOptions", "BenchmarkOptions"]


@options
class BenchmarkOptions(Opening):
    """Of `run_benchmark`."""

    name: Annotated[
        str, Field(description="tofu, muse or wmdp."), Flag(metavar="NAME", argument=True)
    ]
    model: Model
    _: KW_ONLY
    adapter: Adapters = None
    retrained: Annotated[
        Place | None,
        Field(
            description="An adapter on the same base (or, without --adapter, a model) that never "
            "saw the records to forget: for forget_quality of tofu and privacy_leakage of muse."
        ),
        Flag(metavar="ADAPTER"),
    ] = None
    data: Annotated[
        Place | None,
        Field(
            description="A hub dataset, or a folder of its tables as JSON lines, JSON, CSV or "
            "Parquet. Default: the published one."
        ),
        Flag(("--data", "-d"), metavar="DATASET|DIR"),
    ] = None
    subset: Annotated[
        str | None,
        Field(
            description="tofu: forget10 (default), forget05, forget01; muse: news (default), "
            "books; wmdp: wmdp-bio (default), wmdp-chem, wmdp-cyber."
        ),
        Flag(metavar="NAME"),
    ] = None
    template: Template = None
    limit: Annotated[
        int | None,
        Field(
            ge=1,
            description="The first so many rows of each table only: a quick look, not the "
            "published figure.",
        ),
    ] = None
    progress: Annotated[
        Progress | None, PYTHON_ONLY, Field(description="Called with (done, total) on the way.")
    ] = None


@options
class BenchmarkFileOptions(BenchmarkOptions):
    """Of `benchmark`: where the numbers go besides."""

    _: KW_ONLY
    output: Annotated[Path, Field(description="JSON file for the numbers."), Flag(metavar="FILE")]
    overwrite: Replace = False
