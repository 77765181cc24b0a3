from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unlearn_eval.results.rows import Audit, Measurement, audit_rows
from unlearn_eval.scores.token_scores import SAMPLER, TokenScores
from unlearn_eval.verdict.policy import load_policy
from unlearn_eval.verdict.result import Verdict

# What a hostile record might hold; none of it may ever run or break the page.
HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>&lt;b&gt;{{ 7*7 }}"

MakeAudit = Callable[..., Audit]


def _matrix(rng: np.random.Generator, records: int, loss: float, *, secret: bool) -> TokenScores:
    """Scores of records whose mean loss lies around a level."""
    tokens = 6
    n = records * tokens
    log_prob = -rng.gamma(4.0, loss / 4, n) if loss else np.zeros(n)
    inside = np.tile([0, 0, 1, 1, 1, 0], records)
    return TokenScores(
        ids=tuple(f"{HOSTILE}-{i}" for i in range(records)),
        offsets=np.arange(records + 1) * tokens,
        log_prob=log_prob,
        hit=log_prob > -0.7,
        rank=np.where(log_prob > -0.7, 0, 5),
        mean=np.full(n, -1.5) + rng.normal(0, 0.1, n),
        std=np.full(n, 1.0),
        entropy=np.full(n, 1.5),
        text_bytes=np.full(records, 40),
        secret=inside if secret else None,
        sampled={SAMPLER: np.where(log_prob < -6, -np.inf, log_prob)},
    )


def chosen(name: str) -> dict[str, Any]:
    """What an audit stores of a policy that was fixed before."""
    known, policy = load_policy(name)
    return {"name": known, "sha256": policy.sha256, "content": policy.content}


@pytest.fixture(scope="session")
def make_audit() -> MakeAudit:
    """Build an audit from the mean losses that each state shall have.

    `forget`, `retain` and `holdout` map states to losses; a missing split is left out.
    """

    def make(
        forget: dict[str, float],
        retain: dict[str, float] | None = None,
        holdout: dict[str, float] | None = None,
        *,
        n: int = 20,
        training: dict[str, dict[str, Any]] | None = None,
        secret: bool = True,
        subjects: bool = False,
        policy: str | None = "quick",
    ) -> Audit:
        given = {"forget": forget, "retain": retain, "holdout": holdout}
        sizes = {"forget": n, "retain": 3 * n, "holdout": 4 * n}
        scores = {
            state: {
                split: _matrix(
                    np.random.default_rng([i, j]), sizes[split], losses[state], secret=secret
                )
                for j, (split, losses) in enumerate(given.items())
                if losses
            }
            for i, state in enumerate(forget)
        }
        labels = {s: [f"p{i}" if subjects else None for i in range(sizes[s])] for s in sizes}
        some = np.arange(0, n, 2)
        measures = {
            state: {
                "forget": [Measurement("utility.rouge", "recall", some, np.full(len(some), 0.5))]
            }
            for state in forget
        }
        states = {s: f"sha256:{i:016x}" + "0123456789abcdef" * 3 for i, s in enumerate(forget)}
        return Audit(
            model="model",
            states=states,
            rows=audit_rows(scores, labels, measures=measures),
            scores=scores,
            measures=measures,
            training=training or {},
            subjects=labels,
            references={
                state: {
                    "weights": digest,
                    "saw": 0,
                    "from_base": True,
                    "surplus": 0,
                    "otherwise": [],
                }
                for state, digest in states.items()
                if state.startswith("reference:")
            },
            policy=None if policy is None else chosen(policy),
            notes=("no lineage names the template: assumed 'qa'",),
        )

    return make


@pytest.fixture(scope="session")
def passes() -> Callable[[Verdict], Verdict]:
    """Turn a verdict into a PASS, whatever the rules say of its scores."""

    def passing(verdict: Verdict) -> Verdict:
        return replace(
            verdict,
            outcome="PASS",
            tier="A",
            would_decide=(),
            counts={**verdict.counts, "references": 3},
            gates=[replace(gate, passed=True) for gate in verdict.gates],
            probes=[replace(probe, passed=True, failed=False) for probe in verdict.probes],
            extraction=replace(verdict.extraction, outcome="PASS"),
            utility=replace(verdict.utility, outcome="PASS"),
        )

    return passing


@pytest.fixture(scope="session")
def good(make_audit: MakeAudit) -> Audit:
    """Forgotten, like the references, and the rest is kept."""
    states = ("before", "after", "reference:0", "reference:1", "reference:2", "base")
    return make_audit(
        dict(zip(states, (0.0, 3.0, 3.0, 3.1, 3.0, 3.2), strict=True)),
        dict(zip(states, (0.0, 0.0, 0.0, 0.0, 0.0, 3.0), strict=True)),
        dict(zip(states, (3.0, 3.0, 3.1, 3.0, 3.0, 3.0), strict=True)),
        training={
            "before": {"method": "finetune", "seed": 0, "seconds": 10.0, "tokens": 1000},
            "after": {"method": "npo", "seed": 1, "seconds": 2.0, "tokens": 300},
            "reference:0": {"method": "retrain", "seed": 2, "seconds": 9.0, "tokens": 900},
            "reference:1": {"method": "retrain", "seed": 3, "seconds": 11.0, "tokens": 900},
            "reference:2": {"method": "retrain", "seed": 4, "seconds": 10.0, "tokens": 900},
        },
    )
