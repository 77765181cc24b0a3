from __future__ import annotations

import copy
import datetime
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from unlearn_eval.certificate import Deletion, Lineages, build_certificate, sign
from unlearn_eval.certificate.policies import content_hash

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _probe(name: str, statistic: str, value: float, far: float, **more: Any) -> dict[str, Any]:
    words = (
        f"membership.{name}: {far:.2f} of the references' SDs from their mean; passes within 2.10, "
        "fails beyond 3.71"
    )
    return {
        "probe": f"membership.{name}",
        "deployment": "as-is",
        "prompt_state": "verbatim",
        "statistic": statistic,
        "value": value,
        "low": value - 0.06,
        "high": value + 0.06,
        "reference_mean": value + 0.01,
        "reference_sd": 0.03,
        "k": 8,
        "passed": True,
        "failed": False,
        "words": words,
    } | more


@pytest.fixture
def verdict() -> dict[str, Any]:
    """A verdict as `unlearn verify` writes it, on 20 records with 8 references."""
    probes = [
        _probe("loss", "auc", 0.61, 0.33),
        _probe("ez", "auc", 0.58, 0.34),
        _probe("min_k", "auc", 0.6, 0.35),
        _probe("loss", "difference", -0.21, 0.36),
        _probe("deviation", "mean", 0.44, 0.37),
        _probe("loss", "auc", 0.62, 0.38, deployment="merged"),
    ]
    gates = {
        "G0": "The audit, the adapter and their records of origin name the same weights.",
        "G1": "Before the deletion the same tests told the records apart: 14 standard deviations.",
        "G2": "Not needed with models trained without the records.",
    }
    return {
        "schema": 1,
        "outcome": "PASS",
        "tier": "A",
        "reasons": ["All six tests lie within the policy's margin of the models without them."],
        "would_decide": [],
        "policy": {
            "name": "own",
            "sha256": content_hash({"margin": 4, "alpha": 0.05}),
            "chosen": "before",
            "content": {"margin": 4, "alpha": 0.05},
        },
        "gates": [
            {"gate": name, "passed": None if name == "G2" else True, "words": words}
            for name, words in gates.items()
        ],
        "probes": probes,
        "extraction": {
            "n": 10_000,
            "p": 0.1,
            "extracted": 0,
            "reference_extracted": 0,
            "records": 20,
            "words": "0 of 20 records come out with 10,000 tries at probability 0.1",
            "outcome": "PASS",
        },
        "utility": {
            "value": -0.01,
            "low": -0.03,
            "high": 0.01,
            "margin": -0.05,
            "outcome": "PASS",
            "words": "change in what the model knows of the records to keep",
        },
        "power": "With 8 references a perfect deletion passes each test with probability .91.",
        "counts": {"forget": 20, "holdout": 200, "subjects": 4, "references": 8},
        "audit_sha256": "0" * 64,
        "created": "2026-02-28T10:00:00+00:00",
    }


@dataclass
class Case:
    """Everything that a certificate is about, on disk."""

    folder: Path
    verdict: dict[str, Any]
    audit: dict[str, Any]
    after: dict[str, Any]
    before: dict[str, Any]
    request: dict[str, Any]
    artifacts: list[dict[str, Any]]

    @property
    def adapter(self) -> Path:
        return self.folder / "cleaned"

    def statement(self, **changes: Any) -> dict[str, Any]:
        given = {
            "request": self.request,
            "lineage_after": self.after,
            "lineage_before": self.before,
            "artifacts": self.artifacts,
            "adapter": self.adapter,
            "base": self.folder / "base",
            "now": NOW,
        } | changes
        lineages = Lineages(
            given.pop("lineage_after"),
            given.pop("lineage_before"),
            given.pop("adapter"),
            given.pop("base"),
        )
        said = {f.name: given.pop(f.name) for f in fields(Deletion) if f.name in given}
        return build_certificate(self.verdict, self.audit, lineages, Deletion(**said), **given)


def make_folder(folder: Path, weights: bytes, scale: int = 8) -> str:
    from unlearn.provenance.lineage import weights_digest

    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": scale}))
    return weights_digest(folder)


