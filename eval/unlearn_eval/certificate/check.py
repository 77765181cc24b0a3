"""Check a certificate offline, with nothing but the file and the signer's public key."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from unlearn.errors import CertificateError
from unlearn.printable import printable
from unlearn_eval.certificate.envelope import UnverifiedError, open_envelope, read_json
from unlearn_eval.certificate.files import deciding_files, weights_digest
from unlearn_eval.certificate.keys import key_id, load_public_key
from unlearn_eval.certificate.policies import content_hash, origin, posing
from unlearn_eval.certificate.schema import STATEMENT
from unlearn_eval.certificate.shape import MisfitError, fit, parse_time
from unlearn_eval.certificate.trained_on import folders_in, trained_on

__all__ = ["Check", "Finding", "check_certificate"]

_LARGEST = 64 << 20
"""Bytes read at most: a certificate with a million record digests is about as large."""
_SKEW = datetime.timedelta(minutes=10)
"""How far another machine's clock may be ahead of this one's."""


@dataclass(frozen=True)
class Finding:
    """The answer to one question of a check.

    Attributes:
        what: what was looked at.
        passed: whether it is as it should be; None if it was not looked at.
        words: what was found.
        compares: whether it compares what lies elsewhere with what was certified.
    """

    what: str
    passed: bool | None
    words: str
    compares: bool = False


@dataclass(frozen=True)
class Check:
    """The result of checking a certificate.

    Attributes:
        findings: one a question, in order.
        statement: what the certificate states; None unless the signature and the shape are right.
        key: id of the public key that was trusted.
    """

    findings: tuple[Finding, ...]
    statement: Mapping[str, Any] | None
    key: str

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; what was not looked at is not wrong."""
        return self.statement is not None and all(f.passed is not False for f in self.findings)

    def lines(self) -> list[str]:
        """Return what was found as lines for a terminal, the result last."""
        mark = {True: "ok", False: "WRONG", None: "-"}
        lines = [(f"{mark[f.passed]:<6} {f.what:<10} ", f.words) for f in self.findings]
        # one line each, whatever the names of files say
        told = [*lines, ("", self.words)]
        return [begin + printable(" ".join(words.split())) for begin, words in told]

    @property
    def words(self) -> str:
        """The result in a sentence or two, with the verdict: a signed FAIL is in order as well."""
        if not self.ok or self.statement is None:
            wrong = next(f for f in self.findings if f.passed is False)
            return f"The certificate does not verify: {wrong.words}."
        verdict = self.statement["verdict"]["outcome"]
        n = self.statement["counts"]["forget"]
        until = self.statement["expires"][:10]
        text = (
            f"The certificate verifies. The verdict it states, on {n} record(s): {verdict}. "
            f"Valid until {until}."
        )
        unseen = [f"the {f.what}" for f in self.findings if f.passed is None and f.compares]
        return f"{text} Not looked at: {', '.join(unseen)}." if unseen else text


def check_certificate(
    path: str | Path,
    public_key: str | Path | Ed25519PublicKey,
    *,
    adapter: str | Path | None = None,
    base: str | Path | None = None,
    audit: str | Path | None = None,
    references: Sequence[str | Path] = (),
    now: datetime.datetime | None = None,
) -> Check:
    """Check signature, shape and dates of a certificate, and what it is about where that is given.

    Trust comes from the given public key alone. Nothing in the file decides which key is used, and
    nothing of its content is looked at before the signature fits.

    Args:
        path: `certificate.json`.
        public_key: the signer's public key, or its PEM file.
        adapter: folder of the adapter (or model) in use: must be the one that was certified, so
            that an old certificate cannot be shown for another adapter.
        base: folder of the base model in use: must be the certified one, and read and write text
            in the same way.
        audit: folder of the audit and of the replay: must be those that the verdict rests on,
            unchanged and whole.
        references: folders of the models that the verdict compares with, or of several: must be
            certified ones, with lineages that name none of the deleted records.
        now: the time; by default the clock's.

    Returns:
        What was found. A file that is no certificate at all is one that does not verify. All that
        is certified is compared, or found to be not looked at.

    Raises:
        CertificateError: if a file cannot be read, or the key is none.
        LineageError: if a folder holds no weights, or the lineage of others.
    """
    key = public_key if isinstance(public_key, Ed25519PublicKey) else load_public_key(public_key)
    data = _read(Path(path))
    measured = None if audit is None else _digests_in(Path(audit))
    weights = {
        each: weights_digest(each) for each in (adapter, base) if each is not None
    }  # a folder without any is wrong input, whatever the certificate says
    name = key_id(key)
    try:
        payload = open_envelope(data, key)
    except UnverifiedError as error:
        return Check((Finding("signature", False, str(error)),), None, name)
    signed = Finding(
        "signature", True, f"made with the key {name[:16]}…, and nothing changed since"
    )
    try:
        statement = fit(read_json(payload), STATEMENT, "statement", exact=True)
    except (MisfitError, UnverifiedError) as error:
        wrong = Finding("content", False, f"not a statement that this version reads: {error}")
        return Check((signed, wrong), None, name)
    findings = (
        signed,
        _dates(statement, now or datetime.datetime.now(datetime.UTC)),
        _same_model("adapter", statement["models"]["after"], adapter, weights),
        _same_model("base", statement["models"]["base"], base, weights),
        *_same_evidence(statement, measured),
        _policy(statement["policy"]),
        *_references(statement, references),
    )
    return Check(findings, statement, name)


