"""Attacks that compare with references, in the table of an audit."""

from __future__ import annotations

import numpy as np
import pytest

from unlearn_eval.membership import loss
from unlearn_eval.membership.calibrated import deviation, lira, rmia
from unlearn_eval.results.rows import AuditRow, audit_rows
from unlearn_eval.results.shadows import Shadows
from unlearn_eval.scores.token_scores import SAMPLER
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


def shadowed(make_scores, *, pool, shadows=8, effect=1.5, shift=-1.0, n=N):
    """A target that saw the forget records, and shadow models that saw halves of a pool.

    Every shadow is likelier by the effect about what it saw, and by `shift` about everything.
    """
    rng = np.random.default_rng(3)
    level = {"forget": rng.uniform(5, 10, n), "holdout": rng.uniform(5, 10, n)}
    member = {}
    for split, records in level.items():
        half = np.argsort(rng.random((shadows, len(records))), axis=0) < shadows // 2
        member[split] = half if split in pool else np.zeros_like(half)

    def matrix(split, inside, moved):
        loss_ = level[split] - effect * inside - moved + rng.normal(0, 0.3, n)
        log_prob = np.repeat(-loss_[:, None], TOKENS, 1)
        return make_scores(
            log_prob,
            sampled={SAMPLER: log_prob.ravel()},
            ids=tuple(f"{split}{i}" for i in range(n)),
            text_bytes=np.full(n, 40),
        )

    def state(inside, moved=0.0):
        return {split: matrix(split, inside[split], moved) for split in level}

    models = [state({s: member[s][k] for s in level}, shift) for k in range(shadows)]
    states = {"before": state({"forget": 1.0, "holdout": 0.0})}
    states["after"] = state({"forget": 0.0, "holdout": 0.0})
    return states, Shadows(models, member)


def rows_with(states, shadows):
    rows = audit_rows(states, {}, shadows=shadows)
    return {(r.state, r.probe.removeprefix("membership."), r.metric): r for r in rows}


@pytest.mark.parametrize("pool", [("forget",), ("forget", "holdout")])
def test_shadow_models_tell_the_trained_state_from_the_cleaned_one(make_scores, pool):
    states, shadows = shadowed(make_scores, pool=pool)
    found = rows_with(states, shadows)
    assert {key[0] for key in found} == {"before", "after"}
    form = "online" if "holdout" in pool else "offline"
    for name in ("lira", "rmia"):
        assert found["before", name, "auc"].value > 0.95
        row = found["after", name, "auc"]
        assert row.low < 0.5 < row.high
        assert row.params["shadows"] == 8
        assert "relative to each model's level" in row.note
    assert found["after", "lira", "auc"].params["form"] == form
    assert found["after", "lira", "auc"].note.startswith(f"from 8 shadow models, {form}")
    assert ("after", "deviation", "auc") in found  # which rests on references alone
    assert found["after", "deviation", "auc"].params == {"references": 0}


@pytest.mark.parametrize("name", ["lira", "rmia"])
def test_what_shadow_models_lack_in_training_is_no_sign_of_membership(make_scores, name):
    # only members are in the pool: each of them is compared with half of the shadow models, another
    # half each time, and an unseen record with all, so that the models' levels would be noise of
    # one side
    states, shadows = shadowed(make_scores, pool=("forget",), effect=0.6)
    apart = [
        {split: m.__class__(**_plus(m, x)) for split, m in model.items()}
        for model, x in zip(shadows.scores, np.linspace(-4, 0, 8), strict=True)
    ]
    found = [
        rows_with(states, Shadows(models, shadows.member))["before", name, "auc"].value
        for models in (shadows.scores, apart)
    ]
    assert found[1] == pytest.approx(found[0], abs=0.02)
    before, score = states["before"], loss.score if name == "rmia" else lira.confidence
    x = {split: score(before[split]) for split in before}
    others = {split: np.stack([score(model[split]) for model in apart]) for split in before}
    as_they_are = [
        lira.offline(x[split], others[split], shadows.member[split])
        if name == "lira"
        else rmia.score(
            x[split], others[split], x["holdout"], others["holdout"], shadows.member[split]
        )
        for split in ("forget", "holdout")
    ]
    assert auc(*as_they_are) < found[0] - 0.05


def _plus(matrix, x):
    kept = {name: getattr(matrix, name) for name in matrix.__slots__}
    return kept | {"log_prob": matrix.log_prob + x}


def test_shadow_models_beside_references(make_scores):
    states, shadows = shadowed(make_scores, pool=("forget", "holdout"))
    states |= {f"reference:{i}": states["after"] for i in range(2)}
    row = rows_with(states, shadows)["before", "lira", "auc"]
    assert row.params["references"] == 2
    assert row.note.startswith("from 2 references and 8 shadow models, online")
    assert row.value > 0.95


def test_shadow_models_that_saw_all_of_the_holdout_are_refused(make_scores):
    states, shadows = shadowed(make_scores, pool=("forget",))
    everything = shadows.member | {"holdout": np.ones((8, N), dtype=bool)}
    row = rows_with(states, Shadows(shadows.scores, everything))["after", "lira", "auc"]
    assert row.value is None
    assert "--holdout" in row.note
