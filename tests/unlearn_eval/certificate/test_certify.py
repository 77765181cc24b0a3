"""From the folders of an audit to a certificate, and the references that it rests on."""

from __future__ import annotations

import hashlib
import json

import pytest

from unlearn.errors import CertificateError, LineageError, UnlearnError
from unlearn.provenance.lineage import weights_digest
from unlearn_eval.certificate import (
    Deletion,
    check_certificate,
    key_path,
)
from unlearn_eval.certificate.trained_on import trained_on
from unlearn_eval.certify import Models, certify

from .conftest import NOW, wrong


@pytest.fixture
def decided(case):
    """The folders as `unlearn forget`, `audit` and `verify` leave them."""
    audit = case.folder / "audit"
    (audit / "scores.parquet").write_bytes(b"scores")
    (audit / "verdict.json").write_text(json.dumps(case.verdict))
    for name, line in (("cleaned", case.after), ("adapter", case.before)):
        (case.folder / name / "lineage.json").write_text(json.dumps(line))
    return audit


def test_from_folders_to_a_certificate_and_its_page(case, decided) -> None:
    file = case.folder / "out" / "certificate.json"
    before = case.folder / "adapter"
    base = case.folder / "base"
    models, deletion = Models(case.adapter, before, base=base), Deletion(case.request)
    assert certify(decided, file, models, deletion) == file
    public = key_path().with_suffix(".pub")
    references = [case.folder / "references"]
    check = check_certificate(
        file, public, adapter=case.adapter, base=base, audit=decided, references=references
    )
    assert check.ok
    assert [f.passed for f in check.findings] == [True] * 7
    assert check.statement is not None
    expected = case.statement(artifacts=(), now=None)
    same = set(expected) - {"created", "expires", "audit"}
    assert {key: check.statement[key] for key in same} == {key: expected[key] for key in same}
    assert "R-2026-017" in file.with_suffix(".html").read_text()
    # scores of records are not part of a certificate, but their file's digest is
    (decided / "scores.parquet").write_bytes(b"other")
    assert wrong(check_certificate(file, public, audit=decided)) == ["audit"]


def test_a_certificate_is_not_made_of_what_does_not_belong_together(case, decided) -> None:
    file = case.folder / "certificate.json"
    with pytest.raises(CertificateError, match=r"lineage\.json.*`unlearn forget` made"):
        certify(decided, file, Models(decided))
    with pytest.raises(CertificateError, match="the page takes that name"):
        certify(decided, file.with_suffix(".html"), Models(case.adapter))
    other = case.folder / "references" / "reference-00"
    (other / "lineage.json").unlink()
    with pytest.raises(LineageError, match="is not the model before that the audit measured"):
        certify(decided, file, Models(case.adapter, before=other))
    (decided / "audit.json").write_text(json.dumps(case.audit | {"rows": [1]}))
    with pytest.raises(LineageError, match="verify it again"):
        certify(decided, file, Models(case.adapter))
    (decided / "verdict.json").write_text("[]")
    with pytest.raises(CertificateError, match="does not hold a JSON object"):
        certify(decided, file, Models(case.adapter))
    (decided / "verdict.json").unlink()
    with pytest.raises(CertificateError, match="run `unlearn verify` first"):
        certify(decided, file, Models(case.adapter))
    assert not file.exists()


