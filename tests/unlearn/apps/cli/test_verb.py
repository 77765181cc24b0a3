"""Every verb has a flag for each of its options, with the same default as in Python."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from unlearn import finetune, forget
from unlearn.apps.cli import run
from unlearn.apps.cli.app import command
from unlearn.config import PYTHON_ONLY, fields_of
from unlearn.runs.options import FinetuneShardsOptions, ForgetShardsOptions
from unlearn.training.options import FINETUNE_DEFAULTS, FORGET_ONLY, LoraOptions, TrainingOptions
from unlearn_eval import run_audit


def verbs(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every verb of the command line with its full name."""
    for name, verb in (group or command()).commands.items():
        if hasattr(verb, "commands"):
            yield from verbs(verb, (*path, name))
        else:
            yield " ".join((*path, name)), verb


VERBS = dict(verbs())


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_and_every_flag_says_what_it_is(name: str) -> None:
    assert VERBS[name].help
    hidden = {"context", "help"}
    assert [p.name for p in VERBS[name].params if p.name not in hidden and not p.help] == []


@pytest.mark.parametrize(
    ("name", "options"), [("finetune", FinetuneShardsOptions), ("forget", ForgetShardsOptions)]
)
def test_flags_have_the_defaults_of_the_options(name: str, options: Any) -> None:
    flags = {p.name: p for p in VERBS[name].params}
    fields = fields_of(options)
    assert {k for k, f in fields.items() if PYTHON_ONLY not in f.metadata} == flags.keys()
    for key, flag in flags.items():
        field = fields[key]
        assert flag.required == field.is_required()
        assert flag.help == field.description
        if not field.is_required():
            default = field.get_default(call_default_factory=True)
            assert flag.default == (default or None if not isinstance(default, int) else default)


@pytest.mark.parametrize(
    ("function", "first"),
    [
        (finetune, ["model", "data", "output"]),
        (forget, ["model", "data", "forget", "output"]),
        (run_audit, ["model", "data", "forget", "output"]),
    ],
)
def test_the_public_functions_take_the_same_by_position(function: Any, first: list[str]) -> None:
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == first
    assert {"dtype", "device", "seed", "overwrite"} <= {p.name for p in parameters}


def test_options_of_finetuning_are_listed_with_their_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["methods", "finetune"]) == 0
    printed = capsys.readouterr().out
    for name, field in {**TrainingOptions.model_fields, **LoraOptions.model_fields}.items():
        line = f"    {name} = {FINETUNE_DEFAULTS.get(name, field.default)}  "
        assert (line in printed) == (name not in FORGET_ONLY)


def test_an_adapter_option_is_a_training_option_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["finetune", "--model", "m", "--data", "d", "--output", "o"]
    assert run([*words, "-o", "lora_alfa=3"]) == 2
    assert "unknown option 'lora_alfa' (did you mean 'lora_alpha'?)" in capsys.readouterr().err
