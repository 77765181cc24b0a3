"""Choose references for a request from folders of adapters that serve several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from unlearn.errors import DataError, LineageError
from unlearn.provenance.eligibility import otherwise_trained, surplus, unfit
from unlearn.provenance.lineage import Lineage, weights_digest

__all__ = ["Chosen", "choose_references"]


class Chosen(NamedTuple):
    """References for a request.

    Attributes:
        paths: their folders, in order.
        partial: how many were trained on part of the kept records only; all or none of them, where
            there are enough of a kind.
        passed_over: how many adapters were not chosen, by reason.
    """

    paths: tuple[Path, ...]
    partial: int
    passed_over: Counter[str]

    def words(self) -> str:
        """Say it in a line."""
        size = "" if not self.partial else f", {self.partial} of them on part of the kept records"
        text = f"{len(self.paths)} references found by lineage{size}"
        reasons = ", ".join(f"{n} {why}" for why, n in sorted(self.passed_over.items()))
        return f"{text}; passed over: {reasons}" if reasons else text


def choose_references(
    folders: Iterable[str | Path],
    records: Collection[str],
    retain_digests: Collection[str],
    audited: Lineage,
    least: int,
) -> Chosen:
    """Choose those adapters that can stand for models which never saw the records, by lineage.

    An adapter is eligible that was trained from the start, on the base of the audited one, as that
    one was, on none but its records, and whose lineage, under the same key and of the weights that
    lie beside it, names none of the records. Full-size ones, which saw all kept records, are
    preferred: only where fewer than `least` of them are there, and as many partial ones
    (half-splits that serve every request), do these stand in; the two are not mixed, as they differ
    in level and spread. Of fewer than `least` of both kinds, which decide nothing, the full-size
    ones are chosen, if there are any.

    Args:
        folders: searched for adapters, with all below them.
        records: keyed digests of the request's records.
        retain_digests: of the records that the audited adapter was trained on and keeps.
        audited: lineage of the adapter that is to be judged.
        least: how many references decide, by the policy.

    Returns:
        The choice.

    Raises:
        DataError: if a folder is not there.
    """
    full: dict[str, Path] = {}
    partial: dict[str, Path] = {}
    passed: Counter[str] = Counter()
    forget_digests, rest = set(records), set(retain_digests)
    for path in _adapters(folders):
        try:
            line = Lineage.read(path)
            why = _unfit(path, line, forget_digests, audited)
        except LineageError:
            line, why = None, "whose lineage cannot be read"
        if line is None or why:
            passed[why or "without a lineage"] += 1
        elif line.digest in full or line.digest in partial:
            passed["twice there"] += 1
        else:
            (full if rest <= set(line.records.trained) else partial)[line.digest] = path
    use_partial = len(full) < least and (len(partial) >= least or not full)
    use, others = (partial, full) if use_partial else (full, partial)
    if others:
        passed["of full size, too few" if use_partial else "trained on fewer records"] = len(others)
    return Chosen(tuple(use.values()), len(use) if use_partial else 0, passed)


def _adapters(folders: Iterable[str | Path]) -> Iterator[Path]:
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise DataError(f"--references {folder}: no such folder")
        # what a process is still writing, or left when it was killed, is hidden
        files = (f.relative_to(folder) for f in folder.rglob("*.safetensors"))
        below = {f.parent for f in files if not any(part.startswith(".") for part in f.parts)}
        yield from (folder / path for path in sorted(below))


def _unfit(
    path: Path, line: Lineage | None, forget_digests: set[str], audited: Lineage
) -> str | None:
    """Say why an adapter cannot be a reference."""
    if line is None:
        return None
    if line.kind != audited.kind or line.base.digest != audited.base.digest:
        return "of another base"
    if line.records.key_id != audited.records.key_id:
        return "with a lineage under another key"
    if forget_digests & set(line.records.trained):
        return "that saw the records"
    if line.digest == audited.digest:
        return "that is the audited one"
    if line.digest != weights_digest(path):
        return "under the lineage of other weights"
    more, settings = surplus(line.records, audited.records), otherwise_trained(line, [audited])
    return unfit(line.parent is None and line.start is None, more, settings)
