"""What a verdict could find, said before anything is run: numbers computed beside the code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import OptionError
from unlearn_eval.statistics import prediction_limits, records_for_equivalence
from unlearn_eval.verdict.power import (
    detectable_theta,
    hopeless,
    pass_power,
    power_statement,
    references_needed,
)

from .cases import policy


@pytest.mark.parametrize(
    ("records", "twins", "delta", "alpha"), [(50, 200, 0.15, 0.05), (90, 90, 0.12, 0.02)]
)
def test_the_power_of_a_probe_by_hand(
    records: int, twins: int, delta: float, alpha: float
) -> None:  # fmt: skip
    rules = policy(delta=delta, alpha=alpha, deployments=["int8", "nf4"])
    error = math.sqrt((1 / records + 1 / twins) / 12)
    room = (delta - stats.norm.isf(alpha) * error) / error
    assert pass_power(rules, records, twins) == pytest.approx(1 - 2 * stats.norm.sf(room))
    # two probes in three deployments: one must reject alone at α/12, in 4 cases of 5
    beyond = (stats.norm.isf(alpha / 12) + stats.norm.ppf(0.8)) * error
    assert detectable_theta(rules, records, twins) == pytest.approx(0.5 + delta + beyond)
    assert pass_power(rules, 2, 2) == 0.0


def test_twins_in_words() -> None:
    rules = policy(delta=0.15)
    more = f"; {references_needed(rules)} references would"
    theta, power = detectable_theta(rules, 50, 200), pass_power(rules, 50, 200)
    assert 0.8 < power < 1
    assert power_statement(rules, 50, None, 200, 0) == (
        f"50 records, 200 twins: can detect θ ≥ {theta:.2f}, passes a deleted model with "
        f"probability {power:.2f} a probe at δ = 0.15{more}"
    )
    theta, power = detectable_theta(rules, 20, 50), pass_power(rules, 20, 50)
    needed = records_for_equivalence(0.15, 2, 0.05, 0.8)  # 2½ twins a record are two
    assert 0 < power < 0.8
    assert power_statement(rules, 1_200, 20, 50, 2) == (
        f"1,200 records, 50 twins: can detect θ ≥ {theta:.2f} (each of 20 subjects counted as one "
        f"record), passes a deleted model with probability {power:.2f} a probe at δ = 0.15; "
        f"{needed} subjects would in 4 cases of 5{more} (there are 2)"
    )
    needed = records_for_equivalence(0.15, 1, 0.05, 0.8)
    assert power_statement(rules, 2, None, 1, 0) == (
        f"2 records, 1 twin: cannot detect any θ, cannot PASS at δ = 0.15; {needed} records would "
        f"in 4 cases of 5{more}"
    )


def test_one_subject_and_few_subjects_in_words() -> None:
    # two probes in two forms: 4/.05 − 1 twins
    rules = policy(deployments=["int8"])
    more = f"; {references_needed(rules)} references would"
    one = "one subject is one observation: "
    assert power_statement(rules, 1, None, 79, 0) == (
        f"1 record, 79 twins: {one}can FAIL by rank, cannot PASS{more}"
    )
    assert power_statement(rules, 7, 1, 78, 0) == (
        f"7 records, 78 twins: {one}cannot FAIL (79 twins would), cannot PASS{more}"
    )
    # never fewer than 19
    lax = policy(alpha=0.1, probes=["deviation"])
    assert "cannot FAIL (19 twins would)" in power_statement(lax, 1, None, 18, 0)
    assert "can FAIL by rank" in power_statement(lax, 1, None, 19, 0)
    assert power_statement(rules, 20, 9, 30, 1) == (
        "20 records, 30 twins: 9 subjects are too few to decide anything (10 would)"
        f"{more} (there are 1)"
    )
    assert "too few" not in power_statement(rules, 20, 10, 30, 0)
    # as many subjects as records: records
    assert "too few" not in power_statement(rules, 9, 9, 30, 0)
    assert power_statement(rules, 20, None, 0, 0) == (
        f"20 records, 0 twins: cannot FAIL or PASS without twins{more}"
    )
    for sizes in ((0, None, 1, 0), (1, None, -1, 0), (1, None, 0, -1)):
        with pytest.raises(OptionError, match="nothing to judge$"):
            power_statement(rules, *sizes)


@pytest.mark.parametrize(("people", "partial", "floor"), [(0, 0, 0.0), (7, 2, 0.03), (0, 6, 0.0)])
def test_references_in_words(people: int, partial: int, floor: float) -> None:
    k = 6
    rules = policy(probes=["loss", "min_k"], floor=floor, alpha=0.04)
    freedom = 5 * (1 + people)
    limits = prediction_limits(k, 4.0, 0.04, freedom)
    kept = prediction_limits(k, 4.0, 0.04, 5)
    # loss and min-k either way, deviation and worst record upwards, and the kept records
    missed = 1 - limits.power
    every = 1 - (1 - kept.power) - 2 * missed - 2 * missed / 2
    beyond = max(limits.equivalent, stats.t.isf(0.04 / 10, freedom) * math.sqrt(1 + 1 / k))
    said = power_statement(rules, 30, 1, 40, k, partial, people)
    halves = {0: "", 2: " (2 trained on part of the kept records only)",
              6: " (all trained on part of the kept records only)"}[partial]  # fmt: skip
    unseen = f", {people} unseen people" if people else ""
    games = (
        "; what lets an attacker who sees one record win 3 games of 100 more, or less, never "
        "matters"
    )
    sharper = "; unseen people as subjects of the holdout would make that sharper"
    assert said == (
        f"30 records, 6 references{halves}{unseen}: a deleted model passes each of 5 tests with "
        f"probability {limits.power:.2f} (all of them with {every:.2f} or more), within "
        f"{limits.equivalent:.2f} of the references' SDs; one that is 4 SDs away passes 4 % of the "
        f"time at most; beyond {beyond:.2f} it fails{games if floor else ''}"
        f"{'' if people else sharper}"
    )
    assert not hopeless(said)


def test_the_error_of_a_look_is_that_of_its_count_of_references() -> None:
    looks = [{"references": 4, "alpha": 0.01}, {"references": 8, "alpha": 0.03}]
    rules = policy(looks=looks)
    assert [rules.level(k) for k in (3, 4, 5, 8, 9, 99)] == [0.01, 0.01, 0.03, 0.03, 0.03, 0.03]
    assert policy().level(5) == 0.05
    for k, per_cent in ((3, "1 %"), (7, "3 %")):
        assert f"passes {per_cent} of the time" in power_statement(rules, 9, None, 0, k)
    # and the number that is enough is found at the level of each
    k = references_needed(rules)
    powers = np.array([prediction_limits(j, 4.0, rules.level(j)).power for j in (k - 1, k)])
    assert (powers >= 0.8).tolist() == [False, True]
    assert references_needed(policy(margin=0.1)) == 100
    assert references_needed(policy(margin=10.0, min_references=7)) == 7


@pytest.mark.parametrize(
    ("words", "none"),
    [
        ("cannot FAIL (19 twins would), cannot PASS", True),
        ("cannot FAIL (19 twins would)", False),
        ("can FAIL by rank, cannot PASS", False),
        ("3 subjects are too few to decide anything (10 would)", True),
        ("0 twins: cannot FAIL or PASS without twins", True),
    ],
)
def test_a_statement_without_a_chance(words: str, none: bool) -> None:
    assert hopeless(words) is none
