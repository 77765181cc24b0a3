"""Recipes: YAML files whose path below the recipe folder is their name.

A recipe says what kind it is (`kind: forget`, `kind: compare`, `kind: federate`, or `kind: policy`
for a verdict) and is validated strictly: an unknown key is an error that suggests the nearest known
one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar, get_args, runtime_checkable

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import Field
from yaml import YAMLError

from unlearn.config import StrictModel, nested_too_deeply, parse_overrides, validated
from unlearn.errors import OptionError, did_you_mean

__all__ = [
    "FederateRecipe",
    "ForgetRecipe",
    "beside",
    "load_recipe",
    "options_beside",
    "recipe_folder",
    "recipe_names",
    "recipe_path",
    "recipe_text",
]

_LONGEST = 4096
"""Characters of a path; what is longer names no file."""


class ForgetRecipe(StrictModel):
    """A method with its options, for `unlearn forget --recipe`."""

    kind: Literal["forget"]
    description: str = ""
    method: str
    options: dict[str, Any] = Field(default_factory=dict)

    def with_files(self, folder: Path) -> Self:
        """Return the recipe with files of its options looked up beside it, too."""
        return self.model_copy(update={"options": options_beside(self.options, folder)})


class FederateRecipe(StrictModel):
    """Rounds and options, for `unlearn federate --recipe`."""

    kind: Literal["federate"]
    description: str = ""
    rounds: int = Field(ge=1)
    options: dict[str, Any] = Field(default_factory=dict)


R = TypeVar("R", bound=StrictModel)


@runtime_checkable
class _NamesFiles(Protocol):
    """A recipe that names files."""

    def with_files(self, folder: Path) -> Any:
        """Return it with files that lie in a folder named from here."""


def beside(name: str, folder: Path) -> str:
    """Return a path that a recipe names: as it is, else beside the recipe, where it is there.

    Args:
        name: a path, or something else.
        folder: of the recipe.

    Returns:
        The path, or the name as it is.
    """
    path = Path(name).expanduser()
    if len(name) > _LONGEST or "\n" in name or path.is_absolute() or path.exists():
        return name
    return str(folder / path) if name and (folder / path).exists() else name


def options_beside(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a method's options, with files that lie beside a recipe named from here.

    Args:
        options: of the method.
        folder: of the recipe.

    Returns:
        The options.
    """
    # a word such as `linear` is no file, even where one has that name
    return {
        key: beside(value, folder) if isinstance(value, str) and Path(value).suffix else value
        for key, value in options.items()
    }


def recipe_folder() -> Path:
    """Return the folder of the recipes: inside the installed package, or beside a checkout's."""
    installed = Path(str(files("unlearn") / "recipes"))
    return installed if installed.is_dir() else Path(__file__).resolve().parent.parent / "recipes"


def recipe_names() -> Iterator[str]:
    """Yield the names of all recipes, sorted."""
    folder = recipe_folder()
    yield from sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")
    )


def recipe_path(name: str) -> Path:
    """Find a recipe by name, or a file of the user's own.

    Args:
        name: such as `compare/tofu_small`; its last part where no other recipe has the same; or a
            path that ends with `.yaml`.

    Returns:
        The file.

    Raises:
        OptionError: with the nearest names.
    """
    own = Path(name)
    if own.suffix in {".yaml", ".yml"}:
        if own.is_file():
            return own
        raise OptionError(f"the recipe {name} does not exist")
    known = list(recipe_names())
    found = [k for k in known if name in (k, k.rpartition("/")[2])]
    if len(found) != 1 and name not in found:
        raise OptionError(
            f"unknown recipe {name!r}{did_you_mean(name, known)}; `unlearn recipes ls` lists them"
        )
    return recipe_folder() / f"{name if name in found else found[0]}.yaml"


def recipe_text(path: Path) -> str:
    """Return the text of a recipe, if it is one that can be parsed safely.

    Args:
        path: the file.

    Returns:
        The text.

    Raises:
        OptionError: if it cannot be read, is not UTF-8, or is nested too deeply (which the parser
            of YAML would not survive).
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise OptionError(f"recipe {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise OptionError(f"recipe {path}: not UTF-8 text (byte {error.start})") from None
    if nested_too_deeply(text):
        raise OptionError(f"recipe {path}: nested too deeply")
    return text


def _shortly(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < _LONGEST else f"{text[:_LONGEST]}…"


_NO_KIND = "no `kind:`; write kind: forget, compare, federate or policy"


def load_recipe(name: str, kind: type[R], overrides: Sequence[str] = ()) -> R:
    """Load and validate a recipe.

    Args:
        name: its name or file.
        kind: the class it must be of.
        overrides: `key=value` words; dots reach inside (`finetune.options.epochs=5`).

    Returns:
        The recipe.

    Raises:
        OptionError: if it is of another kind, not YAML, or has an unknown key or impossible value.
    """
    path = recipe_path(name)
    parse_overrides(overrides)  # complains about words without `=`
    try:
        # OmegaConf reads 1e-5 as a number, which YAML 1.1 does not
        loaded = OmegaConf.create(recipe_text(path))
        merged = OmegaConf.merge(loaded, OmegaConf.from_dotlist(list(overrides)))
        values = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise OptionError(f"recipe {path.name} needs {key}: write {key}=… behind it") from None
    except AssertionError:  # of OmegaConf's, which takes no number or date alone
        raise OptionError(f"recipe {path}: {_NO_KIND}") from None
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError, TypeError) as error:
        # ValueError: a number of too many digits, or a date that is none
        raise OptionError(f"recipe {path}: {_shortly(error)}") from error
    if not isinstance(values, dict) or "kind" not in values:
        raise OptionError(f"recipe {path}: {_NO_KIND}")
    (wanted,) = get_args(kind.model_fields["kind"].annotation)
    if values["kind"] != wanted:
        raise OptionError(f"recipe {path} is of kind {values['kind']!r}; here {wanted!r} is needed")
    recipe = validated(kind, {str(k): v for k, v in values.items()}, f"recipe {path.name}")
    return recipe.with_files(path.parent) if isinstance(recipe, _NamesFiles) else recipe
