"""Named unlearning methods: a forget loss with a retain loss, an edit, or exact retraining.

Adding a loss method takes its file in `losses/`, one line there, one line here, and a test.
"""

from __future__ import annotations

import importlib

from unlearn.errors import OptionError, did_you_mean
from unlearn.methods.method import Method, Resolved, resolve

__all__ = ["METHODS", "Method", "Resolved", "get_method", "resolve"]

_ALTERNATES = {"alternates": None, "alternate_count": 5}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "pilot",
            "a briefly retrained adapter shows how to answer as if never having seen the records",
            "2205.08096",
            "for adapters that know their records by heart, where deletion need not be proven",
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
            memorised_only=True,
            run="unlearn.methods.pilot:run",
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
            run="unlearn.methods.loku:run",
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
            run="unlearn.methods.pdu:run",
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
            run="unlearn.methods.job:run_hidden",
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
            run="unlearn.methods.job:run_hidden",
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
            run="unlearn.methods.whp:run",
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
            run="unlearn.methods.task_vector:run",
            rate=1.0,
        ),
        Method(
            "retrain",
            "exact: train a new adapter without the records",
            "1912.03817",
            "first, whenever the data is still there: for adapters it is often cheap enough",
            "as the original training",
            kind="exact",
            extra={"budget": 1.0, "quality": 0.1},
            run="unlearn.methods.retrain:run",
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
        method = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise OptionError(f"cannot import the method {name!r}: {error}") from error
    if not isinstance(method, Method):
        raise OptionError(f"{name!r} is not an unlearn.Method")
    return method
