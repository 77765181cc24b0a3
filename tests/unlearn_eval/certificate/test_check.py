from __future__ import annotations

import datetime
import hashlib
import html
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from unlearn.apps.cli import run
from unlearn.errors import CertificateError, LineageError
from unlearn_eval.certificate import (
    Lineages,
    build_certificate,
    check_certificate,
    key_path,
    load_signing_key,
    new_signing_key,
    sign,
    write_certificate,
)
from unlearn_eval.certificate.__main__ import main
from unlearn_eval.report.certificate import certificate_page
from unlearn_eval.verdict.decision import load_policy

from .conftest import NOW, wrong

DAY = datetime.timedelta(days=1)


def test_a_certificate_verifies_beside_its_adapter_and_its_audit(case, save, public) -> None:
    path = save()
    alone = check_certificate(path, public, now=NOW)
    assert alone.ok
    assert alone.statement == case.statement()
    assert [f.passed for f in alone.findings] == [True, True, None, None, None, True, None]
    assert alone.words.endswith("Not looked at: the adapter, the base, the audit, the references.")
    full = check_certificate(
        path,
        public,
        adapter=case.adapter,
        base=case.folder / "base",
        audit=case.folder / "audit",
        references=[case.folder / "references"],
        now=NOW,
    )
    assert full.ok
    assert [f.passed for f in full.findings] == [True] * 7
    assert "Not looked at" not in full.words
    assert "on 20 record(s): PASS" in full.words


def test_a_signed_fail_verifies_and_says_so(case, save, public) -> None:
    case.verdict["outcome"] = "FAIL"
    check = check_certificate(save(), public, now=NOW)
    assert check.ok
    assert "FAIL" in check.words


def test_no_field_can_be_changed(case, save, private_key, public) -> None:
    envelope = sign(case.statement(), private_key)
    other = sign(case.statement(valid_days=999), private_key)
    path = save(envelope | {"payload": other["payload"]})
    check = check_certificate(path, public, now=NOW)
    assert wrong(check) == ["signature"]
    assert check.statement is None
    assert "does not verify" in check.words
    path = save()
    stranger = Ed25519PrivateKey.generate().public_key()
    assert wrong(check_certificate(path, stranger, now=NOW)) == ["signature"]
    path.write_text("hello")
    assert wrong(check_certificate(path, public, now=NOW)) == ["signature"]


def test_what_is_signed_must_be_a_statement(case, save, private_key, public) -> None:
    for changed in (
        {},
        case.statement() | {"schema": 2},
        case.statement() | {"surplus": 1},
    ):
        check = check_certificate(save(sign(changed, private_key)), public, now=NOW)
        assert wrong(check) == ["content"]
        assert check.statement is None


def test_dates(save, public) -> None:
    path = save(valid_days=30)
    last = NOW + 30 * DAY - datetime.timedelta(seconds=1)
    assert check_certificate(path, public, now=last).ok
    assert wrong(check_certificate(path, public, now=NOW + 30 * DAY)) == ["dates"]
    assert wrong(check_certificate(path, public, now=NOW - DAY)) == ["dates"]
    assert check_certificate(path, public, now=NOW - datetime.timedelta(minutes=9)).ok
    # the clock of the machine is the default
    assert wrong(check_certificate(save(now=NOW - 800 * DAY), public)) == ["dates"]


def test_an_old_certificate_does_not_fit_another_adapter(case, save, public) -> None:
    path = save()
    before = case.folder / "adapter"
    check = check_certificate(path, public, adapter=before, now=NOW)
    assert wrong(check) == ["adapter"]
    assert case.before["digest"] in check.words
    config = case.adapter / "adapter_config.json"
    config.write_text(json.dumps({"lora_alpha": 16}))
    check = check_certificate(path, public, adapter=case.adapter, now=NOW)
    assert wrong(check) == ["adapter"]
    assert "adapter_config.json" in check.words
    # without the folder when it was made, the weights alone are certified, and that is said
    check = check_certificate(save(adapter=None), public, adapter=case.adapter, now=NOW)
    assert check.ok
    (found,) = [f for f in check.findings if f.what == "adapter"]
    assert found.passed is None
    assert "configuration is not part" in found.words


