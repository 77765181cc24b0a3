"""What training with differential privacy promises, and what it refuses beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from unlearn.config import StrictModel, validated
from unlearn.errors import OptionError
from unlearn.processes import world_size
from unlearn.training.options import FORGET_ONLY, LoraOptions, TrainingOptions
from unlearn.training.private.accounting import check_opacus

__all__ = ["PrivacyOptions", "check_private", "delta_for", "privacy_options"]

Unit = Literal["record", "person", "client"]


class PrivacyOptions(StrictModel):
    """The promise: (ε, δ) for adding or removing one unit, and how gradients are clipped for it."""

    epsilon: float = Field(gt=0, allow_inf_nan=False, description="ε, above 0 and finite")
    delta: float | None = Field(
        None, gt=0, lt=1, description="δ, below 1 / units; default: a tenth of that"
    )
    clip: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="norm to which a unit's gradient is clipped"
    )
    unit: Unit = Field(
        "record", description="whose presence is hidden: a record's, a person's or a client's"
    )


def privacy_options(
    given: Mapping[str, Any], units: Sequence[Unit] = ("record", "person")
) -> PrivacyOptions | None:
    """Return what `--dp` asks for; None where it is not given.

    Args:
        given: options by name.
        units: what can be a unit; the first one by default.

    Returns:
        The promise, if any.

    Raises:
        OptionError: naming the option.
    """
    if not given:
        return None
    if "epsilon" not in given:
        raise OptionError("--dp: say which ε is promised, such as --dp epsilon=8")
    promise = validated(PrivacyOptions, {"unit": units[0], **given}, "--dp")
    if promise.unit not in units:
        raise OptionError(
            f"--dp unit={promise.unit}: here it is {' or '.join(units)}; clients are the units of "
            "`unlearn federate`, records and persons those of `unlearn finetune`"
        )
    return promise


def delta_for(privacy: PrivacyOptions, units: int) -> float:
    """Return δ: the given one, or 1/(10·units).

    At δ = 1/units, publishing one unit at random would be allowed; the default is a tenth of that
    by convention alone.

    Args:
        privacy: the promise.
        units: how many there are.

    Returns:
        δ.

    Raises:
        OptionError: if δ ≥ 1/units.
    """
    if privacy.delta is None:
        return 1 / (10 * units)
    if privacy.delta >= 1 / units:
        raise OptionError(
            f"--dp delta={privacy.delta:g}: with {units} units it must be below 1/{units} = "
            f"{1 / units:g}, or publishing one of them at random would be allowed"
        )
    return privacy.delta


def check_private(
    given: Mapping[str, Any],
    training: TrainingOptions,
    lora: LoraOptions,
    *,
    full: bool,
    trackers: bool,
) -> None:
    """Refuse what breaks the promise of `--dp`, or what its loop does not do.

    Args:
        given: options of training that the user named.
        training: the same, with defaults.
        lora: shape of the adapter.
        full: whether the whole model is to be trained.
        trackers: whether curves are to be reported.

    Raises:
        OptionError: naming the option and why, or that Opacus is not installed.
    """
    chosen = {name for name, value in given.items() if value is not None}
    watching = sorted(chosen & FORGET_ONLY)
    reasons = {
        "--full": full and "it trains adapters only",
        "--report-to": trackers and "curves of the loss are of private records, without noise",
        "-o max_grad_norm": "max_grad_norm" in chosen
        and "each unit's gradient is clipped already, by --dp clip=NORM",
        "-o optimizer=muon": training.optimizer == "muon"
        and "it makes equally large what is noise alone; use adamw",
        "-o use_dora": lora.use_dora and "it takes plain LoRA, whose factors are linear layers",
        "-o gradient_checkpointing": training.gradient_checkpointing
        and "it needs each activation once; use a smaller micro_batch_size",
        f"-o {' '.join(watching)}": bool(watching)
        and "stop rules look at private records, and wrappers are for forgetting",
        "accelerate launch": world_size() > 1 and "it runs in one process",
    }
    for option, why in reasons.items():
        if why:
            raise OptionError(f"--dp and {option}: {why}")
    check_opacus()
