"""What a reference is, and what its lineage says it was trained on: no torch, no key."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from unlearn.errors import LineageError
from unlearn_eval.certificate.envelope import UnverifiedError, read_json
from unlearn_eval.certificate.files import weights_digest

__all__ = ["TrainedOn", "folders_in", "trained_on"]


class TrainedOn(NamedTuple):
    """What a model was trained on, by its lineage.

    Attributes:
        weights: digest of its weights.
        records: keyed digests of its records; None where no lineage under the key asked for says.
        parent: digest of the weights that it was made from; None where it was trained from a base.
        base: digest of that base's weights; None where no lineage says.
    """

    weights: str
    records: frozenset[str] | None
    parent: str | None = None
    base: str | None = None

    def saw(self, digests: Collection[str]) -> int | None:
        """Return how many of some records it was trained on, None if that is not known."""
        return None if self.records is None else len(self.records & set(digests))

    def from_base(self, base: str | None) -> bool | None:
        """Return whether it was trained from a base, and of no other adapter or model.

        Args:
            base: digest of the base's weights; None for any.

        Returns:
            Whether it was, None if no lineage says.
        """
        if self.records is None or self.base is None:
            return None
        return self.parent is None and base in (None, self.base)


def trained_on(folder: str | Path, key_id: str) -> TrainedOn:
    """Read what a model was trained on.

    A lineage counts for the weights that it names: copied beside others, it would say of these what
    is true of those.

    Args:
        folder: of an adapter or model.
        key_id: of the key under which records are compared.

    Returns:
        Its weights and records.

    Raises:
        LineageError: if there are no weights, or the lineage is of others or cannot be read.
    """
    weights = weights_digest(folder)
    path = Path(folder) / "lineage.json"
    if not path.is_file():
        return TrainedOn(weights, None)
    try:
        line: Any = read_json(path.read_bytes())
        named, records = line["digest"], line["records"]
        key, trained = records["key_id"], frozenset(map(str, records["trained"]))
        parent = line.get("parent") or (line.get("start") or {}).get("digest")
        base = (line.get("base") or {}).get("digest")
    except (UnverifiedError, KeyError, TypeError, AttributeError) as error:
        raise LineageError(f"{path} is not a lineage of schema 1: {error}") from None
    if named != weights:
        raise LineageError(
            f"{path} is of other weights ({named}) than lie beside it ({weights}): what it says is "
            "not true of these"
        )
    return TrainedOn(weights, trained if key == key_id else None, parent, base)


def folders_in(paths: Collection[str | Path]) -> list[Path]:
    """Return the models that paths name: folders of weights, or of such folders.

    Args:
        paths: the paths.

    Returns:
        Folders, those of one path in the order of their names.
    """
    folders: list[Path] = []
    for path in map(Path, paths):
        below = sorted({file.parent for file in path.glob("*/*.safetensors")})
        folders += [path] if any(path.glob("*.safetensors")) or not below else below
    return folders
