from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit

from unlearn.errors import DataError, OptionError
from unlearn_eval.statistics import auc, auc_interval

INF = np.inf


def shift(area: float) -> float:
    """How far apart two standard normals must be for this AUC."""
    return float(np.sqrt(2) * stats.norm.ppf(area))


def placements(x, y):
    return (np.sign(np.subtract.outer(x, y)) + 1) / 2


@pytest.mark.parametrize(
    ("member", "nonmember", "expected"),
    [
        ([2, 3], [0, 1], 1.0),
        ([0, 1], [2, 3], 0.0),
        ([1, 3], [0, 2], 0.75),
        ([1, 1], [1, 1], 0.5),
        ([1, 2], [1], 0.75),
        ([INF, 0], [INF, -INF], 0.625),
        ([-INF], [-INF, 0], 0.25),
    ],
)
def test_auc_by_hand(member, nonmember, expected):
    assert auc(member, nonmember) == expected
    assert auc(nonmember, member) == 1 - expected
    assert auc_interval(member, nonmember).value == expected


def test_auc_is_mann_whitney_with_ties():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 8, 37).astype(float), rng.integers(-2, 6, 53).astype(float)
    expected = stats.mannwhitneyu(x, y).statistic / (37 * 53)
    assert auc(x, y) == pytest.approx(expected, abs=1e-15)
    assert expected > 0.6  # members lie higher: the sign is right


@pytest.mark.parametrize(
    ("x", "y"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0]), ([1.0], [np.nan])]
)
def test_empty_and_nan_are_errors(x, y):
    for function in (auc, auc_interval):
        with pytest.raises(DataError, match=r"member: .*(NaN|shape)"):
            function(x, y)


@pytest.mark.parametrize("level", [0, 1, 95, np.nan])
def test_level_must_be_a_probability(level):
    with pytest.raises(OptionError, match="level"):
        auc_interval([1, 3], [0, 2], level)


def test_interval_by_hand():
    # V = (½, 1), W = (1, ½): 1/16 from each side, and Welch's 2 degrees of freedom
    found = auc_interval([1, 3], [0, 2])
    half = stats.t.ppf(0.975, 2) * np.sqrt(1 / 8) / (3 / 16)
    assert found.low == pytest.approx(expit(logit(0.75) - half))
    assert found.high == pytest.approx(expit(logit(0.75) + half))
    assert found[3:] == (2, 0.95, "delong", None, "")


def limits(area: float, v, w, covariance: float = 0.0, shared: bool = False):
    """Oracle: logit-t limits from what each unit adds to the error, v by members, w by others."""

    def part(z):
        units = len(z)
        kurtosis = stats.kurtosis(z, fisher=False)
        return (
            units * np.var(z, ddof=1),
            min(units - 1, 2 * units / (kurtosis - 1 + 2 / (units - 1))),
        )

    (a, df_a), (b, df_b) = part(v), part(w)
    freedom = min(df_a, df_b) if shared else (a + b) ** 2 / (a**2 / df_a + b**2 / df_b)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(a + b + 2 * covariance) / (area * (1 - area))
    return pytest.approx((expit(logit(area) - half), expit(logit(area) + half)), rel=1e-9)


def test_variance_is_delongs():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 20, 30).astype(float), rng.integers(-5, 15, 45).astype(float)
    wins = placements(x, y)
    found = auc_interval(x, y)
    assert (found.low, found.high) == limits(
        wins.mean(), wins.mean(axis=1) / 30, wins.mean(axis=0) / 45
    )
    own = auc_interval(x, y, 0.95, range(30), range(30, 75))
    assert own[:6] == found[:6]
    assert own.clusters == 75


@pytest.mark.parametrize("shared", [False, True])
def test_variance_is_obuchowskis_for_equal_clusters(clustered, shared):
    rng = np.random.default_rng(2)
    groups, size = 12, 4
    effects = rng.normal(size=groups)
    x, cx = clustered(rng, groups, size, effects=effects)
    y, cy = clustered(rng, groups, size, effects=effects)
    wins = placements(x + 0.7, y)
    area, n = wins.mean(), groups * size
    v = (wins.mean(axis=1) - area).reshape(groups, size).sum(axis=1) / n
    w = (wins.mean(axis=0) - area).reshape(groups, size).sum(axis=1) / n
    covariance = groups / (groups - 1) * np.sum(v * w) if shared else 0.0
    found = auc_interval(x + 0.7, y, 0.95, cx, cy if shared else cy + groups)
    assert (found.low, found.high) == limits(area, v, w, covariance, shared)
    assert found.method == "cluster"
    assert found.clusters == (groups if shared else 2 * groups)
    if shared:  # a subject's effect moves both of its sides alike, so it cancels in the comparison
        assert covariance < 0


def test_swapping_sides_mirrors_the_interval(clustered):
    rng = np.random.default_rng(3)
    x, cx = clustered(rng, 11, 5, unequal=True)
    y, cy = clustered(rng, 15, 3, unequal=True)
    forth, back = auc_interval(x + 1, y, 0.9, cx, cy + 5), auc_interval(y, x + 1, 0.9, cy + 5, cx)
    assert (back.low, back.high) == pytest.approx((1 - forth.high, 1 - forth.low))
    assert forth.clusters == back.clusters == 20
    assert forth.low > 0.5


def test_invariant_to_order_names_and_monotone_scale(clustered):
    rng = np.random.default_rng(4)
    x, cx = clustered(rng, 10, 4)
    y, cy = clustered(rng, 10, 6)
    p, q = rng.permutation(len(x)), rng.permutation(len(y))
    names = np.array([f"person {i}" for i in range(20)])
    plain = auc_interval(x, y, 0.95, cx, cy + 10)
    moved = auc_interval(np.exp(x[p]), np.exp(y[q]), 0.95, names[cx[p]], names[cy[q] + 10])
    np.testing.assert_allclose(moved[:3], plain[:3], rtol=1e-12)


