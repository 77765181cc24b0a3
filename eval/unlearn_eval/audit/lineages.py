"""What the lineages of references say, as `audit.json` holds it: numbers and keyed digests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unlearn.data.records import Records
from unlearn.errors import LineageError
from unlearn.model.state import resolve_folder
from unlearn.provenance.eligibility import otherwise_trained, surplus, training_setting
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage
from unlearn_eval.certificate.trained_on import trained_on

__all__ = ["LineageFacts", "lineages_of"]


class LineageFacts(NamedTuple):
    """What an audit keeps of lineages.

    Attributes:
        records: `key_id`, the digests of the records to `forget`, and of how many `kept` ones the
            audited model was trained on.
        references: by state, `weights`, how many records it was `trained` on, how many of those to
            forget it `saw`, how many of the `kept` ones, whether it was trained `from_base`, the
            audited model's, and not from another adapter, on how many records `surplus` to those of
            the audited model, and which settings were `otherwise`; None where no lineage says.
        origins: keyed digests of how the audited model, and the one before, were first trained, and
            on what base; of the base alone where no lineage says.
    """

    records: Mapping[str, Any]
    references: Mapping[str, Mapping[str, Any]]
    origins: tuple[str, ...] = ()

    @property
    def partial(self) -> int:
        """How many references were trained on part of the kept records only."""
        total = self.records["kept"]
        known = [each["kept"] for each in self.references.values() if each["kept"] is not None]
        return sum(kept < total for kept in known)


def lineages_of(
    references: Sequence[str | Path],
    split: Mapping[str, Records],
    audited: Lineage | None,
    what: str,
    base: str | None = None,
    before: Lineage | None = None,
) -> LineageFacts:
    """Read what models were trained on; refuse references that saw the records, or a seen holdout.

    Args:
        references: their folders.
        split: the records of the audit.
        audited: lineage of the audited model.
        what: `adapter` or `model`.
        base: digest of the weights of the base that the audited model was trained from, if known.
        before: lineage of the model before, if known.

    Returns:
        What they say.

    Raises:
        LineageError: if a lineage shows that its model saw the records, or one of the holdout, is
            of other weights than lie beside it, or cannot be read.
    """
    key = Key.load()
    forget_ids = {key.digest(record): record.id for record in split["forget"]}
    kept_digests = {key.digest(r) for name in ("retain", "neighbour") for r in split.get(name, ())}
    if audited is not None and audited.records.key_id == key.id:
        kept_digests &= set(audited.records.trained)
    unseen = {key.digest(record): record.id for record in split.get("holdout", ())}
    if audited is not None and audited.records.key_id == key.id:
        _check_unseen("the audited model", audited.records.trained, unseen)
    reference_facts: dict[str, dict[str, Any]] = {}
    for i, path in enumerate(references):
        folder = resolve_folder(path, what)
        reference = trained_on(folder, key.id)
        trained = reference.records
        shared = [
            forget_ids[digest] for digest in sorted(forget_ids) if trained and digest in trained
        ]
        if shared:
            raise LineageError(
                f"--reference {path}: its lineage shows that it was trained on {len(shared)} of "
                f"the records to forget, first {shared[0]!r}; a reference must never have seen "
                "them (half-splits go to --shadow)"
            )
        _check_unseen(f"--reference {path}", trained or (), unseen)
        reference_facts[f"reference:{i}"] = {
            "weights": reference.weights,
            "trained": None if trained is None else len(trained),
            "saw": reference.saw(forget_ids),
            "kept": reference.saw(kept_digests),
            "from_base": reference.from_base(base),
            **_likeness(Lineage.read(folder), audited, before),
            "unlike": _unlike(Lineage.read(folder), audited, forget_ids),
        }
    return LineageFacts(
        {"key_id": key.id, "forget": sorted(forget_ids), "kept": len(kept_digests)},
        reference_facts,
        _origins(key, (audited, before), base),
    )


def _origins(key: Key, lines: Sequence[Lineage | None], base: str | None) -> tuple[str, ...]:
    """Name how models were first trained, so that those trained alike have the same name."""
    known = [training_setting(line) for line in lines if line is not None] or [{}]
    texts = {json.dumps([base, setting], sort_keys=True, default=str) for setting in known}
    return tuple(sorted(key.mac(b"unlearn origin\0" + text.encode()) for text in texts))


def _likeness(
    line: Lineage | None, audited: Lineage | None, before: Lineage | None
) -> dict[str, Any]:
    """Say whether a reference saw more than the audited model, or was trained otherwise."""
    if line is None:
        return {"seed": None, "surplus": None, "otherwise": None}
    return {
        "seed": line.seed,
        "surplus": surplus(line.records, None if audited is None else audited.records),
        "otherwise": otherwise_trained(line, (audited, before)),
    }


def _unlike(
    line: Lineage | None, audited: Lineage | None, forget: Iterable[str]
) -> list[str] | None:
    """Name how a reference's training differs from that of an audited model that never saw them.

    Of a model that was trained from the base without the records, a difference from the references
    may be the recipe's. Nothing is named of any other.
    """
    if line is None or audited is None:
        return None
    exact = audited.parent is None and not set(forget) & set(audited.records.trained)
    return otherwise_trained(line, (audited,)) if exact else []


def _check_unseen(what: str, trained: Iterable[str], unseen: Mapping[str, str]) -> None:
    """Refuse a holdout of which a model saw a record: it would hide what is left of the others."""
    shared = [unseen[digest] for digest in trained if digest in unseen]
    if shared:
        raise LineageError(
            f"--holdout: {what} was trained on {len(shared)} of its records, by its lineage, first "
            f"{shared[0]!r}; a holdout must be unseen"
        )