def _dates(statement: Mapping[str, Any], now: datetime.datetime) -> Finding:
    created, expires = parse_time(statement["created"]), parse_time(statement["expires"])
    if now >= expires:
        return Finding("dates", False, f"it expired on {statement['expires']}")
    if now + _SKEW < created:
        words = f"it was made on {statement['created']}, which is yet to come by this clock"
        return Finding("dates", False, words)
    words = f"made on {statement['created']}, valid until {statement['expires']}"
    return Finding("dates", True, words)


_ASIDE = {
    "adapter": "their configuration is not part of it",
    "base": "how it reads and writes text is not part of it",
}


def _same_model(
    what: str,
    certified: Mapping[str, Any],
    folder: str | Path | None,
    weights: Mapping[str | Path, str],
) -> Finding:
    """Compare a model's folder with the certified weights and files beside them."""
    article = "an" if what == "adapter" else "a"
    if folder is None:
        words = f"not compared with {article} {what}: none was given"
        return Finding(what, None, words, compares=True)
    here = weights[folder]
    if here != certified["weights"]:
        words = f"it is for other weights: {certified['weights']}; {folder} holds {here}"
        return Finding(what, False, words, compares=True)
    expected = certified["files"]
    if expected is None:
        words = f"the weights are those certified; {_ASIDE[what]}"
        return Finding(what, None, words)
    files = deciding_files(folder)
    other = sorted(name for name in {*expected, *files} if expected.get(name) != files.get(name))
    if other:
        words = f"{folder} differs from what was certified in {', '.join(other)}"
        return Finding(what, False, words, compares=True)
    words = "the weights and the configuration are those certified"
    return Finding(what, True, words, compares=True)


def _policy(policy: Mapping[str, Any]) -> Finding:
    try:
        same = content_hash(policy["content"]) == policy["sha256"]
    except RecursionError:  # nested more deeply than can be written again
        same = False
    if not same:
        return Finding("policy", False, "its hash is not that of the policy's content")
    return Finding("policy", None if posing(policy) else True, origin(policy))


def _same_evidence(
    statement: Mapping[str, Any], digests: Mapping[str, str] | None
) -> Iterator[Finding]:
    """Compare what a verdict rests on, an audit or a replay or both, with what lies in a folder."""
    audit, replay = statement["audit"], statement["replay"]
    if audit is None:
        words = "the verdict rests on a replay, and on no audit"
        yield Finding("audit", False if "audit.json" in (digests or ()) else None, words)
    else:
        files = {"audit.json": audit["sha256"], "scores.parquet": audit["scores_sha256"]}
        yield _same_files("audit", files, digests)
    if replay is not None:
        yield _same_files("replay", {"replay.json": replay["sha256"]}, digests)


def _same_files(
    what: str, certified: Mapping[str, str | None], digests: Mapping[str, str] | None
) -> Finding:
    """Compare files with their certified digests; those without one were not certified."""
    if digests is None:
        words = f"not compared with {'an' if what == 'audit' else 'a'} {what}: none was given"
        return Finding(what, None, words, compares=True)
    for name, digest in certified.items():
        if digest is None:
            continue
        if name not in digests:
            words = f"{name} is certified, and is not there"
            return Finding(what, False, words, compares=True)
        if digests[name] != digest:
            words = f"{name} is not the one that the verdict rests on"
            return Finding(what, False, words, compares=True)
    return Finding(what, True, f"the {what} is the one that the verdict rests on", compares=True)


def _references(statement: Mapping[str, Any], folders: Sequence[str | Path]) -> Iterator[Finding]:
    """Compare references at hand with the certified ones, and their lineages with the records."""
    if not folders:
        if statement["references"]:
            words = "not compared with references: none was given"
            yield Finding("references", None, words, compares=True)
        return
    key, records = statement["records"]["key_id"], statement["records"]["digests"]
    certified = {each["weights"] for each in statement["references"]}
    silent = []
    known = set()
    for folder in folders_in(folders):
        reference = trained_on(folder, key)
        if reference.weights not in certified:
            words = f"{folder} is none that the verdict rests on"
            yield Finding("references", False, words)
            return
        saw = reference.saw(records)
        if saw:
            words = f"{folder} was trained on {saw} of the records, by its lineage"
            yield Finding("references", False, words)
            return
        known.add(reference.weights)
        silent += [folder] if saw is None else []
    words = f"{len(known)} of {len(certified)} are at hand"
    if silent:
        words += f"; of {len(silent)} no lineage says what they saw"
        yield Finding("references", None, words)
        return
    yield Finding("references", True, f"{words}, and by their lineages never saw the records")


def _digests_in(path: Path) -> dict[str, str]:
    """Return digests of what a verdict rests on, by file name: of those files that are there.

    Raises CertificateError where there is neither an audit nor a replay.
    """
    folder = path if path.is_dir() else path.parent
    names = ["audit.json", "scores.parquet", "replay.json"] if path.is_dir() else [path.name]
    if not path.is_dir() and path.name == "audit.json":
        names.append("scores.parquet")
    there = [name for name in names if (folder / name).is_file()]
    if not {"audit.json", "replay.json"} & set(there):
        _read(folder / "audit.json" if path.is_dir() else path)
    return {name: _digest(folder / name) for name in there}


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file of any size."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise CertificateError(f"{path} is larger than {_LARGEST >> 20} MiB: not what it should be")
    return data
