"""From folders to a signed certificate and its page."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn.errors import CertificateError, LineageError
from unlearn.files import staged_file
from unlearn_eval.certificate.envelope import UnverifiedError, read_json, write_certificate
from unlearn_eval.certificate.files import weights_digest
from unlearn_eval.certificate.statement import VALID_DAYS, build_certificate
from unlearn_eval.certificate.trained_on import folders_in, trained_on

__all__ = ["certify"]


def certify(
    audit: str | Path,
    request: Mapping[str, Any] | None,
    output: str | Path,
    *,
    adapter: str | Path,
    before: str | Path | None = None,
    verdict: Mapping[str, Any] | None = None,
    artifacts: Sequence[Mapping[str, Any]] = (),
    records: Sequence[str] | None = None,
    references: Sequence[str | Path] = (),
    key: str | Path | None = None,
    valid_days: int = VALID_DAYS,
    not_claimed: Sequence[str] = (),
) -> Path:
    """Write the signed certificate of an audited and decided deletion, and its page beside it.

    Args:
        audit: folder of `audit.json`, `scores.parquet` and, unless `verdict` is given,
            `verdict.json`.
        request: as for `build_certificate`; None outside a ledger.
        output: the file to write, such as `certificate.json`; the page is the same with `.html`.
        adapter: folder of the unlearned adapter (or model), with its `lineage.json`.
        before: folder of the state before, where it is still there.
        verdict: the content of `verdict.json`.
        artifacts: as for `build_certificate`.
        records: as for `build_certificate`.
        references: folders of the audit's references that are still there, to look at again.
        key: file of the private key; without it the user's own, made on first use.
        valid_days: days until it expires.
        not_claimed: further sentences on what is not claimed.

    Returns:
        `output`.

    Raises:
        CertificateError: if a file is missing or is not what it should be.
        LineageError: if the audit was changed since the verdict, or is about other weights; or a
            reference is not one that was measured, or saw the records.
    """
    folder, path = Path(audit), Path(output)
    if path.suffix == ".html":
        raise CertificateError(
            f"{path}: the page takes that name; let the certificate end in .json"
        )
    data = _bytes(folder / "audit.json", "run `unlearn audit` first")
    decided = verdict or _json(folder / "verdict.json", "run `unlearn verify` first")
    if hashlib.sha256(data).hexdigest() != decided.get("audit_sha256"):
        raise LineageError(
            f"{folder / 'audit.json'} is not the audit that the verdict rests on; verify it again"
        )
    seen = _parsed(data, folder / "audit.json")
    _same_before(before, seen)
    scores = folder / "scores.parquet"
    statement = build_certificate(
        decided,
        seen,
        request=request,
        lineage_after=_lineage(Path(adapter)),
        lineage_before=None if before is None else _lineage(Path(before), needed=False),
        artifacts=artifacts,
        adapter=adapter,
        records=records,
        scores_sha256=hashlib.sha256(scores.read_bytes()).hexdigest() if scores.is_file() else None,
        valid_days=valid_days,
        not_claimed=not_claimed,
    )
    _look_again(references, statement)
    envelope = write_certificate(statement, path, key)
    # The page needs templates and drawings, which checking a certificate does not.
    from unlearn_eval.report.certificate import certificate_page

    with staged_file(path.with_suffix(".html")) as stage:
        stage.write_text(certificate_page(envelope), encoding="utf-8")
    return path


def _same_before(before: str | Path | None, seen: Mapping[str, Any]) -> None:
    """Refuse a model before that the audit did not measure: without a lineage nothing else does."""
    states = seen.get("states")
    measured = states.get("before") if isinstance(states, dict) else None
    if before is not None and measured is not None and weights_digest(before) != measured:
        raise LineageError(
            f"no certificate: {before} is not the model before that the audit measured ({measured})"
        )


def _look_again(folders: Sequence[str | Path], statement: Mapping[str, Any]) -> None:
    """Refuse references that were exchanged since the audit, or turn out to have seen a record."""
    known = {each["weights"] for each in statement["references"]}
    for folder in folders_in(folders):
        found = trained_on(folder, statement["records"]["key_id"])
        if found.weights not in known:
            raise LineageError(
                f"{folder} is not the reference that was measured; audit again with what is there"
            )
        if found.saw(statement["records"]["digests"]):
            raise LineageError(
                f"{folder} was trained on records of the request, by its lineage; audit again with "
                "references that never saw them"
            )


def _lineage(folder: Path, *, needed: bool = True) -> Any:
    path = folder / "lineage.json"
    if not path.is_file() and not needed:
        return None
    return _json(path, "a certificate takes an adapter that `unlearn forget` made")


def _json(path: Path, hint: str) -> Any:
    return _parsed(_bytes(path, hint), path)


def _parsed(data: bytes, path: Path) -> Any:
    try:
        found = read_json(data)
    except UnverifiedError as error:
        raise CertificateError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise CertificateError(f"{path} does not hold a JSON object")
    return found


def _bytes(path: Path, hint: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}; {hint}") from None
