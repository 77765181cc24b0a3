"""Digests of weights on disk, from the files alone: no model is opened and torch is not needed."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from unlearn.errors import LineageError

__all__ = [
    "DECIDING",
    "READING_FILES",
    "file_digest",
    "folder_digest",
    "reading_files",
    "settings_digest",
    "weights_digest",
]

READING_FILES = (
    "tokenizer.json",
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


def weights_digest(folder: str | Path) -> str:
    """Return the SHA-256 of a folder's safetensors files, independent of the folder's name.

    Args:
        folder: an adapter or model folder.

    Returns:
        `sha256:` followed by the digest over (file name, file digest) pairs in name order.

    Raises:
        LineageError: if the folder holds no safetensors file.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise LineageError(f"{folder} holds no .safetensors file to take a digest of")
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode() + b"\0")
        total.update(file_digest(path))
    return f"sha256:{total.hexdigest()}"


def reading_files(folder: str | Path) -> dict[str, Path]:
    """Return the files of a folder that decide how text is read, by their name within it."""
    paths = {path for pattern in READING_FILES for path in Path(folder).glob(pattern)}
    return {path.relative_to(folder).as_posix(): path for path in sorted(paths) if path.is_file()}


def settings_digest(folder: str | Path) -> str:
    """Return the SHA-256 of all files beside a folder's weights that decide what it computes.

    The weights alone do not: the scale of an adapter, say, stands in its configuration.
    """
    root, total = Path(folder), hashlib.sha256()
    for path in sorted({path for pattern in DECIDING for path in root.glob(pattern)}):
        if path.is_file():
            total.update(path.relative_to(root).as_posix().encode() + b"\0" + file_digest(path))
    return f"sha256:{total.hexdigest()}"


def folder_digest(folder: str | Path) -> str:
    """Return the SHA-256 of all in a model's or adapter's folder that decides what it computes.

    Raises LineageError if the folder holds no weights.
    """
    both = weights_digest(folder) + settings_digest(folder)
    return hashlib.sha256(both.encode()).hexdigest()


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file, 32 bytes; it is read once in the life of the process."""
    seen = path.stat()
    return _hashed(path.resolve(), seen.st_size, seen.st_mtime_ns, seen.st_ino)


@functools.lru_cache(maxsize=256)
def _hashed(path: Path, size: int, changed: int, inode: int) -> bytes:
    """Hash a file that has these marks: bases are large and asked for often."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
