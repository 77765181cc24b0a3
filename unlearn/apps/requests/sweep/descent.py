"""Which folders of weights descend from given records: by lineage, content, and where they lie."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Literal

from unlearn.apps.requests.sweep.bounded_reading import read_bytes
from unlearn.apps.requests.sweep.merged_weights import NOT_READ, likeness, unreadable
from unlearn.errors import LineageError, UnlearnError
from unlearn.provenance.digests import SHARDS, weight_files
from unlearn.provenance.lineage import FILE_NAME, Lineage, weights_digest

__all__ = ["Family", "Kind", "Node", "beyond_digest", "descendants", "export_kind", "node"]

Kind = Literal["adapter", "model", "checkpoint", "quantized export", "optimizer state"]

# Files that make up a folder of weights. What else lies there is none of ours to delete.
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx")
_BESIDE = (
    "lineage.json",
    "*config.json",
    "*.index.json",
    "trainer_state.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "run.json",
)
_OPTIMIZER = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state*.pth", "scaler.pt")
_EXPORTS = (
    *("*.onnx_data", "*.ggml", "*.npz", "*.npy", "*.h5", "*.hdf5", "*.keras", "*.msgpack"),
    *("*.tflite", "*.pkl", "*.pickle", "*.joblib", "*.engine", "*.mlmodel", "*.pte", "*.distcp"),
)
"""Files that hold weights where they lie beside some; by themselves they may be anything."""
_VOCABULARIES = (
    *("tokenizer.json", "tokenizer.*.json", "vocab.*", "merges.txt", "added_tokens.json"),
    *("*.model", "tekken.json", "*.tiktoken", "special_tokens_map.json"),
)
"""Pieces of words: a short record would be among them by chance."""
_QUANTIZED = ("quantize_config.json", "quant_config.json")
_MERGED, _RELATED = 0.5, 0.2
"""Cosines above which a model holds an adapter, or may; unrelated ones are within ±0.1 of 0."""


@dataclass(frozen=True)
class Node:
    """A folder of weights as it was found.

    Attributes:
        path: the folder.
        kind: what it looks like.
        files: what it is made of.
        digest: of its weights, where they are safetensors.
        lineage: what it says of itself, if that can be understood and was written for these
            weights.
        claimed: what it says of itself if it was written for other weights. It speaks against the
            folder, and never for it: anybody can lay it there.
        problem: why the lineage cannot be understood.
        named: folders that its configuration says it was made from.
        unreadable: why its weights cannot be read.
    """

    path: Path
    kind: Kind
    files: tuple[Path, ...]
    digest: str | None = None
    lineage: Lineage | None = None
    claimed: Lineage | None = None
    problem: str | None = None
    named: tuple[str, ...] = ()
    unreadable: str | None = None


@dataclass
class Family:
    """What is known of the adapters that learned the records, and grows while searching.

    Attributes:
        key_id: of the key under which records are compared.
        records: digests of the records.
        current: digests of the adapter that the verdict is about, or of its shards: they may stay.
        base: digest of the base model: it may stay.
        base_folder: where the base lies, to compare merges with.
        tainted: digests of weights that descend from the records.
        folders: where such weights were found, adapters among them.
    """

    key_id: str
    records: frozenset[str]
    current: frozenset[str]
    base: str | None
    base_folder: Path | None
    tainted: set[str]
    folders: dict[Path, Kind] = field(default_factory=dict)

    @property
    def may_stay(self) -> frozenset[str]:
        """Digests of the adapter that the verdict is about, and of the base."""
        return self.current | ({self.base} if self.base else frozenset())


def node(folder: Path, files: Collection[Path]) -> Node | None:
    """Return what a folder is made of, if it holds weights or the state of an optimizer.

    Args:
        folder: which.
        files: in it, links left out; those that its index names below it are added.

    Returns:
        The node, or None.
    """
    weights = sorted({f for f in files if _like(f, _WEIGHTS)} | _below(folder))
    states = [f for f in files if _like(f, _OPTIMIZER)]
    names = {f.name for f in files}
    if not weights and not states and "run.json" not in names:
        return None
    if "run.json" in names and not folder.name.endswith(".checkpoints") and not weights:
        return None
    beside = [f for f in files if _like(f, _BESIDE)]
    config = _config(folder)
    kind: Kind = "model"
    if "trainer_state.json" in names or "run.json" in names:
        kind = "checkpoint"
    elif set(weights) <= set(states):
        kind = "optimizer state"
    elif "adapter_config.json" in names:
        kind = "adapter"
    elif (
        any(f.suffix.lower() in {".gguf", ".onnx"} for f in weights)
        or names & set(_QUANTIZED)
        or "quantization_config" in config
    ):
        kind = "quantized export"
    line, problem = _lineage(folder)
    digest, broken = _digest(folder, weights)
    fits = line is not None and digest is not None and line.digest == digest
    named = tuple(
        str(config[key])
        for key in ("_name_or_path", "base_model_name_or_path", "model_name_or_path")
        if config.get(key) and kind != "adapter"
    )
    made_of = tuple(sorted({*weights, *states, *beside}))
    own, claimed = (line, None) if fits else (None, line)
    return Node(folder, kind, made_of, digest, own, claimed, problem, named, broken)


def _like(path: Path, patterns: Iterable[str]) -> bool:
    name = path.name.lower()
    return any(fnmatch(name, pattern) for pattern in patterns)


def _below(folder: Path) -> set[Path]:
    """Return the weights that the index of a folder names in others below it, links left out.

    Shards below it are adapters by themselves.
    """
    if (folder / SHARDS).is_file():
        return set()
    try:
        named = weight_files(folder).values()
    except (UnlearnError, OSError):
        return set()
    real = folder.resolve()
    below = {path for path in named if path.parent != folder}
    return {path for path in below if path.resolve() == real / path.relative_to(folder)}


def beyond_digest(each: Node) -> tuple[Path, ...]:
    """Return the files of a folder of weights that the digest of these does not speak for.

    Args:
        each: a folder whose digest is known.

    Returns:
        What else lies there: exports, states, texts and configurations; vocabularies left out.
    """
    index = {p for p in each.files if fnmatch(p.name, "*.safetensors.index.json")}
    covered = {*weight_files(each.path).values(), *index, each.path / FILE_NAME}
    return tuple(p for p in each.files if p not in covered and not _like(p, _VOCABULARIES))


def export_kind(path: Path, *, beside: bool) -> Kind | None:
    """Say what a file is that may hold weights, or what was left of training them.

    Args:
        path: of the file.
        beside: whether it lies beside weights.

    Returns:
        The kind; None for any other file.
    """
    if _like(path, _OPTIMIZER):
        return "optimizer state"
    if _like(path, ("*.gguf", "*.onnx", "*.onnx_data", "*.ggml", "*.tflite", "*.engine")):
        return "quantized export"
    return "model" if _like(path, _WEIGHTS) or (beside and _like(path, _EXPORTS)) else None


def _lineage(folder: Path) -> tuple[Lineage | None, str | None]:
    """Return what lies beside weights as their lineage, or why it cannot be read."""
    try:
        return Lineage.read(folder), None
    except (LineageError, OSError, ValueError, RecursionError) as error:
        return None, " ".join(str(error).split())[:200]


def _digest(folder: Path, weights: Iterable[Path]) -> tuple[str | None, str | None]:
    """Return the digest of safetensors, if there are any, and why they cannot be read."""
    safe = sorted(f for f in weights if f.suffix.lower() == ".safetensors")
    if not safe:
        return None, None
    problem = next(filter(None, map(unreadable, safe)), None)
    try:
        return weights_digest(folder), problem
    except (UnlearnError, OSError) as error:
        return None, problem or " ".join(str(error).split())[:200]


def _config(folder: Path) -> Mapping[str, object]:
    try:
        content = json.loads(read_bytes(folder / "config.json"))
    except (UnlearnError, OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def descendants(nodes: Sequence[Node], family: Family) -> Iterator[tuple[Node, bool, str]]:
    """Yield the folders that descend from the records, and those of which it is not clear.

    Args:
        nodes: all that were found.
        family: what is known before; what is found is added to it.

    Yields:
        (folder, whether it is known to, why).
    """
    reasons: dict[Path, str] = {}
    while True:  # what one search finds may be another's parent
        before = len(reasons)
        for each in nodes:
            if each.path not in reasons and (why := _known(each, family, nodes)):
                reasons[each.path] = why
                family.folders[each.path] = each.kind
                if each.digest:
                    family.tainted.add(each.digest)
        if len(reasons) == before:
            break
    for each in nodes:
        if each.path in reasons:
            yield each, True, reasons[each.path]
        elif why := _unclear(each, family):
            yield each, False, why


def _known(each: Node, family: Family, nodes: Iterable[Node]) -> str | None:
    if each.digest and each.digest in family.may_stay:
        return None
    for line in (each.lineage, each.claimed):
        if line is not None and (why := _by_lineage(line, family)):
            return why
    if each.digest in family.tainted:
        return "its weights are those of an adapter that learned the records"
    owner = _owner(each, nodes)
    if owner is not None and each.lineage is None:
        if owner.path in family.folders:
            return f"belongs to {owner.path.name}, which descends from the records"
        parent = owner.lineage.parent if owner.lineage else None
        if owner.digest in family.current and parent in family.tainted:
            return f"was left by the run that made {owner.path.name} from what learned them"
    places = {str(path.resolve()) for path in family.folders}
    if each.lineage is None and any(str(Path(n).resolve()) in places for n in each.named):
        return "its configuration names a folder that descends from the records"
    merged = _merged(each, family, nodes)
    if merged is not None and merged >= _MERGED:
        return f"an adapter that learned the records is merged into it (cosine {merged:.2f})"
    return None


def _by_lineage(line: Lineage, family: Family) -> str | None:
    if line.records.key_id == family.key_id:
        shared = family.records & set(line.records.trained)
        if shared:
            taken = shared <= set(line.records.forgotten)
            return f"learned {len(shared)} of the records" + (
                f"; {line.method} took them out, but it is not the adapter to be kept"
                if taken
                else ""
            )
    if line.parent in family.tainted:
        return "was made from weights that learned the records"
    return None


def _owner(each: Node, nodes: Iterable[Node]) -> Node | None:
    """Return the folder that a checkpoint or state lies in, or beside which it was kept."""
    known = {other.path: other for other in nodes}
    for place in (each.path, *each.path.parents):
        if place.name.endswith(".checkpoints"):
            name = place.name.removeprefix(".").removesuffix(".checkpoints")
            if place.with_name(name) in known:
                return known[place.with_name(name)]
        if place != each.path and place in known:
            return known[place]
    return None


def _merged(each: Node, family: Family, nodes: Iterable[Node]) -> float | None:
    """Return how much of a tainted adapter a model without lineage holds, if most of it is that."""
    if each.lineage or each.kind == "adapter" or not each.digest or family.base_folder is None:
        return None

    def alike(path: Path) -> float:
        try:
            return abs(likeness(each.path, base, path) or 0.0)
        except NOT_READ:  # a pointer to weights, or half of them: nothing to compare
            return 0.0

    def best(of: Iterable[Path]) -> float:
        return max(map(alike, of), default=0.0)

    base = family.base_folder
    adapters = [path for path, kind in family.folders.items() if kind == "adapter"]
    clean = [n.path for n in nodes if n.digest in family.current and n.kind == "adapter"]
    ours = best(adapters)
    return ours if ours > best(clean) else None


def _unclear(each: Node, family: Family) -> str | None:
    """Return why it cannot be told whether a folder descends from the records."""
    if each.problem:
        return "its lineage cannot be read"
    if each.unreadable and (not each.digest or each.digest not in family.may_stay):
        return "its weights cannot be read"
    if each.lineage is not None:
        other = each.lineage.records.key_id != family.key_id
        return "its lineage was written under another key" if other else None
    if each.digest is not None and each.digest in family.may_stay:
        return None
    merged = _merged(each, family, ())
    if merged is not None and merged >= _RELATED:
        return f"is somewhat like an adapter that learned the records (cosine {merged:.2f})"
    if each.claimed is not None:
        return "the lineage beside it was written for other weights"
    return "has no lineage that says what it learned"
