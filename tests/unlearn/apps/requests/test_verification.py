"""Verifying a request: what it is compared with, and what holds a verdict to its evidence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from unlearn.apps.cli import run
from unlearn.apps.requests import verify
from unlearn.apps.requests.check import check
from unlearn.apps.requests.evidence import audit_of
from unlearn.provenance.keys import home
from unlearn.provenance.lineage import Lineage, weights_digest
from unlearn.runs.references import train_references

from .conftest import Case

OWN = """
kind: policy
probes: [loss]
alpha: 0.05
margin: 4.0
delta: 0.1
min_references: 3
extraction: {n: 100, p: 0.5}
deployments: [as-is]
prompt_states: [verbatim]
utility_margin: 0.1
"""


def blur(folder: Path) -> None:
    """Change an adapter's weights a little: another model."""
    file = folder / "adapter_model.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(file).items()}, file)


@pytest.mark.slow
def test_half_splits_serve_several_requests(case: Case) -> None:
    """Each request is compared with those halves that never saw its records."""
    halves = case.work / "halves"
    train_references(
        case.model,
        case.data,
        halves,
        kind="half",
        count=6,
        like=case.adapter,
    )
    unseen = case.work / "unseen.jsonl"
    rows = [json.loads(row) for row in case.data.read_text().splitlines()]
    unseen.write_text("".join(json.dumps(r | {"prompt": f"Which {r['id']}?"}) + "\n" for r in rows))
    names = [case.located(which, holdout=str(unseen)) for which in ("r0", "r11")]
    case.json("run", *case.fast)
    (case.work / "own.yaml").write_text(OWN)
    used = []
    for name in names:
        request = case.ledger.get(name)
        gone = set(request.facts["records"])
        told = case.call(
            *("verify", name, "--generate", "0", "--references", halves),
            *("--policy", case.work / "own.yaml"),
            code=None,
        )
        said = " ".join(told.split())
        assert "3 references found by lineage, 3 of them on part of the kept records" in said
        assert "passed over: 3 that saw the records" in said
        assert "3 references (all trained on part of the kept records only)" in said
        audit, _ = audit_of(case.ledger, case.ledger.get(name))
        content = json.loads((audit / "audit.json").read_text())
        assert set(content["records"]["forget"]) == gone
        for facts in content["references"].values():
            assert facts["saw"] == 0
            assert 0 < facts["kept"] < content["records"]["kept"]
        used.append({facts["weights"] for facts in content["references"].values()})
        lines = [Lineage.read(folder) for folder in halves.iterdir()]
        left = {x.digest for x in lines if x is not None and not gone & set(x.records.trained)}
        assert used[-1] == left
        verdict = json.loads((audit / "verdict.json").read_text())
        assert verdict["tier"] == "A"
        assert "by their lineages" in verdict["gates"][0]["words"]
    # the certificate names them
    case.call("certificate", names[1], "--output", case.work / "certificate.json")
    words = ["certificate", "check", str(case.work / "certificate.json")]
    words += ["--key", str(home() / "signing.pub"), "--reference"]
    (one,) = (f for f in halves.iterdir() if weights_digest(f) == min(used[1]))
    assert run([*words, str(one)]) == 0
    assert "1 of 3 are at hand, and by their lineages never saw" in case.capfd.readouterr().out
    assert run([*words, str(halves)]) == 1  # the other halves are none of the verdict's


