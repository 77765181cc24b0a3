"""Named unlearning methods: a forget loss with a retain loss, an edit, or exact retraining.

Adding a loss method takes its file in `losses/`, one line there, one line here, and a test.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from unlearn.errors import OptionError, did_you_mean
from unlearn.options import TrainingOptions, check_wrappers, validated, without_auto

__all__ = ["METHODS", "Method", "Resolved", "get_method"]

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
        alternates: where the answers to give instead come from, see `unlearn.alternates`.
        rate: default learning rate as a part of that of the original training; from measurements
            on TOFU, see the README.
        epochs: default passes over the forget records; more where these are few.
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
    run: str = "unlearn.job:run_loss"

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
        found = []
        if self.retain or self.kind == "exact":
            found.append("retain records")
        for table, name in ((FORGET_LOSSES, self.forget), (RETAIN_LOSSES, self.retain)):
            if name:
                found += [words[need] for need in sorted(table[name].needs)]
        return ", ".join(dict.fromkeys(word for word in found if word)) or "nothing"

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
    """

    method: Method
    training: TrainingOptions
    forget: Any = None
    retain: Any = None
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return every option and its value, for the lineage."""
        found: dict[str, Any] = dict(self.training.model_dump())
        if self.forget is not None:
            found |= {"forget_weight": self.forget_weight, **dataclasses.asdict(self.forget)}
        if self.method.kind == "loss":
            found["retain_loss"] = _retain_name(self.retain)
        if self.retain is not None:
            found |= {"retain_weight": self.retain_weight, **dataclasses.asdict(self.retain)}
        return found | dict(self.extra)


_ALTERNATES = {"alternates": None, "alternate_count": 5}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "pilot",
            "a briefly retrained adapter shows how to answer as if never having seen the records",
            "2205.08096",
            "first among approximate methods: hardest to tell from a retrained adapter",
            "1 forward + backward, after a short training on the retained records",
            forget="match_teacher",
            retain="nll",
            defaults={
                "optimizer": "muon",
                "momentum": 0.5,
                "batch_size": 4,
                "retain_ratio": 4,
                "retain_weight": 2.0,
                "schedule": "linear",
                "warmup_steps": 3,
                "max_grad_norm": 0.0,
                "stop": "none",
            },
            extra={"pilot_epochs": 2},
            rate=2.5,
            epochs=8.0,
            run="unlearn.pilot:run",
        ),
        Method(
            "grad_ascent",
            "climb the loss of the forget records; no retain term",
            "2401.06121",
            "as a baseline only: it destroys the model unless stopped early",
            "1 forward + backward",
            forget="grad_ascent",
            rate=0.06,
        ),
        Method(
            "grad_diff",
            "gradient ascent on forget, ordinary training on retain",
            "2203.12817",
            "as a baseline; unbounded, but the retain term slows the damage",
            "1 forward + backward",
            forget="grad_ascent",
            retain="nll",
            rate=0.05,
        ),
        Method(
            "kl_min",
            "gradient ascent on forget, KL to the old model on retain",
            "2401.06121",
            "as a baseline; protects answers as they were, not the correct ones",
            "1 forward + backward, 1 forward of the old adapter",
            forget="grad_ascent",
            retain="kl",
            rate=0.05,
        ),
        Method(
            "npo",
            "negative preference optimisation, ordinary training on retain",
            "2404.05868",
            "a sound first choice among approximate methods: it slows down as records fade",
            "1 forward + backward",
            forget="npo",
            retain="nll",
        ),
        Method(
            "simnpo",
            "NPO without a reference, normalised by length",
            "2410.07163",
            "when records differ much in length",
            "1 forward + backward",
            forget="simnpo",
            retain="nll",
        ),
        Method(
            "kl_to_base",
            "answer the forget records as the base without adapter would",
            "2205.08096",
            "when the base knows the task's format; bounded, needs no second model",
            "1 forward + backward, 1 forward of the base",
            forget="kl_from_base",
            retain="nll",
            rate=0.06,
        ),
        Method(
            "wga",
            "gradient ascent weighted by what is still known, ordinary training on retain",
            "2502.19301",
            "in place of gradient ascent: it dies out by itself",
            "1 forward + backward",
            forget="wga",
            retain="nll",
            rate=0.06,
        ),
        Method(
            "satimp",
            "ascent weighted by how well known and how telling each token is",
            "2505.11953",
            "when records share phrases that should survive",
            "1 forward + backward",
            forget="satimp",
            retain="nll",
            rate=0.3,
        ),
        Method(
            "ce_u",
            "learn what the model would say if the true token were impossible",
            "2503.01224",
            "no constants to choose; keeps the order of all other words",
            "1 forward + backward",
            forget="ce_u",
            retain="nll",
            rate=0.06,
        ),
        Method(
            "undial",
            "learn one's own old answer with the true token's logit lowered",
            "2402.10052",
            "stable over long runs: the aim is fixed",
            "1 forward + backward, 1 forward of the old adapter",
            forget="undial",
            retain="nll",
        ),
        Method(
            "inverted_hinge",
            "push the true token just below the runner-up",
            "2408.06621",
            "when only what the model says first matters, and the rest should stay",
            "1 forward + backward",
            forget="inverted_hinge",
            retain="nll",
            rate=0.06,
        ),
        Method(
            "loku",
            "inverted hinge on the part of the adapter that matters most to the records",
            "2408.06621",
            "as inverted_hinge, when the rest of the adapter should not move at all",
            "1 forward + backward, after one on forget and as many retain records",
            forget="inverted_hinge",
            retain="nll",
            extra={"trainable_share": 0.5},
            run="unlearn.loku:run",
        ),
        Method(
            "uniform",
            "know nothing about the next token",
            "2205.08096",
            "as a baseline: forgets more than a model that never saw the records",
            "1 forward + backward",
            forget="uniform",
            retain="nll",
            rate=0.06,
        ),
        Method(
            "pdu",
            "flatten the logits, with a weight on retain that follows a limit on its loss",
            "2506.05314",
            "when the loss on retain must stay under a number you name",
            "1 forward + backward",
            forget="flatness",
            retain="nll",
            extra={"retain_limit": None, "dual_rate": 1.0},
            run="unlearn.pdu:run",
            rate=0.06,
        ),
        Method(
            "idk_dpo",
            "prefer a refusal to the record's own answer",
            "2401.06121",
            "when the model should say that it does not know",
            "2 forward + backward on forget records, 1 on retain",
            forget="dpo",
            retain="nll",
            extra=_ALTERNATES,
            alternates="refusals",
        ),
        Method(
            "dpo",
            "prefer other answers that you give to the record's own",
            "2305.18290",
            "when you know what should be said instead",
            "2 forward + backward on forget records, 1 on retain",
            forget="dpo",
            retain="nll",
            extra={"alternates": None, "alternate_count": 1},
            alternates="given",
        ),
        Method(
            "alt_po",
            "prefer other answers that the model invents to the record's own",
            "2409.13474",
            "when answers should stay fluent and plausible",
            "2 forward + backward on forget records, 1 on retain, and writing the answers first",
            forget="dpo",
            retain="nll",
            extra=_ALTERNATES,
            alternates="invented",
            rate=0.15,
        ),
        Method(
            "jensun",
            "learn to refuse, with losses that are bounded on both sides",
            "2509.02820",
            "when a refusal is wanted and training must not run away",
            "2 forward + backward on forget records, 1 on retain, 1 forward of the old adapter",
            forget="jensun",
            retain="js",
            extra=_ALTERNATES,
            alternates="refusals",
        ),
        Method(
            "flat",
            "widen the divergence between a refusal and the record's own answer",
            "2410.11143",
            "when no retain records are left and a refusal is wanted",
            "2 forward + backward on forget records",
            forget="flat",
            extra=_ALTERNATES,
            alternates="refusals",
            rate=0.05,
        ),
        Method(
            "rmu",
            "send the hidden states of the records in a random direction",
            "2403.03218",
            "for knowledge rather than records; gives itself away as gibberish",
            "1 forward + backward, 1 forward of the old adapter",
            forget="misdirect",
            retain="hidden_mse",
            defaults={"retain_weight": 10.0},  # α; 1200 in the paper, which idles on small models
            run="unlearn.job:run_hidden",
            rate=0.5,
        ),
        Method(
            "adaptive_rmu",
            "RMU whose length follows the hidden states' own",
            "2408.06223",
            "as rmu, without a length to tune",
            "1 forward + backward, 2 forwards of the old adapter",
            forget="misdirect_by_norm",
            retain="hidden_mse",
            defaults={"retain_weight": 100.0},  # as for rmu
            run="unlearn.job:run_hidden",
            rate=1.0,
        ),
        Method(
            "scrub",
            "move away from the old model on forget, stay with it and learn on retain",
            "2302.09880",
            "as a baseline; unbounded, and slow to take its first step",
            "1 forward + backward, 1 forward of the old adapter",
            forget="away",
            retain="stay_and_learn",
            rate=0.05,
        ),
        Method(
            "bad_teacher",
            "answer as the base on forget, as before on retain",
            "2205.08096",
            "when the answers on retain should stay as they were, right or wrong",
            "1 forward + backward, 1 forward of base and old adapter",
            forget="kl_from_base",
            retain="kl",
            rate=0.06,
        ),
        Method(
            "whp",
            "learn what is left of an answer when all that more training would raise is lowered",
            "2310.02238",
            "for whole texts; on records known by heart little is left to raise",
            "1 forward + backward, after a short training on the forget records",
            forget="match_teacher",
            retain="nll",
            defaults={"divergence": 1.0, "level": 0.0},
            extra={"alpha": 5.0, "reinforce_epochs": 3},
            run="unlearn.whp:run",
            rate=0.4,
        ),
        Method(
            "task_vector",
            "train an adapter on the forget records and subtract it",
            "2212.04089",
            "when no retain records are left",
            "training on the forget records only",
            kind="edit",
            extra={"strength": 1.0, "start": "base"},
            run="unlearn.edits.task_vector:run",
            rate=1.0,
        ),
        Method(
            "retrain",
            "exact: train a new adapter without the records",
            "1912.03817",
            "first, whenever the data is still there: for adapters it is often cheap enough",
            "as the original training",
            kind="exact",
            run="unlearn.exact.retrain:run",
        ),
    )
}


def get_method(name: str) -> Method:
    """Look a method up.

    Args:
        name: its name.

    Returns:
        The method.

    Raises:
        OptionError: with the nearest names.
    """
    if ":" in name:
        return _own_method(name)
    if name not in METHODS:
        hint = did_you_mean(name, METHODS)
        raise OptionError(f"unknown method {name!r}{hint}; `unlearn methods` lists them all")
    return METHODS[name]


def _own_method(name: str) -> Method:
    """Import a user's own method, given as `package.module:NAME`."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise OptionError(f"cannot import the method {name!r}: {error}") from error
    if not isinstance(found, Method):
        raise OptionError(f"{name!r} is not an unlearn.Method")
    return found


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
    left = dict(method.defaults) | options
    where = f"method {method.name}"
    extra = {key: left.pop(key, default) for key, default in method.extra.items()}
    _check_extra(method, extra)
    forget = retain = None
    weights = {}
    known = [*TrainingOptions.model_fields, *method.extra]
    if method.kind == "loss":
        assert method.forget is not None
        for role in ("forget", "retain"):
            weights[f"{role}_weight"] = _number(left.pop(f"{role}_weight", 1.0), role, where)
        name = left.pop("retain_loss", method.retain)
        if name not in {None, "none", *RETAIN_LOSSES}:
            hint = did_you_mean(str(name), RETAIN_LOSSES)
            choices = ", ".join([*RETAIN_LOSSES, "none"])
            raise OptionError(f"{where}: unknown retain_loss {name!r}{hint}; choose {choices}")
        kinds: list[Any] = [FORGET_LOSSES[method.forget]]
        if name not in {None, "none"}:
            kinds.append(RETAIN_LOSSES[name])
        fields = {f.name for kind in kinds for f in dataclasses.fields(kind)}
        chosen = {k: left.pop(k) for k in fields if k in left}
        forget, retain = (*(_build(kind, chosen, where) for kind in kinds), None)[:2]
        known += [*fields, "forget_weight", "retain_weight", "retain_loss"]
    unknown = [key for key in left if key not in TrainingOptions.model_fields]
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise OptionError(f"{where}: unknown option {unknown[0]!r}{hint}")
    training = validated(TrainingOptions, left, where)
    check_wrappers(left, training, where, forget=forget is not None, retain=retain is not None)
    return Resolved(method, training, forget, retain, **weights, extra=extra, given=options)


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
        raise OptionError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _retain_name(loss: Any) -> str:
    from unlearn.losses import RETAIN_LOSSES

    return next((n for n, kind in RETAIN_LOSSES.items() if isinstance(loss, kind)), "none")
