from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unlearn_eval import run_audit
from unlearn_eval.scores.token_scores import TokenScores
from unlearn_eval.verdict.decision import Evidence, Policy, Verdict, View
from unlearn_eval.verdict.policy import policy_of

MakePolicy = Callable[..., Policy]

CONTENT: dict[str, Any] = {
    "kind": "policy",
    "probes": ["loss"],
    "alpha": 0.05,
    "margin": 4.0,
    "delta": 0.10,
    "min_references": 3,
    "extraction": {"n": 100, "p": 0.5},
    "deployments": ["as-is"],
    "prompt_states": ["verbatim"],
    "utility_margin": 0.10,
}


def matrix(values: Any, prefix: str = "r", answers: Any = None) -> TokenScores:
    """One token a record; `answers` are log-probabilities of the whole answer when sampled."""
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    return TokenScores(
        ids=tuple(f"{prefix}{i}" for i in range(n)),
        offsets=np.arange(n + 1),
        log_prob=values,
        hit=np.zeros(n, dtype=bool),
        rank=np.ones(n, dtype=np.int64),
        mean=np.full(n, -6.0),
        std=np.ones(n),
        entropy=np.ones(n),
        sampled={(1.0, 40): np.full(n, -50.0) if answers is None else np.asarray(answers)},
    )


def state(forget: Any, holdout: Any, retain: Any = None, answers: Any = None) -> dict[str, Any]:
    """The splits of one state, from log-probabilities."""
    found = {"forget": matrix(forget, "f", answers)}
    if holdout is not None:
        found["holdout"] = matrix(holdout, "h")
    if retain is not None:
        found["retain"] = matrix(retain, "k")
    return found


def evidence(states: Mapping[str, Any], **others: Any) -> Evidence:
    return Evidence({View(): states}, **others)


@pytest.fixture
def make_policy() -> MakePolicy:
    """A policy of one probe, with changes."""
    return lambda **changed: policy_of(CONTENT | changed, "test")


RETAIN = -0.01 * (1 + np.arange(12) % 3)
HOLDOUT = np.array([-6.5, -6.0, -5.5, -6.2, -5.8, -6.1, -5.9, -6.3, -5.7, -6.0])


def reference(shift: float, wobble: int) -> dict[str, Any]:
    """A model that never saw the records: forget − holdout is `shift` exactly."""
    noise = 0.2 * np.cos(np.arange(6) * (wobble + 1) + wobble)
    forget = -6.0 + shift + noise - noise.mean()
    nudge = 0.1 * np.sin(np.arange(10) * (wobble + 2))
    return state(forget, HOLDOUT + nudge - nudge.mean(), RETAIN - 0.001 * (wobble % 3))


SHIFTS = (-0.2, -0.1, 0.0, 0.1, 0.2)  # mean 0, SD 0.1 √2.5


@pytest.fixture
def five() -> Callable[..., Evidence]:
    """Five references and an audited model, `at` SDs from their mean by loss."""

    def make(at: float = 0.3, after: Any = None, **others: Any) -> Evidence:
        sd = float(np.std(SHIFTS, ddof=1))
        states = {
            "before": state(np.full(6, -0.01), HOLDOUT, RETAIN),
            "after": after or reference(at * sd, 7),
            "base": reference(0.0, 9),
        }
        states |= {f"reference:{i}": reference(s, i) for i, s in enumerate(SHIFTS)}
        return evidence(states, **others)

    return make


def without_kept(given: Evidence) -> Evidence:
    """The same, with references that were not scored on the kept records."""
    states = {
        name: {k: v for k, v in splits.items() if k != "retain" or "reference" not in name}
        for name, splits in given.plain.items()
    }
    return replace(given, views={View(): states})


def probe(verdict: Verdict, name: str = "loss", deployment: str = "as-is") -> Any:
    """Return what a verdict says of one probe."""
    (found,) = [r for r in verdict.probes if (r.probe, r.deployment) == (name, deployment)]
    return found


@pytest.fixture(scope="module")
def folder(tiny_model, adapter, data_file, holdout_file, lineage_key, tmp_path_factory):
    """An audit with a policy of the user's own, and what it said before it ran."""
    own = tmp_path_factory.mktemp("policy") / "own.yaml"
    own.write_text(json.dumps(CONTENT | {"prompt_states": ["verbatim", "affirmative"]}))
    out, said = tmp_path_factory.mktemp("audit") / "out", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", lineage_key)
        patch.setenv("UNLEARN_HOME", str(tmp_path_factory.mktemp("home")))
        run_audit(
            tiny_model,
            data_file,
            "rows:0-3",
            out,
            adapter=adapter,
            before=adapter,
            holdout=holdout_file,
            generate=0,
            policy=own,
            announce=said.append,
        )
    return out, said


def copy(folder, target):
    target.mkdir()
    for name in ("audit.json", "scores.parquet"):
        (target / name).write_bytes((folder[0] / name).read_bytes())
    return target


def change(folder, edit):
    path = folder / "audit.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
