"""From folders to a signed certificate and its page."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.errors import CertificateError, LineageError
from unlearn.files import staged_file
from unlearn_eval.certificate.envelope import UnverifiedError, read_json, write_certificate
from unlearn_eval.certificate.files import weights_digest
from unlearn_eval.certificate.statement import (
    VALID_DAYS,
    Deletion,
    Lineages,
    build_certificate,
)
from unlearn_eval.certificate.trained_on import folders_in, trained_on
from unlearn_eval.verdict.power import hopeless

__all__ = ["Models", "certify", "refuse_hopeless"]


@dataclass(frozen=True)
class Models:
    """Folders of the models that a certificate is about.

    Attributes:
        after: the unlearned adapter (or model), with its `lineage.json`.
        before: the state before, where it is still there.
        references: the audit's references that are still there, to look at again.
        base: the base model, where it is at hand: its tokenizer and templates are certified, too.
    """

    after: str | Path
    before: str | Path | None = None
    references: Sequence[str | Path] = ()
    base: str | Path | None = None


_MEASURED_ONLY = Deletion()


def certify(
    audit: str | Path | None,
    output: str | Path,
    models: Models,
    deletion: Deletion = _MEASURED_ONLY,
    *,
    verdict: Mapping[str, Any] | None = None,
    key: str | Path | None = None,
    valid_days: int = VALID_DAYS,
    replay: str | Path | None = None,
) -> Path:
    """Write the signed certificate of an audited and decided deletion, and its page beside it.

    Args:
        audit: folder of `audit.json`, `scores.parquet` and, unless `verdict` is given,
            `verdict.json`; None where a replay alone was decided on.
        output: the file to write, such as `certificate.json`; the page is the same with `.html`.
        models: which were measured.
        deletion: what was asked for, and what was done beside the unlearning.
        verdict: the content of `verdict.json`.
        key: file of the private key; without it the user's own, made on first use.
        valid_days: days until it expires.
        replay: `replay.json` or its folder, where the verdict rests on it.

    Returns:
        `output`.

    Raises:
        CertificateError: if a file is missing or is not what it should be.
        LineageError: if the audit was changed since the verdict, or is about other weights; or a
            reference is not one that was measured, or saw the records.
    """
    path = Path(output)
    if path.suffix == ".html":
        raise CertificateError(
            f"{path}: the page takes that name; let the certificate end in .json"
        )
    measured, decision, scores_sha256 = _measured(audit, replay, verdict)
    refuse_hopeless(decision)
    _same_before(models.before, measured)
    statement = build_certificate(
        decision,
        measured,
        _lineages(models),
        deletion,
        scores_sha256=scores_sha256,
        valid_days=valid_days,
    )
    _look_again(models.references, statement)
    envelope = write_certificate(statement, path, key)
    # The page needs templates and drawings, which checking a certificate does not.
    from unlearn_eval.report.certificate import certificate_page

    with staged_file(path.with_suffix(".html")) as stage:
        stage.write_text(certificate_page(envelope), encoding="utf-8")
    return path


def refuse_hopeless(verdict: Mapping[str, Any]) -> None:
    """Refuse to certify a verdict that could not have been anything but INCONCLUSIVE.

    Raises a CertificateError that says what would have given it a chance.
    """
    power = str(verdict.get("power", ""))
    undecided = (verdict.get("outcome"), verdict.get("tier")) == ("INCONCLUSIVE", "C")
    if undecided and hopeless(power):
        raise CertificateError(
            f"no certificate: the verdict could only be INCONCLUSIVE: {power}; "
            "audit again with as many"
        )


def _measured(
    audit: str | Path | None, replay: str | Path | None, verdict: Mapping[str, Any] | None
) -> tuple[Any, Any, str | None]:
    """Return what was measured, what was decided on it, and the digest of an audit's scores."""
    if audit is None:
        if replay is None:
            raise CertificateError("a certificate takes an audit, or a replay")
        file = Path(replay) / "replay.json" if Path(replay).is_dir() else Path(replay)
        decision = verdict or _json(file.with_name("verdict.json"), "run `unlearn verify` first")
        _same_replay(file, decision)
        return _measured_by_replay(_json(file, "run `unlearn replay` first")), decision, None
    folder = Path(audit)
    measured, decision = _audit_and_verdict(folder, verdict)
    if replay is not None:
        _same_replay(
            Path(replay) / "replay.json" if Path(replay).is_dir() else Path(replay), decision
        )
    scores = folder / "scores.parquet"
    digest = hashlib.sha256(scores.read_bytes()).hexdigest() if scores.is_file() else None
    return measured, decision, digest


def _same_replay(file: Path, decision: Mapping[str, Any]) -> None:
    """Refuse a replay that the verdict does not rest on."""
    known = (decision.get("replay") or {}).get("sha256")
    if hashlib.sha256(_bytes(file, "run `unlearn replay` first")).hexdigest() != known:
        raise LineageError(f"{file} is not the replay that the verdict rests on; verify it again")


def _measured_by_replay(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a replay holds, in the form of an audit's content."""
    try:
        adapter, records = content["adapter"], content["records"]
        return {
            "created": content["created"],
            "states": {"after": adapter["weights"], "base": content["base"]["weights"]},
            "files": adapter["files"],
            "records": {
                "key_id": records["key_id"],
                "forget": records["forgotten"],
                "kept": records["trained"],
            },
        }
    except (KeyError, TypeError) as error:
        raise CertificateError(f"the replay lacks {error}; run it again") from None


def _audit_and_verdict(folder: Path, verdict: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """Read an audit and its verdict, refusing a verdict on another audit."""
    data = _bytes(folder / "audit.json", "run `unlearn audit` first")
    decision = verdict or _json(folder / "verdict.json", "run `unlearn verify` first")
    if hashlib.sha256(data).hexdigest() != decision.get("audit_sha256"):
        raise LineageError(
            f"{folder / 'audit.json'} is not the audit that the verdict rests on; verify it again"
        )
    return _parsed(data, folder / "audit.json"), decision


def _lineages(models: Models) -> Lineages:
    """Read what the models' folders say of where they come from."""
    after = _lineage(Path(models.after))
    before = None if models.before is None else _lineage(Path(models.before), needed=False)
    return Lineages(after, before, models.after, models.base)


def _same_before(before: str | Path | None, audit: Mapping[str, Any]) -> None:
    """Refuse a model before that the audit did not measure: without a lineage nothing else does."""
    states = audit.get("states")
    measured = states.get("before") if isinstance(states, dict) else None
    if before is not None and measured is not None and weights_digest(before) != measured:
        raise LineageError(
            f"no certificate: {before} is not the model before that the audit measured ({measured})"
        )


def _look_again(folders: Sequence[str | Path], statement: Mapping[str, Any]) -> None:
    """Refuse references that were exchanged since the audit, or turn out to have seen a record."""
    known = {each["weights"] for each in statement["references"]}
    for folder in folders_in(folders):
        reference = trained_on(folder, statement["records"]["key_id"])
        if reference.weights not in known:
            raise LineageError(
                f"{folder} is not the reference that was measured; audit again with what is there"
            )
        if reference.saw(statement["records"]["digests"]):
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
        content = read_json(data)
    except UnverifiedError as error:
        raise CertificateError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CertificateError(f"{path} does not hold a JSON object")
    return content


def _bytes(path: Path, hint: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}; {hint}") from None
