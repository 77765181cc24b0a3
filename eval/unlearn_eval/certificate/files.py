"""Digests of the files that decide what a model or adapter computes."""

from __future__ import annotations

from pathlib import Path

from unlearn.provenance.digests import file_digest, model_files, weights_digest

__all__ = ["deciding_files", "weights_digest"]


def deciding_files(folder: str | Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder that decides what the model computes.

    The weights alone do not: the scale of an adapter, say, stands in its configuration, and what a
    model is asked follows from its tokenizer and chat template. Files beside them, such as a README
    or the lineage, may change.

    Args:
        folder: an adapter's or model's folder.

    Returns:
        Hexadecimal digests by file name, in the order of names.

    Raises:
        LineageError: if the index of its weights cannot be followed.
    """
    return {name: file_digest(path).hex() for name, path in model_files(folder).items()}
