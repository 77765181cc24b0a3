"""What decides the weights of a run, so that one run is never gone on with as another.

A signature holds a fact for everything that enters the weights: the records of every split in their
order, as they are and as tokens; the base with its configuration and tokenizer; the adapters below;
the template; all options; the seed; the versions of the libraries; and what rounds sums of numbers
otherwise (type of numbers, device, threads, processes). Records enter under the user's key only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unlearn.data.templates import Template
from unlearn.data.tokenization import Example
from unlearn.model.state import ModelState
from unlearn.processes import splitting, world_size
from unlearn.provenance.digests import settings_digest, weights_digest
from unlearn.provenance.environment import quantised
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import library_versions

__all__ = [
    "ROUNDING",
    "differences",
    "records_digest",
    "signature",
    "source_digest",
    "trained_from",
]

Part = tuple[Sequence[str], Sequence[Example]]

ROUNDING = ("device", "threads", "processes", "weights split by")
"""Facts that only round sums otherwise: of them a result depends in its last digits."""

_OF_PLAIN_TRAINING = (
    "base weights",
    "base configuration or tokenizer",
    "number types",
    "4-bit",
    "versions",
    "template",
    "chat template",
    "key",
)

_SHOWN = 40  # characters of a value that a message shows


def signature(
    state: ModelState, parts: Mapping[str, Part], key: Key, template: Template, **settings: Any
) -> dict[str, Any]:
    """Return everything that decides the weights of a run, by name, as JSON has it.

    Args:
        state: the opened model with its adapters.
        parts: by split, the digests of its records (`key.digest`) and the same encoded.
        key: under which records are named.
        template: how they were written.
        **settings: what else decides: verb, options, seed, and what is the verb's own.

    Returns:
        The facts; only equal ones lead to equal weights.
    """
    chat = getattr(template.tokenizer, "chat_template", None) if template.name == "chat" else None
    facts = {
        **settings,
        **_model_facts(state),
        "template": template.name,
        "chat template": _digest(json.dumps(chat, sort_keys=True, default=str).encode()),
        "key": key.id,
    }
    for name, (digests, examples) in parts.items():
        facts[f"{name} records"] = records_digest(digests, key)
        facts[f"{name} tokens"] = _tokens_digest(examples, key)
    plain: dict[str, Any] = json.loads(json.dumps(facts, sort_keys=True, default=str))
    return plain


def trained_from(facts: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Return what decides the weights of a plain training from the base on the records of a split.

    Args:
        facts: the signature of the run.
        split: the name of its part that is trained on.

    Returns:
        Facts by name, those of the part as of `training`; no threads and the like.
    """
    own = {name: facts[name] for name in _OF_PLAIN_TRAINING}
    return own | {f"training {what}": facts[f"{split} {what}"] for what in ("records", "tokens")}


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Name the facts in which two signatures differ, with both values where they can be read.

    Args:
        there: of what is there.
        wanted: of what is asked for.

    Returns:
        A few words for each; none if they are equal.
    """
    words = [
        text
        for name in dict.fromkeys([*wanted, *there])
        for text in _difference(name, there.get(name), wanted.get(name))
    ]
    # other records, and whatever else is named, make other tokens: these are said alone
    causes = [text for text in words if not text.endswith(" tokens")]
    return causes or words


def records_digest(digests: Sequence[str], key: Key) -> str:
    """Return a digest, under the key, of records in their order."""
    return key.mac(b"records in order\0" + " ".join(digests).encode())


def source_digest(name: str) -> str | None:
    """Return the SHA-256 of the file of a user's own code, `package.module:NAME`; else None."""
    module, mark, _ = name.partition(":")
    try:
        spec = importlib.util.find_spec(module) if mark else None
    except (ImportError, ValueError):  # which is said where the name is looked up
        return None
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    return _digest(Path(spec.origin).read_bytes())


def _model_facts(state: ModelState) -> dict[str, Any]:
    """Return what a model brings to a run: its files, and how it computes."""
    adapters = [*state.frozen, *([state.adapter] if state.adapter else [])]
    on_cpu = state.device.type == "cpu"
    return {
        "base weights": weights_digest(state.folder),
        "base configuration or tokenizer": settings_digest(state.folder),
        "adapters": [[weights_digest(path), settings_digest(path)] for path in adapters],
        "number types": sorted({str(p.dtype) for p in state.model.parameters()}),
        "4-bit": quantised(state.model) or False,
        "versions": library_versions(),
        "device": state.device.type,
        "threads": torch.get_num_threads() if on_cpu else None,
        "processes": world_size(),
        "weights split by": splitting(),
    }


def _tokens_digest(examples: Sequence[Example], key: Key) -> str:
    """Return a digest, under the key, of examples in their order: tokens and targets."""
    total = hashlib.sha256()
    for example in examples:
        total.update(len(example.ids).to_bytes(8, "big"))
        total.update(example.ids.tobytes())
        total.update(example.target.tobytes())
    return key.mac(b"tokens in order\0" + total.digest())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _difference(name: str, there: Any, wanted: Any) -> list[str]:
    """Say how one fact differs; of facts by name each that differs."""
    if there == wanted:
        return []
    if isinstance(there, dict) and isinstance(wanted, dict):
        inner = dict.fromkeys([*wanted, *there])
        return [
            text
            for key in inner
            for text in _difference(f"{name}.{key}", there.get(key), wanted.get(key))
        ]
    values = [_plain(value) for value in (there, wanted)]
    if any(len(value) > _SHOWN for value in values):
        return [name]
    return [f"{name} ({values[0]} there, {values[1]} now)"]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
