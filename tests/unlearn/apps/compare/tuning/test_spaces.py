"""What is tried next: the search spaces, and what TPE makes of the trials before."""

from __future__ import annotations

import builtins
import logging
import math
import sys
from statistics import fmean

import pytest

from unlearn.apps.compare.tuning import spaces as _spaces
from unlearn.apps.compare.tuning.spaces import Tried, dimensions, need_optuna, size, suggest
from unlearn.errors import OptionError


def search(space, objective, trials, seed, own):
    """Return all trials of a search that begins with a point of its own."""
    found = [Tried(own, objective(own))]
    while len(found) < trials and (point := suggest(space, found, f"{seed} {len(found)}")):
        found.append(Tried(point, objective(point)))
    return found


def test_numbers_are_put_in_order_and_the_own_one_among_them():
    (rate,) = dimensions({"rate": [3e-3, 1e-3, 1e-3]}, {"rate": 2e-3}, "npo")
    assert rate.values == (1e-3, 2e-3, 3e-3)
    assert [rate.place(value) for value in (1e-3, 3e-3, 5.0)] == [0, 2, None]
    kind, on, weight = dimensions(
        {"kind": ["b", "a"], "on": [True, False], "weight": {"low": 1, "high": 3}},
        {"kind": "c", "on": True},
        "npo",
    )
    assert kind.values == ("b", "a")
    assert on.values == (True, False)
    assert weight.choices == (1, 2, 3)
    assert size([rate, kind, on, weight]) == 3 * 2 * 2 * 3
    assert size(dimensions({"rate": {"low": 1e-4, "high": 1.0}}, {}, "npo")) is None


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([], "npo: beta: no value"),
        ({"low": 1.0, "high": 1.0}, "low must be below high"),
        ({"low": 0, "high": 1.0, "log": True}, "above 0 where log"),
        ({"low": 0, "high": 1.0, "logg": True}, "unknown option 'logg'.*did you mean 'log'"),
        ({"low": 0}, "high: Field required"),
    ],
)
def test_spaces_that_are_none(given, problem):
    with pytest.raises(OptionError, match=problem):
        dimensions({"beta": given}, {}, "npo")


def test_no_point_is_tried_twice_and_every_one_is_before_the_space_ends():
    own = {"rate": 2, "kind": "a"}
    space = dimensions({"rate": [1, 3], "kind": ["a", "b"]}, own, "npo")
    found = search(space, lambda p: p["rate"] + (p["kind"] == "a"), 99, "s", own)
    points = [(t.point["rate"], t.point["kind"]) for t in found]
    assert len(points) == len(set(points)) == 6
    assert suggest(space, found, "s") is None


def test_ranges_are_kept_to_and_rounded_so_that_other_machines_find_the_same():
    space = dimensions(
        {"rate": {"low": 1.2345e-4, "high": 9.8765e-4, "log": True}, "n": {"low": 1, "high": 8}},
        {},
        "npo",
    )
    found = search(space, lambda p: -p["rate"], 12, "s", {"rate": 5e-4, "n": 2})[1:]
    for trial in found:
        rate, n = trial.point["rate"], trial.point["n"]
        assert 1.2345e-4 <= rate <= 9.8765e-4
        assert rate in (1.2345e-4, 9.8765e-4, float(f"{rate:.3g}"))
        assert isinstance(n, int)
        assert 1 <= n <= 8


def test_the_answer_follows_from_the_arguments_alone():
    space = dimensions({"rate": {"low": 1e-4, "high": 1e-2, "log": True}}, {}, "npo")
    tried = [Tried({"rate": 1e-3}, 0.3), Tried({"rate": 5e-3}, 0.1), Tried({"rate": 9e-3}, None)]
    first = suggest(space, tried, "seed")
    assert suggest(space, tried, "seed") == first
    assert suggest(space, tried, "other seed") != first
    # of two that ended alike the one that was better attracts
    swapped = [Tried({"rate": 1e-3}, 0.1), Tried({"rate": 5e-3}, 0.3)]
    near = [suggest(space, tried[:2], f"{i}")["rate"] for i in range(20)]
    far = [suggest(space, swapped, f"{i}")["rate"] for i in range(20)]
    assert fmean(map(math.log, near)) > fmean(map(math.log, far)) + 0.5


@pytest.mark.parametrize("bad", [Tried({"rate": 1e-3}, 1.4, True), Tried({"rate": 1e-3}, None)])
def test_pruned_and_failed_trials_are_kept_away_from(bad):
    space = dimensions({"rate": {"low": 1e-4, "high": 1e-2, "log": True}}, {}, "npo")
    good = Tried({"rate": 5e-3}, 1.6)  # complete, though its value is the larger
    rates = [suggest(space, [bad, good], f"{i}")["rate"] for i in range(20)]
    assert fmean(map(math.log, rates)) > math.log(2.2e-3)  # nearer to the good one


def test_a_few_trials_find_more_than_as_many_at_random(monkeypatch):
    space = dimensions({"rate": {"low": 0.3, "high": 3.0, "log": True}}, {"rate": 1.0}, "npo")

    def left(startup):
        monkeypatch.setattr(_spaces, "STARTUP", startup)
        best = []
        for i in range(16):
            aim = math.log(0.3) + (i + 0.5) / 16 * math.log(10)
            found = search(
                space, lambda p, aim=aim: abs(math.log(p["rate"]) - aim), 6, i, {"rate": 1.0}
            )
            best.append(min(trial.value for trial in found))
        return fmean(best)

    assert left(_spaces.STARTUP) < 0.9 * left(99)


def test_optuna_says_nothing_and_keeps_its_settings(caplog, capfd):
    import optuna

    before = optuna.logging.get_verbosity()
    space = dimensions({"rate": [1, 2, 3]}, {}, "npo")
    with caplog.at_level(logging.DEBUG):
        suggest(space, [Tried({"rate": 1}, 0.0)], "s")
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_without_optuna_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.partition(".")[0] == "optuna":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "optuna", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(OptionError, match=r"pip install '\.\[tune\]'"):
        need_optuna()