@pytest.mark.parametrize("clusters", [1, 9])
def test_few_clusters_give_a_marked_record_level_interval(clusters):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=36), rng.normal(size=40)
    labels = np.arange(36) % clusters
    found = auc_interval(x, y, 0.95, labels, 100 + np.arange(40) % 10)
    assert found[:3] == auc_interval(x, y)[:3]
    assert (found.method, found.clusters) == ("conditional", clusters + 10)
    assert f"only {clusters} cluster" in found.note
    assert "10 are needed" in found.note


def test_boundary_has_exact_limits_from_disjoint_pairs():
    above = auc_interval(np.arange(5, 12), np.arange(5))
    assert (above.value, above.high, above.method) == (1.0, 1.0, "delong")
    assert above.low == pytest.approx(stats.binomtest(5, 5).proportion_ci(method="exact").low)
    assert "5 disjoint pairs" in above.note
    below = auc_interval(np.arange(5), np.arange(5, 12))
    assert (below.value, below.low) == (0.0, 0.0)
    assert below.high == pytest.approx(1 - above.low)
    assert auc_interval([2.0], [1.0]).low == pytest.approx(0.025)


def test_boundary_counts_clusters_not_records():
    x, y = np.arange(100) + 100.0, np.arange(100.0)
    labels = np.arange(100) // 10
    apart = auc_interval(x, y, 0.95, labels, labels + 10)
    assert (apart.method, apart.low) == ("cluster", pytest.approx(0.025 ** (1 / 10)))
    # the same ten subjects on both sides make five pairs of different subjects
    same = auc_interval(x, y, 0.95, labels, labels)
    assert same.low == pytest.approx(0.025 ** (1 / 5))
    few = auc_interval(x, y, 0.95, labels // 5, labels)
    assert few.method == "conditional"
    assert few.note.startswith("only 2 clusters")


def test_all_scores_equal_is_not_certainty():
    found = auc_interval(np.zeros(40), np.zeros(400))
    assert found.value == 0.5
    assert found.low == pytest.approx(0.5 * 0.05 ** (1 / 40))
    assert found.high == pytest.approx(1 - found.low)


def test_one_record_on_a_side_has_no_interval():
    found = auc_interval([1.5], [1.0, 2.0, 3.0])
    assert found.value == pytest.approx(1 / 3)
    assert np.isnan([found.low, found.high]).all()
    assert found.method == "none"
    assert "one record" in found.note


def coverage(members: int, nonmembers: int, area: float, draws: int = 3000) -> float:
    rng = np.random.default_rng(10)
    x = rng.normal(shift(area), 1, (draws, members))
    y = rng.normal(size=(draws, nonmembers))
    intervals = [auc_interval(a, b) for a, b in zip(x, y, strict=True)]
    return float(np.mean([i.low <= area <= i.high for i in intervals]))


@pytest.mark.slow
@pytest.mark.parametrize(("members", "nonmembers"), [(10, 100), (40, 400), (50, 50)])
@pytest.mark.parametrize("area", [0.5, 0.8, 0.95])
def test_coverage_for_independent_records(members, nonmembers, area):
    assert 0.93 <= coverage(members, nonmembers, area) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("members", "nonmembers"), [(10, 10), (20, 20)])
@pytest.mark.parametrize("area", [0.5, 0.8, 0.95])
def test_tiny_samples_err_on_the_wide_side(members, nonmembers, area):
    assert coverage(members, nonmembers, area) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("groups", "size", "unequal"),
    [((10, 10), 10, False), ((10, 10), 10, True), ((10, 40), 10, False), ((12, 12), 5, True)],
)
@pytest.mark.parametrize("area", [0.5, 0.8, 0.95])
def test_coverage_for_clusters(clustered, groups, size, unequal, area):
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(2000):
        x, cx = clustered(rng, groups[0], size, unequal=unequal)
        y, cy = clustered(rng, groups[1], size, unequal=unequal)
        found = auc_interval(x + shift(area), y, 0.95, cx, cy + groups[0])
        covered += found.low <= area <= found.high
    assert 0.93 <= covered / 2000 <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("area", [0.5, 0.8])
def test_coverage_when_subjects_are_on_both_sides(clustered, area):
    groups, size, icc = 12, 5, 0.3
    rng = np.random.default_rng(12)
    # pairs within a subject share its effect and are concordant more often
    within = stats.norm.cdf(shift(area) / np.sqrt(2 * (1 - icc)))
    truth = area + (within - area) / groups
    covered = 0
    for _ in range(2000):
        effects = rng.normal(size=groups)
        x, labels = clustered(rng, groups, size, effects=effects)
        y, _ = clustered(rng, groups, size, effects=effects)
        found = auc_interval(x + shift(area), y, 0.95, labels, labels)
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 2000 <= 0.97


@pytest.mark.slow
def test_ignoring_clusters_would_not_cover(clustered):
    """The interval marked conditional deserves the mark: it covers far less over new subjects."""
    rng = np.random.default_rng(13)
    covered = 0
    for _ in range(1000):
        x, cx = clustered(rng, 5, 20)
        y, cy = clustered(rng, 10, 10)
        found = auc_interval(x, y, 0.95, cx, cy + 5)
        assert found.method == "conditional"
        covered += found.low <= 0.5 <= found.high
    assert covered / 1000 < 0.75
