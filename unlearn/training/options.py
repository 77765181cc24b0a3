"""Training options: one place for every default."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from unlearn.config import StrictModel, block_numbers, validated, without_auto
from unlearn.errors import OptionError, did_you_mean

__all__ = [
    "FINETUNE_DEFAULTS",
    "FORGET_ONLY",
    "USUAL_RATE",
    "LoraOptions",
    "TrainingOptions",
    "check_wrappers",
    "finetuning_options",
    "total_steps",
]

USUAL_RATE = 2e-4
"""Learning rate at which adapters are usually trained: that of the LoRA paper for GPT-3
(2106.09685, table 12) and of the QLoRA paper up to 13B (2305.14314, table 9)."""

FINETUNE_DEFAULTS: dict[str, Any] = {"learning_rate": USUAL_RATE, "epochs": 10}
"""How training options of fine-tuning differ from those of unlearning."""

FORGET_ONLY = frozenset(
    "retain_ratio stop stop_loss retain_budget sam_rho project_retain latent_radius latent_steps "
    "latent_layer".split()
)
"""Training options without a meaning where nothing is forgotten."""


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
    cache_frozen: Literal["auto", "off"] = Field(
        "auto",
        description="compute frozen blocks below those that train once for each record, where that "
        "makes no difference but rounding; 1 GiB in memory, the rest in a temporary file",
    )
    save_steps: int | None = Field(None, gt=0, description="steps between checkpoints")
    stop: Literal["auto", "holdout", "none"] = Field(
        "auto",
        description="stop where unseen records would be: the base's loss on these plus "
        "what the adapter changes on the holdout; holdout = its mean loss; none = run all epochs",
    )
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


def _block_numbers(value: Any) -> Any:
    """Return block numbers in order from how an option writes them."""
    if isinstance(value, str | int):
        return sorted(block_numbers(str(value), "layers_to_transform"))
    return value


class LoraOptions(StrictModel):
    """A new LoRA adapter, in PEFT's own words."""

    r: int = Field(16, gt=0, description="rank")
    lora_alpha: float = Field(32, gt=0, description="scale numerator: ΔW = alpha / r · B·A")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout in front of A")
    target_modules: str | list[str] = Field("all-linear", description="layers that get factors")
    use_rslora: bool = Field(False, description="scale by alpha / √r")
    use_dora: bool = Field(False, description="learn a magnitude beside the direction (DoRA)")
    layers_to_transform: Annotated[list[int] | None, BeforeValidator(_block_numbers)] = Field(
        None, description="only these transformer blocks, as 5, 5-7 or 5,6; the first is 0"
    )


def finetuning_options(
    options: Mapping[str, Any], lora: Mapping[str, Any], where: str
) -> tuple[TrainingOptions, LoraOptions]:
    """Return how an adapter is trained and shaped; `options` may hold those of its shape, too.

    Raises OptionError naming the option.
    """
    chosen = without_auto(options)
    known = [*TrainingOptions.model_fields, *LoraOptions.model_fields]
    for name in chosen:
        if name not in known:
            raise OptionError(f"{where}: unknown option {name!r}{did_you_mean(name, known)}")
    shape = {name: chosen.pop(name) for name in LoraOptions.model_fields if name in chosen}
    training = validated(TrainingOptions, FINETUNE_DEFAULTS | chosen, where)
    check_wrappers(chosen, training, where, forget=False, retain=True)
    return training, validated(LoraOptions, {**shape, **lora}, "lora")


def total_steps(training: TrainingOptions, records: int) -> int:
    """Return the number of optimizer steps of a run.

    Args:
        training: options.
        records: forget (or training) records.

    Returns:
        `max_steps`, or epochs × records / batch size, rounded up.

    Raises:
        OptionError: if neither is set.
    """
    if training.max_steps:
        return training.max_steps
    if training.epochs is None:
        raise OptionError("how long to train is open: set epochs or max_steps")
    # a product that is whole but for rounding makes no further step
    return max(1, math.ceil(training.epochs * records / training.batch_size - 1e-9))


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
