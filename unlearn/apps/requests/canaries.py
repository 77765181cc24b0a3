"""Planted canaries at the desk: taken out beside records, and measured when records are shredded.

A run takes some of the adapter's canaries out in the same way as the records. They are nobody's, so
they outlast the request: after it is closed, later runs are checked for what they did to them, and
for whether the lineage still names its records among the forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.apps.requests.evidence import VERDICT
from unlearn.apps.requests.intake import Setup
from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.canaries.planted import lot_of
from unlearn.data.records import Records
from unlearn.errors import LedgerError
from unlearn.files import staged_file
from unlearn.provenance.lineage import Lineage

__all__ = [
    "Closed",
    "beside_records",
    "better",
    "closed_before",
    "file_of",
    "measurable",
    "measure",
    "shown_by_records",
    "taken",
    "taken_facts",
    "write_verdict",
]

_FACT = "canaries"


@dataclass(frozen=True)
class Closed:
    """What could be checked again of requests on a line that were closed.

    Attributes:
        requests: how many.
        records: how many they were about; the lineage names every one among the forgotten.
        canaries: how many that were taken out beside them were measured again.
    """

    requests: int
    records: int
    canaries: int

    @property
    def sentence(self) -> str:
        """What a certificate does not claim because of them."""
        beside = "; no canaries were taken out beside them"
        if self.canaries:
            beside = (
                f", and {self.canaries} canaries that were taken out beside them, which are among "
                "those measured"
            )
        return (
            f"That the {self.records} record(s) of {self.requests} request(s) closed before on "
            "this line of adapters were measured again: their copies were destroyed. Only the "
            "lineage, which still names them all as forgotten, could be checked"
            f"{beside}."
        )


def taken(ledger: Ledger, file: str | None, count: int, setup: Setup, folder: str) -> list[str]:
    """Return the keyed digests of the canaries that a run takes out.

    Args:
        ledger: which.
        file: of canaries, if any.
        count: how many.
        setup: of the run.
        folder: the adapter that it starts from.

    Returns:
        The digests; the same whenever it is asked.
    """
    adapter = folder if setup.adapters else None
    lot = lot_of(file, count, folder, adapter, ledger.key)
    if count > len(lot.left):
        raise LedgerError(f"--with-canaries {count}: only {len(lot.left)} are left in {folder}")
    return [ledger.key.digest(record) for record in lot.left[:count]]


def taken_facts(
    ledger: Ledger, request: Request, file: str | None, digests: Sequence[str]
) -> dict[str, Any]:
    """Return what the ledger notes of a run's canaries with each of its requests.

    Args:
        ledger: which.
        request: carried out by the run.
        file: of canaries, if any.
        digests: of those taken out.

    Returns:
        Facts; none without a file.
    """
    if file is None:
        return {}
    before = request.facts.get(_FACT, {}).get("digests", ())  # of a run that failed
    sealed = ledger.sealer.seal(file, f"canaries of request {request.id}")
    return {_FACT: {"digests": sorted({*before, *digests}), "file": sealed}}


def file_of(ledger: Ledger, line: str) -> str | None:
    """Return the file of canaries that runs on a line used last, if any did."""
    known = [r for r in ledger.requests(line=line) if _FACT in r.facts]
    if not known:
        return None
    last = max(known, key=lambda request: int(request.facts["after"]["n"]))
    sealed = last.facts[_FACT]["file"]
    return str(ledger.sealer.open(sealed, f"canaries of request {last.id}"))


def measurable(ledger: Ledger, line: str, file: str | None) -> str | None:
    """Return the file of canaries to measure an adapter by, if any were taken out on its line.

    Args:
        ledger: which.
        line: of adapters.
        file: where the canaries are now; None for where the last run found them.

    Returns:
        Its path; None where all canaries are still in, and say nothing about a deletion.
    """
    out = any(r.facts.get(_FACT, {}).get("digests") for r in ledger.requests(line=line))
    return (file or file_of(ledger, line)) if out else None


def closed_before(ledger: Ledger, line: str, folder: str, measured: bool) -> Closed | None:
    """Check the lineage of the newest adapter for the records of closed requests.

    Args:
        ledger: which.
        line: of adapters.
        folder: the newest.
        measured: whether its canaries are.

    Returns:
        What was checked; None if no request that was carried out is closed.

    Raises:
        LedgerError: if the lineage does not name them all as forgotten.
    """
    closed = [r for r in ledger.requests(["closed"], line=line) if "after" in r.facts]
    if not closed:
        return None
    made = Lineage.read(folder)
    forgotten = set(made.records.forgotten) if made else set()
    for request in closed:
        if lost := set(request.facts["records"]) - forgotten:
            raise LedgerError(
                f"the lineage of {folder} does not name {len(lost)} record(s) of the closed "
                f"request {request.id} as forgotten: it is not of this line, or was changed"
            )
    records = {digest for request in closed for digest in request.facts["records"]}
    beside = {d for request in closed for d in request.facts.get(_FACT, {}).get("digests", ())}
    return Closed(len(closed), len(records), len(beside) if measured else 0)


def measure(folder: Path, file: str, retain_records: Records, **audit: Any) -> Mapping[str, Any]:
    """Audit all canaries that were taken out of an adapter, and decide by the coin.

    Args:
        folder: of the audit; `verdict.json` is put beside it.
        file: of canaries.
        retain_records: those to keep.
        **audit: further arguments of `run_audit`, with the model and the policy.

    Returns:
        The verdict.

    Raises:
        UnlearnError: if the file is not the one that the adapter's lineage commits to.
    """
    from unlearn_eval.audit.run import run_audit
    from unlearn_eval.verdict.verify import verify

    run_audit(
        data=retain_records,
        retain=retain_records,
        output=folder,
        canaries=file,
        overwrite=True,
        **audit,
    )
    return write_verdict(folder, verify(folder, canaries=file).as_dict())


def write_verdict(folder: Path, verdict: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put a verdict beside its audit, and return it."""
    with staged_file(folder / VERDICT) as stage:
        stage.write_text(json.dumps(verdict, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return verdict


def better(
    records: Mapping[str, Any], canaries: Mapping[str, Any], unmeasured: Collection[str] = ()
) -> bool:
    """Say whether the verdict on canaries holds, rather than the one on the records.

    A FAIL of either holds. Otherwise references decide before canaries, and these before records
    that were never trained on. Canaries stand in for the records where these cannot show what
    membership takes, and for that only: records of which some come out of the model, that could not
    be asked for in every declared way, that say that the kept ones suffered, or whose files do not
    belong together keep their own verdict.

    Args:
        records: verdict on the records.
        canaries: verdict on the canaries.
        unmeasured: prompt states in which some of the records could not be measured.

    Returns:
        Whether it does.
    """
    if "FAIL" in (records["outcome"], canaries["outcome"]):
        return bool(records["outcome"] != "FAIL")
    if records.get("tier") in ("A", "B") or records["outcome"] == "PASS":
        return False
    content = (records.get("policy") or {}).get("content") or {}
    if set(content.get("prompt_states", ())) & set(unmeasured):
        return False
    gates = {gate["gate"]: gate["passed"] for gate in records["gates"]}
    sound = gates.get("G0") is not False and records["utility"]["outcome"] != "FAIL"
    return bool(sound and records["extraction"]["outcome"] == "PASS")


def beside_records(
    folder: Path, canaries: Mapping[str, Any], records: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Put what the records themselves showed into a verdict on canaries that holds for them.

    Args:
        folder: of the audit of canaries.
        canaries: verdict on the canaries.
        records: verdict on the records.

    Returns:
        The verdict on canaries, with one more reason, as it now lies beside the audit.
    """
    alone = shown_by_records(records["outcome"], records["reasons"])
    return write_verdict(folder, {**canaries, "reasons": [*canaries["reasons"], alone]})


def shown_by_records(outcome: str, reasons: Sequence[str]) -> str:
    """Say what a request's records showed by themselves.

    Args:
        outcome: of the verdict on them.
        reasons: for it.

    Returns:
        A sentence's end.
    """
    return f"measured by themselves, the records are {outcome}: {'; '.join(reasons)}"
