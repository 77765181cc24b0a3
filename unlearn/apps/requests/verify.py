"""Show whether a request's records are gone from the newest adapter of its line, and decide.

By an audit, which measures; by a replay, which trains again; or by both.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn.apps.requests import canaries, replays
from unlearn.apps.requests.choose_references import Chosen, choose_references
from unlearn.apps.requests.evidence import (
    VERDICT,
    audit_digest,
    discard_unfinished,
    same_policy,
    verdict_digest,
)
from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.line import adapter_before
from unlearn.apps.requests.secrets_given_out import ask_model, secrets_given_out
from unlearn.apps.requests.shards import ask_shards, refuse_audit, routes_into
from unlearn.apps.requests.subject import Subject, subject_of
from unlearn.data.records import Records
from unlearn.errors import LedgerError
from unlearn.model.opening import Opening
from unlearn.provenance.lineage import Lineage, now
from unlearn.strict_json import NotJsonError, read_json_file

if TYPE_CHECKING:
    from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["EVENTS", "AuditSettings", "verify_request"]

DEFAULT_POLICY = "standard"
_CANARIES = "-canaries"

EVENTS = {"PASS": "verified", "FAIL": "failed", "INCONCLUSIVE": "inconclusive"}
"""The event that an outcome is in a request's history."""

Announce = Callable[[str], None]


@dataclass(frozen=True)
class AuditSettings:
    """How a request is measured.

    Attributes:
        output: folder in which each audit makes one of its own.
        references: adapters that never saw the records.
        search: folders in which to look for more, by lineage; see `choose_references`.
        policy: by which to decide, fixed before the audit; None for `standard`.
        options: more arguments of `run_audit`.
        canaries: their file, where it is not where the last run found it.
        replay: whether to train the adapter again; None for what can be replayed, where neither
            references nor a policy are named.
    """

    output: str
    references: Sequence[str] = ()
    search: Sequence[str] = ()
    policy: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    canaries: str | None = None
    replay: bool | None = None

    @property
    def audits(self) -> bool:
        """Whether anything is named that an audit alone needs."""
        return bool(self.references or self.search or self.policy)


def _decide(folder: Path, policy: str | None, /) -> Mapping[str, Any]:
    """Decide by the rules of `unlearn_eval.verdict`, and keep the verdict beside the audit."""
    from unlearn_eval.verdict.verify import verify

    return canaries.write_verdict(folder, verify(folder, policy).as_dict())


def verify_request(
    ledger: Ledger,
    request: Request,
    settings: AuditSettings,
    *,
    announce: Announce | None = None,
) -> Request:
    """Audit or replay the newest adapter of a request's line, and note the verdict.

    Args:
        ledger: which.
        request: unlearned, or decided before.
        settings: of the audit, or of the replay.
        announce: told what is done, which references were found, and what they can decide.

    Returns:
        The request: verified, failed or inconclusive.

    Raises:
        UnlearnError: if it is not unlearned yet, another process is at work on the line, or the
            audit cannot be made.
    """
    with ledger.hold(request.line) as hold:
        subject = subject_of(ledger, ledger.get(request.id))
        by_replay = _by_replay(ledger, subject, settings, announce)
        canary_file = canaries.measurable(ledger, request.line, settings.canaries)
        closed = canaries.closed_before(
            ledger, request.line, subject.newest.folder, canary_file is not None
        )
        audited: _Result | None
        if settings.audits or not by_replay:
            audited = result = _audited(ledger, subject, settings, canary_file, announce)
        else:
            audited = _audited_before(ledger, subject, settings)
            closed = None if audited is None else closed  # a replay is of their records, too
        if by_replay:
            result = _replayed(ledger, subject, settings, audited, announce)
        verdict = {
            **_noted(ledger, subject, result),
            "secrets": _secrets(ledger, subject, settings, result),
            "closed": asdict(closed) if closed else None,
        }
        with ledger.writing(hold) as writer:
            return writer.change(request.id, EVENTS[verdict["outcome"]], verdict=verdict)


def _by_replay(
    ledger: Ledger, subject: Subject, settings: AuditSettings, announce: Announce | None
) -> bool:
    """Say whether the adapter is to be trained again; told where nobody asked for it."""
    if subject.sharded and (settings.audits or settings.replay is False):
        refuse_audit(subject.newest.folder)
    if settings.replay is not None:
        return settings.replay
    if settings.audits or not replays.can_be_replayed(ledger, subject.newest):
        return False
    if announce is not None:
        announce(
            "verified by replay: retraining made the adapter, and no references are named; "
            "--no-replay audits it instead"
        )
    return True


