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
    """

    what: str
    passed: bool | None
    words: str


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
        lines = [f"{mark[f.passed]:<6} {f.what:<10} {f.words}" for f in self.findings]
        return [_printable(line) for line in [*lines, self.words]]

    @property
    def words(self) -> str:
        """The result in a sentence or two, with the verdict: a signed FAIL is in order as well."""
        if not self.ok or self.statement is None:
            wrong = next(f for f in self.findings if f.passed is False)
            return f"The certificate does not verify: {wrong.words}."
        verdict = self.statement["verdict"]["outcome"]
        n = self.statement["counts"]["forget"]
        until = self.statement["expires"][:10]
        return (
            f"The certificate verifies. The verdict it states, on {n} record(s): {verdict}. "
            f"Valid until {until}."
        )


def check_certificate(
    path: str | Path,
    public_key: str | Path | Ed25519PublicKey,
    *,
    adapter: str | Path | None = None,
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
        audit: folder of the audit: must be the one that the verdict rests on, unchanged.
        references: folders of the models that the verdict compares with, or of several: must be
            certified ones, with lineages that name none of the deleted records.
        now: the time; by default the clock's.

    Returns:
        What was found. A file that is no certificate at all is one that does not verify.

    Raises:
        CertificateError: if a file cannot be read, or the key is none.
        LineageError: if a folder holds no weights, or the lineage of others.
    """
    key = public_key if isinstance(public_key, Ed25519PublicKey) else load_public_key(public_key)
    data = _read(Path(path))
    measured = None if audit is None else _audit_digests(Path(audit))
    weights = None if adapter is None else weights_digest(adapter)
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
        _same_adapter(statement["models"]["after"], adapter, weights),
        _same_audit(statement["audit"], measured),
        _policy(statement["policy"]),
        *_references(statement, references),
    )
    return Check(findings, statement, name)


def _dates(statement: Mapping[str, Any], now: datetime.datetime) -> Finding:
    created, expires = parse_time(statement["created"]), parse_time(statement["expires"])
    if now >= expires:
        return Finding("dates", False, f"it expired on {statement['expires']}")
    if now < created - _SKEW:
        words = f"it was made on {statement['created']}, which is yet to come by this clock"
        return Finding("dates", False, words)
    words = f"made on {statement['created']}, valid until {statement['expires']}"
    return Finding("dates", True, words)


def _same_adapter(
    certified: Mapping[str, Any], folder: str | Path | None, weights: str | None
) -> Finding:
    if folder is None or weights is None:
        return Finding("adapter", None, "not compared with an adapter: none was given")
    if weights != certified["weights"]:
        words = f"it is for other weights: {certified['weights']}; {folder} holds {weights}"
        return Finding("adapter", False, words)
    expected = certified["files"]
    if expected is None:
        words = "the weights are those certified; their configuration is not part of it"
        return Finding("adapter", True, words)
    here = deciding_files(folder)
    other = sorted(name for name in {*expected, *here} if expected.get(name) != here.get(name))
    if other:
        words = f"{folder} differs from what was certified in {', '.join(other)}"
        return Finding("adapter", False, words)
    return Finding("adapter", True, "the weights and the configuration are those certified")


def _policy(policy: Mapping[str, Any]) -> Finding:
    if content_hash(policy["content"]) != policy["sha256"]:
        return Finding("policy", False, "its hash is not that of the policy's content")
    return Finding("policy", None if posing(policy) else True, origin(policy))


def _same_audit(
    certified: Mapping[str, Any] | None, measured: tuple[str, str | None] | None
) -> Finding:
    if certified is None:
        words = "the verdict rests on a replay, and on no audit"
        return Finding("audit", None if measured is None else False, words)
    if measured is None:
        return Finding("audit", None, "not compared with an audit: none was given")
    numbers, scores = measured
    if numbers != certified["sha256"]:
        return Finding("audit", False, "audit.json is not the one that the verdict rests on")
    if scores is not None and certified["scores_sha256"] not in (None, scores):
        return Finding("audit", False, "scores.parquet is not the one that the verdict rests on")
    return Finding("audit", True, "the audit is the one that the verdict rests on")


def _references(statement: Mapping[str, Any], folders: Sequence[str | Path]) -> Iterator[Finding]:
    """Compare references at hand with the certified ones, and their lineages with the records."""
    if not folders:
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


def _printable(line: str) -> str:
    """Replace what could steer a terminal: names of files and the content come from others."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def _audit_digests(path: Path) -> tuple[str, str | None]:
    """Return digests of `audit.json` and, where it is there, `scores.parquet`."""
    file = path / "audit.json" if path.is_dir() else path
    scores = file.with_name("scores.parquet")
    digest = hashlib.sha256(scores.read_bytes()).hexdigest() if scores.is_file() else None
    return hashlib.sha256(_read(file)).hexdigest(), digest


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise CertificateError(f"{path} is larger than {_LARGEST >> 20} MiB: not what it should be")
    return data
