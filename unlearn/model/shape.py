"""The shape of an adapter: what its configuration says, so that a new one can be made like it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn.errors import ModelError
from unlearn.model.adapted_base import for_adapters
from unlearn.model.adapters import check_adapter_folder
from unlearn.model.embeddings import tensor_shapes
from unlearn.model.lora import saved_tensors, ships_embeddings
from unlearn.model.state import ModelState, new_adapter

__all__ = ["BOOKKEEPING", "NEEDS_MORE", "adapter_like", "shape_of"]

BOOKKEEPING = frozenset(
    "task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode "
    "runtime_config megatron_core".split()
)
"""Fields of `peft.LoraConfig` that say where an adapter comes from or how it is run."""

NEEDS_MORE = {
    "megatron_config": "layers of Megatron",
    "loftq_config": "changes the base (LoftQ)",
    "eva_config": "is initialised by data (EVA)",
    "corda_config": "is initialised by data, and changes the base (CorDA)",
    "lora_ga_config": "is initialised by gradients, and changes the base (LoRA-GA)",
    "velora_config": "has gradients of its own (VeLoRA)",
    "alora_invocation_tokens": "switches itself on in the text (activated LoRA)",
    "use_qalora": "needs a base quantised for it (QALoRA)",
    "monteclora_config": "has a loss of its own (MonteCLoRA)",
    "layer_replication": "changes the base (layer replication)",
    "use_bdlora": "is cut for a number of devices (BD-LoRA)",
    "arrow_config": "is a router between adapters (Arrow)",
    "kasa_config": "changes the base, and has a loss of its own (KaSA)",
}
"""Fields whose adapters need more than records to be trained again, and why."""

_STARTS = ("gaussian", "orthogonal")
"""Initialisations by name that need neither data nor another base."""

_ALWAYS = ("r", "lora_alpha")


def shape_of(adapter: Path) -> dict[str, Any]:
    """Return what makes the shape of an adapter, as keyword arguments of `peft.LoraConfig`.

    Every field that PEFT knows is taken over, but for bookkeeping; fields with their default value
    are left out (rank and alpha never are).

    Args:
        adapter: its folder.

    Returns:
        Values by field.

    Raises:
        ModelError: if such an adapter cannot be trained here, by the name of the field.
    """
    from peft import LoraConfig

    config = check_adapter_folder(adapter)
    defaults = dataclasses.asdict(LoraConfig())
    for name, why in NEEDS_MORE.items():
        if config.get(name) and config[name] != defaults.get(name):
            raise ModelError(f"{adapter}: such an adapter cannot be trained here: {name}: it {why}")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start not in _STARTS:
        raise ModelError(
            f"{adapter}: such an adapter cannot be trained here: init_lora_weights={start!r} needs "
            "data, or changes the base"
        )
    strange = [k for k in sorted(set(config) - set(defaults)) if config[k]]
    if strange:
        raise ModelError(
            f"{adapter}: such an adapter cannot be trained here: the installed PEFT does not know "
            f"its setting {strange[0]}; a newer version may"
        )
    return {
        name: config[name]
        for name, default in defaults.items()
        if name in config
        and name not in BOOKKEEPING
        and (name in _ALWAYS or config[name] != default)
    }


def adapter_like(
    bare: ModelState, path: Path, seed: int, changes: Mapping[str, Any] | None = None
) -> ModelState:
    """Put a fresh adapter on a base that is shaped like another one, and reads text as that does.

    Args:
        bare: an opened base without adapters.
        path: folder of the other adapter.
        seed: seed of the initial weights.
        changes: fields of `peft.LoraConfig` that are to be otherwise.

    Returns:
        The same base with one trainable adapter.

    Raises:
        ModelError: if such an adapter cannot be trained here, or does not come out alike.
    """
    shape = shape_of(path) | dict(changes or {})
    state = new_adapter(for_adapters(bare, [path]), shape, seed)
    embeddings = ships_embeddings(state.model, path)
    if not changes:
        _check_alike(state, path, embeddings=embeddings)
    return dataclasses.replace(state, saves_embeddings=embeddings)


def _check_alike(state: ModelState, path: Path, *, embeddings: bool) -> None:
    """Refuse a new adapter whose tensors have other names or shapes than the old one's."""
    old = tensor_shapes(path)
    new = {k: tuple(v.shape) for k, v in saved_tensors(state.model, embeddings=embeddings).items()}
    if other := sorted(k for k in {*old, *new} if old.get(k) != new.get(k)):
        raise ModelError(
            f"{path}: such an adapter cannot be trained here: of {len(old)} tensors {len(other)} "
            f"would be missing, new, or of another shape, first {other[0]}"
        )
