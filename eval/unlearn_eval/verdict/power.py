"""What a verdict could find with so many records, subjects, twins and references."""

from __future__ import annotations

import math

from scipy import stats

from unlearn.errors import OptionError
from unlearn_eval.statistics import (
    MIN_CLUSTERS,
    MIN_TWINS,
    prediction_limits,
    records_for_equivalence,
)
from unlearn_eval.verdict.policy import Policy
from unlearn_eval.verdict.tiers.model_statistics import STATISTICS

__all__ = [
    "detectable_theta",
    "hopeless",
    "pass_power",
    "power_statement",
    "references_needed",
]

_POWER = 0.8

_NO_FAIL, _NO_PASS = "cannot FAIL", "cannot PASS"
_NEITHER = ("too few to decide anything", "cannot FAIL or PASS")


def power_statement(
    policy: Policy,
    n_forget: int,
    n_subjects: int | None,
    n_twins: int,
    k: int,
    partial: int = 0,
    people: int = 0,
) -> str:
    """Say what can be decided, before anything is run.

    Limits are those at α; where some model turns out to give away a record that no other does,
    membership FAILs at ¾ α, a little further out (see `decide`).

    Args:
        policy: the policy.
        n_forget: records to forget.
        n_subjects: different subjects among them; None if unknown.
        n_twins: never-trained records, or subjects of which one subject is compared with.
        k: references.
        partial: how many of them were trained on part of the kept records only.
        people: unseen people who can stand for the forgotten ones (`unseen_groups`); each shows
            how much k references vary, as far as people are alike in that.

    Returns:
        One or two sentences.

    Raises:
        OptionError: if there are no records.
    """
    if n_forget < 1 or n_twins < 0 or k < 0:
        raise OptionError(f"{n_forget} records, {n_twins} twins, {k} references: nothing to judge")
    if k >= policy.min_references:
        return _by_references(policy, n_forget, k, partial, people)
    text = f"{_count(n_forget, 'record')}, {_count(n_twins, 'twin')}: "
    text += _by_twins(policy, n_forget, n_subjects, n_twins)
    more = references_needed(policy)
    return f"{text}; {more} references would" + (f" (there are {k})" if k else "")


def hopeless(power: str) -> bool:
    """Say whether a statement of `power_statement` leaves a verdict no chance but INCONCLUSIVE.

    It is the statement that audits and verdicts store.
    """
    neither = _NO_FAIL in power and _NO_PASS in power
    return neither or any(words in power for words in _NEITHER)


def references_needed(policy: Policy) -> int:
    """Return from how many references on each probe passes a deleted model 4 times in 5.

    Args:
        policy: the policy.

    Returns:
        At least `policy.min_references`; at most 100.
    """
    for k in range(policy.min_references, 100):
        if prediction_limits(k, policy.margin, policy.level(k)).power >= _POWER:
            return k
    return 100


def pass_power(policy: Policy, records: int, twins: int) -> float:
    """Return the probability that a probe with θ = ½ passes: 2Φ((δ − z_{1−α} se)/se) − 1.

    se² = (1/records + 1/twins)/12, as in `records_for_equivalence`, with all compared with all.

    Args:
        policy: δ and α.
        records: independent forgotten records.
        twins: independent unseen ones.

    Returns:
        In [0, 1); 0 if no interval is narrow enough.
    """
    error = math.sqrt((1 / records + 1 / twins) / 12)
    room = policy.delta / error - float(stats.norm.isf(policy.alpha))
    return max(0.0, 2 * float(stats.norm.cdf(room)) - 1)


