from __future__ import annotations

import numpy as np
import pytest

from unlearn.errors import DataError, OptionError
from unlearn_eval.membership.calibrated import rmia
from unlearn_eval.statistics import auc

LOG = np.log


def test_by_hand():
    # p/p̄ of x: .4/.2 = 2; of z: 1, 2 and 4, so one is below and one ties
    references, others = LOG([[0.1], [0.3]]), LOG([[0.2, 0.1, 0.1], [0.2, 0.3, 0.1]])
    population = LOG([0.2, 0.4, 0.4])
    assert rmia.score(LOG([0.4]), references, population, others) == pytest.approx([0.5])
    assert rmia.score(LOG([0.41]), references, population, others) == pytest.approx([2 / 3])
    assert rmia.score(LOG([0.41]), references, population, others, gamma=2.0) == pytest.approx(
        [1 / 3]
    )


def test_offline_approximation():
    # a = ½: p̄ = ¾ p̄_out + ¼ = .4 for x, .325 and .85 for z
    x, z = LOG([0.4]), LOG([0.3, 0.9])
    references, others = LOG([[0.2]]), LOG([[0.1, 0.8]])
    gain = 0.4 / 0.4
    assert gain > 0.3 / 0.325
    assert gain < 0.9 / 0.85
    assert rmia.score(x, references, z, others, a=0.5) == pytest.approx([0.5])
    # a = 0 takes models that saw a record to be certain of it: p̄ = (p̄_out + 1)/2
    assert rmia.score(x, references, z, others, a=0.0) == pytest.approx([0.5])
    assert rmia.score(LOG([0.32]), references, z, others, a=0.0) == pytest.approx([0.0])


def test_references_that_saw_a_record_are_left_out():
    population, others = LOG([0.2]), LOG([[0.2], [0.2]])
    member = np.array([[True], [False]])
    assert rmia.score(LOG([0.4]), LOG([[0.9], [0.3]]), population, others, member) == [1.0]
    assert rmia.score(LOG([0.4]), LOG([[0.9], [0.3]]), population, others) == [0.0]
    with pytest.raises(DataError, match=r"every reference saw record 0 \(from 0\)"):
        rmia.score(LOG([0.4]), LOG([[0.9]]), population, others[:1], np.array([[True]]))


def test_population_records_may_be_attacked_too():
    """Their ranks among themselves do not favour either side."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(-3, 1, 30), rng.normal(-3, 1, 12)
    references, others = rng.normal(-3, 1, (3, 30)), rng.normal(-3, 1, (3, 12))
    scores = rmia.score(x, references, z, others)
    own = rmia.score(z, others, z, others)
    assert own.mean() == pytest.approx(0.5)
    gain, gains = (
        v - (np.logaddexp.reduce(r, axis=0) - np.log(3)) for v, r in ((x, references), (z, others))
    )
    assert auc(scores, own) == pytest.approx(auc(gain, gains))


def test_limits():
    population, others = LOG([0.2, 0.3]), LOG([[0.2, 0.2]])
    assert rmia.score([-np.inf, 0.0], [[-1.0, -5000.0]], population, others).tolist() == [0.0, 1.0]
    with pytest.raises(DataError, match="needs a population"):
        rmia.score([0.0], [[-1.0]], [], np.empty((1, 0)))
    with pytest.raises(DataError, match=r"population record 1 \(from 0\)"):
        rmia.score([0.0], [[-1.0]], [-1.0, -np.inf], [[-1.0, -1.0]])
    for options in ({"gamma": 0.0}, {"gamma": np.inf}, {"a": -0.1}, {"a": 1.1}, {"a": np.nan}):
        with pytest.raises(OptionError):
            rmia.score([0.0], [[-1.0]], population, others, **options)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("a", [0.3, 1.0])
def test_tells_members_apart_only_if_they_differ(k, a):
    rng = np.random.default_rng(2)
    n = 1500
    loss, of_population = (rng.gamma(4, 0.15, size) for size in (n, 400))
    chosen = rng.random(n) < 0.5

    def noisy(values, *shape):
        return -values * np.exp(rng.normal(0, 0.2, (*shape, len(values))))

    for share in (1.0, 0.6):
        target = noisy(np.where(chosen, share * loss, loss))
        found = rmia.score(
            target, noisy(loss, k), noisy(of_population), noisy(of_population, k), a=a
        )
        area = auc(found[chosen], found[~chosen])
        if share < 1:
            assert area > 0.75
            assert area > auc(target[chosen], target[~chosen]) + 0.03
        else:
            assert area == pytest.approx(0.5, abs=0.04)


def test_population_records_are_compared_with_models_that_did_not_see_them():
    x, others = np.array([-1.0]), np.array([[-2.0], [-2.0]])
    z = np.array([-1.0, -1.0])
    of_z = np.array([[-1.5, -3.0], [-0.1, -3.0]])
    # gains: x 1; z₁ 0.5 over the model that did not see it; z₂ 2
    saw = np.array([[False, False], [True, False]])
    assert rmia.score(x, others, z, of_z, population_member=saw) == pytest.approx([0.5])
    # with all models z₁ gained log(½ (e^−1.5 + e^−0.1)) less, hence lost: still below x
    assert rmia.score(x, others + 2.2, z, of_z, population_member=saw) == pytest.approx([0.0])
    assert rmia.score(x, others + 1.2, z, of_z) == pytest.approx([0.5])