@pytest.mark.slow
def test_an_interrupted_verification_leaves_the_verdict_before(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended between the new audit and the ledger's word of it: nothing has been replaced."""
    name = case.located("r0")
    case.json("run", *case.fast)
    case.decides("PASS")
    case.json("verify", "--generate", "0")
    before = case.ledger.get(name).facts["verdict"]

    def killed(folder: Path, policy: str | None) -> Any:
        assert (folder / "audit.json").is_file()
        raise SystemExit(9)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(verify, "_decide", killed)
        run(["request", "verify", name, "--generate", "0", "--ledger", case.url])
    case.capfd.readouterr()
    assert check(case.ledger).ok
    assert case.ledger.get(name).facts["verdict"] == before
    folder = case.ledger.folder("audits")
    assert len(list(folder.iterdir())) == 2
    mine = folder / f"{name}-notes"  # what a user keeps there is none of ours
    mine.mkdir()
    case.json("verify", name, "--generate", "0")
    assert case.ledger.get(name).facts["verdict"] != before
    kept = {Path(audit_of(case.ledger, case.ledger.get(name))[0]), mine}
    first = next(e for e in case.ledger.history(name) if e.event == "verified")
    told = case.ledger.sealer.open(first.facts["verdict"]["sealed"], f"verdict on request {name}")
    assert set(folder.iterdir()) == kept | {Path(told["folder"])}


@pytest.mark.slow
def test_evidence_that_was_changed_is_found(case: Case) -> None:
    name = case.located("r0")
    case.json("run", *case.fast)
    case.decides("PASS")
    case.json("verify", "--generate", "0")
    assert case.json("check")["ok"]
    audit = Path(case.json("show", name)["audit"]) / "audit.json"
    audit.write_text(audit.read_text().replace("0.", "1.", 1))
    (problem,) = case.json("check", code=1)["problems"]
    assert "was changed after the verdict" in problem
    assert "verify the request again" in case.call(
        "certificate", name, "--output", case.work / "c.json", code=2
    )
    assert case.call("list", "--check", code=1)


def test_a_verdict_of_the_rules_and_a_certificate_that_verifies(case: Case) -> None:
    name = case.located("r0,r1", due="2999-03-22")
    (ran,) = case.json("run", *case.fast)["runs"]
    references = [case.work / "references" / f"reference-0{i}" for i in range(3)]
    for i, reference in enumerate(references):
        shutil.copytree(case.adapter, reference, ignore=shutil.ignore_patterns("lineage.json"))
        for _ in range(i + 1):
            blur(reference)
    words = ["verify", name, "--generate", "0", "--policy", "quick"]
    for reference in references:
        words += ["--reference", str(reference)]
    told = case.json(*words, code=4)
    verdict = told["requests"][0]["verdict"]
    assert (verdict["outcome"], verdict["tier"]) == ("INCONCLUSIVE", "A")
    case.call("certificate", name, "--output", case.work / "certificate.json")
    assert (case.work / "certificate.html").is_file()
    words = ["certificate", "check", str(case.work / "certificate.json")]
    words += ["--key", str(home() / "signing.pub")]
    assert run([*words, "--adapter", ran["folder"]]) == 0
    out, _ = case.capfd.readouterr()
    assert "INCONCLUSIVE" in out
    page = (case.work / "certificate.html").read_text()
    assert "2999-03-22" in page
    assert "only try" not in page
    # nor is an adapter certified whose scale is not the audited one
    config = Path(ran["folder"]) / "adapter_config.json"
    audited = config.read_text()
    config.write_text(json.dumps(json.loads(audited) | {"lora_alpha": 1}))
    again = ["certificate", name, "--output", case.work / "other.json"]
    assert "adapter_config.json is not what was audited" in case.call(*again, code=2)
    config.write_text(audited)
    # or against a reference that was exchanged since; one that is gone can't be looked at
    blur(reference)
    assert "is not the reference that was measured" in case.call(*again, code=2)
    shutil.rmtree(reference)
    case.call(*again)
    # once the numbers are known, no other policy is asked
    assert "after its numbers are known" in case.call("verify", name, "--policy", "strict", code=2)
    # nor is another verdict certified than the one that was noted
    (verdict,) = case.ledger.folder("audits").glob("*/verdict.json")
    verdict.write_text(verdict.read_text().replace("INCONCLUSIVE", "PASS"))
    assert "another verdict than was noted" in case.json("check", code=1)["problems"][0]
    assert "is not the verdict that the ledger holds" in case.call(*again, code=2)
    # a certificate of one adapter says nothing of another
    assert run([*words, "--adapter", str(case.adapter)]) == 1