@dataclass(frozen=True)
class _Result:
    """The verdict that holds, and the audits that were made for it.

    Attributes:
        verdict: as JSON has it.
        folder: of the audit that it rests on.
        folders: of all audits that were made.
        references: that the audit it rests on was made with.
        records: what the records showed by themselves, where canaries stand in for them.
    """

    verdict: Mapping[str, Any]
    folder: Path
    folders: Sequence[Path]
    references: Sequence[str | Path]
    records: str | None = None


def _references(
    ledger: Ledger, subject: Subject, settings: AuditSettings, announce: Announce | None
) -> list[str | Path]:
    """Return the references that were named, and those that were found by lineage."""
    from unlearn.runs.references import reference_folders

    references = [one for path in settings.references for one in reference_folders(path)]
    if settings.search:
        chosen = _search(ledger, subject, settings)
        references += chosen.paths
        if announce is not None:
            announce(chosen.words())
    return references


def _new_folder(ledger: Ledger, subject: Subject, settings: AuditSettings) -> Path:
    """Return the folder of a new audit: until its verdict is noted, the old one keeps its own."""
    parent = Path(settings.output).absolute()
    parent.mkdir(parents=True, exist_ok=True)
    discard_unfinished(ledger, subject.request, parent)
    return parent / f"{subject.request.id}-{subject.newest.runs}-{secrets.token_hex(3)}"


def _audited(
    ledger: Ledger,
    subject: Subject,
    settings: AuditSettings,
    canary_file: str | None,
    announce: Announce | None,
) -> _Result:
    """Audit the records, and the canaries that were taken out beside them, if any were."""
    same_policy(subject.request, subject.newest.digest, settings.policy or DEFAULT_POLICY)
    references = _references(ledger, subject, settings, announce)
    output = _new_folder(ledger, subject, settings)
    options = {
        "before": adapter_before(ledger, subject.request),
        "template": subject.setup.template,
        "policy": settings.policy or DEFAULT_POLICY,  # before any score exists
        **settings.options,
    }
    own = _measured(subject, output, references, settings.policy, announce, options)
    return own if canary_file is None else _with_canaries(subject, own, canary_file, options)


def _audited_before(ledger: Ledger, subject: Subject, settings: AuditSettings) -> _Result | None:
    """Return an audit of the same adapter that was decided on, copied: a replay leaves it no less.

    None where there is none.
    """
    known = replays.standing_audit(ledger, subject.request, subject.newest)
    if known is None:
        return None
    new, decided = _new_folder(ledger, subject, settings), Path(known["folder"])
    copies = {}
    for old in map(Path, known["folders"]):  # the records' own, and that of canaries beside it
        if old.is_dir():
            end = _CANARIES if old.name.endswith(_CANARIES) else ""
            copies[old] = shutil.copytree(old, new.with_name(f"{new.name}{end}"))
    folder = copies[decided]
    try:
        verdict = read_json_file(folder / VERDICT)
    except (OSError, NotJsonError) as error:
        raise LedgerError(f"{folder / VERDICT} cannot be read: {error}") from None
    folders = list(copies.values())
    return _Result(verdict, folder, folders, known["references"], known["records"])


def _replayed(
    ledger: Ledger,
    subject: Subject,
    settings: AuditSettings,
    audited: _Result | None,
    announce: Announce | None,
) -> _Result:
    """Train again, and decide by that, beside an audit where there is one."""
    from unlearn_eval.verdict.replayed import decided_by_replay
    from unlearn_eval.verdict.verify import verify

    folder = audited.folder if audited else _new_folder(ledger, subject, settings)
    options = {**settings.options, "canaries": settings.canaries}
    replays.replay_into(folder, ledger, subject.request, subject.newest, options, announce)
    if audited is None:
        verdict = decided_by_replay(folder, now()).as_dict()
        if subject.sharded:
            words = routes_into(
                folder,
                subject.forget_records,
                {**subject.opening, **_opening_of(settings)},
                adapter_before(ledger, subject.request),
            )
            verdict = {**verdict, "reasons": [*verdict["reasons"], words]}
        return _Result(canaries.write_verdict(folder, verdict), folder, [folder], [])
    both = verify(folder, replay=folder).as_dict()
    if audited.records is not None:  # canaries stand in for the records
        both = {**both, "reasons": [*both["reasons"], audited.records]}
    return replace(audited, verdict=canaries.write_verdict(folder, both))


