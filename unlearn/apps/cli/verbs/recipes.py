"""`unlearn recipes ls | show | cp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["recipes"]

recipes = typer.Typer(
    name="recipes", no_args_is_help=True, help="List, show and copy ready-made settings."
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name as `ls` shows it.")]


@recipes.command("ls")
def list_() -> None:
    """List all recipes."""
    import yaml

    from unlearn.apps.cli.screen import console
    from unlearn.recipe import recipe_names, recipe_path

    for name in recipe_names():
        content = yaml.safe_load(recipe_path(name).read_text(encoding="utf-8"))
        first = " ".join(str(content.get("description", "")).split())
        console.print(f"[bold]{name}[/bold]  ({content.get('kind')})  {first}")


@recipes.command()
def show(name: _Name) -> None:
    """Print a recipe."""
    from unlearn.recipe import recipe_path

    typer.echo(recipe_path(name).read_text(encoding="utf-8").rstrip())


@recipes.command()
def cp(
    name: _Name,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where to put the copy.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
) -> None:
    """Copy a recipe, to change it."""
    from unlearn.errors import OutputError
    from unlearn.files import staged_file
    from unlearn.recipe import recipe_path

    source = recipe_path(name)
    file = target / source.name if target.is_dir() else target
    if file.exists() and not overwrite:
        raise OutputError(f"{file} exists; pass --overwrite to replace it")
    with staged_file(file) as stage:
        stage.write_bytes(source.read_bytes())
    typer.echo(f"copied to {file}; run it by naming the file")
