"""Digests of weights on disk, from the files alone: no model is opened and torch is not needed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn.errors import LineageError
from unlearn.strict_json import NotJsonError, read_json_file

__all__ = [
    "DECIDING",
    "READING_FILES",
    "ROUTER",
    "SHARDS",
    "file_digest",
    "folder_digest",
    "model_files",
    "reading_files",
    "setting_files",
    "settings_digest",
    "weight_files",
    "weights_digest",
]

READING_FILES = (
    "tokenizer.json",
    "tokenizer.*.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "*.tiktoken",
)
"""Files that decide how a model reads text: its tokenizer and its chat templates."""

DECIDING = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    *READING_FILES,
    "*.py",
)
"""Files beside the weights that decide what a model computes, and how it reads and writes text."""


SHARDS, ROUTER = "shards.json", "router.json"
"""What makes a folder one of shards: what it holds, and who is in which."""

_OF_SHARDS = (SHARDS, ROUTER, "shard-*/adapter_config.json")
"""Files that decide what a folder of shards computes: which shards are on, who asks which."""

_WEIGHTS = "*.safetensors"
_INDEX = "*.safetensors.index.json"
_WHOLE = "model.safetensors"
_LARGEST_INDEX = 64 << 20
"""Bytes of an index or configuration: those of the largest models have a few."""


def model_files(folder: str | Path) -> dict[str, Path]:
    """Return the files of a model or adapter that decide what it computes, reads and writes.

    These are its weights, wherever its index says that they lie, the index itself, its
    configurations, tokenizer, chat templates and code. What loads a model, takes its digest, keys a
    cache, sweeps a folder or checks a certificate asks here.

    Args:
        folder: a model's or adapter's folder.

    Returns:
        Paths by their name within the folder, in the order of names.

    Raises:
        LineageError: if the index cannot be followed, where it decides what is loaded.
    """
    root = Path(folder)
    indexes = {path.name: path for path in root.glob(_INDEX) if path.is_file()}
    files = weight_files(root) | indexes | setting_files(root)
    return {name: files[name] for name in sorted(files)}


def weight_files(folder: str | Path) -> dict[str, Path]:
    """Return the safetensors files of a folder, and those below it that its index names.

    Those of a folder of shards are those of all shards that have any.

    Args:
        folder: a model's or adapter's folder.

    Returns:
        Paths by their name within the folder, in the order of names.

    Raises:
        LineageError: if the index cannot be followed, where it decides what is loaded.
    """
    root = Path(folder)
    # what cannot be read, such as a link that leads nowhere, is an error of the digest's
    files = {path.name: path for path in root.glob(_WEIGHTS) if not path.is_dir()}
    files |= {name: root / name for name in _chosen(root) or ()}
    if _sharded(root):
        parts = (path for path in root.glob(f"shard-*/{_WEIGHTS}") if not path.is_dir())
        files |= {path.relative_to(root).as_posix(): path for path in parts}
    return {name: files[name] for name in sorted(files)}


def _sharded(root: Path) -> bool:
    return (root / SHARDS).is_file()


def _chosen(root: Path) -> frozenset[str] | None:
    """Return the names of the weights that a model's configuration or index chooses, if one does.

    As transformers has it: first the file that the configuration names, then `model.safetensors`,
    then those of the index.
    """
    index: str | None = "model.safetensors.index.json"
    config = root / "config.json"
    named = None
    if config.is_file() and not (root / "adapter_config.json").is_file():
        try:
            named = _mapping(config).get("transformers_weights")
        except LineageError:  # which is said where the model is opened
            named = None
    if isinstance(named, str):
        index = named if named.endswith(".json") else None
        if index is None:
            return frozenset({_within(root, named, config)})
        _within(root, index, config, ending=".json")
    elif (root / _WHOLE).is_file():
        return None
    assert index is not None
    path = root / index
    if not path.is_file():
        return None
    shards = _mapping(path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(n, str) for n in shards.values()):
        raise LineageError(f"{path} is not an index of weights: it has no weight_map of names")
    return frozenset(_within(root, name, path) for name in sorted({*shards.values()}))


def _mapping(path: Path) -> Mapping[str, Any]:
    """Read a file of JSON that holds one object."""
    try:
        content = read_json_file(path, size=_LARGEST_INDEX)
    except (OSError, NotJsonError) as error:
        raise LineageError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    return content if isinstance(content, dict) else {}


def _within(root: Path, name: str, said_by: Path, *, ending: str = ".safetensors") -> str:
    """Return the name of a file in a folder as it is loaded, or say why it cannot be."""
    plain = os.path.normpath(name)
    if Path(plain).is_absolute() or Path(plain).parts[:1] == (os.pardir,):
        raise LineageError(f"{said_by} names {name!r}, which leads out of the folder")
    if not plain.endswith(ending):
        raise LineageError(f"{said_by} names {name!r}, which is no {ending} file")
    if not os.path.isfile(root / plain):  # noqa: PTH113 (Path.is_file raises for a long name)
        raise LineageError(f"{said_by} names {plain[:200]!r}, which is not there")
    return Path(plain).as_posix()


def weights_digest(folder: str | Path) -> str:
    """Return the SHA-256 of a folder's safetensors files, independent of the folder's name.

    Where an index or the configuration chooses others than all that lie in the folder itself, the
    choice enters, too. Of a folder of shards all shards enter; those that were dropped have none.

    Args:
        folder: an adapter or model folder.

    Returns:
        `sha256:` followed by the digest over (file name, file digest) pairs in name order.

    Raises:
        LineageError: if the folder holds no safetensors file, or its index cannot be followed.
    """
    files, chosen = weight_files(folder), _chosen(Path(folder))
    if not files and not _sharded(Path(folder)):
        raise LineageError(f"{folder} holds no .safetensors file to take a digest of")
    total = hashlib.sha256()
    for name, path in files.items():
        total.update(os.fsencode(name) + b"\0")
        total.update(file_digest(path))
    if chosen is not None and chosen != {name for name in files if "/" not in name}:
        total.update(json.dumps(["loaded", *sorted(chosen)]).encode())
    return f"sha256:{total.hexdigest()}"


def reading_files(folder: str | Path) -> dict[str, Path]:
    """Return the files of a folder that decide how text is read, by their name within it."""
    return _matching(folder, READING_FILES)


def setting_files(folder: str | Path) -> dict[str, Path]:
    """Return the files beside a folder's weights that decide what it computes, by their name."""
    found = _matching(folder, DECIDING)
    return found | _matching(folder, _OF_SHARDS) if _sharded(Path(folder)) else found


