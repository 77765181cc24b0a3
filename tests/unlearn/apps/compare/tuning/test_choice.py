"""Which trial is taken, and which cannot become the best any more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unlearn.apps.compare.tuning.trials import TuningTrial, chosen_of, hopeless


def trial(gap: float | None, rise: float | None, pruned: bool = False) -> TuningTrial:
    return TuningTrial("npo", {}, gap, rise, pruned=pruned)


@pytest.mark.parametrize(
    ("trials", "best"),
    [
        # kept and far, kept and near, nearest but damaged
        ([trial(0.30, 0.01), trial(0.20, 0.09), trial(0.01, 0.11)], 1),
        # all damaged, this one least
        ([trial(0.10, 0.90), trial(0.40, 0.30), trial(0.00, 0.80)], 1),
        ([trial(0.10, 0.90), trial(None, 0.30, True)], 0),
        ([trial(None, None), trial(0.50, 2.0)], 1),
        ([trial(None, None), trial(None, None)], 0),
    ],
)
def test_the_closest_that_kept_the_rest_is_taken(trials, best):
    assert [t.chosen for t in chosen_of(trials)] == [i == best for i in range(len(trials))]


def test_hopeless_by_hand():
    kept, damaged = trial(0.4, 0.05), trial(0.0, 0.6)
    assert not hopeless(5.0, 0.0, [])
    assert not hopeless(5.0, 0.0, [trial(None, None)])
    assert hopeless(0.13, 0.01, [kept])
    assert not hopeless(0.12, 0.01, [kept])  # 0.12 − 2 · 0.01 is what is allowed
    assert hopeless(0.63, 0.01, [damaged])
    assert not hopeless(0.61, 0.01, [damaged])
    # where retraining itself raises it by .3, so much is no damage
    wide = [replace(each, allowed=0.4) for each in (damaged, kept)]
    assert [each.value for each in wide] == [pytest.approx(1.3), 0.4]
    assert hopeless(0.43, 0.01, wide)
    assert not hopeless(0.41, 0.01, wide)
    assert replace(trial(0.2, 0.35), allowed=0.4).value == 0.2
    assert hopeless(0.13, 0.01, [damaged, kept])
