"""The adapter that a retraining begins with: one that never saw what is to be forgotten."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from unlearn.errors import LineageError, ModelError, OptionError
from unlearn.methods.method import Method
from unlearn.model.embeddings import tensor_shapes
from unlearn.model.folders import resolve_folder
from unlearn.model.shape import shape_of
from unlearn.model.state import ModelState
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage, RecordDigests, Start, weights_digest
from unlearn.provenance.suppression import suppressed_among

__all__ = ["shown_start", "with_start"]


def shown_start(
    place: str | Path, state: ModelState, method: Method, key: Key, forgotten: Collection[str]
) -> tuple[Path, Start]:
    """Return an adapter to begin with, once its lineage shows that it never saw some records.

    Its lineage must be of the weights that lie beside it, under the key in use, and of a training
    from the base of the state that is retrained. By it none of the records, nor a copy of one, may
    have shaped the adapter or what that began with in its turn. Whether the lineage tells the truth
    a replay shows, which trains this adapter again, too.

    Args:
        place: its folder.
        state: the opened adapter that is retrained.
        method: by which it is.
        key: the user's.
        forgotten: keyed digests of the records.

    Returns:
        The folder, and what lineages say of it; `others` holds all records that shaped it.

    Raises:
        OptionError: where nothing is retrained, or no adapter is.
        ModelError: if it has another shape.
        LineageError: if it is not shown that it never saw the records.
    """
    if method.name != "retrain":
        raise OptionError(f"--start is for --method retrain: {method.name} begins with the old one")
    if state.kind == "full" or state.adapter is None:
        raise OptionError("--start names an adapter, and this is a fully fine-tuned model")
    folder = resolve_folder(place, "adapter")
    line = Lineage.read(folder)
    if why := _unshown(line, folder, state, key, forgotten):
        raise LineageError(f"--start {place}: {why}")
    assert line is not None
    _check_alike(folder, state.adapter, place)
    if count := suppressed_among(line.records.trained, key):
        raise LineageError(
            f"--start {place}: it was trained on {count} record(s) of the suppression list"
        )
    name = str(folder.absolute())
    return folder, Start(name=name, digest=line.digest, others=line.records.trained)


def with_start(
    records: RecordDigests, start: Start | None, forgotten: Collection[str]
) -> tuple[RecordDigests, Start | None]:
    """Add the records that shaped a start to those of the training that went on from it.

    Args:
        records: those of the training.
        start: what it began with, as `shown_start` returns it.
        forgotten: digests of none that may be among them.

    Returns:
        (all records that shaped the result, the start with those that are its own alone).
    """
    if start is None:
        return records, None
    own = set(records.trained)
    trained = sorted(own | set(start.others))
    both = records.model_copy(update={"trained": trained}).left_out(forgotten)
    return both, start.model_copy(update={"others": sorted(set(start.others) - own)})


def _unshown(
    line: Lineage | None, folder: Path, state: ModelState, key: Key, forgotten: Collection[str]
) -> str | None:
    """Say why a lineage does not show that an adapter never saw some records; None if it does."""
    if line is None:
        return "it has no lineage, and nothing shows which records it saw"
    if line.digest != weights_digest(folder):
        return "its weights are not those that its lineage names: they were changed since"
    if line.records.key_id != key.id:
        return (
            f"its lineage was made with the key {line.records.key_id}, and the key in use is "
            f"{key.id}: which records it saw cannot be told"
        )
    if line.base.digest != state.base_digest():
        return f"it was trained on another base ({line.base.name}): their weights differ"
    if seen := len(set(line.records.trained) & set(forgotten)):
        return f"by its lineage it saw {seen} of the records to forget, or exact copies of them"
    if line.parent is not None:
        return (
            f"{line.method} made it from another adapter: what that one knew cannot be told; name "
            "one that was trained from the base"
        )
    if line.kind != "adapter":
        return "it is a fully fine-tuned model"
    return None


def _check_alike(folder: Path, old: Path, place: str | Path) -> None:
    """Refuse an adapter whose shape is not that of the one to be retrained."""
    one, other = shape_of(folder), shape_of(old)
    names = [k for k in sorted({*one, *other}) if _plain(one.get(k)) != _plain(other.get(k))]
    if not names and tensor_shapes(folder) != tensor_shapes(old):
        names = ["tensors"]
    if names:
        raise ModelError(f"--start {place}: it has another shape than {old}: {', '.join(names)}")


def _plain(value: object) -> object:
    """Return a value of a shape such that a set of modules is equal in any order."""
    return sorted(value) if isinstance(value, list | set | tuple) else value
