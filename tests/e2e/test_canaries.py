"""Planted canaries on the embedded model: kept they FAIL, retrained without them they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from unlearn import Records, finetune, forget
from unlearn.apps.demo import base_path, records
from unlearn.canaries.pairs import Canaries, beside
from unlearn.data.templates import Template
from unlearn.data.tokenization import encode
from unlearn.model.state import open_model
from unlearn.provenance.keys import Key
from unlearn_eval import run_audit
from unlearn_eval.membership import loss
from unlearn_eval.scores.model_scores import score_model
from unlearn_eval.statistics import sign_flip_test
from unlearn_eval.verdict.decision import Verdict
from unlearn_eval.verdict.verify import verify

pytestmark = pytest.mark.slow

TRAINING = {"learning_rate": 5e-3, "batch_size": 16, "epochs": 15, "schedule": "linear"}
PAIRS = 24


def test_an_adapter_with_its_canaries_fails_and_one_without_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unlearn.canaries.pairs.secrets.token_bytes", lambda n: b"s" * n)
    data, adapter = Records.from_rows(records(8, 0)), tmp_path / "adapter"
    file = beside(adapter)
    made: dict[str, Any] = {"canaries": PAIRS, "template": "qa", "lora": {"r": 16}}
    finetune(base_path(), data, adapter, options=TRAINING, **made)
    without = tmp_path / "without"
    forget(
        base_path(), data, "rows:0-4", without, adapter=adapter, method="retrain",
        canaries=file, with_canaries=PAIRS,
    )  # fmt: skip

    def judged(name: str) -> Verdict:
        folder = tmp_path / f"{name}-audit"
        run_audit(
            base_path(), data, output=folder, adapter=tmp_path / name, before=adapter,
            canaries=file, policy="quick", generate=0,
        )  # fmt: skip
        return verify(folder, canaries=file)

    kept, gone = judged("adapter"), judged("without")
    assert (kept.tier, kept.outcome) == ("B", "FAIL")
    (by_loss,) = [probe for probe in kept.probes if probe.probe == "loss"]
    # trained on, they score higher: a wrong sign would put θ at 0
    assert by_loss.low is not None
    assert by_loss.low > 0.8
    assert gone.tier == "B"
    assert gone.outcome != "FAIL"
    assert not any(probe.failed for probe in gone.probes)
    assert gone.gates[1].passed is True  # the adapter before could be told


def test_a_model_that_saw_none_of_them_gives_uniform_p_values() -> None:
    state, runs, pairs = open_model(base_path()), 120, 10
    data, key = Records.from_rows(records(2, 0)), Key(b"k" * 32)
    drawn = [Canaries.draw(data, pairs, key, (5000 + i).to_bytes(32)) for i in range(runs)]
    all_ = [record for canaries in drawn for pair in canaries.pairs for record in pair]
    examples = encode(all_, state.tokenizer, Template("qa"), state.max_length)
    scores = loss.score(score_model(state.model, state.head, examples)).reshape(runs, pairs, 2)
    gaps = scores[..., 0] - scores[..., 1]
    found = [sign_flip_test(gap, "two-sided").p_value for gap in gaps]
    assert stats.kstest(found, "uniform").pvalue > 1e-3
    # 6 expected, 2.4 their SD
    assert np.sum(np.array(found) <= 0.05) <= 14