def test_files_beside_the_weights_may_change_and_code_may_not(case, save, public) -> None:
    path = save()
    (case.adapter / "README.md").write_text("hello")
    assert check_certificate(path, public, adapter=case.adapter, now=NOW).ok
    (case.adapter / "modeling_own.py").write_text("import os")
    assert wrong(check_certificate(path, public, adapter=case.adapter, now=NOW)) == ["adapter"]


def test_an_edited_audit_is_noticed(case, save, public) -> None:
    path, file = save(), case.folder / "audit" / "audit.json"
    assert check_certificate(path, public, audit=file, now=NOW).ok
    file.write_text(file.read_text().replace('"rows": []', '"rows": [] '))
    check = check_certificate(path, public, audit=case.folder / "audit", now=NOW)
    assert wrong(check) == ["audit"]


PLANTED = {
    "chat_template.jinja": "{{ 'Ann: 555-0184-77' }}",
    "tokenizer.json": "{}",
    "tokenizer_config.json": '{"chat_template": "Ann"}',
    "additional_chat_templates/phone.jinja": "Ann",
    "generation_config.json": '{"temperature": 9}',
    "config.json": "{}",
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("where", ["adapter", "base"])
def test_what_is_planted_beside_the_weights_is_noticed(case, save, public, where, name) -> None:
    path = save()
    folders = {"adapter": case.adapter, "base": case.folder / "base"}
    assert check_certificate(path, public, now=NOW, **folders).ok
    file = folders[where] / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(PLANTED[name])
    check = check_certificate(path, public, now=NOW, **folders)
    assert wrong(check) == [where]
    assert name in check.words


def test_an_exchanged_base_is_noticed(case, save, public) -> None:
    path = save()
    check = check_certificate(path, public, base=case.adapter, now=NOW)
    assert wrong(check) == ["base"]
    # certified without its folder, its weights alone are known, and that is said
    path = save(base=None)
    check = check_certificate(path, public, base=case.folder / "base", now=NOW)
    (found,) = [f for f in check.findings if f.what == "base"]
    assert (found.passed, check.ok) == (None, True)
    assert "how it reads and writes text is not part of it" in found.words
    assert "how the base reads and writes text" in " ".join(check.statement["not_claimed"])


def test_scores_that_were_certified_must_be_there(case, save, public) -> None:
    folder = case.folder / "audit"
    (folder / "scores.parquet").write_bytes(b"scores")
    digest = hashlib.sha256(b"scores").hexdigest()
    path = save(scores_sha256=digest)
    assert check_certificate(path, public, audit=folder, now=NOW).ok
    (folder / "scores.parquet").write_bytes(b"others")
    assert wrong(check_certificate(path, public, audit=folder, now=NOW)) == ["audit"]
    (folder / "scores.parquet").unlink()
    check = check_certificate(path, public, audit=folder, now=NOW)
    assert wrong(check) == ["audit"]
    assert "scores.parquet is certified, and is not there" in check.words


def test_a_certified_replay_is_compared(case, save, private_key, public) -> None:
    statement = case.statement()
    replay = {
        "sha256": hashlib.sha256(b"{}").hexdigest(),
        "created": statement["created"],
        "outcome": "PASS",
        "kind": "exact",
        "weights": statement["models"]["after"]["weights"],
        "lineage": "0" * 64,
        "differ": [],
        "not_looked_at": [],
    }
    path = save(sign(statement | {"replay": replay}, private_key))
    folder = case.folder / "audit"
    check = check_certificate(path, public, audit=folder, now=NOW)
    assert wrong(check) == ["replay"]
    (folder / "replay.json").write_bytes(b"{}")
    assert check_certificate(path, public, audit=folder, now=NOW).ok
    (folder / "replay.json").write_bytes(b"{ }")
    assert wrong(check_certificate(path, public, audit=folder, now=NOW)) == ["replay"]
    assert "the replay" in check_certificate(path, public, now=NOW).words


def test_what_cannot_be_read_is_an_error(case, save, public, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="cannot read"):
        check_certificate(tmp_path / "none.json", public)
    path = save()
    with pytest.raises(CertificateError, match=r"cannot read .*audit\.json"):
        check_certificate(path, public, audit=case.adapter)
    with pytest.raises(LineageError, match=r"no \.safetensors"):
        check_certificate(path, public, adapter=case.folder / "audit")
    with pytest.raises(CertificateError, match="cannot read the key"):
        check_certificate(path, tmp_path / "none.pub")


def test_lines_cannot_steer_a_terminal(case, save, public) -> None:
    hostile = case.folder / "x\x1b[2J\ny"
    case.adapter.rename(hostile)
    (hostile / "adapter_model.safetensors").write_bytes(b"other")
    check = check_certificate(save(adapter=None), public, adapter=hostile, now=NOW)
    assert all(line.isprintable() for line in check.lines())
    assert len(check.lines()) == 8


@pytest.fixture
def files(case):
    """A certificate that is valid today, signed with a key on disk."""
    key = new_signing_key(case.folder / "own.key")
    statement = case.statement(now=None)
    write_certificate(statement, case.folder / "certificate.json", key)
    return case.folder / "certificate.json", key.with_suffix(".pub")


@pytest.mark.parametrize("way", ["toolkit", "alone"])
def test_exit_codes(files, case, capfd, way: str) -> None:
    path, key = map(str, files)

    def code(*words: str) -> int:
        if way == "alone":
            return main(["check", *words])
        return run(["certificate", "check", *words])

    audit, adapter = str(case.folder / "audit"), str(case.adapter)
    references = str(case.folder / "references")
    base = str(case.folder / "base")
    words = ("--adapter", adapter, "--audit", audit, "--reference", references, "--base", base)
    assert code(path, "--key", key, *words) == 0
    out, err = capfd.readouterr()
    assert "The verdict it states, on 20 record(s): PASS." in out
    assert err == ""
    assert code(path, "--key", key, "--adapter", str(case.folder / "adapter")) == 1
    assert "WRONG" in capfd.readouterr().out
    assert code(path, "--key", path) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("unlearn: ")
    assert err.count("\n") == 1
    assert code(str(case.folder / "none"), "--key", key) == 2


def test_the_desk_checks_a_certificate_without_a_ledger(files, case, capfd) -> None:
    path, key = map(str, files)
    nowhere = ["--ledger", str(case.folder / "no-ledger.db")]
    assert run(["request", "check", path, "--key", key, *nowhere]) == 0
    assert "The verdict it states, on 20 record(s): PASS." in capfd.readouterr().out
    other = new_signing_key(case.folder / "other.key").with_suffix(".pub")
    assert run(["request", "check", path, "--key", str(other), *nowhere]) == 1
    assert "WRONG" in capfd.readouterr().out
    for words in ([path], ["--key", key]):
        assert run(["request", "check", *words, *nowhere]) == 2
        assert "CERTIFICATE --key PUB" in capfd.readouterr().err
    assert not (case.folder / "no-ledger.db").exists()


def test_it_runs_without_the_toolkit_s_weight(files, case) -> None:
    path, key = map(str, files)
    heavy = "torch transformers peft datasets scipy numpy pydantic jinja2 typer".split()
    program = (
        f"import sys\nfor name in {heavy}: sys.modules[name] = None\n"  # an import would raise
        "import runpy\nsys.argv = ['check', *sys.argv[1:]]\n"
        "runpy.run_module('unlearn_eval.certificate', run_name='__main__')"
    )
    words = ["check", path, "--key", key, "--adapter", str(case.adapter)]
    command = [sys.executable, "-W", "error", "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "The certificate verifies" in done.stdout


def test_making_one_takes_little_more(case) -> None:
    # built, signed and checked with the user's own key, made on first use
    envelope = write_certificate(case.statement(now=None), case.folder / "certificate.json")
    assert json.loads((case.folder / "certificate.json").read_text()) == envelope
    public = key_path().with_suffix(".pub")
    assert check_certificate(case.folder / "certificate.json", public).ok


def test_a_saved_adapter_s_own_lineage_fits(adapter, verdict) -> None:
    """The digests of lineage, audit and certificate are one, on a folder the toolkit saved."""
    from unlearn.provenance.lineage import Lineage

    line = Lineage.read(adapter)
    assert line is not None
    digests = line.records.trained[:2]
    after = line.model_copy(
        update={"records": line.records.model_copy(update={"forgotten": digests})}
    )
    audit = {"created": line.created, "states": {"after": line.digest}}
    found = build_certificate(verdict, audit, Lineages(after, folder=adapter))
    assert found["models"]["after"]["weights"] == line.digest
    assert found["records"]["digests"] == sorted(digests)
    assert set(found["models"]["after"]["files"]) >= {"adapter_model.safetensors"}


def test_key_new_and_show(capfd, tmp_path: Path) -> None:
    file = tmp_path / "own.key"
    assert run(["key", "new", str(file)]) == 0
    made = capfd.readouterr().out
    assert run(["key", "show", str(file)]) == 0
    assert capfd.readouterr().out == made
    assert str(file.with_suffix(".pub")) in made
    assert run(["key", "new", str(file)]) == 2
    assert run(["key", "show"]) == 2  # looking makes none
    assert not key_path().exists()
    assert load_signing_key(file)


@pytest.mark.parametrize(
    ("name", "other", "passed", "words"),
    [
        ("own", False, True, "an own one, none of those that come with unlearn"),
        ("standard", False, None, "not the policy of that name"),
        ("standard", True, True, "the policy 'standard' that comes with unlearn"),
        ("lax", True, True, "by its hash the policy 'standard'"),
    ],
)
def test_a_policy_is_told_by_its_hash_not_by_its_name(
    case, save, private_key, public, name, other, passed, words
) -> None:
    statement = case.statement()
    policy = statement["policy"] | {"name": name}
    if other:
        standard = load_policy("standard")[1]
        policy |= {"sha256": standard.sha256, "content": standard.content}
    statement["policy"] = policy
    check = check_certificate(save(sign(statement, private_key)), public, now=NOW)
    assert check.ok
    (found,) = [f for f in check.findings if f.what == "policy"]
    assert found.passed is passed
    assert words in found.words
    assert words in html.unescape(certificate_page(sign(statement, private_key)))
    # nor does a hash say what is not under it
    statement["policy"] = policy | {"content": policy["content"] | {"alpha": 0.1}}
    check = check_certificate(save(sign(statement, private_key)), public, now=NOW)
    assert wrong(check) == ["policy"]


@pytest.mark.parametrize("verb", ["request", "certificate"])
def test_a_check_is_printed_as_json(files, capfd, verb) -> None:
    path, key = map(str, files)
    assert run([verb, "check", path, "--key", key, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["ok"] is True
    assert [each["what"] for each in found["findings"]][:2] == ["signature", "dates"]


@pytest.mark.parametrize("created", ["0001-01-01T00:00:00+00:00", "0001-01-01T00:00:00+23:59"])
def test_a_certificate_of_the_year_one_has_expired(
    case, save, private_key, public, created
) -> None:
    statement = case.statement() | {"created": created, "expires": created}
    assert wrong(check_certificate(save(sign(statement, private_key)), public, now=NOW)) == [
        "dates"
    ]
    statement |= {"expires": "9999-12-31T23:59:59-23:59"}
    assert check_certificate(save(sign(statement, private_key)), public, now=NOW).ok
    statement |= {"created": "9999-12-31T23:59:59-23:59"}
    assert wrong(check_certificate(save(sign(statement, private_key)), public, now=NOW)) == [
        "dates"
    ]
    with pytest.raises(CertificateError, match="no calendar"):
        case.statement(valid_days=10**9)


def test_a_certificate_of_odd_content_does_not_verify(case, save, private_key, public) -> None:
    deep, digits = "[" * 100_000 + "]" * 100_000, "9" * 5_000
    path = save()
    envelope = path.read_text()
    for text in (deep, digits, '{"payload": ' + deep + "}", '{"payloadType": 1e999}', "null"):
        path.write_text(text)
        assert wrong(check_certificate(path, public, now=NOW)) == ["signature"]
    path.write_text(envelope)
    statement = case.statement()
    statement["counts"] = statement["counts"] | {"forget": 10**400}
    assert wrong(check_certificate(save(sign(statement, private_key)), public, now=NOW)) == [
        "content"
    ]
    content: list = []
    for _ in range(900):
        content = [content]
    statement = case.statement()
    statement["policy"] = statement["policy"] | {"content": {"alpha": content}}
    assert wrong(check_certificate(save(sign(statement, private_key)), public, now=NOW)) == [
        "content"
    ]
