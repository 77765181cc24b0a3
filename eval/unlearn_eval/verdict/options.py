"""What a user can choose of a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from pydantic import Field

from unlearn.config import Flag, options
from unlearn.runs.fields import Place

__all__ = ["VerifyFileOptions", "VerifyOptions"]


@options
class VerifyOptions:
    """Of `verify`."""

    audit: Annotated[
        Path | None,
        Field(description="What `unlearn audit` wrote; --replay can decide without."),
        Flag(metavar="DIR"),
    ] = None
    policy: Annotated[
        Place | None,
        Field(
            description="quick, standard, strict or a YAML file. Default: the one that the audit "
            "was run with, else standard."
        ),
        Flag(metavar="NAME|FILE"),
    ] = None
    _: KW_ONLY
    replay: Annotated[
        Path | None,
        Field(
            description="What `unlearn replay` wrote about the same adapter: where training again "
            "gave the same weights, that decides (tier E)."
        ),
        Flag(metavar="DIR"),
    ] = None
    twins: Annotated[
        Place | None,
        Field(
            description="Which holdout records are the twins of each forgotten one: JSON "
            '{"twins": {"id": ["id", …]}}. Pairs that a coin chose are measured by `unlearn audit '
            "--canaries`."
        ),
        Flag(metavar="FILE"),
    ] = None
    references: Annotated[
        Sequence[Place],
        Field(
            description="A reference of the audit, or a folder of them, to look at again: is it "
            "the one that was measured, and does its lineage name none of the records?"
        ),
        Flag(("--reference",), metavar="DIR", kind=list[str]),
    ] = ()
    canaries: Annotated[
        Place | None,
        Field(
            description="Check that an audit made with --canaries is of this file, to the byte. "
            "Such an audit holds the pairs itself, and is decided by the coin (tier B)."
        ),
        Flag(metavar="FILE"),
    ] = None


@options
class VerifyFileOptions(VerifyOptions):
    """Of `verify`: where the verdict goes besides, and whether it is certified."""

    _: KW_ONLY
    adapter: Annotated[
        Path | None,
        Field(
            description="The adapter (or model) that was audited: writes a signed certificate.json "
            "about it, too, and its page certificate.html. It must have a lineage.json."
        ),
        Flag(metavar="DIR"),
    ] = None
    before: Annotated[
        Path | None,
        Field(description="The adapter before, for the certificate."),
        Flag(metavar="DIR"),
    ] = None
    output: Annotated[
        Path | None, Field(description="Where results go. Default: --audit."), Flag(metavar="DIR")
    ] = None
    overwrite: Annotated[bool, Field(description="Replace a verdict that is there.")] = False
    json: Annotated[bool, Field(description="Print verdict.json instead of sentences.")] = False
