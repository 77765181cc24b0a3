"""Tell from weights whether an adapter was merged into a model that does not say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from unlearn.apps.requests.sweep.bounded_reading import read_bytes
from unlearn.errors import UnlearnError
from unlearn.provenance.digests import weight_files
from unlearn.strict_json import parse_json

__all__ = ["NOT_READ", "likeness", "unreadable"]

NOT_READ = (SafetensorError, UnlearnError, OSError, ValueError, KeyError, RuntimeError)
"""What reading weights ends in where the files are not what their names say."""

_MODULES = 4


def likeness(candidate: Path, base: Path, adapter: Path) -> float | None:
    """Return the cosine between what a model adds to its base and what an adapter adds.

    cos(W_candidate − W_base, B·A), over the (at most four) modules where ‖B·A‖ is largest. It is 1
    for a merge in full precision at any scale, near 0 (± 1/√(number of weights)) for a model that
    has nothing to do with the adapter.

    Args:
        candidate: folder of a whole model.
        base: folder of the base.
        adapter: folder of a LoRA adapter.

    Returns:
        The mean cosine; None where the weights cannot be compared (another shape, quantised).
    """
    import torch

    theirs, ours = _index(candidate), _index(base)
    updates = sorted(_updates(adapter), key=lambda item: -float(item[1].norm()))
    cosines: list[float] = []
    for name, update in updates:
        key = _find(name, ours)
        other = _find(name, theirs)
        if key is None or other is None or len(cosines) == _MODULES:
            continue
        before, after = _tensor(ours[key], key), _tensor(theirs[other], other)
        if before.shape != after.shape or not after.is_floating_point():
            continue
        difference = after.float() - before.float()
        if difference.shape != update.shape:
            update = update.T
        if difference.shape != update.shape:
            continue
        norm = float(difference.norm() * update.norm())
        cosines.append(float(torch.sum(difference * update)) / norm if norm > 0 else 0.0)
    return sum(cosines) / len(cosines) if cosines else None


def unreadable(path: Path) -> str | None:
    """Say why a file of weights cannot be read.

    Args:
        path: of a safetensors file; a pointer of Git LFS or half a download has that name, too.

    Returns:
        The reason; None when it can be.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except NOT_READ as error:
        return f"{path.name}: {' '.join(str(error).split())[:200]}"
    return None


def _updates(adapter: Path) -> Iterator[tuple[str, Any]]:
    """Yield (module, B·A) of a LoRA adapter; the scale does not matter for a direction."""
    files = _index(adapter)
    config = parse_json(read_bytes(adapter / "adapter_config.json"))
    transposed = isinstance(config, dict) and config.get("fan_in_fan_out")
    for key, file in files.items():
        if key.endswith(".lora_A.weight"):
            module = key.removesuffix(".lora_A.weight")
            partner = f"{module}.lora_B.weight"
            if partner in files:
                product = _tensor(files[partner], partner).float() @ _tensor(file, key).float()
                yield module, product.T if transposed else product


def _find(module: str, tensors: dict[str, Path]) -> str | None:
    """Return the weight of a module, whatever prefix the file puts before it."""
    parts = module.split(".")
    for start in range(len(parts)):
        name = ".".join(parts[start:]) + ".weight"
        if name in tensors:
            return name
    return None


def _index(folder: Path) -> dict[str, Path]:
    from safetensors import safe_open

    files: dict[str, Path] = {}
    for path in weight_files(folder).values():
        if not path.is_file():
            raise OSError(f"{path} is no regular file")
        with safe_open(path, framework="pt") as file:
            files |= dict.fromkeys(file.keys(), path)
    return files


def _tensor(path: Path, name: str) -> Any:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)
