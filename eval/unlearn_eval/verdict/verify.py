"""A verdict from an audit's folder; no model is run."""

from __future__ import annotations

from pathlib import Path

from unlearn.config import called_with
from unlearn.errors import DataError, OptionError
from unlearn.provenance.lineage import now
from unlearn_eval.verdict.decision import Verdict, decide
from unlearn_eval.verdict.load import AUDIT, load_evidence, read_audit, sha256
from unlearn_eval.verdict.options import VerifyOptions
from unlearn_eval.verdict.policy import DEFAULT, load_policy, policy_of
from unlearn_eval.verdict.replayed import decided_by_replay, with_replay

__all__ = ["DEFAULT", "decided", "verify"]


def decided(options: VerifyOptions) -> Verdict:
    """Decide on the deletion that an audit measured.

    A policy counts as chosen before the scores only if it is, hash by hash, the audit's, and the
    audit was the first look at the model on these records, as far as its cache could tell; with
    twins it counts as chosen after.

    With a replay and no audit, the replay decides alone; with both, see `with_replay`.

    Raises UnlearnError if a file is missing or is not what it should be, or there is no such
    policy.
    """
    if options.audit is None:
        if options.replay is None:
            raise OptionError("verify: name an audit with --audit, or a replay with --replay")
        if options.policy or options.twins or options.references or options.canaries:
            raise OptionError("verify: a replay alone is decided by its own rule: name an --audit")
        return decided_by_replay(options.replay, now())
    verdict = _by_audit(options, options.audit)
    if options.replay is None:
        return verdict
    return with_replay(verdict, options.replay, read_audit(options.audit))


verify = called_with(VerifyOptions, decided, "verify")


def _by_audit(options: VerifyOptions, audit: Path) -> Verdict:
    """Decide by an audit alone."""
    policy, twins = options.policy, options.twins
    stored = read_audit(audit).get("policy")
    if stored is not None:
        where = f"{Path(audit) / AUDIT}, policy"
        fixed = policy_of(stored.get("content") or {}, where)
        if fixed.sha256 != stored.get("sha256"):
            raise DataError(f"{where}: its hash is not that of its content; run the audit again")
    if policy is None and stored is not None:
        name, chosen = str(stored.get("name", "")), fixed
    else:
        name, chosen = load_policy(policy or DEFAULT)
    # which records are twins is part of what must be fixed, and no audit of records holds it
    before = stored is not None and stored["sha256"] == chosen.sha256 and twins is None
    before = before and not (stored or {}).get("seen")
    return decide(
        load_evidence(audit, twins, options.references, options.canaries),
        chosen,
        name=name,
        chosen="before" if before else "after",
        audit_sha256=sha256(audit),
        created=now(),
    )
