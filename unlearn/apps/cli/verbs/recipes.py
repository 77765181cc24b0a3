"""`unlearn recipes ls | show | cp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from unlearn.apps.cli.verb import add
from unlearn.config import Flag, options
from unlearn.printable import printable
from unlearn.runs.fields import Replace

__all__ = ["recipes"]

recipes = typer.Typer(
    name="recipes", no_args_is_help=True, help="List, show and copy ready-made settings."
)


_FOR_ACCELERATE = "accelerate"
"""The folder of settings for `accelerate launch`, which are no recipes of ours."""

_Name = Annotated[
    str, Field(description="Name as `ls` shows it."), Flag(metavar="NAME", argument=True)
]


@options
class _Recipe:
    """Which recipe."""

    name: _Name


@options
class _Copy:
    """Which recipe, and where to."""

    name: _Name
    target: Annotated[
        Path, Field(description="Where to put the copy."), Flag(metavar="FILE", argument=True)
    ]
    overwrite: Replace = False


def list_() -> None:
    """List all recipes."""
    import yaml

    from unlearn.apps.cli.screen import console
    from unlearn.recipe import recipe_names, recipe_path

    for name in recipe_names():
        text = recipe_path(name).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        # accelerate takes no keys but its own: its files say in a comment what they are
        comment = text.partition("\n")[0].removeprefix("#")
        first = " ".join(str(content.get("description", comment)).split())
        console.print(f"[bold]{name}[/bold]  ({content.get('kind', _FOR_ACCELERATE)})  {first}")


def show(options: _Recipe) -> None:
    """Print a recipe."""
    from unlearn.recipe import recipe_path, recipe_text

    typer.echo(printable(recipe_text(recipe_path(options.name)).rstrip()))


def cp(options: _Copy) -> None:
    """Copy a recipe, to change it."""
    from unlearn.errors import OutputError
    from unlearn.files import staged_file
    from unlearn.recipe import recipe_path

    source = recipe_path(options.name)
    file = options.target / source.name if options.target.is_dir() else options.target
    if file.exists() and not options.overwrite:
        raise OutputError(f"{file} exists; pass --overwrite to replace it")
    with staged_file(file) as stage:
        stage.write_bytes(source.read_bytes())
    ours = "run it by naming the file"
    launch = f"accelerate launch --config_file {file} -m unlearn …"
    known = source.parent.name == _FOR_ACCELERATE
    typer.echo(printable(f"copied to {file}; {launch if known else ours}"))


add(recipes, None, list_, "ls")
add(recipes, _Recipe, show, "show")
add(recipes, _Copy, cp, "cp")
