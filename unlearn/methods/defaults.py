"""Decide what a method leaves open until the adapter and the records are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unlearn.config import validated
from unlearn.errors import LineageError, OptionError
from unlearn.methods.plans import AFFORDABLE
from unlearn.methods.registry import Resolved
from unlearn.provenance.elsewhere import trained_elsewhere
from unlearn.provenance.lineage import Lineage
from unlearn.training.options import USUAL_RATE, TrainingOptions, total_steps

if TYPE_CHECKING:
    from unlearn.training.levels import Level

__all__ = [
    "FEW_EPOCHS_RATE",
    "KNOWN",
    "LEAST_STEPS",
    "OriginalTraining",
    "Regime",
    "decided",
    "original_training",
    "regime",
    "same_training",
    "trained_with",
]

LEAST_STEPS = 36
"""Optimizer steps that are wanted however few the records are, as long as they are cheap: AdamW
moves a weight by about the learning rate a step, whatever the gradient."""

KNOWN = 0.4
"""Loss of records relative to that of unseen ones up to which they are known by heart."""

FEW_EPOCHS_RATE = 0.5
"""Part of a method's learning rate at which it runs where records were seen a few times only."""

Regime = Literal["memorised", "few_epochs"]


@dataclass(frozen=True)
class OriginalTraining:
    """How an adapter was trained, as far as that is known.

    Attributes:
        options: fields of `TrainingOptions`.
        sources: where each of them was found, but for those of a lineage; `--…-was` for a flag.
        notes: what files beside the adapter contradict, and which of them were not read.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def found(self) -> tuple[str, ...]:
        """Say what was found in files beside the adapter, and where."""
        files = {k: v for k, v in self.sources.items() if not v.startswith("--")}
        if not files:
            return ()
        facts = ", ".join(f"{k}={self.options[k]} ({where})" for k, where in files.items())
        return (f"no lineage: how the adapter was trained was found beside it: {facts}",)


def original_training(
    parent: Lineage | None, folder: Path | None = None, was: Mapping[str, Any] | None = None
) -> OriginalTraining:
    """Return how an adapter was trained: what the user says, its lineage, or files beside it.

    Args:
        parent: its lineage, if it has one.
        folder: its folder, looked into where no lineage tells.
        was: what the user says of it; None for what they leave open.

    Returns:
        What is known.
    """
    options, sources = trained_with(parent), dict[str, str]()
    notes: tuple[str, ...] = ()
    if not options and folder is not None:
        files = trained_elsewhere(folder)
        options, sources, notes = dict(files.values), dict(files.sources), files.notes
    given = {name: value for name, value in (was or {}).items() if value is not None}
    if "epochs" in given:
        options.pop("max_steps", None)
        sources.pop("max_steps", None)
    flags = {name: f"--{name.replace('_', '-')}-was" for name in given}
    return OriginalTraining(options | given, {**sources, **flags}, notes)


def trained_with(parent: Lineage | None) -> dict[str, Any]:
    """Return the options of the original training, as far as a lineage tells.

    Args:
        parent: lineage of the adapter, if it has one.

    Returns:
        Fields of `TrainingOptions`; empty where nothing is known.
    """
    return dict((parent.finetuned_with if parent else {}).get("training") or {})


def regime(level: Level | None) -> tuple[Regime, str]:
    """Tell how well an adapter knows the records it is to forget.

    memorised where l ≤ .4·ℓ, else few_epochs: l the records' mean loss under the adapter, ℓ what
    they would have had they never been seen (`unlearn.training.levels`). On TOFU, l/ℓ is .00 after
    25 epochs and .5 after 5. The learning rates of methods were chosen on memorised records, whose
    kept ones have gradients near 0.

    Args:
        level: ℓ, with l; None where neither is known, which counts as memorised.

    Returns:
        (which it is, why).
    """
    if level is None:
        return "memorised", "nothing tells how well the records are known: as if by heart"
    known = level.trained <= KNOWN * level.loss
    return "memorised" if known else "few_epochs", (
        f"their loss is {level.trained:.2f}, {'at most' if known else 'above'} {KNOWN:g} of the "
        f"{level.loss:.2f} of unseen ones ({level.source})"
    )


def decided(
    resolved: Resolved,
    parent: Lineage | None,
    records: int,
    original: OriginalTraining | None = None,
    *,
    level: Level | None = None,
    most: Callable[[TrainingOptions], int] | None = None,
) -> tuple[Resolved, list[str]]:
    """Fill in a learning rate and a number of epochs that were left to be decided.

    The learning rate is the method's `rate` times that of the original training: how far a step may
    go depends on the model and the adapter, and the rate that once taught the records tells it;
    where records were seen a few times only (`regime`), half of that. The epochs are the method's,
    or as many as make `LEAST_STEPS` optimizer steps, but no more than cost half of retraining.

    Args:
        resolved: the method with its options.
        parent: lineage of the adapter, if it has one.
        records: forget records.
        original: how the adapter was trained; by default what its lineage tells.
        level: the loss of the forget records, and what unseen ones have.
        most: returns the optimizer steps that retraining allows with some options; None where
            nobody knows what retraining takes.

    Returns:
        (the method with numbers for all its options, what the user should know).

    Raises:
        OptionError: for a method that is offered only for records known by heart, on others.
    """
    training, notes = resolved.training, list[str]()
    original = original or original_training(parent)
    if resolved.method.kind != "exact":
        resolved, notes = _in_regime(resolved, level)
    fill: dict[str, float] = {}
    if training.learning_rate is None:
        part = resolved.method.rate
        if resolved.regime == "few_epochs" and resolved.method.kind == "loss":
            part *= FEW_EPOCHS_RATE
        known = original.options.get("learning_rate")
        fill["learning_rate"] = part * (known or USUAL_RATE)
        notes += _rate_notes(original, part)
    if training.epochs is None:
        least = LEAST_STEPS * training.batch_size / records
        fill["epochs"] = max(resolved.method.epochs, least)
        how = training.model_copy(update=fill)
        wanted = total_steps(how, records)
        steps = most(how) if most and resolved.method.kind != "exact" else wanted
        if steps < wanted and not training.max_steps:
            fill["epochs"] = steps * training.batch_size / records
            notes.append(
                f"{steps} of the usual {wanted} optimizer steps: more would cost above "
                f"{AFFORDABLE:g} of retraining; --method retrain is exact, and "
                f"-o max_steps={wanted} runs them all"
            )
    return replace(resolved, training=training.model_copy(update=fill)), notes


def _in_regime(resolved: Resolved, level: Level | None) -> tuple[Resolved, list[str]]:
    """Decide the regime, and say which was taken and why where it was not given."""
    if resolved.regime != "auto":
        taken, why = resolved.regime, "given"
    else:
        taken, why = regime(level)
    if taken == "few_epochs" and resolved.method.memorised_only:
        raise OptionError(
            f"{resolved.method.name} is for adapters that know their records by heart, and this "
            f"one does not ({why}): use --method retrain, which is exact and cheap where there "
            "were few epochs; -o regime=memorised runs it anyway"
        )
    notes = []
    if resolved.regime == "auto" and level is not None:
        words = "known by heart" if taken == "memorised" else "seen a few times only"
        notes = [f"regime {taken}, records {words}: {why}"]
    return replace(resolved, regime=taken), notes


def _rate_notes(original: OriginalTraining, part: float) -> list[str]:
    """Say where the learning rate of the original training was found, or that it is a guess."""
    known = original.options.get("learning_rate")
    source = original.sources.get("learning_rate", "")
    if known and not source:
        return []
    if known:
        if source.startswith("--"):
            return []
        return [
            f"no lineage: learning_rate {part * known:g} follows from {known:g}, at which the "
            f"adapter was trained by {source}; where it was another, give it as "
            "--learning-rate-was",
            *original.notes,
        ]
    return [
        f"no lineage tells how the adapter was trained: learning_rate {part * USUAL_RATE:g} "
        f"follows from the usual {USUAL_RATE:g}; where it was another, give it as "
        f"--learning-rate-was, or {part:g} times that one as -o learning_rate=…",
        *original.notes,
    ]


# Without these nobody can say what "the same training" would be.
_ESSENTIAL = ("learning_rate", "epochs")


def same_training(
    parent: Lineage | None,
    given: Mapping[str, Any],
    where: str,
    original: OriginalTraining | None = None,
) -> TrainingOptions:
    """Return the settings of an adapter's original training.

    Args:
        parent: its lineage, if it has one.
        given: what the user sets otherwise.
        where: what is being configured, for messages.
        original: how it was trained; by default what its lineage tells.

    Returns:
        The settings.

    Raises:
        LineageError: if they are known from nowhere, or it was trained with differential privacy.
    """
    if parent is not None and parent.finetuned_with.get("privacy"):
        raise LineageError(
            f"{where}: the adapter was trained with differential privacy, and here nothing is; "
            "`unlearn finetune --dp … --exclude IDS` with the settings of its lineage trains "
            "another one, that never sees the records"
        )
    known = dict((original or original_training(parent)).options)
    missing = [k for k in _ESSENTIAL if k not in known and k not in given]
    if "epochs" in missing and ("max_steps" in given or "max_steps" in known):
        missing.remove("epochs")
    if "epochs" in given and "max_steps" not in given:
        known.pop("max_steps", None)
    if missing:
        flags = " ".join(f"-o {name}=…" for name in missing)
        raise LineageError(
            f"{where}: the adapter has no lineage that tells how it was trained, and no file "
            f"beside it does; give its settings with {flags} (and batch_size, schedule, … where "
            "they were not the defaults)"
        )
    return validated(TrainingOptions, known | dict(given), where)
