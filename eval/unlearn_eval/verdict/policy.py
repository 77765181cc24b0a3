"""Policies: what a verdict asks for, fixed before any score exists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from unlearn.config import StrictModel, validated
from unlearn.errors import OptionError, did_you_mean
from unlearn.recipe import load_recipe, recipe_names
from unlearn_eval.certificate.policies import content_hash, posing
from unlearn_eval.membership import ATTACKS
from unlearn_eval.scores.token_scores import SAMPLERS

__all__ = [
    "AS_IS",
    "BACKDOOR",
    "BACKDOOR_BEST",
    "DEFAULT",
    "DEVIATION",
    "FORMS",
    "VERBATIM",
    "WORST",
    "Extraction",
    "Policy",
    "is_form",
    "load_policy",
    "policy_of",
]

DEFAULT = "standard"
"""Policy of a verdict on an audit that was run without one."""

AS_IS, VERBATIM = "as-is", "verbatim"
DEVIATION, WORST = "deviation", "worst_record"
"""Probes of every verdict by references: how far records lie from the references, all and worst."""

BACKDOOR, BACKDOOR_BEST = "backdoor", "backdoor_best"
"""Probes of a verdict where a backdoor was measured: its target's mean over prompts, and its best
ones."""

FORMS: dict[str, str] = {
    AS_IS: AS_IS,
    "merge_bf16": "merged bf16",
    "int8": "int8",
    "int4": "int4",
    "nf4": "nf4",
    "scale": "scale",
}
"""Forms in which a model is deployed: a treatment's name, and how the deployments of an audit that
it gives begin. Relearning and the logit lens are attacks with more access, not deployments."""

_PROMPTS = (VERBATIM, "few_shot", "role_play", "affirmative", "chat_on", "chat_off", "paraphrase:")


class Extraction(StrictModel):
    """When a record counts as extractable: 1 − (1 − p_z)^n ≥ p (2410.19482, definition 3.2)."""

    n: int = Field(ge=1, description="tries")
    p: float = Field(gt=0, le=0.9, description="probability that one of them is the record")
    temperature: float = 1.0
    top_k: int = 40

    @property
    def sampler(self) -> tuple[float, int]:
        """How the model is sampled: (temperature, top_k)."""
        return (self.temperature, self.top_k)


class Look(StrictModel):
    """A count of references at which a verdict is meant to be asked for, and what it may err."""

    references: int = Field(ge=3)
    alpha: float = Field(gt=0, le=0.1, description="error of either decision at this look")


class Policy(StrictModel):
    """What must hold for a PASS, and what makes a FAIL."""

    kind: Literal["policy"]
    description: str = ""
    probes: Annotated[list[str], Field(min_length=1)]
    alpha: float = Field(gt=0, le=0.1, description="error of either decision, over all looks")
    looks: list[Look] = Field(
        default_factory=list, description="α of a look by so many references; alpha without any"
    )
    margin: float = Field(
        gt=0, le=10, description="largest distance that does not matter, in reference SD"
    )
    floor: float = Field(
        0.0, ge=0, le=0.25, description="least distance that matters, as a change of AUC"
    )
    delta: float = Field(gt=0, le=0.25, description="largest |θ − ½| that does not matter")
    min_references: int = Field(ge=3, description="references from which on they decide")
    extraction: Extraction
    deployments: Annotated[list[str], Field(min_length=1)]
    prompt_states: Annotated[list[str], Field(min_length=1)]
    utility_margin: float = Field(
        gt=0, le=1, description="largest rise of the kept records' loss, nats"
    )
    epsilon: float | None = Field(None, ge=0, description="ε that is claimed, tested by canaries")

    @field_validator("probes")
    @classmethod
    def _probes(cls, names: list[str]) -> list[str]:
        return _known(names, [*ATTACKS, DEVIATION], "probe")

    @field_validator("deployments")
    @classmethod
    def _deployments(cls, names: list[str]) -> list[str]:
        return _with(AS_IS, _known(names, FORMS, "deployment"))

    @field_validator("prompt_states")
    @classmethod
    def _prompt_states(cls, names: list[str]) -> list[str]:
        plain = [n for n in names if not (n.startswith("paraphrase:") and n[11:].isdigit())]
        _known(plain, _PROMPTS[:-1], "prompt state")
        return _with(VERBATIM, names)

    @field_validator("looks")
    @classmethod
    def _looks(cls, looks: list[Look]) -> list[Look]:
        counts = [look.references for look in looks]
        if counts != sorted(set(counts)):
            raise ValueError("looks must have more references each time")
        return looks

    @field_validator("extraction")
    @classmethod
    def _sampled(cls, value: Extraction) -> Extraction:
        if value.sampler not in {*SAMPLERS, (1.0, 0)}:
            known = " or ".join(f"temperature {t:g}, top_k {k}" for t, k in (*SAMPLERS, (1.0, 0)))
            raise ValueError(f"audits do not hold this sampling; they hold {known}")
        return value

    @property
    def tested(self) -> list[str]:
        """The pre-registered membership probes; deviation is always one."""
        return list(dict.fromkeys([*self.probes, DEVIATION]))

    @property
    def tested_by_references(self) -> list[str]:
        """Those of a verdict by references, which can tell of each record how far it lies."""
        return [*self.tested, WORST]

    def level(self, k: int) -> float:
        """Return α of a look by k references.

        It is that of the first scheduled count from k on: whoever looks at 5, then at 8, then at 12
        references errs with probability `alpha` at most over all looks (simulated in
        `docs/verdict_simulation.py`). Counts beyond the schedule have the last one's.
        """
        scheduled = [look for look in self.looks if look.references >= k] or self.looks[-1:]
        return scheduled[0].alpha if scheduled else self.alpha

    @property
    def treatments(self) -> list[str]:
        """What `robustness` of an audit must be for the declared deployments."""
        return [name for name in self.deployments if name != AS_IS]

    @property
    def passes(self) -> list[str]:
        """What `also` of an audit must be for the declared prompt states."""
        return ["prompt_states"] if self.prompt_states != [VERBATIM] else []

    @property
    def content(self) -> dict[str, Any]:
        """All of it, as JSON has it; what older policies do not have, only where it is used."""
        content = self.model_dump(mode="json")
        return {k: v for k, v in content.items() if v or k not in ("looks", "floor")}

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON: keys sorted, no spaces, ASCII."""
        return content_hash(self.content)


