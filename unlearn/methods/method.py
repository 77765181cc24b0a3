"""What a method is, and how its options are decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from unlearn.config import validated, without_auto
from unlearn.errors import OptionError, did_you_mean
from unlearn.methods.budget import budget_of
from unlearn.training.options import TrainingOptions, check_wrappers

__all__ = ["Kind", "Method", "Resolved", "resolve"]

FLOORS = ("old", "none")
REGIMES = ("auto", "memorised", "few_epochs")

Kind = Literal["loss", "edit", "exact"]


@dataclass(frozen=True)
class Method:
    """One way to make a model forget.

    Attributes:
        name: what the user types.
        summary: what it does, in one line.
        paper: arXiv id of its source.
        when: when to use it, in one line.
        cost: forward and backward passes a step, in words.
        kind: how it is run.
        forget: name of the forget loss.
        retain: name of the default retain loss; None for none.
        defaults: values of options that differ from the general ones, see `TrainingOptions`.
        extra: options of the method itself (not of its losses) with their defaults.
        alternates: where the answers to give instead come from, see `unlearn.methods.alternates`.
        rate: default learning rate as a part of that of the original training; from measurements
            on TOFU, see docs/methods.md.
        epochs: default passes over the forget records; more where these are few.
        memorised_only: whether it is offered only where records were learned by heart.
        run: the function that runs it on a `Job`, as `module:name`.
    """

    name: str
    summary: str
    paper: str
    when: str
    cost: str
    kind: Kind = "loss"
    forget: str | None = None
    retain: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    alternates: str | None = None
    rate: float = 0.2
    epochs: float = 10.0
    memorised_only: bool = False
    run: str = "unlearn.methods.job:run_loss"

    @property
    def needs(self) -> str:
        """What the method must be given beyond the forget records, in words."""
        from unlearn.losses import FORGET_LOSSES, RETAIN_LOSSES

        words = {
            "reference_log_probs": "one pass over the forget records first",
            "before_logits": "a second copy of the adapter",
            "base_logits": "an adapter (switched off, it is the base)",
            "before_hidden": "a second copy of the adapter",
            "teacher_logits": "a short training of its own, and a holdout to do it well",
            "alternates": {
                "given": "answers to give instead (-o alternates=FILE)",
                "invented": "time to let the model invent other answers",
            }.get(self.alternates or "", ""),
        }
        needed = []
        if self.retain or self.kind == "exact":
            needed.append("retain records")
        for table, name in ((FORGET_LOSSES, self.forget), (RETAIN_LOSSES, self.retain)):
            if name:
                needed += [words[need] for need in sorted(table[name].needs)]
        return ", ".join(dict.fromkeys(word for word in needed if word)) or "nothing"

    @property
    def own(self) -> dict[str, Any]:
        """The options that not every method has, with their defaults: of its losses and its own."""
        from unlearn.losses import FORGET_LOSSES, RETAIN_LOSSES

        defaults: dict[str, Any] = {}
        for table, name in ((FORGET_LOSSES, self.forget), (RETAIN_LOSSES, self.retain)):
            if name:
                loss: Any = table[name]
                defaults |= {f.name: f.default for f in dataclasses.fields(loss)}
        if self.kind == "loss":
            defaults |= {"forget_weight": 1.0, "retain_weight": 1.0, "retain_loss": self.retain}
            if self.retain == "nll":
                defaults["retain_floor"] = "old"
        if self.kind != "exact":
            defaults["regime"] = "auto"
        defaults |= self.extra
        return {name: self.defaults.get(name, default) for name, default in defaults.items()}

    @property
    def needs_retain(self) -> bool:
        """Whether the method cannot run without retain records."""
        return bool(self.retain) or self.kind == "exact"


@dataclass(frozen=True)
class Resolved:
    """A method with all its options decided.

    Attributes:
        method: the method.
        training: how it is optimised.
        forget: the forget loss, an instance; None for edits and retraining.
        retain: the retain loss, an instance; None for none.
        forget_weight: weight of the forget loss.
        retain_weight: weight of the retain loss.
        extra: the method's own options.
        given: the options that the user chose, as opposed to defaults.
        regime: how well the adapter knows the records, see `unlearn.methods.defaults.regime`; auto
            until that is decided.
    """

    method: Method
    training: TrainingOptions
    forget: Any = None
    retain: Any = None
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    regime: str = "auto"

    def as_dict(self) -> dict[str, Any]:
        """Return every option and its value, for the lineage."""
        from unlearn.losses import NLL, FlooredNLL

        options: dict[str, Any] = dict(self.training.model_dump())
        if self.forget is not None:
            options |= {"forget_weight": self.forget_weight, **dataclasses.asdict(self.forget)}
        if self.method.kind == "loss":
            options["retain_loss"] = _retain_name(self.retain)
        if self.retain is not None:
            options |= {"retain_weight": self.retain_weight, **dataclasses.asdict(self.retain)}
        if isinstance(self.retain, NLL):
            options["retain_floor"] = "old" if isinstance(self.retain, FlooredNLL) else "none"
        if self.method.kind != "exact":
            options["regime"] = self.regime
        return options | dict(self.extra)


def resolve(method: Method, options: Mapping[str, Any]) -> Resolved:
    """Decide every option of a method.

    Args:
        method: the method.
        options: the user's choices, flat: training options, the losses' hyperparameters,
            `forget_weight`, `retain_weight`, `retain_loss`, and the method's own.

    Returns:
        The method ready to run.

    Raises:
        OptionError: for an unknown key (with the nearest name) or an impossible value.
    """
    from unlearn.losses import FORGET_LOSSES, RETAIN_LOSSES

    options = without_auto(options)
    remaining = dict(method.defaults) | options
    where = f"method {method.name}"
    extra = {key: remaining.pop(key, default) for key, default in method.extra.items()}
    _check_extra(method, extra)
    forget = retain = None
    weights = {}
    known = [*TrainingOptions.model_fields, *method.extra]
    regime = "auto"
    if method.kind != "exact":
        known.append("regime")
        regime = _choice(remaining.pop("regime", "auto"), REGIMES, "regime", where)
    if method.kind == "loss":
        assert method.forget is not None
        for role in ("forget", "retain"):
            weights[f"{role}_weight"] = _number(remaining.pop(f"{role}_weight", 1.0), role, where)
        name = remaining.pop("retain_loss", method.retain)
        if name not in {None, "none", *RETAIN_LOSSES}:
            hint = did_you_mean(str(name), RETAIN_LOSSES)
            choices = ", ".join([*RETAIN_LOSSES, "none"])
            raise OptionError(f"{where}: unknown retain_loss {name!r}{hint}; choose {choices}")
        kinds: list[Any] = [FORGET_LOSSES[method.forget]]
        if name not in {None, "none"}:
            kinds.append(RETAIN_LOSSES[name])
        fields = {f.name for kind in kinds for f in dataclasses.fields(kind)}
        chosen = {k: remaining.pop(k) for k in fields if k in remaining}
        forget, retain = (*(_build(kind, chosen, where) for kind in kinds), None)[:2]
        floor = remaining.pop("retain_floor", None)
        retain = _floored(retain, floor, bool(remaining.get("project_retain")), where)
        known += [*fields, "forget_weight", "retain_weight", "retain_loss", "retain_floor"]
    unknown = [key for key in remaining if key not in TrainingOptions.model_fields]
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise OptionError(
            f"{where}: unknown option {unknown[0]!r}{hint}; `unlearn methods {method.name}` lists "
            "all of them"
        )
    training = validated(TrainingOptions, remaining, where)
    check_wrappers(remaining, training, where, forget=forget is not None, retain=retain is not None)
    return Resolved(
        method, training, forget, retain, **weights, extra=extra, given=options, regime=regime
    )


def _floored(retain: Any, floor: Any, projected: bool, where: str) -> Any:
    """Let the likelihood of records to keep end at their old loss, unless told otherwise.

    Where its gradient says what to spare (`project_retain`), it must not vanish.
    """
    from unlearn.losses import NLL, FlooredNLL

    if type(retain) is not NLL:
        if floor is not None:
            raise OptionError(f"{where}: retain_floor is about the likelihood: retain_loss=nll")
        return retain
    floor = _choice(floor or ("none" if projected else "old"), FLOORS, "retain_floor", where)
    return FlooredNLL() if floor == "old" else retain


def _choice(value: Any, choices: Sequence[str], key: str, where: str) -> str:
    if value not in choices:
        raise OptionError(f"{where}: {key} is {' or '.join(choices)}, not {value!r}")
    return str(value)


def _check_extra(method: Method, extra: Mapping[str, Any]) -> None:
    where = f"method {method.name}"
    if method.name == "task_vector":
        extra_start = extra["start"]
        if extra_start not in {"base", "before"}:
            raise OptionError(f"task_vector: start is base or before, not {extra_start!r}")
        _number(extra["strength"], "strength", "task_vector")
    if method.alternates and not _number(extra["alternate_count"], "alternate_count", where) >= 1:
        raise OptionError(f"{where}: alternate_count must be at least 1")
    if method.name == "pilot" and not _number(extra["pilot_epochs"], "pilot_epochs", "pilot") > 0:
        raise OptionError("pilot: pilot_epochs must be positive")
    if method.name == "retrain":
        budget_of(extra)
    share = extra.get("trainable_share", 1.0)
    if method.name == "loku" and not 0 < _number(share, "trainable_share", where) <= 1:
        raise OptionError("loku: trainable_share must be above 0 and at most 1")


def _number(value: Any, key: str, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise OptionError(f"{where}: {key} must be a number, not {value!r}") from None


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    """Make a loss from those of some hyperparameters that it has, of checked types."""
    mine = {f.name: values[f.name] for f in dataclasses.fields(kind) if f.name in values}
    try:
        numbers = TypeAdapter(dict[str, int | float], config=ConfigDict(strict=False))
        return kind(**numbers.validate_python(mine))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise OptionError(f"{where}: {name} must be a number, not {mine[name]!r}") from None


def _retain_name(loss: Any) -> str:
    from unlearn.losses import RETAIN_LOSSES

    return next((n for n, kind in RETAIN_LOSSES.items() if isinstance(loss, kind)), "none")
