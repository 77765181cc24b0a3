"""Audits and the log of looks: noted before scores, counted in verdict and certificate."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from unlearn.apps.cli import run
from unlearn.data.splits import loaded
from unlearn.errors import DataError
from unlearn.provenance.keys import Key, home
from unlearn.provenance.lineage import weights_digest
from unlearn_eval import run_audit
from unlearn_eval.audit import run as audit_module
from unlearn_eval.verdict.load import load_audit, load_evidence
from unlearn_eval.verdict.verify import verify

pytestmark = pytest.mark.usefixtures("undrawn")

POLICY = {
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


class Killed(BaseException):
    """As a signal: nothing catches it."""


def another(adapter: Path, folder: Path, seed: int, **line: Any) -> Path:
    """Make an adapter of slightly other weights, with a lineage of its own."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_model.safetensors"
    save_file({k: v * (1 + 0.002 * (seed + 1)) for k, v in load_file(file).items()}, file)
    content = json.loads((adapter / "lineage.json").read_text())
    content |= {"digest": weights_digest(folder), "seed": 100 + seed} | line
    (folder / "lineage.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def references(adapter, data_file, lineage_key, tmp_path_factory) -> list[Path]:
    """Eight adapters that never saw the records r0 and r1, by their lineages."""
    key = Key(bytes.fromhex(lineage_key))
    seen = [key.digest(r) for r in loaded(data_file)][2:]
    records = json.loads((adapter / "lineage.json").read_text())["records"] | {"trained": seen}
    place = tmp_path_factory.mktemp("references")
    return [another(adapter, place / f"{i}", i, records=records) for i in range(8)]


@pytest.fixture
def audit(tiny_model, adapter, data_file, holdout_file, lineage_key, tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    policy = tmp_path / "own.yaml"
    policy.write_text(json.dumps(POLICY))

    def run(name="audit", **options):
        settings = {"adapter": adapter, "before": adapter, "generate": 0, "policy": policy}
        settings |= {"holdout": holdout_file, "overwrite": True}
        output = tmp_path / name
        return run_audit(tiny_model, data_file, "r0,r1", output, **(settings | options))

    return run


def log_lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home() / "looks.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("cache", [True, False])
def test_a_look_is_noted_before_a_score_exists_and_a_rerun_is_the_same(
    audit, monkeypatch, tmp_path, cache
) -> None:
    def kill(*_):
        assert len(log_lines()) == 1
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(audit_module, "measure", kill)
        with pytest.raises(Killed):
            audit(cache=cache)
    result = audit(cache=cache)
    assert len(log_lines()) == 1
    assert result.looks == {
        "scope": "request",
        "models": 1,
        "nth": 1,
        "models_elsewhere": 0,
        "reference_sets": 0,
        "unused_references": (),
        "purged_references": 0,
        "log": "holds",
    }
    assert load_audit(tmp_path / "audit").looks == result.looks | {"unused_references": []}
    assert load_evidence(tmp_path / "audit").looks == tuple(result.looks.values())
    assert verify(tmp_path / "audit").policy["chosen"] == "before"
    audit(cache=cache, policy="standard")
    assert verify(tmp_path / "audit").policy["chosen"] == "after"


def test_the_log_holds_no_text_and_no_id(audit, references, data_file) -> None:
    audit(references=references[:2])
    (line,) = log_lines()
    text = json.dumps(line)
    for record in loaded(data_file):
        assert record.id not in [value for value in line.values() if isinstance(value, str)]
        assert record.prompt not in text
        assert record.completion not in text
        assert record.subject not in text
    assert set(line) == {
        *("key_id", "time", "before", "mac"),
        *("request", "model", "form", "references", "policy", "scope"),
        *("eligible", "partial", "origins"),
    }
    assert line["references"] == sorted(map(weights_digest, references[:2]))
    assert line["eligible"] == line["references"]
    assert line["partial"] == []


def test_references_that_are_left_out_bar_a_verdict(audit, references, tmp_path) -> None:
    audit(references=references[:5])
    assert "all references registered for this request are used" in gate(tmp_path / "audit")
    grown = audit(references=references)
    assert (grown.looks["reference_sets"], grown.looks["unused_references"]) == (2, ())
    assert "G0 does not" not in " ".join(verify(tmp_path / "audit").reasons)
    fewer = audit(references=references[3:])
    left_out = sorted(map(weights_digest, references[:3]))
    assert list(fewer.looks["unused_references"]) == left_out
    verdict = verify(tmp_path / "audit")
    assert verdict.outcome == "INCONCLUSIVE"
    (reason,) = verdict.reasons
    assert "3 of earlier audits are missing from this one" in reason
    assert "run `unlearn audit` with all of them" in reason
    for digest in left_out:
        assert digest.removeprefix("sha256:")[:12] in reason
    # those of a comparison are its own, and what never was a reference is not missed
    silent = tmp_path / "silent"
    shutil.copytree(references[0], silent)
    (silent / "lineage.json").unlink()
    assert audit(references=references[:2], scope="comparison").looks["unused_references"] == ()
    assert "does not hold" not in gate(tmp_path / "audit")


def gate(folder: Path) -> str:
    return verify(folder).gates[0].words


def test_a_reference_that_shows_nothing_may_be_left_out(audit, references, tmp_path) -> None:
    silent = tmp_path / "silent"
    shutil.copytree(references[0], silent)
    (silent / "lineage.json").unlink()
    line = json.loads((references[1] / "lineage.json").read_text())
    parent = another(references[1], tmp_path / "made-of", 40, parent=line["digest"])
    audit(references=[silent, parent, references[2]])
    assert audit(references=references[2:4]).looks["unused_references"] == ()
    assert len(audit(references=references[3:5]).looks["unused_references"]) == 1


def test_the_fifth_seed_is_the_fifth_try(
    audit, adapter, references, data_file, tmp_path, capfd
) -> None:
    compared = another(adapter, tmp_path / "compared", 70)
    audit(adapter=compared, scope="comparison")
    parent = weights_digest(adapter)
    forgotten = [Key.load().digest(record) for record in loaded(data_file)][:2]
    for seed in range(5):
        tried = another(adapter, tmp_path / f"seed{seed}", 20 + seed, parent=parent, verb="forget")
        line = json.loads((tried / "lineage.json").read_text())
        line["records"]["forgotten"] = forgotten
        (tried / "lineage.json").write_text(json.dumps(line))
        looks = audit(adapter=tried, references=references[:3]).looks
        assert (looks["models"], looks["nth"], looks["models_elsewhere"]) == (seed + 1, seed + 1, 1)
    words = ["verify", "--audit", str(tmp_path / "audit"), "--adapter", str(tried)]
    assert run([*words, "--before", str(adapter)]) in {0, 3, 4}
    said = " ".join(capfd.readouterr().out.split())
    assert "5 models were audited for this request (this is the 5th), with 1 set of ref" in said
    assert "probability up to 0.3 (a bound: 6 times 0.05" in said
    envelope = json.loads((tmp_path / "audit" / "certificate.json").read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert (statement["looks"]["models"], statement["looks"]["nth"]) == (5, 5)
    assert any("5 models were audited" in each for each in statement["not_claimed"])
    page = (tmp_path / "audit" / "certificate.html").read_text()
    assert "(this is the 5th)" in page


def test_without_a_log_an_audit_works_and_says_so(audit, tmp_path, monkeypatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("UNLEARN_HOME", str(blocked))
    result = audit()
    assert result.looks["log"] == "none"
    assert any("cannot be written: how many models were tried" in note for note in result.notes)
    assert "no log of looks could be kept: tries are not known" in gate(tmp_path / "audit")


def test_a_broken_log_blocks_nothing_and_is_said(audit, tmp_path) -> None:
    audit()
    (home() / "looks.jsonl").write_text("no line\n")
    result = audit()
    assert (result.looks["log"], result.looks["models"]) == ("broken", 1)
    assert any("looks.head aside to begin anew" in note for note in result.notes)
    assert "the log of looks does not hold: tries are not known" in gate(tmp_path / "audit")


def test_an_audit_from_before_looks_were_counted_says_nothing_of_them(audit, tmp_path) -> None:
    audit()
    file = tmp_path / "audit" / "audit.json"
    content = json.loads(file.read_text())
    del content["looks"]
    file.write_text(json.dumps(content))
    assert load_evidence(tmp_path / "audit").looks is None
    assert load_audit(tmp_path / "audit").looks is None
    assert "registered" not in gate(tmp_path / "audit")
    file.write_text(json.dumps(content | {"looks": {"models": 1}}))
    with pytest.raises(DataError, match="looks: 'scope' is missing"):
        verify(tmp_path / "audit")
