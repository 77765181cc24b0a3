"""Task-vector negation: subtract what learning the forget records adds."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unlearn.errors import ModelError
from unlearn.losses import NLL
from unlearn.methods.job import Job
from unlearn.model.adapters import lora_delta_scale, read_adapter_config
from unlearn.model.save import whole_weights
from unlearn.model.state import ModelState
from unlearn.training.fitting import Fit
from unlearn.training.launched import whole_only
from unlearn.training.trainer import Objective

__all__ = ["combine_lora", "negate_full", "run"]

# Keys of `adapter_config.json` that make ΔW something other than scale · B·A.
_NOT_LOW_RANK = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters")


def run(job: Job) -> tuple[ModelState, Fit]:
    """Train on the forget records and subtract the change: θ − λτ.

    With `start=base` (2212.04089) τ is a fresh adapter trained on the base; with `start=before` it
    is the further change of the adapter itself (the variant of MUSE, 2407.06460), which is close to
    nothing where the records are already known by heart. A full fine-tune has only the latter.

    Args:
        job: the job; options `strength` (λ) and `start`.

    Returns:
        (the edited state, what training did).

    Raises:
        ModelError: if the adapter is not plain LoRA.
    """
    strength = float(job.resolved.extra["strength"])
    if job.state.kind == "full":
        whole_only("task_vector on a full fine-tune", "train an adapter instead")
        before = {n: p.detach().clone() for n, p in job.state.model.named_parameters()}
        result = job.fit(Objective(retain=NLL()), retain=job.split["forget"])
        negate_full(before, job.state.model, strength)
        return job.state, result
    assert job.state.adapter is not None
    mine = _read(job.state.adapter)
    combine_lora(mine, mine, (1.0, 0.0))  # refuses what is not low-rank before any work is done
    if other := [key for key in mine[0] if not _is_factor(key)]:
        raise ModelError(
            f"task vectors need plain LoRA: this adapter has {other[0]}, whose change is not a "
            "low-rank product"
        )
    if job.resolved.extra["start"] == "base":
        trainee = replace(job, state=job.fresh_adapter())
        weights = (1.0, -strength)
    else:
        trainee = job
        weights = (1.0 + strength, -strength)
    result = trainee.fit(Objective(retain=NLL()), retain=job.split["forget"])
    with tempfile.TemporaryDirectory(prefix="unlearn-") as folder:
        trainee.state.save(Path(folder), whole_weights(trainee.state))
        tensors, config = combine_lora(mine, _read(Path(folder)), weights)
    with tempfile.TemporaryDirectory(prefix="unlearn-") as folder:
        save_file(tensors, Path(folder) / "adapter_model.safetensors")
        (Path(folder) / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        edited = job.opening.open(job.state.name, [*job.state.frozen, folder])
    # what it was saved with decides how it reads
    return replace(edited, tokenizer=job.state.tokenizer, reading=job.state.reading), result


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return load_file(folder / "adapter_model.safetensors"), read_adapter_config(folder)


def combine_lora(
    first: tuple[Mapping[str, Tensor], Mapping[str, Any]],
    second: tuple[Mapping[str, Tensor], Mapping[str, Any]],
    weights: tuple[float, float],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the LoRA adapter whose ΔW is exactly w₁·ΔW₁ + w₂·ΔW₂.

    Formula: ΔW = s·B·A, so [w₁s₁B₁ , w₂s₂B₂]·[A₁ ; A₂] with scale 1 and rank r₁ + r₂. Arithmetic on
    the factors themselves would be wrong: B·A is not linear in (A, B). Task arithmetic: 2212.04089,
    section 2 (negation: θ − λτ).

    Args:
        first: (weights by name, `adapter_config.json`) of one adapter.
        second: the same of the other.
        weights: w₁ and w₂.

    Returns:
        (weights by name, configuration) of the combined adapter.

    Raises:
        ModelError: if an adapter is not low-rank only (DoRA, `modules_to_save`, …).
    """
    for _, config in (first, second):
        for key in _NOT_LOW_RANK:
            if config.get(key):
                raise ModelError(
                    f"task vectors need plain LoRA: this adapter has {key}, whose change is not a "
                    "low-rank product"
                )
    modules = [*dict.fromkeys([*_modules(first[0]), *_modules(second[0])])]
    combined: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for module in modules:
        tops, bottoms = [], []
        for (tensors, config), weight in zip((first, second), weights, strict=True):
            a_key, b_key = _keys(module, tensors)
            if a_key not in tensors:
                continue
            a, b = tensors[a_key], tensors[b_key]
            rank = a.shape[0]
            scale = weight * lora_delta_scale(dict(config), rank, _alpha(config, module))
            bottoms.append(a)
            tops.append((scale * b.float()).to(b.dtype))
        a_key, b_key = _keys(module, first[0] if _has(module, first[0]) else second[0])
        combined[a_key] = torch.cat(bottoms, dim=0).contiguous()
        combined[b_key] = torch.cat(tops, dim=1).contiguous()
        ranks[module] = combined[a_key].shape[0]
    rank = max(ranks.values(), key=list(ranks.values()).count)
    odd = {_short(module): r for module, r in ranks.items() if r != rank}
    config = dict(first[1])
    config |= {
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "rank_pattern": odd,
        "alpha_pattern": dict(odd),
        "target_modules": sorted({_short(m) for m in modules}),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "init_lora_weights": True,
    }
    return combined, config


@torch.no_grad()
def negate_full(before: Mapping[str, Tensor], model: torch.nn.Module, strength: float) -> None:
    """Set a fully fine-tuned model to θ − λ(θ_f − θ), given it holds θ_f.

    Args:
        before: θ by parameter name.
        model: holds θ_f, the parameters after further training on the forget records.
        strength: λ.
    """
    for name, parameter in model.named_parameters():
        start = before[name]
        parameter.copy_(start - strength * (parameter - start))


def _is_factor(key: str) -> bool:
    return key.endswith(
        (".lora_A.weight", ".lora_B.weight", "lora_embedding_A", "lora_embedding_B")
    )


def _modules(tensors: Mapping[str, Tensor]) -> list[str]:
    return sorted({key.partition(".lora_")[0] for key in tensors if ".lora_" in key})


def _has(module: str, tensors: Mapping[str, Tensor]) -> bool:
    return any(key.startswith(f"{module}.lora_") for key in tensors)


def _keys(module: str, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """Names of the factors A and B of a module; embeddings store theirs under other names."""
    if f"{module}.lora_embedding_A" in tensors:
        return f"{module}.lora_embedding_A", f"{module}.lora_embedding_B"
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def _short(module: str) -> str:
    """The module's name as `adapter_config.json` counts it: below the base model."""
    return module.removeprefix("base_model.model.")


def _alpha(config: Mapping[str, Any], module: str) -> float:
    """The module's own alpha, which `alpha_pattern` may set by name, suffix or expression."""
    name = _short(module)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return float(value)
    return float(config["lora_alpha"])
