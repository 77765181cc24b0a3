"""Tests between methods, and what is said of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unlearn_eval.comparison import lines
from unlearn_eval.comparison.contests import contest
from unlearn_eval.comparison.words import about_contest, advice, headline
from unlearn_eval.statistics import critical_difference


def test_lines_are_means_with_spread(comparison):
    found = {line.name: line for line in lines(comparison)}
    assert list(found) == ["before", "references", "good", "leaky", "harsh"]
    good = found["good"]
    assert good.mean["gap"] == pytest.approx(0.05 + 0.002 + 0.0005)
    assert good.text("gap") == "0.05 ± 0.00"
    assert good.text("memory_share") == "–"
    assert found["harsh"].damaged
    assert not good.damaged
    # harsh is the cheapest, leaky the gentlest, good the closest
    assert all(found[name].front for name in ("good", "leaky", "harsh"))


def test_ranks_and_pairs_over_shared_cells(comparison):
    found = contest(comparison, "gap")
    assert found.methods == ("good", "harsh", "leaky")
    assert found.ranking.ranks.tolist() == [1.0, 2.0, 3.0]
    assert found.ranking.difference == pytest.approx(critical_difference(3, 6))
    assert [(p.first, p.second) for p in found.pairs] == [
        ("good", "harsh"),
        ("good", "leaky"),
        ("harsh", "leaky"),
    ]
    # all six differences have one sign: p = 2/2^6, times the three pairs
    assert all(p.p_value == pytest.approx(2 / 64) for p in found.pairs)
    assert all(p.adjusted == pytest.approx(6 / 64) for p in found.pairs)
    assert found.pairs[0].mean == pytest.approx(-0.05)
    said = about_contest(found)
    assert "So few cells cannot show a difference" in said
    assert "0.031" in said


def test_enough_cells_show_a_difference(comparison):
    more = [replace(o, forget=o.forget + 2) for o in comparison.outcomes]
    found = contest(replace(comparison, outcomes=[*comparison.outcomes, *more]), "gap")
    assert "good is ahead of harsh and leaky" in about_contest(found)


def test_a_method_that_lacks_a_cell_is_left_out_and_named(comparison):
    broken = [
        replace(o, error="no room") if (o.method, o.seed) == ("leaky", 1) else o
        for o in comparison.outcomes
    ]
    partly = replace(comparison, outcomes=broken)
    found = contest(partly, "rise")
    assert found.left_out == ("leaky",)
    assert "Without leaky" in about_contest(found)
    assert any("leaky (2)" in sentence for sentence in advice(partly, lines(partly)))


def test_advice_follows_the_numbers(comparison):
    rows = lines(comparison)
    assert headline(comparison, rows).startswith("good comes closest")
    assert "within the 0.06" in headline(comparison, rows)
    said = " ".join(advice(comparison, rows))
    assert "retrain, 5 min here" in said
    assert "To give least away: good, 0.05 from the references (2.5 of" in said
    assert "To save time: good is the cheapest of 1 within" in said
    assert "To keep the rest as it was: leaky raised its loss by 0.00, with 0.40" in said
    assert "Not as they were set here: harsh." in said
    assert "still come out word for word after leaky" in said
    assert "for good the distance grows from 0.05 to 0.50" in said


def test_verdicts_are_counted_and_said(judged):
    rows = {line.name: line for line in lines(judged)}
    assert rows["good"].ruled == "4 ? · 2 PASS"
    assert rows["leaky"].ruled == "6 FAIL"
    assert (rows["good"].failing, rows["leaky"].failing) == (0.0, 1.0)
    assert rows["references"].ruled == "1 FAIL · 5 ?"
    assert rows["before"].ruled == "2 FAIL"
    said = " ".join(advice(judged, lines(judged)))
    assert (
        "Verdicts under the policy standard: leaky and harsh FAIL in at least one; good stays "
        "INCONCLUSIVE in 4 of 6. What is open would take 5 references (there are 3). Retrained "
        "models, judged the same way: 1 FAIL, 5 INCONCLUSIVE." in said
    )
    assert headline(judged, lines(judged)).endswith(
        "Verdicts on it under the policy standard: 2 PASS, 4 INCONCLUSIVE."
    )


def test_without_a_policy_nothing_is_said_of_verdicts(comparison):
    assert all(line.failing is None and line.ruled == "–" for line in lines(comparison))
    assert "Verdict" not in " ".join([*advice(comparison, lines(comparison))])
    assert "Verdict" not in headline(comparison, lines(comparison))


def test_advice_changes_with_the_numbers(comparison):
    def moved(outcome):
        return replace(outcome, numbers={**outcome.numbers, "gap": outcome.numbers["gap"] + 0.2})

    worse = replace(comparison, outcomes=[moved(o) for o in comparison.outcomes])
    said = " ".join(advice(worse, lines(worse)))
    assert "No method that kept the rest came as close" in said
    assert "where they differ by up to 0.06" in headline(worse, lines(worse))
    harmed = [replace(o, numbers={**o.numbers, "rise": 1.0}) for o in comparison.outcomes]
    harmed = replace(comparison, outcomes=harmed)
    assert headline(harmed, lines(harmed)).startswith("Every method damaged the model")
    nothing = replace(comparison, outcomes=[replace(o, numbers={}) for o in comparison.outcomes])
    assert headline(nothing, lines(nothing)) == "No method could be measured."
    assert contest(nothing, "gap") is None
