"""What a user can choose of the check of a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from pydantic import Field

from unlearn.config import Flag, options
from unlearn.runs.fields import Json

__all__ = ["CertificateCheckOptions"]


@options
class CertificateCheckOptions:
    """Of `certificate check`."""

    file: Annotated[
        Path, Field(description="The file certificate.json."), Flag(metavar="FILE", argument=True)
    ]
    key: Annotated[
        Path,
        Field(description="The signer's public key, got from the signer directly."),
        Flag(metavar="PUB"),
    ]
    _: KW_ONLY
    adapter: Annotated[
        Path | None,
        Field(description="The adapter in use: is it this one?"),
        Flag(("--adapter", "-a"), metavar="DIR"),
    ] = None
    base: Annotated[
        Path | None,
        Field(description="The base model in use: is it this one, with these ways to read text?"),
        Flag(metavar="DIR"),
    ] = None
    audit: Annotated[
        Path | None,
        Field(description="The audit, or the replay, that the verdict rests on."),
        Flag(metavar="DIR"),
    ] = None
    references: Annotated[
        Sequence[str],
        Field(
            description="A model that the verdict compares with, or a folder of them: is it that "
            "one, and does its lineage name none of the records?"
        ),
        Flag(("--reference", "--references"), metavar="DIR", kind=list[str]),
    ] = ()
    json: Json = False
