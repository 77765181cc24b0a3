"""What can be set of each treatment, with the defaults and where these come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from unlearn.config import StrictModel, parse_overrides, validated, without_auto
from unlearn.errors import OptionError, did_you_mean

__all__ = [
    "FACTORS",
    "GROUPS",
    "OPTIONS",
    "RECORDS",
    "STEPS",
    "Options",
    "TrainingTreatment",
    "options_of",
    "parse_options",
]

RECORDS = 5
"""Records that are trained on, at most half of those there are; this project's choice."""

STEPS = 10
"""Optimizer steps, each on all of these records; this project's choice."""

GROUPS = (32, 64, 128)
"""Weights that share a scale in 4 bits; 128 is the usual choice of GPTQ and AWQ, 32 the finest."""

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.5)
"""Factors on ΔW. At 1 nothing happens: that point of the curve is the state as it is."""


def _listed(value: Any) -> Any:
    """Read `0,1,2` or a single value as a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, (int, float)) else value


def _each_once(value: Any) -> Any:
    values = _listed(value)
    if isinstance(values, (list, tuple)) and len({str(v) for v in values}) < len(values):
        raise ValueError("a value is given twice")
    return values


_Counted = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
_Seeds = Annotated[_Counted | None, BeforeValidator(_each_once)]
_Factors = Annotated[tuple[float, ...], BeforeValidator(_each_once), Field(min_length=1)]
_Sizes = Annotated[
    tuple[Annotated[int, Field(gt=0)], ...], BeforeValidator(_each_once), Field(min_length=1)
]
_Blocks = Annotated[_Counted | None, BeforeValidator(_each_once)]


class Options(StrictModel):
    """Options of a treatment that has none."""

    @property
    def runs(self) -> int:
        """How many treated states there are."""
        return 1


class TrainingTreatment(Options):
    """Options of `relearn` and `benign`."""

    k: int = Field(RECORDS, gt=0, description="records to train on, at most half of those there")
    steps: int = Field(STEPS, gt=0, description="optimizer steps, each on all of these records")
    learning_rate: float | None = Field(
        None, gt=0, description="step size; by default that of the adapter's own training"
    )
    seeds: _Seeds = Field(
        None,
        description="a run each, with a draw of records of its own, and their mean; by default "
        "the audit's seed",
    )

    @property
    def runs(self) -> int:
        """One a seed."""
        return len(self.seeds or (0,))


class Rounding(Options):
    """Options of `int4`."""

    groups: _Sizes = Field(GROUPS, description="weights that share a scale, a run each")

    @property
    def runs(self) -> int:
        """One a size."""
        return len(self.groups)


class Scaling(Options):
    """Options of `scale`."""

    factors: _Factors = Field(FACTORS, description="of what the adapter changes, a run each")

    @property
    def runs(self) -> int:
        """One a factor."""
        return len(self.factors)


class Lens(Options):
    """Options of `logit_lens`."""

    blocks: _Blocks = Field(
        None,
        description="whose output is read, the first is 0; by default ¼, ½ and ¾ of the way up",
    )

    @property
    def runs(self) -> int:
        """One a block."""
        return 3 if self.blocks is None else len(self.blocks)


OPTIONS: dict[str, type[Options]] = {
    "relearn": TrainingTreatment,
    "benign": TrainingTreatment,
    "int8": Options,
    "int4": Rounding,
    "nf4": Options,
    "scale": Scaling,
    "merge_bf16": Options,
    "logit_lens": Lens,
}
"""By treatment."""

_FLAG = "--robustness-option"


def parse_options(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read `relearn.steps=20` and the like; values are YAML, lists have commas.

    Args:
        words: what the user wrote, later ones win.

    Returns:
        By treatment, by option, the value; nothing is checked but the form.

    Raises:
        OptionError: for a word of another form.
    """
    by_treatment: dict[str, dict[str, Any]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        treatment, dot, key = name.partition(".")
        if not (treatment and dot and key and equals and value):
            raise OptionError(
                f"{_FLAG} {word}: write TREATMENT.OPTION=VALUE, such as relearn.steps=20"
            )
        by_treatment.setdefault(treatment, {})[key] = parse_overrides([f"value={value}"])["value"]
    return by_treatment


def options_of(given: Mapping[str, Mapping[str, Any]], chosen: Iterable[str]) -> dict[str, Options]:
    """Check what was set, and fill in the defaults.

    Raises OptionError naming a treatment or option that does not exist (with the nearest that
    does), a treatment that is not run, or a value that does not fit.
    """
    run = list(chosen)
    for name in given:
        if name not in OPTIONS:
            raise OptionError(
                f"{_FLAG}: no treatment {name!r}{did_you_mean(name, OPTIONS)}; "
                f"there are {', '.join(OPTIONS)}"
            )
        if name not in run:
            raise OptionError(
                f"{_FLAG} {name}.{next(iter(given[name]), '…')}: {name} is not run; add it to "
                "--robustness"
            )
        if given[name] and not OPTIONS[name].model_fields:
            raise OptionError(f"{_FLAG}: nothing can be set of {name}")
    return {
        name: validated(OPTIONS[name], without_auto(given.get(name, {})), f"{_FLAG} {name}")
        for name in run
    }
