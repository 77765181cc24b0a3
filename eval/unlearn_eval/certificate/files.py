"""Digests of the files that decide what a model or adapter computes."""

from __future__ import annotations

from pathlib import Path

from unlearn.provenance.digests import file_digest, reading_files, weights_digest

__all__ = ["deciding_files", "weights_digest"]

_DECIDING = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "*.py",
)


def deciding_files(folder: str | Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder that decides what the model computes.

    The weights alone do not: the scale of an adapter, say, stands in its configuration, and what a
    model is asked follows from its tokenizer and chat template. Files beside them, such as a README
    or the lineage, may change.

    Args:
        folder: an adapter's or model's folder.

    Returns:
        Hexadecimal digests by file name, in the order of names.
    """
    paths = {path for pattern in _DECIDING for path in Path(folder).glob(pattern)}
    files = {path.name: path for path in paths if path.is_file()} | reading_files(folder)
    return {name: file_digest(files[name]).hex() for name in sorted(files)}