@pytest.fixture
def case(tmp_path: Path, verdict: dict[str, Any]) -> Case:
    old, new = (make_folder(tmp_path / name, name.encode()) for name in ("adapter", "cleaned"))
    base = {"name": "base-7b", "digest": make_folder(tmp_path / "base", b"base")}
    lineage = {
        "schema": 1,
        "created": "2026-02-27T09:00:00+00:00",
        "verb": "forget",
        "base": base,
        "digest": new,
        "kind": "adapter",
        "parent": old,
        "records": {
            "key_id": "a1b2c3d4e5f6",
            "trained": [_hex(f"t{i}") for i in range(200)],
            "forgotten": [_hex(f"r{i}") for i in range(20)],
        },
        "template": "qa",
        "method": "pilot",
        "options": {"learning_rate": 1e-4},
        "seed": 7,
        "versions": {"unlearn": "0.1.0", "torch": "2.9.0"},
        "stopped": None,
    }
    before = copy.deepcopy(lineage) | {"digest": old, "parent": None, "method": "finetune"}
    before["records"]["forgotten"] = []
    audit = {
        "schema": 1,
        "created": "2026-02-28T09:00:00+00:00",
        "model": "base-7b",
        "states": {"before": old, "after": new, "base": base["digest"]},
        "records": {
            "key_id": "a1b2c3d4e5f6",
            "forget": sorted(lineage["records"]["forgotten"]),
            "kept": 180,
        },
        "references": {},
        "looks": {
            "scope": "request",
            "models": 1,
            "nth": 1,
            "models_elsewhere": 0,
            "reference_sets": 1,
            "unused_references": [],
            "purged_references": 0,
            "log": "holds",
        },
        "rows": [],
    }
    trained = [_hex(f"t{i}") for i in range(180)]
    for i in range(8):
        folder = tmp_path / "references" / f"reference-{i:02}"
        digest = make_folder(folder, f"reference {i}".encode())
        line = {"digest": digest, "records": lineage["records"] | {"trained": trained}}
        (folder / "lineage.json").write_text(json.dumps(line))
        audit["states"][f"reference:{i}"] = digest
        facts = {"weights": digest, "trained": 180, "saw": 0, "kept": 180}
        audit["references"][f"reference:{i}"] = facts
    (tmp_path / "audit").mkdir()
    text = json.dumps(audit, indent=1) + "\n"
    (tmp_path / "audit" / "audit.json").write_text(text)
    verdict["audit_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    request = {
        "id": "R-2026-017",
        "received": "2026-02-20T08:00:00+00:00",
        "due": "2026-03-22T08:00:00+00:00",
    }
    artifacts = [
        {"kind": "raw", "name": "customers.jsonl", "digest": _hex("raw"), "cleaned": True},
        {"kind": "dataset", "name": "train-v3", "digest": _hex("data"), "cleaned": True},
        {"kind": "adapter", "name": "support-adapter", "digest": old, "cleaned": True},
        {"kind": "checkpoint", "name": "support-adapter, step 400", "cleaned": True},
        {"kind": "optimizer", "name": "support-adapter, step 400", "cleaned": True},
        {"kind": "merge", "name": "support-merged", "cleaned": False, "note": "offline"},
        {"kind": "quantized", "name": "support-q4", "cleaned": None},
    ]
    return Case(tmp_path, verdict, audit, lineage, before, request, artifacts)


@pytest.fixture(scope="session")
def private_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def save(case: Case, private_key: Ed25519PrivateKey) -> Callable[..., Path]:
    """Write a certificate of the case, signed unless an envelope is given."""

    def write(envelope: Any = None, **changes: Any) -> Path:
        path = case.folder / "certificate.json"
        path.write_text(json.dumps(envelope or sign(case.statement(**changes), private_key)))
        return path

    return write


@pytest.fixture
def public(private_key):
    return private_key.public_key()


def wrong(check) -> list[str]:
    assert not check.ok
    return [finding.what for finding in check.findings if finding.passed is False]
