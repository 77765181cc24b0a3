"""Attacks that compare with references, in the table of an audit."""

from __future__ import annotations

import numpy as np
import pytest

from unlearn_eval._table import AuditRow, audit_rows
from unlearn_eval.extraction.discoverable import SAMPLER
from unlearn_eval.membership import deviation, lira, loss
from unlearn_eval.statistics import auc

N, M, TOKENS = 60, 80, 8


@pytest.fixture
def make_states(make_scores):
    """Score matrices of states in which the forget records are likelier by an effect, in nats.

    Every record has a level of its own that all states share.
    """

    def make(effects, references=3, holdout=M, base=True, noise=0.3):
        rng = np.random.default_rng(7)
        levels = {"forget": rng.uniform(2, 8, N), "holdout": rng.uniform(2, 8, holdout)}
        states = {**effects, **{f"reference:{i}": 0.0 for i in range(references)}}
        if base:
            states["base"] = 0.0

        def matrix(split, effect):
            level = levels[split]
            own = rng.normal(0, noise, len(level)) - effect
            tokens = np.abs(level + own)[:, None] + rng.uniform(-1, 1, (len(level), TOKENS))
            log_prob = -np.maximum(tokens, 0)
            return make_scores(
                log_prob,
                sampled={SAMPLER: log_prob.ravel()},
                ids=tuple(f"{split}{i}" for i in range(len(level))),
                text_bytes=rng.integers(30, 60, len(level)),
            )

        return {
            state: {
                split: matrix(split, effect if split == "forget" else 0.0)
                for split in levels
                if len(levels[split])
            }
            for state, effect in states.items()
        }

    return make


def table(states, subjects=None) -> dict[tuple[str, str, str], AuditRow]:
    rows = audit_rows(states, subjects or {})
    found = {
        (row.state, row.probe.removeprefix("membership."), row.metric): row
        for row in rows
        if row.probe.startswith("membership.")
    }
    assert len(found) == sum(row.probe.startswith("membership.") for row in rows)
    return found


@pytest.mark.parametrize("name", ["lira", "rmia", "deviation", "quantile"])
def test_tells_the_trained_state_apart_and_no_other(make_states, name):
    found = table(make_states({"before": 1.5, "after": 0.0}))
    assert found["before", name, "auc"].value > 0.9
    assert found["before", name, "auc"].value > found["before", "loss", "auc"].value + 0.1
    for state in ("after", "reference:0", "reference:1", "reference:2"):
        row = found[state, name, "auc"]
        assert row.low < 0.5 < row.high
    assert ("base", name, "auc") not in found


def test_only_deviation_sees_records_pushed_down(make_states):
    found = table(make_states({"after": -1.5}))
    assert found["after", "deviation", "auc"].low > 0.8
    for name in ("lira", "rmia", "quantile"):
        assert found["after", name, "auc"].high < 0.2


def test_rows_say_what_they_rest_on(make_states):
    found = table(make_states({"after": 0.0}, references=3))
    assert found["after", "lira", "auc"].note == "from 3 references, offline"
    assert found["after", "lira", "auc"].params == {"references": 3, "variance": "global"}
    assert found["reference:1", "lira", "auc"].note == "from 2 references, offline"
    assert found["after", "rmia", "auc"].params["population"] == M
    refused = found["after", "rmia", "tpr@fpr=0.01"]
    assert refused.value is None
    assert refused.note.endswith("299 would")
    assert found["after", "quantile", "auc"].params["features"] == [
        "log_tokens",
        "log_bytes",
        "base",
    ]


def test_values_are_those_of_the_attacks(make_states):
    states = make_states({"after": 0.7})
    found = table(states)
    others = [states[f"reference:{i}"] for i in range(3)]
    sides = [
        lira.offline(lira.confidence(states["after"][s]), [lira.confidence(o[s]) for o in others])
        for s in ("forget", "holdout")
    ]
    assert found["after", "lira", "auc"].value == pytest.approx(auc(*sides))
    # a reference is compared with the others, never with itself
    sides = [
        deviation.score(
            loss.score(states["reference:2"][s]), [loss.score(o[s]) for o in others[:2]]
        )
        for s in ("forget", "holdout")
    ]
    assert found["reference:2", "deviation", "auc"].value == pytest.approx(auc(*sides))


def test_with_two_references_each_has_but_one_other(make_states):
    found = table(make_states({"after": 0.0}, references=2))
    assert found["after", "lira", "auc"].value is not None
    refused = found["reference:0", "lira", "auc"]
    assert refused.value is None
    assert "two or more" in refused.note
    assert found["reference:0", "rmia", "auc"].note.startswith("from 1 reference,")


@pytest.mark.parametrize("references", [0, 1])
def test_without_references_deviation_is_from_the_holdout(make_states, references):
    found = table(make_states({"after": 0.0}, references=references))
    assert {name for state, name, _ in found if state == "after"} & {"lira", "rmia"} == set()
    row = found["after", "deviation", "auc"]
    assert row.note == "no references: from the median of the holdout"
    assert row.params == {"references": 0}
    assert row.low < 0.5 < row.high


def test_without_a_holdout_there_are_none(make_states):
    found = table(make_states({"after": 0.0}, holdout=0))
    assert not {"lira", "rmia", "deviation", "quantile"} & {name for _, name, _ in found}


def test_a_small_holdout_refuses_the_regression_with_the_number_that_would_do(make_states):
    found = table(make_states({"after": 0.0}, holdout=30, base=False))
    refused = found["after", "quantile", "auc"]
    assert refused.value is None
    assert refused.interval == "none"
    assert refused.note.endswith("38 would do")


def test_what_cannot_be_scored_is_refused_not_raised(make_states):
    states = make_states({"after": 0.0})
    broken = states["reference:0"]["forget"]
    log_prob = broken.log_prob.copy()
    log_prob[0] = -np.inf
    states["reference:0"]["forget"] = type(broken)(
        **{n: getattr(broken, n) for n in broken.__slots__ if n != "log_prob"}, log_prob=log_prob
    )
    found = table(states)
    refused = found["after", "lira", "auc"]
    assert refused.value is None
    assert "record 'forget0'" in refused.note
    assert found["after", "quantile", "auc"].value is not None


def test_subjects_are_clusters_and_stay_in_one_fold(make_states):
    subjects = {
        "forget": [f"f{i // 5}" for i in range(N)],
        "holdout": [f"h{i // 5}" if i < 75 else None for i in range(M)],
    }
    found = table(make_states({"after": 0.0}), subjects)
    for name in ("lira", "rmia", "deviation", "quantile"):
        assert found["after", name, "auc"].interval == "cluster"
