"""Recipes: YAML files whose path below the recipe folder is their name.

A recipe says what kind it is (`kind: forget`, `kind: compare`, or `kind: policy` for a verdict) and
is validated strictly: an unknown key is an error that suggests the nearest known one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import Field
from yaml import YAMLError

from unlearn.errors import OptionError, did_you_mean
from unlearn.options import StrictModel, parse_overrides, validated

__all__ = [
    "CompareRecipe",
    "Expected",
    "FinetuneSettings",
    "ForgetRecipe",
    "MethodSettings",
    "TuneSettings",
    "load_recipe",
    "recipe_folder",
    "recipe_names",
    "recipe_path",
]


class ForgetRecipe(StrictModel):
    """A method with its options, for `unlearn forget --recipe`."""

    kind: Literal["forget"]
    description: str = ""
    method: str
    options: dict[str, Any] = Field(default_factory=dict)


class FinetuneSettings(StrictModel):
    """How the adapter under study and its references are trained."""

    options: dict[str, Any] = Field(default_factory=dict)
    lora: dict[str, Any] = Field(default_factory=dict)


class MethodSettings(StrictModel):
    """One row of a comparison; `name` is needed where two rows have the same method.

    `search` says what to try for some options, where the recipe says to `tune`: a list of values,
    or `{low: 1e-4, high: 1e-2, log: true}`.
    """

    name: str = Field("", pattern=r"^[\w .,:+=()/-]*$")  # it stands in file names and drawings
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, list[Any] | dict[str, Any]] = Field(default_factory=dict)


class TuneSettings(StrictModel):
    """How methods are tuned: so many trials each, on records that no reported cell forgets."""

    trials: Annotated[int, Field(ge=2)]
    forget: str
    seed: int = 0


class Expected(StrictModel):
    """What a plan cannot look up while model or data are still on the hub."""

    parameters: Annotated[float, Field(gt=0)] | None = None
    records: dict[str, int] = Field(default_factory=dict)
    tokens: Annotated[float, Field(gt=0)] | None = None
    tflops: Annotated[float, Field(gt=0)] | None = None


class CompareRecipe(StrictModel):
    """Methods side by side on the same records, for `unlearn compare`.

    `data` is one source, or several by name; `train`, `forget` and `holdout` say which records of
    it are meant, in IDS syntax or as `part:NAME,NAME[0-99]`. `forget` may list several sets.
    `holdout` was never seen by the model and is what methods are judged by; `validation` was not
    seen either, and is what methods look at, for where to stop, and what they are tuned by. Without
    it they look at the holdout.
    `policy` is that of the verdicts on the cells, by name or file; null for none. What
    `expect` says serves the plan alone: parameters of the model, records by part, mean tokens of a
    record, and the speed of the machine it is meant for.
    """

    kind: Literal["compare"]
    description: str = ""
    model: str
    data: str | dict[str, str]
    train: str
    forget: str | Annotated[list[str], Field(min_length=1)]
    holdout: str
    validation: str | None = None
    template: str | None = None
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    references: Annotated[int, Field(ge=1)] = 1
    finetune: FinetuneSettings = FinetuneSettings()
    methods: Annotated[list[MethodSettings], Field(min_length=1)]
    generate: Annotated[int, Field(ge=0)] = 64
    robustness: tuple[str, ...] = ()
    policy: str | None = "standard"
    tune: TuneSettings | None = None
    expect: Expected = Expected()

    @property
    def forget_sets(self) -> tuple[str, ...]:
        """The selectors of the records to forget, one a set."""
        return (self.forget,) if isinstance(self.forget, str) else tuple(self.forget)

    @property
    def looked_at(self) -> str:
        """The selector of the unseen records that methods look at."""
        return self.validation or self.holdout


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
