"""How a federation trains and averages, from the options that a user gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from unlearn.config import StrictModel, validated, without_auto
from unlearn.errors import LineageError, OptionError, did_you_mean
from unlearn.federated.plan import Aggregate, Plan
from unlearn.provenance.lineage import Lineage
from unlearn.recipe import FederateRecipe, load_recipe
from unlearn.training.options import (
    FORGET_ONLY,
    LoraOptions,
    TrainingOptions,
    finetuning_options,
)

__all__ = ["AveragingOptions", "Settings", "from_recipe", "plan_of", "settings_in", "settings_of"]


class AveragingOptions(StrictModel):
    """How a server averages, and whom it waits for."""

    aggregate: Aggregate = Field(
        "factors",
        description="factors: average A and B each by itself (FedAvg). product: average what they "
        "make, B·A, exactly, and factor it again to the rank",
    )
    fraction: float = Field(
        1.0, gt=0, le=1, description="probability with which a client takes part in a round"
    )
    timeout: float = Field(
        3600.0, gt=0, description="seconds that a round waits for its clients (--processes)"
    )
    least: int = Field(1, ge=1, description="clients that must answer for a round to count")


@dataclass(frozen=True)
class Settings:
    """How a federation trains and averages.

    Attributes:
        local: how a client trains in one round.
        lora: shape of the adapter.
        averaging: how the server averages.
        rounds: how many.
    """

    local: TrainingOptions
    lora: LoraOptions
    averaging: AveragingOptions
    rounds: int

    @property
    def pooled(self) -> TrainingOptions:
        """One training on all records that goes through each as often."""
        rounds, local = self.rounds, self.local
        passes = {"epochs": local.epochs and local.epochs * rounds}
        if local.max_steps:
            passes["max_steps"] = local.max_steps * rounds
        return local.model_copy(update=passes)

    @property
    def facts(self) -> dict[str, Any]:
        """What `finetuned_with` holds of them."""
        own = {"rounds": self.rounds, "local": self.local.model_dump()}
        own |= self.averaging.model_dump(include={"aggregate", "fraction"})
        shape = self.lora.model_dump()
        return {"training": self.pooled.model_dump(), "lora": shape, "federation": own}


def from_recipe(
    options: Mapping[str, Any], rounds: int | None, recipe: str | None
) -> tuple[dict[str, Any], int]:
    """Return options and rounds: those given, over those of a recipe.

    Args:
        options: given by name.
        rounds: given.
        recipe: its name, if one is.

    Returns:
        Both.

    Raises:
        OptionError: if nothing says how many rounds.
    """
    chosen = dict(options)
    if recipe:
        found = load_recipe(recipe, FederateRecipe)
        chosen, rounds = {**found.options, **chosen}, rounds or found.rounds
    if rounds is None:
        raise OptionError("federate: how many rounds? give --rounds, or a --recipe that says it")
    return chosen, rounds


def settings_of(options: Mapping[str, Any], lora: Mapping[str, Any], rounds: int) -> Settings:
    """Return how a federation trains; `epochs` counts passes in one round, by default 1.

    Args:
        options: of training, of the adapter's shape and of averaging, by name.
        lora: of the shape, too.
        rounds: how many.

    Returns:
        The settings.

    Raises:
        OptionError: naming the option.
    """
    chosen = without_auto(options)
    known = [*TrainingOptions.model_fields, *LoraOptions.model_fields]
    for name in chosen:
        if name not in {*known, *AveragingOptions.model_fields}:
            hint = did_you_mean(name, [*known, *AveragingOptions.model_fields])
            raise OptionError(f"federate: unknown option {name!r}{hint}")
    own = {name: chosen.pop(name) for name in AveragingOptions.model_fields if name in chosen}
    if watching := sorted(FORGET_ONLY & set(chosen)):
        raise OptionError(f"federate: {watching[0]} is for forgetting, and nothing is forgotten")
    local, shape = finetuning_options({"epochs": 1, **chosen}, lora, "federate")
    averaging = validated(AveragingOptions, own, "federate")
    if averaging.aggregate == "product" and shape.use_dora:
        raise OptionError(
            "federate: aggregate=product averages what B·A adds, and of DoRA that is not all: "
            "leave use_dora out, or take aggregate=factors"
        )
    # a round is kept when it is done: there is nothing between that could be gone on with
    return Settings(local.model_copy(update={"save_steps": None}), shape, averaging, rounds)


def settings_in(line: Lineage) -> Settings:
    """Return how a federation was trained, by its lineage.

    Raises LineageError if it does not say that.
    """
    try:
        own = line.finetuned_with["federation"]
        averaging = {name: own[name] for name in ("aggregate", "fraction")}
        return Settings(
            TrainingOptions(**own["local"]),
            LoraOptions(**line.finetuned_with["lora"]),
            AveragingOptions(**averaging),
            int(own["rounds"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise LineageError(
            f"the lineage does not say how the federation trained: {words}"
        ) from None


def plan_of(settings: Settings, base: str, template: str, seed: int) -> Plan:
    """Return a plan without rounds.

    Args:
        settings: how a federation trains and averages.
        base: digest of the base.
        template: how records are written.
        seed: of everything.

    Returns:
        The plan.
    """
    averaging = settings.averaging
    return Plan(
        base=base,
        lora=settings.lora.model_dump(),
        training=settings.local.model_dump(),
        template=template,
        seed=seed,
        aggregate=averaging.aggregate,
        schedule=[],
        timeout=averaging.timeout,
        least=averaging.least,
    )
