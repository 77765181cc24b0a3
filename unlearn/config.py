"""What a user can choose is written once: its name, type, default and help.

A verb of the command line and the Python function of that name share one class, made by `options`.
Its fields say what they mean (`Field(description=…)`) and how the command line spells them
(`Flag`); flags, the function's signature and its documentation derive from it. All of it is checked
strictly: an unknown key is an error that suggests the nearest known one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    ParamSpec,
    TypeVar,
    cast,
    dataclass_transform,
)

import pydantic.dataclasses
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from unlearn.errors import OptionError, did_you_mean

__all__ = [
    "PYTHON_ONLY",
    "Flag",
    "Names",
    "Overrides",
    "StrictModel",
    "block_numbers",
    "called_with",
    "checked",
    "fields_of",
    "options",
    "parse_overrides",
    "validated",
    "without_auto",
]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
M = TypeVar("M", bound=BaseModel)


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Flag:
    """How the command line spells a field of `options`.

    Attributes:
        names: its spellings; without any, `--` and the field's name.
        metavar: what stands for the value in the help.
        kind: what the command line reads, where that is neither text nor plain from the field's
            type: `list[str]` for a flag that may be repeated.
        argument: whether it is a word by itself, without a flag before it.
        panel: heading below which the help shows it.
        envvar: environment variable that sets it.
    """

    names: tuple[str, ...] = ()
    metavar: str | None = None
    kind: Any = None
    argument: bool = False
    panel: str | None = None
    envvar: str | None = None


PYTHON_ONLY = object()
"""Marks a field that no flag sets."""


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def options(cls: type[T]) -> type[T]:
    """Make a class of options: a frozen dataclass whose values are checked, unknown ones refused.

    Fields before `_: KW_ONLY` may be given by position.
    """
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    made = pydantic.dataclasses.dataclass(cls, frozen=True, config=config)
    return cast(type[T], made)


def fields_of(options: Any) -> dict[str, FieldInfo]:
    """Return the fields of a class made by `options` by name, its own before inherited ones."""
    fields: dict[str, FieldInfo] = options.__pydantic_fields__
    order = (name for each in options.__mro__ for name in vars(each).get("__annotations__", ()))
    return {name: fields[name] for name in order if name in fields}


def called_with(options: Callable[P, T], work: Callable[[T], R], name: str) -> Callable[P, R]:
    """Return a function that takes the fields of a class of options as its arguments.

    `work` says what is done with an instance; its docstring becomes the function's, with a line for
    each field. `name` is what the function is called.
    """

    @functools.wraps(work)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return work(checked(options, name, *args, **kwargs))

    fields = fields_of(options)
    lines = [f"    {key}: {field.description}" for key, field in fields.items()]
    call.__doc__ = inspect.cleandoc(work.__doc__ or "") + "\n\nArgs:\n" + "\n".join(lines) + "\n"
    call.__name__ = call.__qualname__ = name
    signature = inspect.signature(options)
    plain = [p.replace(annotation=fields[p.name].annotation) for p in signature.parameters.values()]
    vars(call)["__signature__"] = signature.replace(
        parameters=plain, return_annotation=inspect.signature(work).return_annotation
    )
    return call


def checked(options: Callable[P, T], where: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Make an instance of a class of options, turning pydantic's complaints into one line.

    Raises OptionError naming the option, with the nearest known name for an unknown one.
    """
    try:
        return options(*args, **kwargs)
    except ValidationError as error:
        raise OptionError(_complaint(error, where, lambda _: list(fields_of(options)))) from None


def _by_commas(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [name for name in value.replace(" ", "").split(",") if name]


def _overrides(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else parse_overrides(value or ())


Names = Annotated[Sequence[str], BeforeValidator(_by_commas)]
"""Several names; the command line gives them in one word, by commas."""

Overrides = Annotated[
    Mapping[str, Any],
    BeforeValidator(_overrides),
    Flag(("-o",), metavar="KEY=VALUE", kind=list[str]),
]
"""Options by name; the command line gives each as a word `key=value`, its value as in YAML."""


_DEEPEST = 100
"""Lists and objects within each other in YAML: recipes of the toolkit have six."""


def nested_too_deeply(text: str) -> bool:
    """Say whether YAML is nested so deeply that its parser might not survive it.

    What cannot be parsed at all is left to the parser, which says why.
    """
    import yaml

    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                return True
    except RecursionError:
        return True
    except yaml.YAMLError:
        return False
    return False


def parse_overrides(pairs: Iterable[str], flag: str = "-o") -> dict[str, Any]:
    """Parse `key=value` words, the values as YAML (`1e-5` is a number).

    Args:
        pairs: what was given with the flag.
        flag: for messages.

    Returns:
        A flat dictionary.

    Raises:
        OptionError: for a word without `=`.
    """
    from omegaconf import OmegaConf  # a tenth of a second that `--help` can do without

    words = list(pairs)
    for word in words:
        if "=" not in word or word.startswith("="):
            raise OptionError(f"{flag} {word}: write key=value")
        if nested_too_deeply(word.partition("=")[2]):
            raise OptionError(f"{flag} {word.partition('=')[0]}: nested too deeply")
    try:
        found = OmegaConf.to_container(OmegaConf.from_dotlist(words))
    except Exception as error:
        raise OptionError(f"cannot read the options {' '.join(words)}: {error}") from error
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


_AUTO_IS_A_VALUE = ("stop", "budget")


def without_auto(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without those set to `auto`, which is to leave them open.

    Of `stop` and `budget` it is a value.

    Args:
        options: the user's choices.

    Returns:
        What is really chosen.
    """
    return {
        key: value for key, value in options.items() if value != "auto" or key in _AUTO_IS_A_VALUE
    }


def validated(model: type[M], values: Mapping[str, Any], where: str) -> M:
    """Build a pydantic model, turning its complaints into one line.

    Raises OptionError naming the key, with the nearest known name for an unknown one.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        names = functools.partial(_field_names, model)
        raise OptionError(_complaint(error, where, names)) from None


def _complaint(
    error: ValidationError, where: str, names: Callable[[Sequence[str]], Sequence[str]]
) -> str:
    """Write the first complaint in one line; `names` are those known at a path."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: unknown option {key!r}{did_you_mean(path[-1], names(path[:-1]))}"
    return f"{where}: {key or 'value'}: {first['msg']}"


def _field_names(model: type[BaseModel], path: Iterable[str]) -> list[str]:
    """Names of the fields at a path inside a model; all names where the path is not plain."""
    for part in path:
        field = model.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return list(model.model_fields)


def _is_range(first: str, dash: str, last: str) -> bool:
    return first.isdecimal() and (last.isdecimal() if dash else True)


def block_numbers(text: str, option: str) -> set[int]:
    """Parse `5-7,9` into block numbers; the first is 0.

    Args:
        text: numbers and ranges.
        option: whose value it is, for messages.

    Returns:
        The numbers.

    Raises:
        OptionError: for anything else.
    """
    layers: set[int] = set()
    for part in str(text).split(","):
        first, dash, last = part.strip().partition("-")
        numbers = range(int(first), int(last or first) + 1) if _is_range(first, dash, last) else ()
        if not numbers:
            raise OptionError(f"{option} {text!r}: write blocks as 5-7 or 5,6,9")
        layers |= set(numbers)
    return layers