def detectable_theta(policy: Policy, records: int, twins: int) -> float:
    """Return the smallest θ that FAILs 4 times in 5, when one of all tests must reject alone.

    θ with θ − z_{1−α/2m}·se − z_{.8}·se = ½ + δ for m tests; se as in `pass_power`, which is too
    large for θ far from ½, so that the answer errs on the side of caution.

    Args:
        policy: δ, α, probes and deployments.
        records: independent forgotten records.
        twins: independent unseen ones.

    Returns:
        θ; above 1 where nothing can be detected.
    """
    error = math.sqrt((1 / records + 1 / twins) / 12)
    tests = len(policy.tested) * len(policy.deployments)
    z = float(stats.norm.isf(policy.alpha / 2 / tests)) + float(stats.norm.ppf(_POWER))
    return 0.5 + policy.delta + z * error


def _by_references(policy: Policy, n_forget: int, k: int, partial: int, people: int) -> str:
    """Say what k references can show, each test with k − 1 degrees of freedom for each person."""
    alpha = policy.level(k)
    freedom = (k - 1) * (1 + people)
    limits = prediction_limits(k, policy.margin, alpha, freedom)
    # every form of a model is nearly the same test; the kept records are one more, of which unseen
    # people say nothing. Those of STATISTICS count upwards only
    tests = len(policy.tested_by_references) + 1
    missed, kept = 1 - limits.power, 1 - prediction_limits(k, policy.margin, alpha).power
    least = 1 - kept - missed * len(policy.probes) - missed / 2 * len(STATISTICS)
    scale = math.sqrt(1 + 1 / k)
    limit = max(limits.equivalent, float(stats.t.isf(alpha / 2 / tests, freedom)) * scale)
    more = "" if people else "; unseen people as subjects of the holdout would make that sharper"
    return (
        f"{_count(n_forget, 'record')}, {k} references{_halves(k, partial)}"
        f"{f', {people} unseen people' if people else ''}: a deleted model "
        f"passes each of {tests} tests with probability {limits.power:.2f} (all of them with "
        f"{max(0.0, least):.2f} or more), within {limits.equivalent:.2f} of the references' SDs; "
        f"one that is {policy.margin:g} SDs away passes {100 * alpha:.2g} % of the time at most; "
        f"beyond {limit:.2f} it fails{_floor(policy)}{more}"
    )


def _floor(policy: Policy) -> str:
    """Say what the floor means to an attacker."""
    if not policy.floor:
        return ""
    return (
        f"; what lets an attacker who sees one record win {100 * policy.floor:g} games of 100 "
        "more, or less, never matters"
    )


def _halves(k: int, partial: int) -> str:
    if not partial:
        return ""
    return f" ({'all' if partial == k else partial} trained on part of the kept records only)"


def _by_twins(policy: Policy, n: int, subjects: int | None, twins: int) -> str:
    if n == 1 or subjects == 1:
        tests = len(policy.tested) * len(policy.deployments)
        needed = max(MIN_TWINS, math.ceil(tests / policy.alpha * (1 - 1e-9)) - 1)
        able = "can FAIL by rank" if twins >= needed else f"{_NO_FAIL} ({needed} twins would)"
        return f"one subject is one observation: {able}, {_NO_PASS}"
    clustered = subjects is not None and subjects < n
    if clustered and subjects is not None and subjects < MIN_CLUSTERS:
        return f"{subjects} subjects are {_NEITHER[0]} ({MIN_CLUSTERS} would)"
    if not twins:
        return f"{_NEITHER[1]} without twins"
    units = subjects if clustered and subjects is not None else n
    theta, power = detectable_theta(policy, units, twins), pass_power(policy, units, twins)
    text = f"can detect θ ≥ {theta:.2f}" if theta < 1 else "cannot detect any θ"
    if clustered:
        text += f" (each of {units} subjects counted as one record)"
    if power == 0:
        text += f", {_NO_PASS} at δ = {policy.delta:.2f}"
    else:
        text += f", passes a deleted model with probability {power:.2f} a probe at δ = "
        text += f"{policy.delta:.2f}"
    if power < _POWER:
        ratio = max(1, round(twins / units))
        needed = records_for_equivalence(policy.delta, ratio, policy.alpha, _POWER)
        text += f"; {needed} {'subjects' if clustered else 'records'} would in 4 cases of 5"
    return text


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
