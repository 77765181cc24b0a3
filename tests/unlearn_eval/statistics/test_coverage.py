"""How often intervals hold the truth: nominal 95 % must mean 93 to 97 %, wherever it is claimed.

The grid takes minutes and is slow; a few of its cells, and a coarser one of the AUC that includes
heavy tails and lopsided clusters, run always with fewer draws. Bounds allow for the error of 2,000
draws, half a point.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest
from scipy import stats

from unlearn_eval.statistics import (
    Interval,
    auc_interval,
    mean_interval,
    proportion_interval,
    twin_theta,
)

FAST, FULL = 600, 2000
AREAS = (0.5, 0.8, 0.95)

Draw = Callable[[np.random.Generator], tuple[Interval, float]]


def shift(area: float, spread: float = 1.0) -> float:
    """How far apart normals of standard deviation `spread` and 1 must be for this AUC."""
    return float(np.sqrt(1 + spread**2) * stats.norm.ppf(area))


def covered(draw: Draw, draws: int, seed: int = 0) -> float:
    rng = np.random.default_rng(seed)
    found = [draw(rng) for _ in range(draws)]
    assert all(interval.method != "conditional" for interval, _ in found)
    return float(np.mean([i.low <= truth <= i.high for i, truth in found]))


def noise(rng, tails: str, size: int):
    return rng.normal(size=size) if tails == "normal" else rng.standard_t(3, size)


def subjects(rng, groups: int, sizes: str, size: int, icc: float = 0.3, tails: str = "normal"):
    """Values of subjects with this intra-class correlation, and their labels."""
    while True:
        count = {
            "equal": np.full(groups, size),
            "geometric": 1 + rng.geometric(1 / size, groups),
            "log-normal": np.maximum(1, np.round(size * np.exp(rng.normal(size=groups)))),
            # one subject has a third of the records or more
            "harmonic": np.maximum(1, 2 * size * groups / 5 // np.arange(1, groups + 1)),
        }[sizes].astype(int)
        # lopsided draws are marked conditional by rule and make no claim
        if count.sum() ** 2 / np.sum(count**2) >= 2:
            break
    labels = np.repeat(np.arange(groups), count)
    effects, own = noise(rng, tails, groups)[labels], noise(rng, tails, len(labels))
    return np.sqrt(icc) * effects + np.sqrt(1 - icc) * own, labels


def draw_auc(m, n, area, spread, rng):
    x = rng.normal(shift(area, spread), spread, m)
    return auc_interval(x, rng.normal(size=n)), area


def draw_auc_clusters(groups, sizes, size, area, rng):
    (x, cx), (y, cy) = (subjects(rng, g, sizes, size) for g in groups)
    return auc_interval(x + shift(area), y, 0.95, cx, cy + 1000), area


def draw_mean(groups, sizes, size, rng):
    values, labels = subjects(rng, groups, sizes, size)
    return mean_interval(values, clusters=labels), 0.0


def draw_rate(groups, sizes, size, rate, rng):
    values, labels = subjects(rng, groups, sizes, size)
    return proportion_interval(values < stats.norm.ppf(rate), clusters=labels), rate


def draw_theta(n, k, theta, rng):
    # a record and its twins share a level, so they vary together
    level = rng.normal(size=n)
    twins = level[:, None] + rng.normal(size=(n, k))
    return twin_theta(level + rng.normal(shift(theta), 1, n), twins), theta


def draw_theta_clusters(groups, sizes, theta, rng):
    values, labels = subjects(rng, groups, sizes, 6)
    twins = rng.normal(size=(len(values), 5))
    return twin_theta(values + shift(theta), twins, clusters=labels), theta


ALWAYS: dict[str, Draw] = {
    "auc 10 10": partial(draw_auc, 10, 10, 0.65, 1.0),
    "auc 20 80": partial(draw_auc, 20, 80, 0.5, 1.0),
    "auc clusters": partial(draw_auc_clusters, (10, 10), "log-normal", 10, 0.8),
    "mean clusters": partial(draw_mean, 10, "log-normal", 10),
    "rate clusters": partial(draw_rate, 12, "log-normal", 8, 0.3),
    "twins": partial(draw_theta, 30, 3, 0.6),
}


@pytest.mark.parametrize("name", ALWAYS)
def test_a_few_cells_of_the_grid(name):
    # four standard errors of 600 draws beside the claim, so that only a wrong method fails
    assert 0.93 - 0.02 <= covered(ALWAYS[name], FAST) <= 0.97 + 0.02


CELLS, ICC = 300, 0.3
RECORDS = [(10, 10), (100, 10), (20, 20), (100, 100)]
SUBJECTS = [("equal", 10, 10), ("equal", 20, 20), ("harmonic", 10, 40), ("log-normal", 20, 20)]


@cache
def gap(tails: str, area: float, icc: float) -> float:
    """How far apart two samples must be for this AUC, to four digits of it."""
    rng = np.random.default_rng(1)
    drawn = [noise(rng, tails, 1_000_000) for _ in range(2 if icc == 0 else 4)]
    if icc:
        drawn = [np.sqrt(icc) * drawn[i] + np.sqrt(1 - icc) * drawn[i + 1] for i in (0, 2)]
    return float(np.quantile(drawn[0] - drawn[1], area))


def draw_tails(m, n, tails, area, rng):
    x, y = noise(rng, tails, m), noise(rng, tails, n)
    return auc_interval(x + gap(tails, area, 0), y), area


def draw_tails_clusters(sizes, m, n, tails, area, rng):
    (x, cx), (y, cy) = (subjects(rng, groups, sizes, 5, ICC, tails) for groups in (m, n))
    return auc_interval(x + gap(tails, area, ICC), y, 0.95, cx, cy + 1000), area


@pytest.mark.parametrize("tails", ["normal", "t3"])
@pytest.mark.parametrize("area", [0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("unit", ["records", "subjects"])
def test_auc_of_heavy_tails_and_lopsided_clusters(unit, area, tails):
    """At least 93 % in each cell, three standard errors allowed: cells of 88 % and below fail."""
    if unit == "records":
        draws = [partial(draw_tails, m, n, tails, area) for m, n in RECORDS]
    else:
        draws = [partial(draw_tails_clusters, *cell, tails, area) for cell in SUBJECTS]
    found = [covered(draw, CELLS, seed=i) for i, draw in enumerate(draws)]
    deviation = np.sqrt(0.93 * 0.07 / CELLS)
    assert min(found) >= 0.93 - 3 * deviation
    assert np.mean(found) >= 0.93 - 3 * deviation / np.sqrt(len(found))


@pytest.mark.slow
@pytest.mark.parametrize("area", [0.5, 0.65, 0.8, 0.95])
@pytest.mark.parametrize(
    ("m", "n"), [(10, 10), (10, 100), (100, 10), (15, 15), (20, 20), (20, 400), (40, 40), (40, 400)]
)
def test_auc_of_records(m, n, area):
    # samples without a discordant pair get exact limits, which cover more
    most = 0.975 if area < 0.95 else 0.985
    assert 0.93 <= covered(partial(draw_auc, m, n, area, 1.0), FULL) <= most


@pytest.mark.slow
@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize(("m", "n"), [(5, 5), (5, 20), (8, 8)])
def test_auc_of_very_few_records_errs_on_the_wide_side(m, n, area):
    assert covered(partial(draw_auc, m, n, area, 1.0), FULL) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("area", [0.5, 0.65])
@pytest.mark.parametrize(("m", "n"), [(10, 10), (10, 100), (100, 10), (20, 20), (20, 400)])
def test_auc_of_sides_of_unequal_spread(m, n, area):
    assert 0.93 <= covered(partial(draw_auc, m, n, area, 2.0), FULL) <= 0.975


@pytest.mark.slow
@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("sizes", ["equal", "geometric", "log-normal"])
@pytest.mark.parametrize(("groups", "size"), [((10, 10), 10), ((10, 40), 10), ((20, 20), 5)])
def test_auc_of_clusters(groups, size, sizes, area):
    # unequal clusters near 1 tell little of their variance, and the interval errs on the wide side
    most = 0.975 if sizes == "equal" and area < 0.95 else 0.995
    assert 0.93 <= covered(partial(draw_auc_clusters, groups, sizes, size, area), FULL) <= most


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["equal", "geometric", "log-normal"])
@pytest.mark.parametrize(("groups", "size"), [(10, 10), (12, 5), (40, 5)])
def test_mean_of_clusters(groups, size, sizes):
    assert 0.925 <= covered(partial(draw_mean, groups, sizes, size), FULL) <= 0.975


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("sizes", ["equal", "geometric", "log-normal"])
@pytest.mark.parametrize(("groups", "size"), [(10, 10), (12, 5), (20, 5), (40, 5)])
def test_rate_of_clusters(groups, size, sizes, rate):
    assert 0.93 <= covered(partial(draw_rate, groups, sizes, size, rate), FULL) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("theta", [0.5, 0.7, 0.9])
@pytest.mark.parametrize(("n", "k"), [(20, 1), (20, 10), (60, 3)])
def test_matched_twins(n, k, theta):
    def draw(rng):
        # twins vary by √2 less than records do about the level that they share
        return draw_theta(n, k, theta, rng)

    assert 0.93 <= covered(draw, FULL) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("theta", [0.5, 0.8])
@pytest.mark.parametrize("sizes", ["equal", "log-normal"])
def test_matched_twins_of_clusters(sizes, theta):
    assert 0.925 <= covered(partial(draw_theta_clusters, 10, sizes, theta), FULL) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("area", [0.5, 0.8])
def test_auc_when_subjects_are_on_both_sides(area):
    groups, size, icc = 12, 5, 0.3
    # pairs within a subject share its effect and are concordant more often
    within = stats.norm.cdf(shift(area) / np.sqrt(2 * (1 - icc)))
    truth = area + (within - area) / groups

    def draw(rng):
        effects, labels = rng.normal(size=groups), np.repeat(np.arange(groups), size)
        x, y = (
            np.sqrt(icc) * effects[labels] + np.sqrt(1 - icc) * rng.normal(size=len(labels))
            for _ in range(2)
        )
        return auc_interval(x + shift(area), y, 0.95, labels, labels), truth

    assert 0.93 <= covered(draw, FULL) <= 0.98


@pytest.mark.slow
def test_ignoring_clusters_would_not_cover():
    """The interval marked conditional deserves the mark: it covers far less over new subjects."""
    rng = np.random.default_rng(13)
    hits = 0
    for _ in range(1000):
        (x, cx), (y, cy) = subjects(rng, 5, "equal", 20), subjects(rng, 10, "equal", 10)
        found = auc_interval(x, y, 0.95, cx, cy + 5)
        assert found.method == "conditional"
        hits += found.low <= 0.5 <= found.high
    assert hits / 1000 < 0.75