def test_references_are_checked_by_whoever_has_them(case, save, public) -> None:
    path, folder = save(), case.folder / "references"
    one = folder / "reference-03"

    def found(*references):
        return check_certificate(path, public, references=references, now=NOW)

    assert found(folder).ok
    assert "8 of 8 are at hand, and by their lineages never saw" in found(folder).findings[-1].words
    assert "1 of 8 are at hand" in found(one).findings[-1].words
    assert "none that the verdict rests on" in found(case.folder / "adapter").words
    line = json.loads((one / "lineage.json").read_text())
    (one / "lineage.json").unlink()
    assert found(folder).ok
    assert found(folder).findings[-1].passed is None
    assert "of 1 no lineage says" in found(folder).findings[-1].words
    # it did see two of the records, as its own lineage shows: no key is needed to see that
    line["records"]["trained"] = [*line["records"]["trained"], *case.after["records"]["forgotten"]]
    (one / "lineage.json").write_text(json.dumps(line))
    assert wrong(found(folder)) == ["references"]
    assert "was trained on 20 of the records" in found(folder).words
    # a lineage copied from a model that did not says nothing of this one
    line["digest"] = case.before["digest"]
    (one / "lineage.json").write_text(json.dumps(line))
    with pytest.raises(LineageError, match="is of other weights"):
        found(folder)


@pytest.mark.parametrize("what", ["exchanged", "saw", "copied"])
def test_references_exchanged_after_the_audit_are_not_certified(case, decided, what) -> None:
    folder = case.folder / "references"
    one = folder / "reference-01"
    line = json.loads((one / "lineage.json").read_text())
    if what == "saw":
        line["records"]["trained"] += case.after["records"]["forgotten"][:1]
    else:
        (one / "adapter_model.safetensors").write_bytes(b"trained on the records as well")
        if what == "exchanged":
            line["digest"] = weights_digest(one)
    (one / "lineage.json").write_text(json.dumps(line))
    words = {
        "exchanged": "reference-01 is not the reference that was measured",
        "saw": "reference-01 was trained on records of the request",
        "copied": "is of other weights",
    }
    file = case.folder / "certificate.json"
    with pytest.raises(LineageError, match=words[what]):
        certify(decided, file, Models(case.adapter, references=[folder]))
    assert not file.exists()
    certify(decided, file, Models(case.adapter, references=[folder / "reference-00"]))
    assert file.exists()


def test_what_no_lineage_is_stops_the_check(case, save, public) -> None:
    path, one = save(), case.folder / "references" / "reference-00"
    for broken in ("[]", "{}", '{"digest": 1, "records": []}', "no json"):
        (one / "lineage.json").write_text(broken)
        with pytest.raises(LineageError, match="lineage"):
            check_certificate(path, public, references=[one], now=NOW)


@pytest.mark.parametrize("file", ["audit/verdict.json", "audit/audit.json", "cleaned/lineage.json"])
def test_nothing_is_certified_of_files_of_odd_types(case, decided, oddly, file, monkeypatch):
    """What is tampered with is refused in a line, or certified as what its shape allows."""
    monkeypatch.setattr("unlearn_eval.report.certificate.certificate_page", lambda _: "")
    path = case.folder / file
    content = json.loads(path.read_text())
    wrong = []
    for what, odd in oddly(content, most=1):
        path.write_text(json.dumps(odd))
        digest = hashlib.sha256((decided / "audit.json").read_bytes()).hexdigest()
        verdict = None if "verdict" in file else case.verdict | {"audit_sha256": digest}
        before = case.folder / "adapter"
        models = Models(case.adapter, before, [case.folder / "references" / "reference-00"])
        try:
            certify(decided, case.folder / "c.json", models, verdict=verdict)
        except UnlearnError:
            pass
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {str(error)[:90]}")
    assert not wrong, "\n".join([str(len(wrong)), *wrong[:40]])


def test_a_reference_s_lineage_of_odd_types_is_refused(case, oddly):
    folder = case.folder / "references" / "reference-00"
    path = folder / "lineage.json"
    content = json.loads(path.read_text()) | {"parent": None, "start": {"digest": "x"}}
    wrong = []
    for what, odd in oddly(content | {"base": {"digest": "y"}}, most=1):
        path.write_text(json.dumps(odd))
        try:
            found = trained_on(folder, "a1b2c3d4e5f6")
            found.saw(["x"])
            found.from_base("y")
        except UnlearnError:
            pass
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {str(error)[:90]}")
    assert not wrong, "\n".join([str(len(wrong)), *wrong[:40]])
