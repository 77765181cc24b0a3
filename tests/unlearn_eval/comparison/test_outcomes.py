"""What is read off the rows of an audit."""

from __future__ import annotations

import pytest

from unlearn_eval.comparison import aim_of, forgetting, numbers_of, trials_of, untried
from unlearn_eval.comparison.lines import front


def aucs(row, **by_state):
    return [
        row(state.replace("_", ":"), f"membership.{attack}", "auc", value)
        for state, found in by_state.items()
        for attack, value in found.items()
    ]


def test_the_attack_that_gives_most_away_counts_whichever_way(row):
    rows = aucs(
        row,
        after={"loss": 0.55, "zlib": 0.20, "lira": 0.99},
        reference_0={"loss": 0.50, "zlib": 0.50},
        reference_1={"loss": 0.60, "zlib": 0.54},
    )
    # lira has no value on the references; loss is .00 from .55, zlib .32 from .52
    found, attack = forgetting(rows, "after")
    assert attack == "zlib"
    assert found["auc"] == 0.20
    assert found["gap"] == pytest.approx(0.32)
    # the references of zlib differ by .04 √½ = .028, less than a step of 1/20
    assert found["gap_sd"] == pytest.approx(0.32 / 0.05)


def test_the_spread_of_references_counts_where_it_is_larger_than_a_step(row):
    rows = aucs(row, after={"loss": 0.9}, reference_0={"loss": 0.4}, reference_1={"loss": 0.6})
    assert forgetting(rows, "after")[0]["gap_sd"] == pytest.approx(0.4 / (0.2 / 2**0.5))


def test_a_reference_is_compared_with_the_others(row):
    rows = aucs(
        row, reference_0={"loss": 0.4}, reference_1={"loss": 0.6}, reference_2={"loss": 0.8}
    )
    found, _ = forgetting(rows, "reference:0")
    assert found["gap"] == pytest.approx(0.3)
    assert found["gap_sd"] == pytest.approx(0.3 / (0.2 / 2**0.5))


def test_the_only_reference_has_nothing_to_be_compared_with(row):
    rows = [row(s, "membership.loss", "auc", a) for s, a in (("after", 0.9), ("reference:0", 0.6))]
    assert forgetting(rows, "reference:0") == ({}, "")
    found, _ = forgetting(rows, "after")
    assert found["gap"] == pytest.approx(0.3)


def test_without_references_guessing_is_the_aim(row):
    found, attack = forgetting(aucs(row, after={"loss": 0.3}), "after")
    assert (attack, found) == ("loss", {"auc": 0.3, "gap": pytest.approx(0.2)})
    assert forgetting(aucs(row, before={"loss": 0.3}), "after") == ({}, "")


def test_numbers_are_those_of_the_model_as_it_is(row):
    rows = [
        row("after", "utility.loss", "mean", 2.5),
        row("after", "utility.loss", "mean", 0.5, split="retain"),
        row("after", "utility.loss", "mean", 9.0, deployment="int4"),
        row("after", "extraction.verbatim", "rate", 0.1, prompt_state="prefix"),
        row("after", "extraction.discoverable", "rate@n=10000", None),
        row("before", "utility.loss", "mean", 7.0),
    ]
    assert numbers_of(rows, "after") == {"forget_loss": 2.5, "retain_loss": 0.5}


def test_the_worst_further_change_counts_against_references_changed_alike(row):
    rows = [
        row("after", "membership.loss", "auc", 0.9, deployment="int4"),
        row("after", "membership.loss", "auc", 0.8, deployment="relearned"),
        row("after", "membership.loss", "auc", 0.7),
        row("after", "extraction.exact", "mean", 0.1, deployment="int4"),
    ]
    ours = trials_of(rows)
    assert ours == {"int4": 0.9, "relearned": 0.8}
    others = [{"int4": 0.85, "relearned": 0.5}, {"int4": 0.85, "relearned": 0.6}]
    assert aim_of(ours, others) == {"robust": pytest.approx(0.25)}
    assert aim_of(ours, []) == {}


def test_a_further_change_that_is_missing_leaves_no_number():
    others = [{"int4": 0.5, "relearned": 0.5}, {"int4": 0.5, "relearned": 0.5, "int8": 0.5}]
    some = {"int4": 0.5, "int8": 0.9}
    assert untried(some, others) == ["relearned"]
    assert aim_of(some, others) == {}
    # what one of the references lacks counts for nobody
    assert aim_of({"int4": 0.6, "relearned": 0.7}, others) == {"robust": pytest.approx(0.2)}


def test_the_front_holds_what_nothing_dominates():
    found = {
        "good": {"gap": 0.1, "rise": 0.1, "wall_share": 0.5},
        "same": {"gap": 0.1, "rise": 0.1, "wall_share": 0.5},
        "cheap": {"gap": 0.4, "rise": 0.1, "wall_share": 0.1},
        "worse": {"gap": 0.1, "rise": 0.2, "wall_share": 0.5},
        "unmeasured": {"gap": 0.0, "rise": 0.0},
    }
    assert front(found) == {"good", "same", "cheap"}
