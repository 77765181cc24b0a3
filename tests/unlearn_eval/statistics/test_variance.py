"""Variances and their degrees of freedom, by hand and by plain double sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import special, stats

from unlearn.errors import DataError, OptionError
from unlearn_eval.statistics import (
    MaxT,
    auc,
    auc_interval,
    auc_tost,
    critical_difference,
    friedman,
    holm,
    ks_exact,
    mean_interval,
    paired_difference,
    prediction_limits,
    proportion_interval,
    records_for_equivalence,
    records_needed,
    sign_flip_test,
    subject_rank_test,
    tpr_at_fpr,
    twin_theta,
    variance_prior,
)
from unlearn_eval.statistics.clusters import influence, mean_variance, side_freedom, welch
from unlearn_eval.statistics.common import Interval, as_values, check_level, group, no_interval
from unlearn_eval.statistics.delong import disjoint_pairs, interaction, variance
from unlearn_eval.statistics.means import check_equivalence, mean_error
from unlearn_eval.statistics.moderated import _inverse_trigamma


def part(residuals: list[float], n: int, sizes: list[int], size: int) -> float:
    """What one cluster adds: its sum ÷ n √(1 − 2p + Σ p²)."""
    shrinkage = 1 - 2 * size / n + sum((s / n) ** 2 for s in sizes)
    return sum(residuals) / n / math.sqrt(shrinkage)


def test_influence_by_hand() -> None:
    residuals = np.array([1.0, 2.0, -4.0, 0.5, 0.5, 0.0])
    codes = np.array([0, 0, 2, 3, 3, 3])
    sizes = [2, 1, 3]
    found = influence(residuals, codes)
    assert found.tolist() == pytest.approx(
        [part([3.0], 6, sizes, 2), 0.0, part([-4.0], 6, sizes, 1), part([1.0], 6, sizes, 3)]
    )
    # of one cluster alone nothing is known
    assert np.isnan(influence(np.array([1.0, -1.0]), np.array([0, 0]))).all()


def test_the_variance_of_a_mean_of_unequal_clusters() -> None:
    sizes = [4, 1, 2, 3, 1, 1, 2, 1, 1, 2, 3]
    labels = np.repeat(np.arange(11), sizes)
    values = np.random.default_rng(0).normal(2.0, 1.0, 21) + 0.3 * labels
    parts = [
        part(list(values[labels == g] - values.mean()), 21, sizes, size)
        for g, size in enumerate(sizes)
    ]
    plain = 1 / sum((s / 21) ** 2 for s in sizes) - 1
    squares = np.square(parts)
    kurtosis = 11 * np.sum(squares**2) / squares.sum() ** 2
    found = mean_variance(values, group((21, labels)))
    assert found.value == pytest.approx(squares.sum())
    assert found.plain == pytest.approx(plain)
    assert found.freedom == pytest.approx(min(plain, 22 / (kurtosis - 1 + 2 / 10)))
    error = mean_error(values, labels)
    assert error[:3] == pytest.approx((math.sqrt(squares.sum()), plain, plain + 1))
    assert error[3:] == ("cluster", 11, "")
    half = stats.t.isf(0.05, plain) * error.standard_error
    interval = mean_interval(values, 0.9, labels)
    assert interval[1:3] == pytest.approx((values.mean() - half, values.mean() + half))


def test_the_error_of_a_mean_says_why_there_is_none() -> None:
    one, infinite = mean_error(np.array([2.0])), mean_error(np.array([2.0, math.inf]), ["a", "a"])
    for found, clusters, note in (
        (one, None, "one record does not show how much records vary"),
        (infinite, 1, "a value is infinite"),
    ):
        assert np.isnan([found.standard_error, found.freedom]).all()
        assert found[2:] == (1.0, "none", clusters, note)
    assert mean_error(np.array([1.0, 3.0]))[:5] == pytest.approx((1.0, 1.0, 2.0, "t", None))
    few = mean_error(np.array([1.0, 3.0, 5.0]), ["a", "a", "b"])
    assert few[:5] == (pytest.approx(2 / math.sqrt(3)), 2.0, 3.0, "conditional", 2)
    assert few.note == (
        "only 2 clusters on a side, and 10 are needed to tell how much clusters vary: this "
        "interval treats records as independent"
    )
    assert mean_interval([1.0, math.inf]).note == "a value is infinite"
    assert mean_interval([1.0, math.inf]).method == "none"


def test_degrees_of_freedom_by_hand() -> None:
    # squares 1, 1, 4: κ = 3 · 18/36 = 1.5, so 6/(½ + 1)
    assert side_freedom(np.array([1.0, -1.0, 2.0]), np.array([0, 1, 2]), 100.0) == pytest.approx(4)
    assert side_freedom(np.array([1.0, -1.0, 2.0]), np.array([0, 1, 2]), 2.0) == 2.0
    # two of three clusters are of this side: κ = 2 · 2/4 = 1, so 4/(0 + 2)
    assert side_freedom(np.array([1.0, 0.0, -1.0]), np.array([0, 2, 2]), 9.0) == pytest.approx(2)
    assert side_freedom(np.zeros(3), np.arange(3), 7.0) == 7.0
    assert welch([1.0, 3.0], [4.0, 6.0]) == pytest.approx(16 / (1 / 4 + 9 / 6))
    assert welch([0.0, 0.0], [4.0, 6.0]) == 4.0


def test_a_subject_on_both_sides_is_one_term() -> None:
    """Subjects 0 to 8 on both sides, 9 on the first alone, 10 and 11 on the second."""
    rng = np.random.default_rng(1)
    ours, others = np.array([*range(10), 0, 0, 1]), np.array([*range(9), 10, 11, 11, 2, 3])
    above, below = rng.random(13), rng.random(14)
    below += above.mean() - below.mean()
    found = variance(above, below, group((13, ours), (14, others)))
    total, sides = 0.0, []
    for subject in range(12):
        each = 0.0
        for values, labels in ((above, ours), (below, others)):
            sizes = [int(s) for s in np.bincount(labels, minlength=12)]
            if sizes[subject]:
                mine = list(values[labels == subject] - above.mean())
                each += part(mine, len(values), sizes, sizes[subject])
        total += each**2
    for values, labels in ((above, ours), (below, others)):
        sizes = [int(s) for s in np.bincount(labels) if s]
        sides.append(1 / sum((s / len(values)) ** 2 for s in sizes) - 1)
    assert found.value == pytest.approx(total)
    assert found.plain == pytest.approx(min(sides))
    assert found.freedom <= found.plain


def test_disjoint_pairs_by_hand() -> None:
    def pairs(ours: list[str], others: list[str]) -> int:
        return disjoint_pairs(group((len(ours), ours), (len(others), others)))

    assert pairs(["a", "b", "c"], ["d", "e"]) == 2
    assert pairs(["a"], ["b", "c", "d"]) == 1
    # of three people who are on both sides one pair can be made, of four two
    assert pairs(["a", "b", "c"], ["a", "b", "c"]) == 1
    assert pairs(["a", "b", "c", "d"], ["d", "c", "b", "a"]) == 2
    assert pairs(["a", "a"], ["a"]) == 1


def test_the_excess_is_never_negative() -> None:
    x, y = np.array([1.0, 2.0]), np.array([0.0, 0.5])
    assert interaction(x, y, np.ones(2), np.ones(2)) == 0.0
    # wins 1 0 / 1 ½: V = ½, ¾ and W = 1, ¼; residuals ⅛ in all four cells
    x, y = np.array([1.0, 2.0]), np.array([0.0, 2.0])
    found = interaction(x, y, np.array([0.5, 0.75]), np.array([1.0, 0.25]))
    assert found == pytest.approx(4 / 64 / 4)


def test_notes_of_an_auc_without_variance() -> None:
    found = auc_interval([2.0, 3.0, 4.0], [0.0, 1.0])
    assert found.note == "no variance to estimate: exact limits from 2 disjoint pairs"
    assert auc_interval([2.0], [0.0, 3.0]).note == (
        "one record on a side does not show how much records vary"
    )
    few = auc_interval([2.0, 3.0], [0.0, 1.0], 0.95, ["a", "a"], ["b", "c"])
    assert few.note == (
        "only 1 cluster on a side, and 10 are needed to tell how much clusters vary: this interval "
        "treats records as independent; no variance to estimate: exact limits from 2 disjoint pairs"
    )
    tost = auc_tost([1.0, 2.0], [0.0, 3.0], 0.1)
    assert (tost.margin, tost.n, tost.note) == (0.1, 2, "")


def test_two_records_have_an_interval_and_one_has_none() -> None:
    # wins 1 and ½: variance 1/16 of a mean of ¾, so n* = 3, with one degree of freedom
    found = twin_theta([2.0, 1.0], [[0.0, 1.0], [0.0, 2.0]], 0.9)
    shrink = stats.t.isf(0.05, 1) ** 2 / 3
    half = math.sqrt(shrink * 3 / 16 + shrink**2 / 4) / (1 + shrink)
    centre = (0.75 + shrink / 2) / (1 + shrink)
    assert found[:3] == pytest.approx((0.75, centre - half, centre + half))
    assert found[3:] == (2, 0.9, "matched", None, "")
    alone = twin_theta([2.0], [[0.0, 3.0]], 0.9, ["a"])
    assert alone[3:] == (2 - 1, 0.9, "none", 1, "one record does not show how much records vary")


def test_ranks_break_no_tie_by_rounding() -> None:
    twins = np.full(19, 0.3)
    found = subject_rank_test(0.1 + 0.2, twins, "greater")
    assert (found.rank, found.subjects, found.p_value, found.note) == (20, 20, 1.0, "")
    found = subject_rank_test(0.1 + 0.2 - 1e-9, twins, "greater")
    assert found.rank == 20
    assert subject_rank_test(0.0, np.zeros(19)).rank == 20
    found = subject_rank_test(0.3 + 1e-9, twins, "greater")
    assert found.rank == 1


@pytest.mark.parametrize("value", [1e-6, 1e-3, 0.2, 1.0, 7.0, 1e3, 1e6, 9.9e6, 1.1e7, 1e9])
def test_the_trigamma_function_is_inverted(value: float) -> None:
    assert special.polygamma(1, _inverse_trigamma(value)) == pytest.approx(value, rel=1e-3)
    if value < 1e7:
        assert special.polygamma(1, _inverse_trigamma(value)) == pytest.approx(value, rel=1e-9)


def test_a_prior_is_never_worth_more_than_the_variances_it_is_of() -> None:
    # logarithms that vary a little more than chance: three variances would be worth two thousand
    excess = 1e-3
    variances = np.exp(math.sqrt(special.polygamma(1, 2) + excess) * np.array([-1.0, 0.0, 1.0]))
    half = _inverse_trigamma(excess)
    expected = math.exp(math.log(2) - special.digamma(2) + special.digamma(half) - math.log(half))
    found = variance_prior(variances, 4)
    assert (found.freedom, found.variance) == (12.0, pytest.approx(expected))
    for wrong in ([1.0, 2.0], -1.0), ([1.0, 2.0], 0.0), ([-1.0, 2.0], 3.0), ([1.0, math.inf], 3.0):
        with pytest.raises(DataError, match="must be finite and not negative, with positive free"):
            variance_prior(*wrong)
    # two are enough, and one is not
    assert variance_prior([2.0, 2.0], 0.5).freedom == 1.0
    assert variance_prior([2.0, 0.0], 0.5).freedom == 0.0


def test_the_largest_of_several_t_lies_between_one_and_bonferroni() -> None:
    matrix = np.array([[1.0, 0.4], [0.4, 1.0]])
    largest = MaxT(matrix, 5.9)
    for t in (0.5, 2.0, 4.0, 60.0):
        alone = 2 * stats.t.sf(t, 5.9)
        assert alone <= largest.p_value(t) <= min(1.0, 2 * alone)
    for error in (0.5, 0.05, 1e-7):
        low, high = stats.t.isf(error / 2, 5.9), stats.t.isf(error / 4, 5.9)
        assert low <= largest.limit(error) <= high
    # beyond all draws it is Bonferroni's limit or less, and p that of one alone or more
    assert largest.limit(1e-12) <= stats.t.isf(2.5e-13, 5.9)
    # as drawn once: hundredths of a correlation and parts of a degree make no difference
    assert MaxT(matrix + np.array([[0, 0.001], [0.001, 0]]), 5.9).limit(0.05) == largest.limit(0.05)
    assert MaxT(matrix, 5.0).p_value(3.0) == pytest.approx(0.0544, abs=0.003)
    assert (largest.size, largest.freedom) == (2, 5.9)
    # nearly copies are copies
    assert MaxT([[1.0, 0.996], [0.996, 1.0]], 7).limit(0.05) == pytest.approx(stats.t.isf(0.025, 7))


def test_limits_of_predictions_by_hand() -> None:
    # with ν given: beyond t of ν degrees, and within what a noncentral t of ν exceeds
    found = prediction_limits(4, 3.0, 0.1, 20.0)
    scale = math.sqrt(1.25)
    q = found.equivalent / scale
    assert found.different == pytest.approx(stats.t.isf(0.05, 20) * scale)
    assert found.power == pytest.approx(1 - 2 * stats.t.sf(q, 20))
    inside = stats.nct.cdf(q, 20, 3 / scale) - stats.nct.cdf(-q, 20, 3 / scale)
    assert inside == pytest.approx(0.1)
    assert prediction_limits(2) == prediction_limits(2, 4.0, 0.05, 1)
    for options, message in (
        ({"k": 1}, r"1 reference\(s\) do not show"),
        ({"k": 2, "margin": 0.0}, "margin 0.0 is not a positive number"),
        ({"k": 2, "margin": math.inf}, "margin inf is not a positive number"),
        ({"k": 2, "alpha": 0.0}, "alpha 0.0 is not between 0 and 1"),
        ({"k": 2, "alpha": 1.0}, r"alpha 1\.0 is not between 0 and 1"),
    ):
        with pytest.raises(OptionError, match=message):
            prediction_limits(**options)  # type: ignore[arg-type]


def test_values_are_flat_numbers() -> None:
    assert as_values([1, math.inf], "x").tolist() == [1.0, math.inf]
    for values, message in (
        ([], r"^x: one value a record is needed, not shape \(0,\)$"),
        ([[1.0]], r"^x: one value a record is needed, not shape \(1, 1\)$"),
        (3.0, r"^x: one value a record is needed, not shape \(\)$"),
        ([1.0, math.nan, math.nan], r"^x: value 1 \(from 0\) is NaN$"),
    ):
        with pytest.raises(DataError, match=message):
            as_values(values, "x")
    for level in (0.0, 1.0, -0.1, 1.1, math.nan):
        with pytest.raises(OptionError, match="0.95 is usual"):
            check_level(level)
    check_level(1e-9)
    refused = no_interval(0.3, 7, 0.9, 2, "why")
    assert np.isnan([refused.low, refused.high]).all()
    assert refused[0:1] + refused[3:] == (0.3, 7, 0.9, "none", 2, "why")
    assert Interval(0.3, 0.2, 0.4, 7, 0.9, "t")[6:] == (None, "")


def test_clusters_carry_an_interval_from_ten_and_two_effective_ones_on() -> None:
    ten = np.arange(10)
    # 1/Σw² of one large and nine single clusters is 2 at a share of about .68
    for size, note in ((20, ""), (30, "one cluster holds nearly all records of a side")):
        labels = np.repeat(ten, [size, *[1] * 9])
        found = group((len(labels), labels), (10, ten + 50))
        effective = 1 / ((size / len(labels)) ** 2 + 9 / len(labels) ** 2)
        assert found.effective == pytest.approx((effective, 10.0))
        assert (effective < 2) is bool(note)
        assert found.note.removesuffix(": this interval treats records as independent") == note
    both = group((3, ["a", "b", None]), (2, ["b", "c"]))
    assert [list(codes) for codes in both.codes] == [[0, 1, 3], [1, 2]]
    assert (both.clusters, both.shared) == (4, True)
    assert both.clustered
    assert both.note.startswith("only 2 clusters on a side, and 10 are needed")
    own = both.by_record()
    assert (own.clusters, own.shared, own.note, own.effective) == (
        None,
        False,
        "",
        pytest.approx((3.0, 2.0)),
    )
    assert group((0, None)).effective == (0.0,)
    assert group((2, ["a", "b"]), (1, ["c"])).note == ""


def test_margins_of_equivalence() -> None:
    check_equivalence(1e-9, 0.499)
    for margin, alpha, message in (
        (0.0, 0.05, "equivalence margin 0.0 is not positive"),
        (math.nan, 0.05, "margin nan"),
        (0.1, 0.0, "alpha 0.0 is not between 0 and 0.5; 0.05 is usual"),
        (0.1, 0.5, r"alpha 0\.5 is not"),
    ):
        with pytest.raises(OptionError, match=message):
            check_equivalence(margin, alpha)


def test_sizes_by_hand() -> None:
    z = stats.norm.isf(0.1) + stats.norm.isf(0.05)
    expected = math.ceil(z**2 * (1 + 1 / 3) / 12 / 0.07**2)
    assert records_for_equivalence(0.07, 3, 0.1, 0.9) == expected
    for wrong in ({"margin": 0.0}, {"alpha": 0.0}, {"alpha": 0.5}, {"power": 0.0}):
        with pytest.raises(OptionError, match="at least one twin"):
            records_for_equivalence(**({"margin": 0.1} | wrong))
    assert records_needed(0.1, 2, 0.9) == next(
        n for n in range(1, 200) if stats.binom.cdf(2, n, 0.1) <= 0.1
    )
    # two of three heads or fewer: exactly as likely as allowed
    assert (records_needed(0.5, 1, 0.5), records_needed(0.5, 2, 0.5)) == (3, 5)
    with pytest.raises(OptionError, match=r"^-1 hits: 0 or more are possible$"):
        records_needed(0.1, -1)
    with pytest.raises(OptionError, match=r"^confidence level 0.0 is not between 0 and 1$"):
        records_needed(0.1, level=0.0)
    with pytest.raises(OptionError, match=r"^rate 1.0 is not between 0 and 1$"):
        records_needed(1.0)


def test_ranks_of_too_few() -> None:
    for table in (np.empty((0, 3)), np.ones((2, 1)), np.ones((2, 2, 2))):
        with pytest.raises(DataError, match="a row a case and a column a method are needed"):
            friedman(table)
    with pytest.raises(DataError, match="^a value is not finite$"):
        friedman([[1.0, math.inf]])
    assert math.isnan(friedman([[1.0, 2.0, 3.0]]).p_value)
    assert math.isnan(friedman([[1.0, 2.0], [1.0, 2.0]]).p_value)
    three = friedman([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    assert three.p_value == pytest.approx(math.exp(-2.0))  # χ² = 4 with two degrees
    tied = friedman([[1.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    assert 0 < tied.p_value < 1


def test_a_sample_of_flips_is_that_of_its_seed() -> None:
    d = np.random.default_rng(5).normal(0.2, 1.0, 45)
    assert sign_flip_test(d, seed=0) == sign_flip_test(d)
    assert sign_flip_test(d, seed=1) != sign_flip_test(d)
    assert sign_flip_test(d).pairs == 45


def test_proportions_of_clusters_at_both_ends() -> None:
    labels = np.repeat(np.arange(10), [1, 2, 3, 4, 1, 2, 3, 4, 1, 2])
    effective = 1 / np.sum((np.bincount(labels) / 23) ** 2)
    none, every = (proportion_interval(np.full(23, v), 0.9, labels) for v in (0, 1))
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.05 ** (1 / effective)))
    assert (every.low, every.high) == (pytest.approx(0.05 ** (1 / effective)), 1.0)
    assert none[3:] == (23, 0.9, "cluster", 10, "")


NOTHING = [1.0, math.nan]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: auc(NOTHING, [1.0]), "member"),
        (lambda: auc([1.0], NOTHING), "nonmember"),
        (lambda: auc_interval(NOTHING, [1.0]), "member"),
        (lambda: auc_interval([1.0], NOTHING), "nonmember"),
        (lambda: ks_exact(NOTHING, [1.0]), "first sample"),
        (lambda: ks_exact([1.0], NOTHING), "second sample"),
        (lambda: holm(NOTHING), "p-values"),
        (lambda: mean_interval(NOTHING), "mean"),
        (lambda: paired_difference(NOTHING, [1.0, 2.0]), "first"),
        (lambda: paired_difference([1.0, 2.0], NOTHING), "second"),
        (lambda: variance_prior(NOTHING, 3.0), "variances"),
        (lambda: proportion_interval(NOTHING), "proportion"),
        (lambda: tpr_at_fpr(NOTHING, [1.0], 0.5), "member"),
        (lambda: tpr_at_fpr([1.0], NOTHING, 0.5), "nonmember"),
        (lambda: sign_flip_test(NOTHING), "differences"),
        (lambda: twin_theta(NOTHING, [1.0, 2.0]), "forget"),
        (lambda: subject_rank_test(1.0, NOTHING), "twins"),
    ],
)
def test_what_is_no_number_is_named(call: Callable[[], object], name: str) -> None:
    with pytest.raises(DataError, match=rf"^{name}: value 1 \(from 0\) is NaN$"):
        call()


def test_an_auc_of_one_record_says_that_there_is_no_interval() -> None:
    found = auc_interval([2.0], [0.0, 3.0], 0.9, ["a"], ["b", "c"])
    assert found[3:7] == (1, 0.9, "none", 3)
    tost = auc_tost([2.0], [0.0, 3.0], 0.1, 0.05, ["a"], ["a", "c"])
    assert (tost.method, tost.clusters, tost.equivalent) == ("none", 2, False)


def test_two_effective_clusters_are_enough() -> None:
    # (21 + 9)² ÷ (21² + 9) = 2
    labels = np.repeat(np.arange(10), [21, *[1] * 9])
    found = group((30, labels))
    assert found.effective[0] == pytest.approx(2.0)
    assert (found.note == "") is (found.effective[0] >= 2)


def test_ranks_have_the_critical_difference_of_their_level() -> None:
    table = [[0.1, 0.2, 0.3], [0.5, 0.4, 0.9]]
    for level in (0.9, 0.95):
        assert friedman(table, level).difference == critical_difference(3, 2, level)
    assert friedman(table).difference == critical_difference(3, 2, 0.95)
