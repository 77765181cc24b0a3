"""Verdicts from the folders of audits: decided once, then read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from unlearn.apps.compare.layout import Step
from unlearn.apps.compare.verdicts import ruling_of, rulings_before
from unlearn_eval.results.audit_result import Audit
from unlearn_eval.results.rows import audit_rows
from unlearn_eval.results.scores_file import scores_table
from unlearn_eval.scores.token_scores import TokenScores
from unlearn_eval.verdict import verify as verifying
from unlearn_eval.verdict.policy import policy_of

POLICY = {
    "kind": "policy",
    "probes": ["loss"],
    "alpha": 0.05,
    "margin": 4.0,
    "delta": 0.10,
    "min_references": 5,
    "extraction": {"n": 100, "p": 0.5},
    "deployments": ["as-is"],
    "prompt_states": ["verbatim"],
    "utility_margin": 0.10,
}


def matrix(values, prefix):
    n = len(values)
    return TokenScores(
        ids=tuple(f"{prefix}{i}" for i in range(n)),
        offsets=np.arange(n + 1),
        log_prob=np.asarray(values, dtype=np.float64),
        hit=np.zeros(n, dtype=bool),
        rank=np.ones(n, dtype=np.int64),
        mean=np.full(n, -6.0),
        std=np.ones(n),
        entropy=np.ones(n),
        text_bytes=np.full(n, 20),
        sampled={(1.0, 40): np.full(n, -50.0)},
    )


def model(shift, wobble):
    """Scores of a model that predicts the 6 forget records `shift` nats better than 10 others."""
    noise = 0.2 * np.cos(np.arange(6) * (wobble + 1) + wobble)
    nudge = 0.1 * np.sin(np.arange(10) * (wobble + 2))
    unseen = np.array([-6.5, -6.0, -5.5, -6.2, -5.8, -6.1, -5.9, -6.3, -5.7, -6.0])
    return {
        "forget": matrix(-6.0 + shift + noise - noise.mean(), "f"),
        "holdout": matrix(unseen + nudge - nudge.mean(), "h"),
        "retain": matrix(-0.01 * (1 + np.arange(12) % 3), "k"),
    }


KNOWN = model(5.5, 3)
NEVER = {f"reference:{i}": model(s, i) for i, s in enumerate((-0.2, -0.1, 0.0, 0.1, 0.2))}


@pytest.fixture
def audited(tmp_path: Path):
    """Write the folder of an audit, of which only scores are real; return its step."""

    def make(name, states, **changed):
        policy = policy_of(POLICY | changed, "test")
        result = Audit(
            model="m",
            states={state: f"sha256:{i}" for i, state in enumerate(states)},
            rows=audit_rows(states, {}),
            scores=states,
            references={
                state: {"weights": f"sha256:{i}", "saw": 0, "kept": 12, "from_base": True}
                for i, state in enumerate(states)
                if state.startswith("reference:")
            },
            policy={"name": "own", "sha256": policy.sha256, "content": policy.content},
        )
        step = Step("audit", name, tmp_path, name, {})
        step.result.mkdir(parents=True)
        (step.result / "audit.json").write_text(result.as_json())
        pq.write_table(scores_table(result), step.result / "scores.parquet")
        return step

    return make


def test_what_is_remembered_fails_and_what_is_forgotten_passes(audited, monkeypatch):
    never = {"before": KNOWN, "after": model(0.05, 7), **NEVER}
    kept, gone = audited("kept", never | {"after": KNOWN}), audited("gone", never)
    assert (ruling_of(kept).outcome, ruling_of(kept).tier) == ("FAIL", "A")
    found = ruling_of(gone)
    assert found.outcome == "PASS", found
    assert any(text.startswith("loss") for text in found.reasons)
    # from then on it is read
    monkeypatch.setattr(verifying, "verify", None)
    assert ruling_of(gone) == found
    # unless the audit is another one
    monkeypatch.undo()
    path = gone.result / "audit.json"
    content = json.loads(path.read_text())
    content["states"]["reference:1"] = content["states"]["reference:0"]
    path.write_text(json.dumps(content))
    assert ruling_of(gone).outcome == "INCONCLUSIVE"


def test_too_few_references_are_said(audited):
    few = {k: v for k, v in NEVER.items() if k != "reference:4"}
    found = ruling_of(audited("few", {"before": KNOWN, "after": model(0.05, 7), **few}))
    assert (found.outcome, found.tier) == ("INCONCLUSIVE", "C")
    assert "5 references retrained without the records (there are 4)" in found.would_decide


def test_the_model_before_fails_and_references_are_judged_by_each_other(audited):
    first, others = rulings_before(audited("before", {"after": KNOWN, **NEVER}))
    assert (first.outcome, first.tier) == ("FAIL", "A")
    assert [r.tier for r in others] == ["A"] * 5
    assert "FAIL" not in {r.outcome for r in others}
    # by unseen records where that is how the cells are judged
    step = audited("fewer", {"after": KNOWN, **NEVER}, min_references=6)
    first, others = rulings_before(step)
    assert [r.tier for r in (first, *others)] == ["C"] * 6
    assert "FAIL" not in {r.outcome for r in others}
    assert rulings_before(step) == (first, others)
    # one that gives the records away is a false alarm, or no reference at all
    odd = NEVER | {"reference:2": KNOWN}
    _, others = rulings_before(audited("odd", {"after": KNOWN, **odd}))
    assert others[2].outcome == "FAIL"


def test_without_a_verdict_there_is_a_reason_and_nothing_is_kept(audited):
    step = audited("broken", {"after": KNOWN, **NEVER})
    (step.result / "scores.parquet").write_bytes(b"no table")
    found = ruling_of(step)
    assert found.outcome == ""
    assert "cannot read scores" in found.reasons[0]
    assert rulings_before(step) == (found, [])
    assert [path.name for path in step.folder.iterdir()] == ["audit"]
