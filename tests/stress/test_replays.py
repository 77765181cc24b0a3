"""Twenty different requests by the defaults of the command line: each must PASS by replay."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.apps.demo import base_path, records

REQUESTS, PEOPLE = 20, 16
TRAINING = ("learning_rate=3e-3", "batch_size=16", "epochs=40")


def _requests(rows: list[dict[str, Any]]) -> list[str]:
    """Whole people, several of them, and single records: from one to twelve records."""
    rng, names = random.Random(0), list(dict.fromkeys(row["subject"] for row in rows))
    chosen = [f"subject:{name}" for name in names[:10]]
    while len(chosen) < REQUESTS:
        ids = rng.sample([row["id"] for row in rows], rng.randint(1, 12))
        chosen.append(",".join(sorted(ids)))
    return chosen


@pytest.mark.stress
def test_twenty_requests_pass_by_replay(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = records(PEOPLE, seed=0)
    data, base, old = tmp_path / "records.jsonl", str(base_path()), tmp_path / "old"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ["--model", base, "--data", str(data)]
    words = [part for option in TRAINING for part in ("-o", option)]
    finetuned = ["finetune", *common, "--output", str(old), "--template", "qa", *words]
    assert run(finetuned) == 0
    outcomes, costs = [], []
    for i, which in enumerate(_requests(rows)):
        folder, replayed = tmp_path / f"cleaned-{i}", tmp_path / f"replay-{i}"
        given = ["--forget", which, "--output", str(folder), "--adapter", str(old)]
        assert run(["forget", *common, *given, "--seed", str(i)]) == 0
        run(["replay", str(folder), *common, "--output", str(replayed)])
        line = json.loads((folder / "lineage.json").read_text())
        costs.append(line["budget"]["cost"]["of_retraining"])
        told = json.loads((replayed / "replay.json").read_text())
        outcomes.append(told["outcome"])
        with capfd.disabled():
            losses = line["budget"]["kept_loss"]
            records_gone = len(line["records"]["forgotten"])
            said = f"{i + 1:2}: {records_gone:2} record(s), {costs[-1]:.2f} of retraining, "
            said += f"kept loss {losses['new']:.2f} ({losses['target']:.2f}): {told['outcome']}"
            print(said + ("" if outcomes[-1] == "PASS" else f", {told['words']}"), flush=True)
    with capfd.disabled():
        print(f"{outcomes.count('PASS')} of {len(outcomes)} PASS, median cost {median(costs):.2f}")
    assert outcomes == ["PASS"] * REQUESTS
