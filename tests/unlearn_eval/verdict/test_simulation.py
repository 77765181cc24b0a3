"""Are verdicts wrong as rarely as they claim? Simulated audits, through the real decision."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from unlearn_eval.statistics import prediction_limits, records_for_equivalence
from unlearn_eval.verdict.power import detectable_theta, pass_power

_FILE = Path(__file__).parents[3] / "docs" / "verdict_simulation.py"
_SPEC = importlib.util.spec_from_file_location("verdict_simulation", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
simulation = importlib.util.module_from_spec(_SPEC)
sys.modules["verdict_simulation"] = simulation
_SPEC.loader.exec_module(simulation)

AUDITS = 1000
CASES = list(simulation.cases())


def label(case) -> str:
    """Name a case in the list of tests."""
    return f"{case.name}, {case.model}"


def most(audits: int, rate: float = 0.05) -> int:
    """As many as happen at this rate but once in a thousand times."""
    return int(stats.binom.ppf(0.999, audits, rate))


def passed(verdicts, probe="loss"):
    found = [r.passed for v in verdicts for r in v.probes if r.probe == probe]
    assert len(found) == len(verdicts)
    return float(np.mean(found))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "wrong"),
    [entry for entry in CASES if entry[1] in ("PASS", "FAIL")],
    ids=lambda value: label(value) if isinstance(value, simulation.Case) else value,
)
def test_errors_are_as_rare_as_claimed(case, wrong):
    found = simulation.verdicts(case, AUDITS, seed=1)
    assert simulation.wrong(found, wrong) <= most(AUDITS)
    if case.k and case.model == "shifted":
        # as rare, but no rarer: references pass a model at the margin α of the time, by design
        assert passed(found) == pytest.approx(0.05, abs=0.025)
    if case.k and case.model == "deleted":
        expected = prediction_limits(case.k, case.policy.margin).power
        assert passed(found) == pytest.approx(expected, abs=0.045)


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c, wrong in CASES if wrong == "not FAIL"], ids=label)
def test_models_that_remember_or_broke_never_pass(case):
    audits = 30
    found = simulation.verdicts(case, audits, seed=2)
    assert simulation.wrong(found, "PASS") == 0
    # with twins the negative control is missed a few times in a hundred
    assert simulation.wrong(found, "not FAIL") <= (0 if case.k else most(audits))


@pytest.mark.parametrize("index", [0, 3, 9])
def test_a_few_audits_always(index):
    case, wrong = CASES[index]
    assert simulation.wrong(simulation.verdicts(case, 60, seed=3), wrong) <= most(60)


@pytest.mark.slow
def test_inside_the_prediction_limit_would_be_no_rule():
    """The tempting rule passes a model three SDs away 45 % of the time, with five references."""
    policy = simulation.policy(margin=3.0)
    case = replace(simulation.Case("", "shifted", policy=policy), shift=0.0)
    found = simulation.verdicts(replace(case, shift=3 * case.sd()), AUDITS, seed=4)
    limit = prediction_limits(5, 3.0).different
    inside = [
        abs(r.value - r.reference_mean) <= limit * r.reference_sd
        for v in found
        for r in v.probes
        if r.probe == "loss"
    ]
    assert np.mean(inside) == pytest.approx(0.45, abs=0.05)
    assert simulation.wrong(found, "PASS") <= most(AUDITS)


@pytest.mark.slow
@pytest.mark.parametrize("k", [3, 12])
def test_the_power_curve_of_references(k):
    case = simulation.Case("", "deleted", k=k, forget=5, holdout=40)
    found = simulation.verdicts(case, 600, seed=5)
    expected = prediction_limits(k, case.policy.margin).power
    assert passed(found) == pytest.approx(expected, abs=0.055)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1, 4])
@pytest.mark.parametrize("part", [0.6, 1.0])
def test_the_power_curve_of_twins(ratio, part):
    policy = simulation.POLICY
    n = round(part * records_for_equivalence(policy.delta, ratio))
    # nothing but noise: records are as independent as the formula takes them to be
    case = simulation.Case("", "deleted", k=0, forget=n, holdout=ratio * n, common=0.0)
    found = simulation.verdicts(case, 300, seed=6)
    assert passed(found) == pytest.approx(pass_power(policy, n, ratio * n), abs=0.08)


@pytest.mark.slow
def test_what_is_said_to_be_detectable_is_detected():
    policy = simulation.policy(delta=0.10)
    case = simulation.Case("", "shifted", k=0, forget=60, holdout=240, common=0.0, policy=policy)
    theta = detectable_theta(policy, 60, 240)
    found = simulation.verdicts(replace(case, shift=simulation.shift_to(theta, case)), 400, seed=7)
    failed = np.mean([r.failed for v in found for r in v.probes if r.probe == "loss"])
    assert failed >= 0.75
