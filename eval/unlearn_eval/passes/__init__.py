"""Passes of a model beyond the one from which all likelihood-based numbers come: off by default.

Each file runs a model for one attack or probe; what its arrays mean is a pure function in
`unlearn_eval.membership` or `unlearn_eval.extraction`, in a file of the same name. Listing them
imports no torch: `plan` does, when an audit asks for one.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from unlearn.errors import OptionError, did_you_mean
from unlearn_eval.extraction import exposure as exposure_probe
from unlearn_eval.extraction import prompt_states as prompt_states_probe
from unlearn_eval.membership import con_recall as con_recall_attack
from unlearn_eval.membership import grad_norm as grad_norm_attack
from unlearn_eval.membership import neighbourhood as neighbourhood_attack
from unlearn_eval.membership import recall as recall_attack
from unlearn_eval.utility import truth_ratio as truth_ratio_probe

if TYPE_CHECKING:
    from unlearn_eval.passes.base import Material, PlannedPass

__all__ = ["PASSES", "Pass", "check", "plan"]


class _PassModule(Protocol):
    """What the file of a pass's attack or probe defines."""

    PAPER: str
    SUMMARY: str


@dataclass(frozen=True, slots=True)
class Pass:
    """An optional pass of an audit.

    Attributes:
        name: as for `--also`; its file has the same name.
        probe: `package.file` of what it measures.
        cost: what it costs, and what it needs.
        paper: where it comes from.
        summary: one line for listings.
    """

    name: str
    probe: str
    cost: str
    paper: str
    summary: str


def _pass(name: str, package: str, module: _PassModule, cost: str) -> Pass:
    """Describe the pass for the attack or probe that a module defines."""
    return Pass(name, f"{package}.{name}", cost, module.PAPER, module.SUMMARY)


PASSES: dict[str, Pass] = {
    "grad_norm": _pass(
        "grad_norm", "membership", grad_norm_attack, "a forward and a backward pass"
    ),
    "recall": _pass("recall", "membership", recall_attack, "a pass; needs a holdout"),
    "con_recall": _pass(
        "con_recall", "membership", con_recall_attack, "two passes; needs a holdout, kept records"
    ),
    "neighbourhood": _pass("neighbourhood", "membership", neighbourhood_attack, "26 passes"),
    "prompt_states": _pass(
        "prompt_states", "extraction", prompt_states_probe, "3 or more passes of the forget records"
    ),
    "exposure": _pass(
        "exposure",
        "extraction",
        exposure_probe,
        "up to 10,000 short passes a secret; needs secrets with digits",
    ),
    "truth_ratio": _pass(
        "truth_ratio",
        "utility",
        truth_ratio_probe,
        "a pass over every false answer; needs --perturbed, which asks for it",
    ),
}


def check(names: Sequence[str], paraphrased: bool = False, perturbed: bool = False) -> None:
    """Refuse passes that there are not.

    Args:
        names: what an audit is asked for.
        paraphrased: whether other prompts were given.
        perturbed: whether false answers were given.

    Raises:
        OptionError: if there is no pass of a name, or none for the prompts, or a pass lacks what
            only the user can give.
    """
    for name in names:
        if name not in PASSES:
            raise OptionError(
                f"--also {name}: there is no such pass{did_you_mean(name, PASSES)}; choose "
                f"{', '.join(PASSES)}"
            )
    if paraphrased and "prompt_states" not in names:
        raise OptionError("--paraphrases is for --also prompt_states, which was not asked for")
    if "truth_ratio" in names and not perturbed:
        raise OptionError(
            "--also truth_ratio needs false answers to compare with: pass --perturbed FILE"
        )


def plan(names: Sequence[str], material: Material) -> list[PlannedPass]:
    """Prepare the passes that an audit asks for, before any state is looked at.

    Raises OptionError if there is no pass of a name; DataError if a pass lacks records.
    """
    check(names, perturbed=bool(material.perturbed))
    modules = [importlib.import_module(f"unlearn_eval.passes.{n}") for n in dict.fromkeys(names)]
    return [module.plan(material) for module in modules]
