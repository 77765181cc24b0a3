"""What a user can choose of the demo."""

from __future__ import annotations

from dataclasses import KW_ONLY
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field

from unlearn.config import Flag, options
from unlearn.runs.fields import Folder, Overwrite, Seed

__all__ = ["DemoOptions"]


class Form(StrEnum):
    """How the made-up records are written."""

    PROMPT = "prompt"
    MESSAGES = "messages"


@options
class DemoOptions:
    """Of `demo`."""

    output: Folder = Path("unlearn-demo")
    _: KW_ONLY
    people: Annotated[int, Field(ge=10, description="How many people the records are about.")] = 40
    form: Annotated[
        Form,
        Field(description="Questions with answers, or conversations for a chat template."),
        Flag(kind=Form),
    ] = Form.PROMPT
    seed: Seed = 0
    overwrite: Overwrite = False
