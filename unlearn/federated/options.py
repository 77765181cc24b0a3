"""What a user can choose of a federation."""

from __future__ import annotations

from dataclasses import KW_ONLY, field
from typing import Annotated

from pydantic import Field

from unlearn.config import PYTHON_ONLY, Flag, Overrides, options
from unlearn.runs.fields import Data, Folder, Model, Private
from unlearn.runs.options import RunOptions

__all__ = ["FederateOptions"]


@options
class FederateOptions(RunOptions):
    """Of `federate`."""

    model: Model
    data: Data
    client_by: Annotated[
        str,
        Field(
            description="Whose the records are: subject, or a field of the data, such as that of a "
            "tenant. Each value of it is a client."
        ),
        Flag(metavar="subject|FIELD"),
    ]
    output: Folder
    _: KW_ONLY
    rounds: Annotated[
        int | None,
        Field(ge=1, le=999, description="Rounds of training and averaging."),
        Flag(metavar="R", kind=int),
    ] = None
    recipe: Annotated[
        str | None, Field(description="Rounds and options from a recipe."), Flag(metavar="NAME")
    ] = None
    exclude: Annotated[
        str | None,
        Field(description="Records, or a client (client:NAME), to leave out."),
        Flag(metavar="IDS"),
    ] = None
    processes: Annotated[
        bool,
        Field(
            description="Run a server, and each client as a process that reads a file of its own, "
            "on this machine's loopback. Default: simulate them in this process."
        ),
    ] = False
    dp: Annotated[
        Private,
        Field(
            description="Differential privacy of clients: epsilon=8 and, by commas or repeated, "
            "delta=, clip= (1.0). The extra `dp` brings what it takes."
        ),
    ] = field(default_factory=dict)
    lora: Annotated[
        Overrides, PYTHON_ONLY, Field(description="Options of the adapter, see `LoraOptions`.")
    ] = field(default_factory=dict)
