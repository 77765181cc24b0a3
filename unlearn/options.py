"""Training options: one place for every default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unlearn.errors import OptionError, did_you_mean

__all__ = [
    "USUAL_RATE",
    "LoraOptions",
    "StrictModel",
    "TrainingOptions",
    "check_wrappers",
    "parse_overrides",
    "validated",
    "without_auto",
]

USUAL_RATE = 2e-4
"""Learning rate at which adapters are usually trained: that of the LoRA paper for GPT-3
(2106.09685, table 12) and of the QLoRA paper up to 13B (2305.14314, table 9)."""


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)


class TrainingOptions(StrictModel):
    """How a loss is optimised, whatever the loss."""

    learning_rate: float | None = Field(
        None, gt=0, description="step size; auto = the method's part of the original one"
    )
    epochs: float | None = Field(
        None,
        gt=0,
        description="passes over the forget (or training) records; auto: by method",
    )
    max_steps: int | None = Field(None, gt=0, description="optimizer steps, instead of epochs")
    batch_size: int = Field(
        8, gt=0, description="forget records a step; as many retain records come on top"
    )
    micro_batch_size: int | None = Field(
        None, gt=0, description="split a step into batches of this size to save memory"
    )
    retain_ratio: int = Field(1, gt=0, description="retain records drawn for each forget record")
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="what the learning rate does after warm-up"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon moves matrices only, as those of plain LoRA"
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="what is kept of earlier steps' direction (β₁ of AdamW)"
    )
    weight_decay: float = Field(0.0, ge=0, description="the optimizer's weight decay")
    max_grad_norm: float = Field(1.0, ge=0, description="clip the gradient to this norm; 0 = never")
    max_length: int | None = Field(None, gt=1, description="cut records to this many tokens")
    gradient_checkpointing: bool = Field(False, description="trade time for memory")
    train_layers: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="train only these transformer blocks, as 5, 5-7 or 5,6; the first is 0",
    )
    save_steps: int | None = Field(None, gt=0, description="steps between checkpoints")
    stop: Literal["auto", "none"] = Field("auto", description="stop rules on, or run all epochs")
    stop_loss: float | None = Field(
        None, description="stop when the forget records' mean loss reaches this, in nats a token"
    )
    retain_budget: float = Field(
        0.5, ge=0, description="stop when the retain loss has risen by this, in nats a token"
    )
    sam_rho: float | None = Field(
        None,
        ge=0,
        description="forget at the worst weights within this distance, against relearning "
        "(SAM; 0.01 in the paper on unlearning); 0 = off",
    )
    project_retain: bool = Field(
        False, description="take out of the forget gradient what would raise the retain loss"
    )
    latent_radius: float | None = Field(
        None,
        ge=0,
        description="forget under the disturbance of a block's output that best brings the records "
        "back, of at most this norm a token (LAT; 2 for 7B models in its code); 0 = off",
    )
    latent_steps: int = Field(16, gt=0, description="gradient steps that look for it")
    latent_layer: int | None = Field(
        None, ge=0, description="which block; the first is 0; by default 7/32 of the way up"
    )

    @property
    def forget_passes(self) -> float:
        """How often a step goes forward and backward on a forget record."""
        latent = self.latent_steps + 1 if self.latent_radius else 1
        plain = 1 / 3 if self.latent_radius else 0  # to see the loss undisturbed: forward only
        return (2 if self.sam_rho else 1) * latent + plain


class LoraOptions(StrictModel):
    """A new LoRA adapter, in PEFT's own words."""

    r: int = Field(16, gt=0, description="rank")
    lora_alpha: float = Field(32, gt=0, description="scale numerator: ΔW = alpha / r · B·A")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout in front of A")
    target_modules: str | list[str] = Field("all-linear", description="layers that get factors")
    use_rslora: bool = Field(False, description="scale by alpha / √r")
    use_dora: bool = Field(False, description="learn a magnitude beside the direction (DoRA)")


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


def check_wrappers(
    options: Mapping[str, Any], training: TrainingOptions, where: str, *, forget: bool, retain: bool
) -> None:
    """Refuse options that wrap the forget term where they have nothing to act on.

    Args:
        options: what was given.
        training: the same, with defaults.
        where: what is being configured, for the message.
        forget: whether there is a forget term.
        retain: whether there is a retain term.

    Raises:
        OptionError: naming the option.
    """
    on = [k for k in ("sam_rho", "project_retain", "latent_radius") if getattr(training, k)]
    if on and not forget:
        raise OptionError(f"{where}: {on[0]} wraps a forget loss, and there is none here")
    if training.project_retain and not retain:
        raise OptionError(
            f"{where}: project_retain needs the gradient of a retain loss: set retain_loss "
            "(retain_weight=0 uses its direction only)"
        )
    idle = [k for k in ("latent_steps", "latent_layer") if options.get(k) is not None]
    if idle and not training.latent_radius:
        raise OptionError(f"{where}: {idle[0]} has no effect without latent_radius")


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
