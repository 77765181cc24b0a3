"""Options: one class gives a function its arguments, their checks and their documentation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import KW_ONLY, field
from typing import Annotated, Any

import pytest
from pydantic import Field

from unlearn.config import PYTHON_ONLY, Names, Overrides, called_with, checked, fields_of, options
from unlearn.errors import OptionError
from unlearn.runs.options import FinetuneOptions, ForgetOptions, ReferencesOptions


@options
class Inherited:
    """Comes from elsewhere."""

    _: KW_ONLY
    seed: Annotated[int, Field(ge=0, description="Of what is random.")] = 0


@options
class Own(Inherited):
    """For a function of this test."""

    model: Annotated[str, Field(description="Which model.")]
    passes: Annotated[Names, Field(description="Which passes.")] = ()
    _: KW_ONLY
    settings: Annotated[Overrides, Field(description="What to set.")] = field(default_factory=dict)
    watch: Annotated[object, PYTHON_ONLY, Field(description="Who watches.")] = None


def _work(given: Own) -> Own:
    """Do something.

    Raises OptionError where it cannot.
    """
    return given


work = called_with(Own, _work, "work")


def test_the_fields_are_the_arguments() -> None:
    made = work("base", ["a", "b"], settings={"epochs": 3}, seed=2)
    assert (made.model, list(made.passes), made.settings, made.seed) == (
        "base",
        ["a", "b"],
        {"epochs": 3},
        2,
    )
    assert list(inspect.signature(work).parameters) == [
        "model",
        "passes",
        "seed",
        "settings",
        "watch",
    ]
    assert work.__name__ == "work"


def test_the_documentation_has_a_line_for_each_of_them() -> None:
    text = inspect.getdoc(work) or ""
    assert text.startswith("Do something.\n\nRaises OptionError where it cannot.\n\nArgs:\n")
    assert text.splitlines()[5:] == [
        "    model: Which model.",
        "    passes: Which passes.",
        "    settings: What to set.",
        "    watch: Who watches.",
        "    seed: Of what is random.",
    ]


def test_its_own_fields_come_before_inherited_ones() -> None:
    assert list(fields_of(Own)) == ["model", "passes", "settings", "watch", "seed"]


def test_words_of_the_command_line_are_read_as_python_s_values_are() -> None:
    made = work("base", "a, b", settings=["rate=1e-5", "layers=5-7"])  # type: ignore[arg-type]
    assert list(made.passes) == ["a", "b"]
    assert isinstance(made.settings, Mapping)
    assert made.settings == {"rate": 1e-5, "layers": "5-7"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"model": "base", "sed": 1}, r"work: unknown option 'sed' \(did you mean 'seed'\?\)"),
        ({"model": "base", "seed": -1}, "work: seed: Input should be greater than or equal to 0"),
        ({}, "work: model: Field required"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint) as caught:
        work(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_instance_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        work("base").seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("seed", [-1, 2**31])
@pytest.mark.parametrize(
    ("cls", "given"),
    [
        (FinetuneOptions, ("model", "data", "output")),
        (ForgetOptions, ("model", "data", "r0", "output")),
        (ReferencesOptions, ("model", "data", "output")),
    ],
)
def test_a_seed_that_no_generator_takes_is_refused(cls: Any, given: Any, seed: int) -> None:
    with pytest.raises(OptionError, match="run: seed: Input should be"):
        checked(cls, "run", *given, seed=seed)
    assert checked(cls, "run", *given, seed=5).seed == 5
