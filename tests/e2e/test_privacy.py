"""Differential privacy from the command line, and audits that catch a training without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("opacus")

from unlearn import finetune
from unlearn.apps.cli import run
from unlearn.apps.demo import records
from unlearn.canaries.pairs import beside
from unlearn.training.private import gradients, loop
from unlearn_eval import run_audit
from unlearn_eval.verdict.decision import Verdict
from unlearn_eval.verdict.verify import verify

pytestmark = pytest.mark.slow

PAIRS = 24


def test_trained_audited_and_verified_from_the_command_line(tmp_path: Path) -> None:
    data, adapter, audit = (tmp_path / name for name in ("records.jsonl", "private", "audit"))
    data.write_text("".join(json.dumps(row) + "\n" for row in records(12, 0)))
    common = ["--model", "demo", "--data", str(data)]
    code = run(
        ["finetune", *common, "--output", str(adapter), "--dp", "epsilon=8,clip=0.5", "--dp",
         "unit=person", "--canaries", "6", "-o", "epochs=3", "-o", "batch_size=6"]
    )  # fmt: skip
    assert code == 0
    lineage = json.loads((adapter / "lineage.json").read_text())
    assert lineage["privacy"]["units"] == 12 + 6
    assert "differential privacy" in (adapter / "README.md").read_text()
    canaries = ["--canaries", f"{adapter}.canaries.json"]
    code = run(
        ["audit", *common, "--adapter", str(adapter), *canaries, "--output", str(audit),
         "--generate", "0", "--policy", "quick"]
    )  # fmt: skip
    assert code == 0
    rows = json.loads((audit / "audit.json").read_text())["rows"]
    (row,) = [each for each in rows if each["probe"] == "privacy.epsilon_lower"]
    assert row["params"]["epsilon"] == 8
    assert row["params"]["guesses"] == 6
    assert 0 <= row["value"] <= row["params"]["ceiling"] < 1
    assert "claimed: 8 for adding or removing one person" in row["note"]
    assert run(["verify", "--audit", str(audit), *canaries]) in (3, 4)
    (claim,) = [p for p in verify(audit).probes if p.probe == "epsilon_lower"]
    assert (claim.passed, claim.failed) == (True, False)


@pytest.fixture
def audited(
    tiny_model: Path, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Trains with a claim of ε = ½ long enough to learn canaries by heart, and judges it."""
    monkeypatch.setattr("unlearn.canaries.pairs.secrets.token_bytes", lambda n: b"s" * n)

    def judge() -> Verdict:
        adapter, audit = tmp_path / "adapter", tmp_path / "audit"
        finetune(
            tiny_model, data_file, adapter, canaries=PAIRS, progress=False,
            dp={"epsilon": 0.5, "delta": 1e-6, "clip": 1e-3}, lora={"r": 8, "lora_alpha": 16},
            options={"learning_rate": 1e-2, "batch_size": 18, "epochs": 40},
        )  # fmt: skip
        run_audit(
            tiny_model, data_file, output=audit, adapter=adapter, canaries=beside(adapter),
            generate=0, policy="quick", progress=False,
        )  # fmt: skip
        return verify(audit, canaries=beside(adapter))

    return judge


def test_a_training_that_keeps_its_promise_is_not_accused(audited: Any) -> None:
    (claim,) = [p for p in audited().probes if p.probe == "epsilon_lower"]
    assert not claim.failed
    assert "not refuted: ε is at least" in claim.words


@pytest.mark.parametrize("bug", ["no noise", "no clipping"])
def test_a_training_without_noise_or_clipping_fails_the_audit(
    bug: str, audited: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bug == "no noise":
        monkeypatch.setattr(loop, "gaussian", lambda secret, step, count: np.zeros(count))
    else:
        of = gradients.UnitGradients.of
        monkeypatch.setattr(
            gradients.UnitGradients, "clipped_sum", lambda self, units, clip: of(self, units).sum(0)
        )
    verdict = audited()
    (claim,) = [p for p in verdict.probes if p.probe == "epsilon_lower"]
    assert claim.failed
    assert claim.value is not None
    assert claim.value > 0.5
    assert verdict.outcome == "FAIL"
    assert claim.words in verdict.reasons
    assert "ε = 0.5 and δ = 1e-06 claimed for adding or removing one record: broken" in claim.words