def _measured(
    subject: Subject,
    output: Path,
    references: Sequence[str | Path],
    policy: str | None,
    announce: Announce | None,
    options: Mapping[str, Any],
) -> _Result:
    """Audit the records, and decide."""
    from unlearn_eval.audit.run import run_audit

    run_audit(
        data=subject.forget_records,
        forget=f"rows:0-{len(subject.forget_records) - 1}",
        output=output,
        references=references,
        holdout=subject.setup.holdout,
        retain=subject.retain_records,
        announce=announce,
        **subject.opening,
        **options,
    )
    return _Result(_decide(output, policy), output, [output], references)


def _with_canaries(
    subject: Subject, own: _Result, canary_file: str, options: Mapping[str, Any]
) -> _Result:
    """Audit the canaries too, and return the result that holds: theirs or the records' own."""
    from unlearn_eval.verdict.load import read_audit

    folder = own.folder.with_name(f"{own.folder.name}{_CANARIES}")
    folders = [*own.folders, folder]
    by_coin = canaries.measure(
        folder, canary_file, subject.retain_records, **subject.opening, **options
    )
    if not canaries.better(own.verdict, by_coin, read_audit(own.folder).get("unmeasured", ())):
        return replace(own, folders=folders)
    alone = canaries.shown_by_records(own.verdict["outcome"], own.verdict["reasons"])
    verdict = canaries.beside_records(folder, by_coin, own.verdict)
    return _Result(verdict, folder, folders, [], alone)


def _noted(ledger: Ledger, subject: Subject, result: _Result) -> dict[str, Any]:
    """Return what the ledger holds of a verdict; what names files and records is sealed."""
    verdict = result.verdict
    policy = verdict.get("policy") or {}
    details = {
        "folder": str(result.folder),
        "folders": [str(path) for path in result.folders],
        "records": result.records,
        "reasons": list(verdict.get("reasons", ())),
        "references": [str(Path(path).absolute()) for path in result.references],
    }
    return {
        "outcome": str(verdict["outcome"]),
        "tier": verdict.get("tier"),
        "policy": {key: policy.get(key) for key in ("name", "sha256", "chosen")},
        "adapter": subject.newest.digest,
        "audit": audit_digest(result.folder),
        "file": verdict_digest(result.folder),
        "sealed": ledger.sealer.seal(details, f"verdict on request {subject.request.id}"),
    }


def _secrets(
    ledger: Ledger, subject: Subject, settings: AuditSettings, result: _Result
) -> dict[str, int | None]:
    """Return whether the model completes secrets of the records, asking it where no audit did."""
    opening = _opening_of(settings)
    return secrets_given_out(
        result.folders,
        subject.forget_records,
        subject.retain_records,
        ledger.key,
        lambda records: _asked(subject, records, opening),
    )


def _asked(subject: Subject, records: Records, opening: Mapping[str, Any]) -> Iterable[TokenScores]:
    """Ask the model, or every shard and the base."""
    if subject.sharded:
        return ask_shards(records, subject.setup.model, subject.newest.folder, **opening)
    return [ask_model(records, template=subject.setup.template, **subject.opening, **opening)]


def _opening_of(settings: AuditSettings) -> dict[str, Any]:
    """Return how the base is opened."""
    names = [each.name for each in fields(Opening)]
    return {name: settings.options[name] for name in names if name in settings.options}


def _search(ledger: Ledger, subject: Subject, settings: AuditSettings) -> Chosen:
    """Look for references in folders, as many as the policy's verdict takes."""
    from unlearn_eval.verdict.decision import load_policy

    folder = subject.newest.folder
    line = Lineage.read(folder)
    if line is None or line.records.key_id != ledger.key.id:
        raise LedgerError(
            f"the adapter {folder} has no lineage under the ledger's key: what is a reference for "
            "it cannot be told, name them with --reference"
        )
    _, policy = load_policy(settings.policy or DEFAULT_POLICY)
    retain_digests = {ledger.key.digest(record) for record in subject.retain_records}
    return choose_references(
        settings.search,
        subject.request.facts["records"],
        retain_digests & set(line.records.trained),
        line,
        policy.min_references,
    )