def _matching(folder: str | Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    paths = {path for pattern in patterns for path in Path(folder).glob(pattern)}
    return {path.relative_to(folder).as_posix(): path for path in sorted(paths) if path.is_file()}


def settings_digest(folder: str | Path) -> str:
    """Return the SHA-256 of all files beside a folder's weights that decide what it computes.

    The weights alone do not: the scale of an adapter, say, stands in its configuration.
    """
    total = hashlib.sha256()
    for name, path in setting_files(folder).items():
        total.update(os.fsencode(name) + b"\0" + file_digest(path))
    return f"sha256:{total.hexdigest()}"


def folder_digest(folder: str | Path) -> str:
    """Return the SHA-256 of all in a model's or adapter's folder that decides what it computes.

    Raises LineageError if the folder holds no weights.
    """
    both = weights_digest(folder) + settings_digest(folder)
    return hashlib.sha256(both.encode()).hexdigest()


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file, 32 bytes; it is read once in the life of the process.

    Raises LineageError for what is no regular file: reading a pipe would never end.
    """
    seen = path.stat()
    if not stat.S_ISREG(seen.st_mode):
        raise LineageError(f"{path} is no regular file")
    marks = (seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_dev, seen.st_ino)
    return _hashed(path.resolve(), marks)


@functools.lru_cache(maxsize=256)
def _hashed(path: Path, marks: tuple[int, ...]) -> bytes:
    """Hash a file that has these marks: bases are large and asked for often.

    The time of the last change of the file itself (ctime) is among them: no program can set it.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
