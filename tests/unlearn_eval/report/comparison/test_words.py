"""Tests between methods, and what is said of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unlearn_eval.comparison import About, Ruling, Run, Tuned, lines
from unlearn_eval.comparison.contests import contest
from unlearn_eval.report.comparison.words import (
    about_contest,
    about_tuning,
    advice,
    headline,
    stop_rules,
)
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


def test_retraining_is_not_ranked_and_costs_the_others_no_correction(comparison):
    again = [
        replace(o, method="again", numbers={**o.numbers, "gap": 0.0}) for o in comparison.of("good")
    ]
    whole = replace(comparison, outcomes=[*again, *comparison.outcomes], exact=frozenset({"again"}))
    plain, found = contest(comparison, "gap"), contest(whole, "gap")
    assert found.methods == plain.methods == ("good", "harsh", "leaky")
    assert found.pairs == plain.pairs
    assert found.ranking.difference == plain.ranking.difference
    assert (found.exact, found.left_out) == (("again",), ())
    assert about_contest(found) == (
        f"{about_contest(plain)} Not ranked: again, what the others are measured against."
    )
    two = replace(whole, outcomes=[*again, *comparison.of("good")])
    assert contest(two, "gap") is None


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


def test_retraining_is_no_method_to_choose(comparison):
    """The measure of the others: neither the closest nor the cheapest of them."""
    exact = [
        replace(o, method="again", numbers={**o.numbers, "gap": 0.01, "wall_share": 0.05})
        for o in comparison.of("good")
    ]
    whole = replace(comparison, outcomes=[*comparison.outcomes, *exact])
    assert headline(whole, lines(whole)).startswith("again comes closest")
    whole = replace(whole, exact=frozenset({"again"}))
    assert headline(whole, lines(whole)).startswith("good comes closest")
    assert not any("again" in sentence for sentence in advice(whole, lines(whole)))


def test_a_mean_over_what_is_left_of_the_cells_wins_nothing(judged):
    """`lucky` is best on the cells that it has, and failed where it is hard."""
    passes = Ruling("PASS", "A", ("loss is guessing",))
    lucky = [
        replace(
            o,
            method="lucky",
            numbers={**o.numbers, "gap": 0.0} if o.forget == 0 else {},
            error="" if o.forget == 0 else "out of memory",
            ruling=passes if o.forget == 0 else Ruling(),
        )
        for o in judged.of("good")
    ]
    whole = replace(judged, outcomes=[*judged.outcomes, *lucky])
    rows = lines(whole)
    line = rows[-1]
    assert (line.name, line.cells, line.failed) == ("lucky", 3, 3)
    assert not line.whole
    assert not line.front
    said = advice(whole, rows)
    assert headline(whole, rows).startswith("good comes closest")
    assert any("lucky: 3 PASS in 6 cells" in sentence for sentence in said)
    about = [s for s in said if "lucky" in s and "Verdicts" not in s]
    assert about == [
        "Cells that failed: lucky (3). These methods are in the table with what is left of them, "
        "and are not ranked or recommended."
    ]


def failing(comparison, *names):
    """The same, the first seed of some methods failed."""
    return replace(
        comparison,
        outcomes=[
            replace(o, numbers={}, error="out of memory") if o.method in names and not o.seed else o
            for o in comparison.outcomes
        ],
    )


def test_nothing_is_said_of_what_was_not_measured(comparison):
    """A cell of every method failed: which is best is not known, nor that none is good."""
    broken = failing(comparison, "good", "leaky", "harsh")
    said = advice(broken, lines(broken))
    assert headline(broken, lines(broken)) == "No method could be measured in every cell."
    assert [sentence.partition(":")[0] for sentence in said] == [
        "To be certain",
        "Records to forget still come out word for word after leaky.",
        "Cells that failed",
    ]
    nothing = replace(comparison, outcomes=())
    assert headline(nothing, lines(nothing)) == ""


def test_retraining_alone_is_no_failure(comparison):
    alone = replace(comparison, outcomes=comparison.of("good"), exact=frozenset({"good"}))
    assert headline(alone, lines(alone)) == "No method but retraining is in this comparison."
    assert [s.partition(":")[0] for s in advice(alone, lines(alone))] == ["To be certain"]


def test_sentences_about_all_are_about_those_that_were_measured(comparison):
    broken = failing(comparison, "good")
    others = [o for o in broken.outcomes if o.method != "leaky"]
    harmed = replace(broken, outcomes=others)
    assert headline(harmed, lines(harmed)).startswith(
        "Every method measured in all cells damaged the model"
    )
    said = " ".join(advice(harmed, lines(harmed)))
    assert (
        "No approximate method measured in all cells gives less away without damaging the rest"
        in said
    )
    assert headline(broken, lines(broken)).startswith(
        "leaky comes closest, of the methods measured in all cells, to models that never saw"
    )
    said = " ".join(advice(broken, lines(broken)))
    assert "No approximate method measured in all cells that kept the rest came as close" in said
    idle = [replace(o, numbers={**o.numbers, "gap": 0.6, "rise": 0.0}) for o in others]
    idle = replace(
        broken, outcomes=[o if o.error else i for o, i in zip(others, idle, strict=True)]
    )
    assert headline(idle, lines(idle)).startswith(
        "No approximate method measured in all cells came nearer"
    )


def test_who_has_no_time_is_not_the_cheapest_nor_too_far(comparison):
    """`good` is as close as the references, and nobody timed it; `leaky` is not as close."""
    untimed = [
        replace(o, numbers={k: v for k, v in o.numbers.items() if k != "wall_share"})
        if o.method == "good"
        else o
        for o in comparison.outcomes
    ]
    whole = replace(comparison, outcomes=untimed)
    said = " ".join(advice(whole, lines(whole)))
    assert "came as close" not in said
    assert "To save time" not in said
    assert "To give least away: good" in said


def test_little_time_is_not_none(comparison):
    fast = [
        replace(o, numbers={**o.numbers, "wall_share": 0.004}) if o.method == "good" else o
        for o in comparison.outcomes
    ]
    whole = replace(comparison, outcomes=fast)
    assert headline(whole, lines(whole)).endswith("; it takes under 1% of the time of retraining.")
    assert "at under 1% of retraining" in " ".join(advice(whole, lines(whole)))


def test_who_was_not_tuned_is_named(comparison):
    tuned = [Tuned(name, 4, "beta = 0.2") for name in ("good", "leaky", "harsh")]
    assert about_tuning(comparison, tuned) == (
        "Each method had the same number of trials at most, as far as its search space reaches."
    )
    assert about_tuning(comparison, tuned[1:2]) == (
        "Each method with a search space had the same number of trials at most, as far as its "
        "search space reaches. Not tuned, with the options of the recipe: good and harsh."
    )
    assert about_tuning(comparison, ()) == ""


def test_who_does_nothing_is_not_recommended(comparison):
    """As far from the references as the model before, cheap and gentle: on no front."""
    idle = [
        replace(
            o, method="idle", numbers={**o.numbers, "gap": 0.5, "rise": 0.0, "wall_share": 0.01}
        )
        for o in comparison.of("good")
    ]
    whole = replace(comparison, outcomes=[*comparison.outcomes, *idle])
    rows = lines(whole)
    assert not rows[-1].front
    said = advice(whole, rows)
    assert [s for s in said if "idle" in s] == [
        "Hardly nearer to the references than before (0.50): idle."
    ]
    only = replace(comparison, outcomes=idle)
    assert headline(only, lines(only)) == (
        "No approximate method came nearer to models that never saw the records without damaging "
        "the rest: the least distance of an attacker's AUC from theirs is 0.50 (idle), and was "
        "0.50 before."
    )
    assert "No approximate method here gives less away" in " ".join(advice(only, lines(only)))


def test_stop_rules_are_said_where_they_differ():
    def about(name, stop):
        run = Run(0, 0, options={} if stop is None else {"stop": stop})
        return About(name, name, "", "", "", "", runs=[run])

    same = [about("a", "holdout"), about("b", "holdout"), about("edit", None)]
    assert stop_rules(same) == ""
    assert stop_rules([*same, about("pilot", "none")]) == (
        "The rule that stops a run is holdout for all methods but: none for pilot."
    )


def test_verdicts_are_counted_and_said(judged):
    rows = {line.name: line for line in lines(judged)}
    assert rows["good"].ruled == "4 ? · 2 PASS"
    assert rows["leaky"].ruled == "6 FAIL"
    assert (rows["good"].failing, rows["leaky"].failing) == (0.0, 1.0)
    assert rows["references"].ruled == "1 FAIL · 5 ?"
    assert rows["before"].ruled == "2 FAIL"
    said = " ".join(advice(judged, lines(judged)))
    assert (
        "Verdicts under the policy standard: leaky and harsh FAIL in at least one; good: "
        "2 PASS, 4 INCONCLUSIVE in 6 cells. What is open would take 5 references (there are 3). "
        "Retrained models, judged the same way: 1 FAIL, 5 INCONCLUSIVE." in said
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
    assert "No approximate method that kept the rest came as close" in said
    assert "where the farthest of them is 0.06 from the others" in headline(worse, lines(worse))
    harmed = [replace(o, numbers={**o.numbers, "rise": 1.0}) for o in comparison.outcomes]
    harmed = replace(comparison, outcomes=harmed)
    assert headline(harmed, lines(harmed)).startswith("Every method damaged the model")
    nothing = replace(comparison, outcomes=[replace(o, numbers={}) for o in comparison.outcomes])
    assert headline(nothing, lines(nothing)) == "No method could be measured in every cell."
    assert contest(nothing, "gap") is None
