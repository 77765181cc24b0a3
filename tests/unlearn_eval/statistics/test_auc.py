from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unlearn.errors import DataError, OptionError
from unlearn_eval.statistics import auc, auc_interval, auc_tost
from unlearn_eval.statistics.common import group
from unlearn_eval.statistics.delong import interaction, variance

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


def equal_shape(theta, m, n):
    """Oracle: Hanley and McNeil's variance with Q1, Q2 and Newcombe's common number of records."""
    q1, q2, each = theta / (2 - theta), 2 * theta**2 / (1 + theta), (m + n) / 2
    excess = (each - 1) * (q1 + q2 - 2 * theta**2)
    return (theta * (1 - theta) + excess) / (m * n)


def test_interval_by_hand():
    # V = (½, 1), W = (1, ½): DeLong gives 1/16 a side, the excess is 1/16, so v = 1/16.
    # Hanley–McNeil: .1875 (1 + .2 + 3/7)/4 = .0763. One unit a side each way: 2 degrees of freedom.
    found = auc_interval([1, 3], [0, 2])
    hand = 0.1875 * (1 + 0.25 / 1.25 + 0.75 / 1.75) / 4
    assert equal_shape(0.75, 2, 2) == pytest.approx(hand)
    ratio = (2 * (1 / 16) / hand + 4) / 6
    t = stats.t.ppf(0.975, 6)
    for limit in (found.low, found.high):
        assert abs(limit - 0.75) == pytest.approx(t * np.sqrt(ratio * equal_shape(limit, 2, 2)))
    assert found.low < 0.75 < found.high
    assert found[3:] == (2, 0.95, "delong", None, "")


def degrees(variances, each):
    return sum(variances) ** 2 / sum(v**2 / d for v, d in zip(variances, each, strict=True))


def check_limits(interval, v, w, sizes, covariance: float = 0.0, shared: bool = False):
    """Oracle: score limits from what each unit adds to the error, v by members, w by others."""

    def part(z):
        units = len(z)
        kurtosis = stats.kurtosis(z, fisher=False)
        return (
            units * np.var(z, ddof=1),
            min(units - 1, 2 * units / (kurtosis - 1 + 2 / (units - 1))),
        )

    (a, df_a), (b, df_b) = part(v), part(w)
    freedom = min(df_a, df_b) if shared else degrees((a, b), (df_a, df_b))
    area, variance = interval.value, a + b + 2 * covariance
    ratio = (freedom * variance / equal_shape(area, *sizes) + 4) / (freedom + 4)
    t = stats.t.ppf(0.975, freedom + 4)
    for limit in (interval.low, interval.high):
        spread = t * np.sqrt(ratio * equal_shape(limit, *sizes))
        assert abs(limit - area) == pytest.approx(spread, rel=1e-9)
    assert interval.low < area < interval.high


def test_variance_is_delongs():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 20, 30).astype(float), rng.integers(-5, 15, 45).astype(float)
    wins = placements(x, y)
    above, below, area = wins.mean(axis=1), wins.mean(axis=0), wins.mean()
    found = variance(above, below, group((30, None), (45, None)))
    parts = np.var(above, ddof=1) / 30, np.var(below, ddof=1) / 45
    assert found.value == pytest.approx(sum(parts))
    assert found.plain == pytest.approx(degrees(parts, (29, 44)))
    kurtosis = [stats.kurtosis(z, fisher=False) for z in (above, below)]
    careful = [
        min(g - 1, 2 * g / (k - 1 + 2 / (g - 1))) for g, k in zip((30, 45), kurtosis, strict=True)
    ]
    assert found.freedom == pytest.approx(degrees(parts, careful))
    # two-way layout without replication: what neither the member nor the other explains
    rest = wins - above[:, None] - below + area
    excess = interaction(x, y, above, below)
    assert excess == pytest.approx(np.sum(rest**2) / (29 * 44) / (30 * 45))
    assert 0 < excess < 0.05 * found.value
    # and the limits are made of these
    interval = auc_interval(x, y)
    ratio = (found.freedom * (found.value - excess) / equal_shape(area, 30, 45) + 4) / (
        found.freedom + 4
    )
    t = stats.t.ppf(0.975, found.freedom + 4)
    for limit in (interval.low, interval.high):
        assert abs(limit - area) == pytest.approx(t * np.sqrt(ratio * equal_shape(limit, 30, 45)))
    own = auc_interval(x, y, 0.95, range(30), range(30, 75))
    assert own[:6] == interval[:6]
    assert own.clusters == 75


