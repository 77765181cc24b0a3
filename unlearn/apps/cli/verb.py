"""A verb of the command line, made from its options: for each field a flag."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from unlearn.apps.cli.ending import Interrupted
from unlearn.config import PYTHON_ONLY, Flag, checked, fields_of

__all__ = ["add", "unwrapped"]

T = TypeVar("T")

# Read by the command line as they are; all else is text, or what the flag says.
_PLAIN = (bool, int, float, Path)


def add(
    app: typer.Typer,
    options: type[T] | None,
    work: Callable[[], None] | Callable[[T], None] | Callable[[T, frozenset[str]], None],
    name: str,
    panel: str | None = None,
) -> None:
    """Add a verb to the command line.

    Args:
        app: where to.
        options: what the user can choose, made by `unlearn.config.options`, if anything.
        work: what the verb does; its docstring is the help. With a second parameter it is told
            which options the words of the command set.
        name: of the verb.
        panel: heading below which the help lists it.
    """
    if options is None:
        app.command(name, help=unwrapped(work), rich_help_panel=panel)(work)
        return
    flags = {
        key: field for key, field in fields_of(options).items() if PYTHON_ONLY not in field.metadata
    }
    told = len(inspect.signature(work).parameters) > 1

    def call(context: typer.Context, **values: Any) -> None:
        given = frozenset(key for key in flags if _was_given(context, key))
        chosen = {key: value for key, value in values.items() if value not in (None, [])}
        made = checked(options, name, **chosen)
        try:
            work(made, given) if told else work(made)  # type: ignore[call-arg]
        except KeyboardInterrupt as stop:  # raised by hand: typer would drop what it carries
            raise Interrupted from stop

    parameters = [_parameter(key, field) for key, field in flags.items()]
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    vars(call)["__signature__"] = inspect.Signature([context, *parameters])
    call.__annotations__ = {each.name: each.annotation for each in (context, *parameters)}
    app.command(name, help=unwrapped(work), rich_help_panel=panel)(call)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """Return what typer makes a flag, or a word by itself, of."""
    flag = next((each for each in field.metadata if isinstance(each, Flag)), Flag())
    limits = {
        {"ge": "min", "le": "max"}[bound]: getattr(each, bound)
        for each in field.metadata
        for bound in ("ge", "le")
        if hasattr(each, bound)
    }
    words: dict[str, Any] = {
        "help": field.description,
        "metavar": flag.metavar,
        "rich_help_panel": flag.panel,
        "envvar": flag.envvar,
        **limits,
    }
    kind = flag.kind or _kind(field.annotation)
    spelled = flag.names or (f"--{name.replace('_', '-')}",)
    made = typer.Argument(**words) if flag.argument else typer.Option(*spelled, **words)
    required = field.is_required()
    default = ... if required else field.get_default(call_default_factory=True)
    if not required and not isinstance(default, (str, *_PLAIN)):
        kind, default = kind | None, None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind, made],
        default=inspect.Parameter.empty if required else default,
    )


def _kind(annotation: Any) -> Any:
    """Return what the command line reads for a type."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    inner = [each for each in get_args(annotation) if each is not type(None)] or [annotation]
    return inner[0] if len(inner) == 1 and inner[0] in _PLAIN else str


def _was_given(context: typer.Context, name: str) -> bool:
    """Say whether an option is among the words of the command."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def unwrapped(function: Callable[..., Any]) -> str:
    """Return a docstring with the lines of each paragraph joined, as a terminal wants it."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in paragraphs)
