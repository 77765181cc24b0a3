"""`unlearn key new | show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from unlearn.apps.cli.verb import add
from unlearn.config import Flag, options
from unlearn.printable import printable

__all__ = ["KeyOptions", "key"]

key = typer.Typer(name="key", no_args_is_help=True, help="The key pair that signs certificates.")


@options
class KeyOptions:
    """Of `key new` and `key show`."""

    file: Annotated[
        Path | None,
        Field(description="The private key; by default in the toolkit's home."),
        Flag(metavar="[FILE]", argument=True),
    ] = None


def new(options: KeyOptions) -> None:
    """Make a key pair: a private key, which only you can read, and a public one to give away."""
    from unlearn_eval.certificate import new_signing_key

    _show(new_signing_key(options.file))


def show(options: KeyOptions) -> None:
    """Say where the keys are, and the public key's id."""
    from unlearn_eval.certificate import key_path

    _show(options.file or key_path())


def _show(path: Path) -> None:
    from unlearn_eval.certificate import key_id, load_signing_key

    name = key_id(load_signing_key(path).public_key())
    typer.echo(printable(f"private key  {path} (keep it secret, and keep a copy)"))
    public = path.with_suffix(".pub")
    typer.echo(printable(f"public key   {public} (give it to whoever checks certificates)"))
    typer.echo(f"key id       {name} (SHA-256 of the raw public key)")


add(key, KeyOptions, new, "new")
add(key, KeyOptions, show, "show")