def is_form(deployment: str, declared: str) -> bool:
    """Say whether a deployment of an audit is of a declared form: `int4 group=32` is `int4`.

    Args:
        deployment: as rows and matrices of an audit name it.
        declared: as a policy names it.

    Returns:
        Whether it is.
    """
    form = FORMS[declared]
    return deployment == form or deployment.startswith((f"{form} ", f"{form}="))


def load_policy(name: str | Path) -> tuple[str, Policy]:
    """Read a policy by name or from a file of the user's own.

    Args:
        name: `quick`, `standard`, `strict`, or a path that ends with `.yaml`.

    Returns:
        Its name, which of a file is the file's, and the policy.

    Raises:
        OptionError: if there is none, it has an unknown key or a value that cannot be, or a file
            has the name of another policy that comes with the toolkit.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        own = load_recipe(str(name), Policy)
        if posing({"name": path.stem, "sha256": own.sha256}):
            raise OptionError(
                f"{name} is named like the policy {path.stem!r} that comes with unlearn, and holds "
                "another: a certificate would call it by that name; rename the file"
            )
        return path.stem, own
    known = [n.removeprefix("policies/") for n in recipe_names() if n.startswith("policies/")]
    if str(name) not in known:
        raise OptionError(
            f"no policy {str(name)!r}{did_you_mean(str(name), known)}; there are "
            f"{', '.join(known)}, or give a YAML file"
        )
    return str(name), load_recipe(f"policies/{name}", Policy)


def policy_of(content: Mapping[str, Any], where: str) -> Policy:
    """Rebuild a policy from its content, as an audit stores it.

    Raises OptionError if it is no policy.
    """
    return validated(Policy, content, where)


def _known(names: list[str], known: Any, what: str) -> list[str]:
    """Refuse names that there are not, and repeats."""
    for name in names:
        if name not in known:
            raise ValueError(f"no {what} {name!r}{did_you_mean(name, known)}")
    if len(set(names)) < len(names):
        raise ValueError(f"a {what} is named twice")
    return names


def _with(first: str, names: list[str]) -> list[str]:
    """Return the names with one that is always meant."""
    return names if first in names else [first, *names]
