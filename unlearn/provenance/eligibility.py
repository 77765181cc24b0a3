"""Can a model stand for one that never saw some records? By what lineages say of both."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

__all__ = ["otherwise_trained", "surplus", "training_setting", "unfit"]

_PLAIN = (
    "learning_rate",
    "max_steps",
    "epochs",
    "batch_size",
    "warmup_steps",
    "schedule",
    "optimizer",
    "momentum",
    "weight_decay",
    "max_grad_norm",
    "max_length",
    "train_layers",
)
"""Options that decide what training on records makes; others are about memory or forgetting."""

_SHAPE = ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "layers_to_transform")


class _Records(Protocol):
    @property
    def key_id(self) -> str: ...
    @property
    def trained(self) -> Collection[str]: ...
    @property
    def forgotten(self) -> Collection[str]: ...


class _Line(Protocol):
    @property
    def template(self) -> str: ...
    @property
    def finetuned_with(self) -> Mapping[str, Any]: ...


def surplus(reference: _Records, audited: _Records | None) -> int | None:
    """Count the records that a reference was trained on and the audited model never was.

    Digests are of exact contents: an edited copy of a deleted record has another than the record,
    and a reference that saw it knows the record.

    Args:
        reference: what a lineage says that it was trained on.
        audited: the same of the audited model, and what was taken out of it.

    Returns:
        How many; None where the lineages do not compare.
    """
    if audited is None or audited.key_id != reference.key_id:
        return None
    return len(set(reference.trained) - set(audited.trained) - set(audited.forgotten))


def otherwise_trained(reference: _Line, audited: Iterable[_Line | None]) -> list[str] | None:
    """Name the settings in which a reference's training differs from that of the audited model.

    Args:
        reference: its lineage.
        audited: lineages of the audited model and the one before: a retrained one may have been
            trained otherwise than the one that it replaces; it is enough to be like either, but
            where the audited one was retrained with a budget.

    Returns:
        Names of settings; None where no lineage says.
    """
    own = training_setting(reference)
    audited = list(audited)
    first = next((line for line in audited if line is not None), None)
    if first is not None and (first.finetuned_with or {}).get("stages"):
        audited = [first]  # another recipe than the original's makes another kind of model
    known = [
        setting for line in audited if line is not None and (setting := training_setting(line))
    ]
    if not own or not known:
        return None
    for name in ("privacy", "federation"):
        if any(name in setting for setting in known):
            own.setdefault(name, None)
    differences = ([name for name in own if own[name] != one.get(name, own[name])] for one in known)
    return min(differences, key=len)


def training_setting(line: _Line) -> dict[str, Any]:
    """Return how a model was first trained, by name; empty where that is not known."""
    training = (line.finetuned_with or {}).get("training") or {}
    if not training:
        return {}
    settings = _training(training)
    # what a retraining with a budget did in place of all that
    stages = [_training(each) for each in line.finetuned_with.get("stages") or ()]
    settings |= {name: [each.get(name) for each in stages] for name in (stages or [{}])[0]}
    shape = line.finetuned_with.get("lora") or {}
    settings |= {name: shape.get(name) or 0 for name in _SHAPE if shape}
    for name in ("privacy", "federation"):
        if made := line.finetuned_with.get(name):
            settings[name] = dict(made)
    return settings | {"template": line.template}


def _training(options: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: options[name] for name in _PLAIN if name in options}
    if settings.get("max_steps"):
        settings.pop("epochs", None)  # which it takes the place of
    return settings


def unfit(
    from_base: bool | None, surplus: int | None, otherwise: Sequence[str] | None
) -> str | None:
    """Say why a model that saw none of the records, by its lineage, is no reference all the same.

    Args:
        from_base: whether it was trained from the audited model's base, and of no other model.
        surplus: of `surplus`.
        otherwise: of `otherwise_trained`.

    Returns:
        Words that follow a number of references; None where nothing speaks against it, which is all
        that can be said where the audited model has no lineage.
    """
    if from_base is False:
        return "made from another adapter or model, or on another base, by its lineage"
    if surplus:
        return (
            "trained on records that the audited model never saw, by its lineage: edited copies "
            "of the deleted ones would look like this"
        )
    if otherwise:
        return f"trained otherwise than the audited model, by its lineage: {', '.join(otherwise)}"
    return None
