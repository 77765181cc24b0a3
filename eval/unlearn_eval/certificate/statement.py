"""What a certificate states: gathered from a verdict, its audit and the lineages, by name.

Only what `STATEMENT` names is taken over, so nothing slips in that has no place there: a
certificate holds no text of a record, no record's id and no record's score. Records appear as the
lineage has them, as digests under a key that stays with the operator.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.errors import CertificateError, LineageError, did_you_mean
from unlearn_eval.certificate.claims import not_claimed_by, not_claimed_of_canaries
from unlearn_eval.certificate.files import deciding_files, weights_digest
from unlearn_eval.certificate.schema import (
    ARTIFACT,
    AUDIT,
    LINEAGE,
    REFERENCE,
    REMAINS,
    REQUEST,
    STATEMENT,
    VERDICT,
)
from unlearn_eval.certificate.shape import Maybe, MisfitError, fit

__all__ = ["VALID_DAYS", "Deletion", "Lineages", "build_certificate"]

VALID_DAYS = 365
"""Days until a certificate expires: a convention of this project, as attacks keep improving."""


@dataclass(frozen=True)
class Deletion:
    """What the operator says of a deletion, beside the measurements.

    Attributes:
        request: of the deletion request its `id`, the times `received`, `due`, `run`, `verified`
            and `closed` (ISO 8601); `escrow_destroyed`, whether the copy of the records that was
            kept for checking is gone; and of the ledger its `id`, how many `entries` it has and
            the digest of the last, its `head`. Nothing else is accepted: who asked stays here.
            None outside a ledger.
        records: keyed digests of the records of this request; None for those that the lineage
            after calls forgotten and the one before does not.
        artifacts: what was found to hold the records or to descend from them: `kind` (one of
            `KINDS`), `name`, and where known `digest`, `cleaned` and `note`.
        not_claimed: further sentences on what is not claimed.
        remains: what the ledger knows beside the verdict, of the shape `REMAINS`; None outside a
            ledger.
    """

    request: Mapping[str, Any] | None = None
    records: Sequence[str] | None = None
    artifacts: Sequence[Mapping[str, Any]] = ()
    not_claimed: Sequence[str] = ()
    remains: Mapping[str, Any] | None = None


_MEASURED_ONLY = Deletion()


@dataclass(frozen=True)
class Lineages:
    """Where the unlearned state comes from.

    Attributes:
        after: the lineage of the unlearned state, or the content of its `lineage.json`.
        before: of the state before, where it has one.
        folder: of the unlearned state. With it the certificate covers the configuration (an
            adapter's scale stands there), without it the weights only.
        base: folder of the base model. With it the certificate covers how the base reads and
            writes text, without it its weights only.
    """

    after: Any
    before: Any = None
    folder: str | Path | None = None
    base: str | Path | None = None


def build_certificate(
    verdict: Mapping[str, Any],
    audit: Mapping[str, Any],
    lineages: Lineages,
    deletion: Deletion = _MEASURED_ONLY,
    *,
    scores_sha256: str | None = None,
    valid_days: int = VALID_DAYS,
    now: datetime.datetime | None = None,
) -> dict[str, Any]:
    """Gather what a certificate states; `sign` or `write_certificate` makes it one.

    The weights that the audit measured must be those of the lineages and of their folder: a
    statement about one adapter with the numbers of another is refused.

    Args:
        verdict: the content of `verdict.json`.
        audit: the content of `audit.json`.
        lineages: of the unlearned state, and of the one before.
        deletion: what was asked for, and what was done beside the unlearning.
        scores_sha256: digest of the audit's `scores.parquet`, which stays with the operator.
        valid_days: days until it expires.
        now: the time of making; by default the clock's.

    Returns:
        The statement, of the shape `STATEMENT`.

    Raises:
        CertificateError: if a value is missing or is not what its place asks for.
        LineageError: if audit, lineages and folder are not about the same weights and records.
    """
    facts = _facts(verdict, audit, lineages, deletion)
    if not isinstance(valid_days, int) or valid_days < 1:
        raise CertificateError(f"a certificate is valid for at least one day, not {valid_days}")
    _same_weights(facts, lineages)
    _same_canaries(facts)
    digests = _digests(facts, deletion.records)
    made = (now or datetime.datetime.now(datetime.UTC)).replace(microsecond=0)
    decision = facts.verdict
    statement = {
        "schema": 1,
        "created": made.isoformat(),
        "expires": _expiry(made, valid_days).isoformat(),
        "request": facts.request,
        "records": {
            "algorithm": "HMAC-SHA256",
            "key_id": facts.key_id,
            "digests": digests,
        },
        "counts": decision["counts"],
        "scope": facts.scope,
        "models": _models(facts, lineages),
        "references": facts.references,
        "looks": facts.audit["looks"],
        "remains": facts.remains,
        "method": _method(facts.after),
        "policy": decision["policy"],
        "controls": decision["gates"],
        "probes": decision["probes"],
        "extraction": decision["extraction"],
        "utility": decision["utility"],
        "exposure": decision["exposure"],
        "power": decision["power"],
        "audit": {
            "sha256": decision["audit_sha256"],
            "scores_sha256": scores_sha256,
            "created": facts.audit["created"],
        }
        if decision["audit_sha256"]
        else None,
        "replay": decision["replay"],
        "verdict": {
            "outcome": decision["outcome"],
            "tier": decision["tier"],
            "reasons": decision["reasons"],
            "would_decide": decision["would_decide"],
            "decided": decision["created"],
        },
    }
    limits = [*_limits(facts, digests), *not_claimed_by(statement), *deletion.not_claimed]
    return _fitted(statement | {"not_claimed": limits})


def _expiry(made: datetime.datetime, valid_days: int) -> datetime.datetime:
    try:
        return made + datetime.timedelta(days=valid_days)
    except OverflowError:
        raise CertificateError(f"no calendar reaches {valid_days} days from now") from None


@dataclass(frozen=True)
class _Facts:
    """What a statement is made from, each of its shape."""

    verdict: Mapping[str, Any]
    audit: Mapping[str, Any]
    after: Mapping[str, Any]
    before: Mapping[str, Any] | None
    request: Mapping[str, Any] | None
    scope: Sequence[Mapping[str, Any]]
    references: Sequence[Mapping[str, Any]]
    remains: Mapping[str, Any] | None = None

    @property
    def key_id(self) -> str:
        """Of the key under which the lineage after names records."""
        return str(self.after["records"]["key_id"])

    @property
    def prior(self) -> str | None:
        """Digest of the weights before: as measured, else by the lineages."""
        measured: str | None = self.audit["states"].get("before")
        named = self.before["digest"] if self.before else self.after["parent"]
        return measured or named


def _facts(
    verdict: Mapping[str, Any], audit: Mapping[str, Any], lineages: Lineages, deletion: Deletion
) -> _Facts:
    """Take over what has a place in a statement, refusing what does not fit there."""
    try:
        decision = fit(verdict, VERDICT, "verdict")
        measured = fit(audit, AUDIT, "audit")
        return _Facts(
            verdict=decision,
            audit=measured,
            after=fit(_plain(lineages.after), LINEAGE, "lineage after"),
            before=fit(_plain(lineages.before), Maybe(LINEAGE), "lineage before"),
            request=_request(deletion.request),
            scope=fit(deletion.artifacts, [ARTIFACT], "artifacts"),
            references=fit(_references(measured), [REFERENCE], "references"),
            remains=fit(deletion.remains, Maybe(REMAINS), "remains"),
        )
    except MisfitError as error:
        raise CertificateError(f"cannot make a certificate: {error}") from None


def _fitted(statement: Mapping[str, Any]) -> dict[str, Any]:
    """Return a statement, refusing one that is not of the shape `STATEMENT`."""
    try:
        return dict(fit(statement, STATEMENT, "statement", exact=True))
    except MisfitError as error:
        raise CertificateError(f"cannot make a certificate: {error}") from None


def _models(facts: _Facts, lineages: Lineages) -> dict[str, Any]:
    """Identify the states that a statement is about."""
    after, folder, base = facts.after, lineages.folder, lineages.base
    return {
        "base": {
            "name": after["base"]["name"],
            "weights": after["base"]["digest"],
            "files": None if base is None else deciding_files(base),
        },
        "before": {"weights": facts.prior} if facts.prior else None,
        "after": {
            "kind": after["kind"],
            "weights": after["digest"],
            "files": None if folder is None else deciding_files(folder),
        },
    }


def _method(after: Mapping[str, Any]) -> dict[str, Any]:
    """Say by what the unlearned state was made, and when."""
    return {
        "name": after["method"],
        "options": after["options"],
        "seed": after["seed"],
        "versions": after["versions"],
        "run": after["created"],
        "stopped": after["stopped"],
    }


def _limits(facts: _Facts, digests: Sequence[str]) -> list[str]:
    """Return what is not claimed because of how audit and lineages belong together."""
    canaries = facts.audit["canaries"]
    if canaries:
        limits = not_claimed_of_canaries(canaries, facts.verdict["counts"]["forget"])
    else:
        limits = _measured(digests, facts.key_id, facts.audit["records"])
    if facts.request is None:
        limits += _unbroken(facts.prior, facts.after["parent"])
    return limits


def _same_weights(facts: _Facts, lineages: Lineages) -> None:
    """Refuse an audit, lineages and a folder that are not about the same weights and files."""
    states, after, before = facts.audit["states"], facts.after, facts.before
    folder, base = lineages.folder, lineages.base
    _agree("after", states.get("after"), after["digest"])
    if before:
        _agree("before", states.get("before"), before["digest"])
        _agree("base", before["base"]["digest"], after["base"]["digest"])
    _agree("base", states.get("base"), after["base"]["digest"])
    if base is not None:
        _agree(f"base ({base})", weights_digest(base), after["base"]["digest"])
    if facts.request is None and before is None:
        _parent(states.get("before"), after["parent"])
    if folder is not None:
        _agree(f"after ({folder})", weights_digest(folder), after["digest"])
        _same_files(facts.audit["files"], deciding_files(folder), folder)


def _same_canaries(facts: _Facts) -> None:
    """Refuse canaries whose file the adapter's lineage does not commit to."""
    canaries, committed = facts.audit["canaries"], facts.after["canaries"]
    if canaries and (not committed or committed["sha256"] != canaries["sha256"]):
        raise LineageError(
            "no certificate: the audit measured canaries to which the adapter's lineage does not "
            "commit"
        )


def _plain(lineage: Any) -> Any:
    """Return the content of `lineage.json`, whether it was read as a `Lineage` or as JSON."""
    dump = getattr(lineage, "model_dump", None)
    return dump(by_alias=True, mode="json") if dump else lineage


def _request(request: Mapping[str, Any] | None) -> Any:
    """Take over a request, refusing what has no place: who asked must not be passed on."""
    unknown = [name for name in request or () if name not in REQUEST]
    if unknown:
        near = did_you_mean(str(unknown[0]), REQUEST)
        raise MisfitError(f"request: {unknown[0]!r} has no place in a certificate{near}")
    return fit(request, Maybe(REQUEST), "request")


def _same_files(audited: Mapping[str, str] | None, now: Mapping[str, str], where: Any) -> None:
    """Refuse an adapter whose configuration is not the audited one: its scale is part of it."""
    changed = sorted(k for k in {*(audited or {}), *now} if (audited or {}).get(k) != now.get(k))
    if audited and changed:
        raise LineageError(
            f"{where}: {changed[0]} is not what was audited; run the audit and verify again"
        )


def _references(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the references of an audit with what their lineages say; None where none does."""
    by_lineage = audit["references"] or {}
    references = []
    for state, digest in audit["states"].items():
        if not state.startswith("reference:"):
            continue
        facts = by_lineage.get(state) or {}
        _agree(state, digest, facts.get("weights", digest))
        if facts.get("saw"):
            raise LineageError(
                f"no certificate: {state} was trained on {facts['saw']} of the records, by its "
                "lineage; audit again with references that never saw them"
            )
        references.append({**facts, "weights": digest})
    return references


def _measured(digests: Sequence[str], key: str, audited: Mapping[str, Any] | None) -> list[str]:
    """Refuse records that the audit did not measure; say so where its digests do not compare."""
    if audited is None or audited["key_id"] != key:
        why = "holds no digests of them" if audited is None else "knows them under another key"
        return [
            f"That the records listed here are those that were measured: the audit {why}, so that "
            "only their number could be compared."
        ]
    strange = set(digests) - set(audited["forget"])
    if strange:
        raise LineageError(
            f"no certificate: {len(strange)} of {len(digests)} records are not among those that "
            "the audit measured; audit the records that were deleted"
        )
    return []


def _unbroken(prior: str | None, parent: str | None) -> list[str]:
    """Say that the state before is not the one that the one after was made from, where it is so."""
    if parent is None or prior == parent:
        return []
    return [
        f"That the state after was made from the state before in one step: by its lineage it was "
        f"made from {parent}, and nothing here shows what lies between."
    ]


def _agree(what: str, measured: Any, known: str) -> None:
    if measured is not None and measured != known:
        raise LineageError(
            f"no certificate: the weights of {what!r} are {measured} in one place and {known} in "
            "another; audit the adapter that the certificate is for, with the one before it"
        )


def _parent(measured: Any, parent: str | None) -> None:
    """Refuse a state before that nothing ties to the one after: no ledger, and no lineage."""
    if measured is not None and parent is not None and measured != parent:
        raise LineageError(
            f"no certificate: the audit calls {measured} the model before, and by its lineage the "
            f"one after was made from {parent}; audit with that one as --before, or name the one "
            "before by a folder with its lineage.json"
        )


def _digests(facts: _Facts, given: Sequence[str] | None) -> list[str]:
    """Return the digests of the request's records, of which every one must have been measured.

    Records of the same content share a digest: there may be fewer digests than records. Canaries
    stand for records that were taken out beside them, however many.
    """
    forgotten = set(facts.after["records"]["forgotten"])
    earlier = set(facts.before["records"]["forgotten"]) if facts.before else set()
    digests = set(given) if given is not None else (forgotten - earlier or forgotten)
    if not digests:
        raise LineageError("no certificate: the lineage names no forgotten record")
    if strange := digests - forgotten:
        raise LineageError(
            f"no certificate: {len(strange)} of the request's records are not among those that the "
            "lineage calls forgotten; was it made with another key, or from another request?"
        )
    measured = facts.verdict["counts"]["forget"]
    if not facts.audit["canaries"] and len(digests) > measured:
        raise LineageError(
            f"no certificate: {len(digests)} records were deleted and {measured} measured; audit "
            "all of them, or name those of this request"
        )
    return sorted(digests)
