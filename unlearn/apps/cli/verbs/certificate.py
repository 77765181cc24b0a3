"""`unlearn certificate check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unlearn.apps.cli import flags

__all__ = ["certificate"]

certificate = typer.Typer(
    name="certificate", no_args_is_help=True, help="Check the certificate of a deletion."
)


@certificate.callback()
def _group() -> None:
    """Check the certificate of a deletion."""


@certificate.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file certificate.json.")],
    key: Annotated[
        Path,
        typer.Option(
            "--key", metavar="PUB", help="The signer's public key, got from the signer directly."
        ),
    ],
    adapter: Annotated[
        Path | None,
        typer.Option("--adapter", "-a", metavar="DIR", help="The adapter in use: is it this one?"),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option("--audit", metavar="DIR", help="The audit that the verdict rests on."),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="DIR",
            help="A model that the verdict compares with, or a folder of them: is it that one, and "
            "does its lineage name none of the records?",
        ),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Check signature and dates, offline, and whether it is about this adapter and this audit.

    Exit codes: 0 it verifies; 1 it does not; 2 the input is wrong. A signed FAIL verifies too.
    """
    import json
    from dataclasses import asdict

    from unlearn_eval.certificate import check_certificate

    found = check_certificate(file, key, adapter=adapter, audit=audit, references=reference or ())
    if as_json:
        told = {
            "ok": found.ok,
            "key": found.key,
            "findings": [asdict(each) for each in found.findings],
            "words": found.words,
            "statement": found.statement,
        }
        typer.echo(json.dumps(told, indent=1))
    else:
        typer.echo("\n".join(found.lines()))
    raise typer.Exit(0 if found.ok else 1)