def test_delongs_variance_is_too_large_by_the_interaction_on_average():
    rng = np.random.default_rng(8)
    area, plain, excess = [], [], []
    for _ in range(4000):
        x, y = rng.normal(0.5, 1, 6), rng.normal(size=5)
        above, below = placements(x, y).mean(axis=1), placements(x, y).mean(axis=0)
        area.append(above.mean())
        plain.append(variance(above, below, group((6, None), (5, None))).value)
        excess.append(interaction(x, y, above, below))
    truth = np.var(area)
    assert np.mean(plain) - np.mean(excess) == pytest.approx(truth, rel=0.03)
    assert np.mean(plain) > 1.05 * truth


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
    # 48 records in 12 equal clusters weigh like 2/(1/48 + 1/12) independent ones
    check_limits(found, v, w, (48, 48) if shared else (19.2, 19.2), covariance, shared)
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


@pytest.mark.parametrize("side", ["records", "clusters"])
def test_tost_is_the_interval_at_twice_alpha(clustered, side):
    rng = np.random.default_rng(6)
    outcomes = set()
    for area in (0.5, 0.56, 0.7, 0.97):
        for size in (6, 40):
            x, cx = clustered(rng, 12, size)
            y, cy = clustered(rng, 15, size)
            labels = (cx, cy + 12) if side == "clusters" else (None, None)
            found = auc_tost(x + shift(area), y, 0.2, 0.05, *labels)
            interval = auc_interval(x + shift(area), y, 0.9, *labels)
            assert found[:3] == interval[:3]
            assert (found.method, found.n, found.clusters) == (
                interval.method,
                interval.n,
                interval.clusters,
            )
            assert found.equivalent == (found.low > 0.3 and found.high < 0.7)
            outcomes.add(found.equivalent)
            # at the level where the interval touches the margin, p is α
            if 1e-9 < found.p_value < 0.5:
                edge = auc_interval(x + shift(area), y, 1 - 2 * found.p_value, *labels)
                assert min(edge.low - 0.3, 0.7 - edge.high) == pytest.approx(0, abs=1e-6)
    assert outcomes == {True, False}


def test_tost_limits():
    apart = auc_tost(np.arange(5, 12), np.arange(5), 0.1)
    assert (apart.p_value, apart.equivalent) == (1.0, False)
    mirrored = auc_tost(np.arange(5), np.arange(5, 12), 0.1)
    assert (mirrored.p_value, mirrored.equivalent) == (1.0, False)
    tied = auc_tost(np.zeros(40), np.zeros(40), 0.1)
    assert tied.p_value == pytest.approx(0.5 * 0.8**40)
    assert tied.equivalent
    few = auc_tost(np.zeros(8), np.zeros(8), 0.1)
    assert few.p_value == pytest.approx(0.5 * 0.8**8)
    assert few.equivalent == (few.low > 0.4) == (few.p_value < 0.05)
    alone = auc_tost([1.0], [0.0, 2.0, 3.0], 0.1)
    assert np.isnan([alone.p_value, alone.low]).all()
    assert not alone.equivalent
    for margin in (0.0, 0.5, np.nan):
        with pytest.raises(OptionError, match="margin"):
            auc_tost([1.0], [0.0], margin)
    with pytest.raises(OptionError, match="alpha"):
        auc_tost([1.0], [0.0], 0.1, 0.6)


@pytest.mark.slow
@pytest.mark.parametrize("theta", [0.4, 0.6])
def test_wrong_equivalence_at_the_margin_is_bounded(theta):
    rng = np.random.default_rng(7)
    x = rng.normal(shift(theta), 1, (3000, 150))
    y = rng.normal(size=(3000, 600))
    wrong = np.mean([auc_tost(a, b, 0.1).equivalent for a, b in zip(x, y, strict=True)])
    assert 0.035 <= wrong <= 0.065
