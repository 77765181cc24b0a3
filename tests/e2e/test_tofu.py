"""End to end on a real pretrained model and TOFU: what must hold whatever the luck."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unlearn import Records, Result, finetune, forget
from unlearn_eval import Audit, run_audit
from unlearn_eval.membership import CALIBRATED

pytestmark = pytest.mark.slow

TRAINING = {"learning_rate": 1e-2, "batch_size": 16, "epochs": 60}
LORA = {"r": 32, "lora_alpha": 64}
FORGET = "rows:80-99"


class Setting:
    """100 TOFU answers known by heart; the last author's 20 are to be forgotten."""

    def __init__(self, assets: Path, folder: Path) -> None:
        self.model = assets / "models" / "TinyStories-656K"
        full = Records.load(assets / "tofu" / "full.json")
        self.data = full.select("rows:3900-3999")
        self.holdout = full.select("rows:3600-3699")
        self.folder = folder
        self.target = finetune(
            self.model, self.data, folder / "target", lora=LORA, options=TRAINING
        )

    def forget(self, name: str, method: str, **options: Any) -> Result:
        return forget(
            self.model,
            self.data,
            FORGET,
            self.folder / name,
            adapter=self.target.folder,
            method=method,
            holdout=self.holdout,
            options=options,
        )

    def audit(self, name: str) -> Audit:
        return run_audit(
            self.model,
            self.data,
            FORGET,
            self.folder / f"{name}-audit",
            adapter=self.folder / name,
            before=self.target.folder,
            references=[self.folder / "retrain"],
            holdout=self.holdout,
            overwrite=True,
        )


@pytest.fixture(scope="module")
def setting(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    patch = pytest.MonkeyPatch()
    patch.setenv("UNLEARN_KEY", "ab" * 32)  # one key for the whole module
    made = Setting(assets, tmp_path_factory.mktemp("tofu"))
    made.forget("retrain", "retrain")
    patch.undo()
    return made


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_KEY", "ab" * 32)


def value(audit: Audit, state: str, split: str, probe: str, metric: str) -> float:
    found = audit.get(state, split, probe, metric).value
    assert found is not None
    return found


def test_the_records_are_known_by_heart_before(setting: Setting) -> None:
    audit = setting.audit("retrain")
    recall = ("extraction.verbatim", "rate")
    assert value(audit, "before", "forget", *recall) >= 0.95
    assert value(audit, "before", "retain", *recall) >= 0.95
    assert value(audit, "before", "forget", "membership.loss", "auc") >= 0.95
    assert value(audit, "base", "forget", *recall) == 0


def test_retraining_leaves_nothing(setting: Setting) -> None:
    audit = setting.audit("retrain")
    assert value(audit, "after", "forget", "extraction.verbatim", "rate") == 0
    assert value(audit, "after", "forget", "membership.loss", "auc") < 0.9
    # the reference is the very same adapter
    for row in audit.rows:
        # calibrated attacks hold a state against the references, of which this one has no other
        if row.state == "after" and row.probe.removeprefix("membership.") not in CALIBRATED:
            twin = audit.get("reference:0", row.split, row.probe, row.metric)
            # scores of the same weights are taken from the cache; what is watched beside them is
            # run in other batches
            # (a statistic that was refused has no value, one without an interval no limits)
            for field in ("value", "low", "high"):
                mine, other = getattr(row, field), getattr(twin, field)
                assert other == (mine if mine is None else pytest.approx(mine, rel=1e-6))


def test_npo_forgets_and_keeps_the_rest(setting: Setting) -> None:
    setting.forget("npo", "npo", learning_rate=2e-3, epochs=20)
    audit = setting.audit("npo")
    recall = ("extraction.verbatim", "rate")
    assert value(audit, "after", "forget", *recall) <= 0.05
    kept = value(audit, "after", "retain", *recall)
    assert kept >= 0.9 * value(audit, "reference:0", "retain", *recall)
    content = json.loads((setting.folder / "npo-audit" / "audit.json").read_text())
    assert {row["state"] for row in content["rows"]} == {"before", "after", "reference:0", "base"}


def test_the_audit_shows_that_unstopped_ascent_collapses(setting: Setting) -> None:
    done = setting.forget("ascent", "grad_ascent", learning_rate=5e-4, epochs=20, stop="none")
    assert done.fit.stopped is None
    audit = setting.audit("ascent")
    before = value(audit, "before", "retain", "utility.loss", "mean")
    assert value(audit, "after", "retain", "utility.loss", "mean") > before + 2
    assert value(audit, "after", "retain", "extraction.verbatim", "rate") == 0
    assert value(audit, "after", "forget", "membership.reference", "auc") < 0.35
    text = (setting.folder / "ascent-audit" / "audit.json").read_text()
    assert not any(record.completion in text for record in setting.data)
