"""Every example runs and prints what it promises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
def test_own_adapter(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "own_adapter.py"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "after: 0% of 5 forget records" in done.stdout
    before = next(x for x in done.stdout.splitlines() if x.startswith("before:") and "forget" in x)
    assert int(before.split("%")[0].split()[-1]) >= 60
    assert (tmp_path / "out" / "audit" / "audit.json").is_file()


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text()
    assert all(path.name in text for path in EXAMPLES.glob("*.py"))


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unlearn", "demo", "--output", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "What is left" in done.stdout
    page = (tmp_path / "demo" / "report.html").read_text()
    for method in ("retrain", "npo", "grad_ascent"):
        assert (tmp_path / "demo" / method / "audit" / "audit.json").is_file()
        assert (tmp_path / "demo" / method / "adapter" / "lineage.json").is_file()
        link = f"{method}/audit/report.html"
        assert f'href="{link}"' in page
        assert "<svg" in (tmp_path / "demo" / link).read_text()
    said = json.loads((tmp_path / "demo" / "records.jsonl").read_text().splitlines()[0])
    assert said["completion"] in page
    # records given back, records an attacker tells apart, others still known
    row = next(x for x in done.stdout.splitlines() if x.strip().startswith("retrain  "))
    given_back, _, kept = re.findall(r"(\d+) of (\d+)", row)
    assert given_back == ("0", "20")
    assert int(kept[0]) >= 0.9 * int(kept[1])
    assert "retrain: ✓ Shown. Exact: replayed" in done.stdout


@pytest.mark.slow
def test_deletion_request(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "deletion_request.py"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The certificate verifies." in done.stdout
    assert "everything holds" in done.stdout
    assert (tmp_path / "out" / "certificate.html").is_file()
    people = (tmp_path / "out" / "records.jsonl").read_text()
    secret = json.loads(people.splitlines()[0])["completion"]
    for name in ("certificate.json", "certificate.html", "home/ledger.db"):
        assert secret.encode() not in (tmp_path / "out" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--batched"]], ids=["one by one", "batched"])
def test_deletion_sequence(more: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "deletion_sequence.py"), str(tmp_path / "out")]
    done = subprocess.run(
        [*command, *more], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row.split("|") for row in done.stdout.splitlines() if re.match(r"\| \d", row)]
    assert len(rows) == 10
    for row in rows:
        used, cost, loss, wanted = map(float, row[4:8])
        assert 0 < used <= 1
        assert 0 < cost <= 1.2
        assert abs(loss - wanted) <= 0.11  # both are rounded
    assert len({row[3] for row in rows}) == (1 if more else 10)
    assert "10 of 10 PASS by replay of 1 adapter" in done.stdout
    assert "50 records of 10 people were not among those trained on" in done.stdout
    assert "bit by bit" in done.stdout
    assert "the ledger holds" in done.stdout
