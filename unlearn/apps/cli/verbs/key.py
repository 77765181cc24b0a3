"""`unlearn key new | show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["key"]

key = typer.Typer(name="key", no_args_is_help=True, help="The key pair that signs certificates.")

_File = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="The private key; by default in the toolkit's home."),
]


@key.command()
def new(file: _File = None) -> None:
    """Make a key pair: a private key, which only you can read, and a public one to give away."""
    from unlearn_eval.certificate import new_signing_key

    show(new_signing_key(file))


@key.command()
def show(file: _File = None) -> None:
    """Say where the keys are, and the public key's id."""
    from unlearn_eval.certificate import key_id, key_path, load_signing_key

    path = key_path() if file is None else file
    name = key_id(load_signing_key(path).public_key())
    typer.echo(f"private key  {path} (keep it secret, and keep a copy)")
    typer.echo(f"public key   {path.with_suffix('.pub')} (give it to whoever checks certificates)")
    typer.echo(f"key id       {name} (SHA-256 of the raw public key)")
