"""A base as its adapters want it: how it reads text, and for how many tokens it has embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from unlearn.errors import ModelError
from unlearn.model.adapters import unknown_fields
from unlearn.model.embeddings import adapter_rows, check_shipped, embedding_rows, resize
from unlearn.model.lm_head import Head
from unlearn.model.reading import fitted, reading_of

if TYPE_CHECKING:
    from unlearn.model.state import ModelState

__all__ = ["for_adapters"]


def for_adapters(bare: ModelState, paths: Sequence[Path]) -> ModelState:
    """Let a base read as adapters on it do, with embeddings for as many tokens.

    Args:
        bare: an opened base.
        paths: folders of adapters, the frozen ones first.

    Returns:
        The same base, still without the adapters.

    Raises:
        ModelError: if it cannot be given the embeddings that they need.
    """
    assert bare.base_reading is not None
    reading = reading_of(
        bare.base_reading, bare.folder, paths, trust_remote_code=bare.trust_remote_code
    )
    net, notes = bare.model, reading.notes
    sizes = {adapter_rows(net, path) for path in paths} - {None}
    if len(sizes) > 1:
        raise ModelError(f"the adapters {_names(paths)} have embeddings for unlike many tokens")
    wanted = next(iter(sizes)) or bare.base_rows if sizes else bare.base_rows
    if wanted != (now := embedding_rows(net)):
        if now != bare.base_rows:
            raise ModelError(
                f"{_names(paths)}: made for {wanted} tokens, and what it is compared with for {now}"
            )
        for path in paths:
            check_shipped(net, path)
        resize(net, wanted)
        notes += (
            f"the adapter has embeddings for {wanted} tokens, the base for {bare.base_rows}: the "
            "base without the adapter is one with as many",
        )
    owner = reading.adapter or f"the model {bare.name}"
    told = len(reading.notes)
    reading = fitted(reading, wanted, str(owner))
    notes += reading.notes[told:]
    for path in paths:
        notes += unknown_fields(path)
    return replace(
        bare, tokenizer=reading.tokenizer, reading=reading, notes=notes, head=Head.of(net)
    )


def _names(paths: Sequence[Path]) -> str:
    return " and ".join(map(str, paths))
