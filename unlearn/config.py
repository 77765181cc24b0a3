"""Recipes: YAML files whose path below the recipe folder is their name.

A recipe says what kind it is (`kind: forget`, `kind: compare`, or `kind: policy` for a verdict) and
is validated strictly: an unknown key is an error that suggests the nearest known one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from yaml import YAMLError

from unlearn.errors import OptionError, did_you_mean

__all__ = [
    "ForgetRecipe",
    "StrictModel",
    "load_recipe",
    "parse_overrides",
    "recipe_folder",
    "recipe_names",
    "recipe_path",
    "validated",
    "without_auto",
]


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)


class ForgetRecipe(StrictModel):
    """A method with its options, for `unlearn forget --recipe`."""

    kind: Literal["forget"]
    description: str = ""
    method: str
    options: dict[str, Any] = Field(default_factory=dict)


R = TypeVar("R", bound=StrictModel)


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
    try:
        # OmegaConf reads 1e-5 as a number, which YAML 1.1 does not
        loaded = OmegaConf.load(path)
        merged = OmegaConf.merge(loaded, OmegaConf.from_dotlist(list(overrides)))
        values = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise OptionError(f"recipe {path.name} needs {key}: write {key}=… behind it") from None
    except (YAMLError, OmegaConfBaseException) as error:
        raise OptionError(f"recipe {path}: {error}") from error
    if overrides:
        parse_overrides(overrides)  # complains about words without `=`
    if not isinstance(values, dict) or "kind" not in values:
        raise OptionError(f"recipe {path}: no `kind:`; write kind: forget, compare or policy")
    (wanted,) = get_args(kind.model_fields["kind"].annotation)
    if values["kind"] != wanted:
        raise OptionError(f"recipe {path} is of kind {values['kind']!r}; here {wanted!r} is needed")
    return validated(kind, {str(k): v for k, v in values.items()}, f"recipe {path.name}")


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse `key=value` words, the values as YAML (`1e-5` is a number).

    Args:
        pairs: what was given with `-o`.

    Returns:
        A flat dictionary.

    Raises:
        OptionError: for a word without `=`.
    """
    words = list(pairs)
    for word in words:
        if "=" not in word or word.startswith("="):
            raise OptionError(f"-o {word}: write key=value")
    try:
        found = OmegaConf.to_container(OmegaConf.from_dotlist(words))
    except Exception as error:
        raise OptionError(f"cannot read the options {' '.join(words)}: {error}") from error
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def without_auto(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without those set to `auto`, which is to leave them open.

    Args:
        options: the user's choices.

    Returns:
        What is really chosen.
    """
    return {key: value for key, value in options.items() if value != "auto" or key == "stop"}


def validated(model: type[M], values: Mapping[str, Any], where: str) -> M:
    """Build a pydantic model, turning its complaints into one line.

    Args:
        model: the class.
        values: its fields.
        where: what is being configured, for the message.

    Returns:
        The instance.

    Raises:
        OptionError: naming the key, with the nearest known name for an unknown one.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        key = ".".join(path)
        if first["type"] == "extra_forbidden":
            hint = did_you_mean(path[-1], _field_names(model, path[:-1]))
            raise OptionError(f"{where}: unknown option {key!r}{hint}") from None
        raise OptionError(f"{where}: {key or 'value'}: {first['msg']}") from None


def _field_names(model: type[BaseModel], path: Iterable[str]) -> list[str]:
    """Names of the fields at a path inside a model; all names where the path is not plain."""
    for part in path:
        field = model.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return list(model.model_fields)
