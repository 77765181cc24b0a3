"""Where a training ran: what rounds its sums one way and not another, as a lineage keeps it.

The same training on the same records gives the same weights, bit by bit, where all of this is the
same; where something differs, the last digits may.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn.processes import splitting, world_size

__all__ = ["SWITCHES", "environment_of", "fresh_environment", "quantised"]

SWITCHES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Environment variables by which libraries choose how they compute."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "asimd", "bf16", "i8mm", "sve")
"""Features of processors that kernels are chosen by."""


def environment_of(model: Any, device: Any, *, deterministic: bool) -> dict[str, Any]:
    """Return where and how a model is computed.

    Args:
        model: the opened `torch.nn.Module`, its base first.
        device: `torch.device` that it is on.
        deterministic: whether deterministic kernels were asked for.

    Returns:
        Facts by name, as JSON has them.
    """
    import torch

    on_cpu = device.type == "cpu"
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor("model name"),
        "processor features": [f for f in _FEATURES if f in _processor("flags").split()],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "device": device.type,
        "number type": str(next(model.parameters()).dtype).removeprefix("torch."),
        "4-bit": quantised(model) or False,
        "threads": torch.get_num_threads() if on_cpu else None,
        "processes": world_size(),
        "weights split by": splitting(),
        "deterministic kernels": deterministic,
        "switches": {name: os.environ[name] for name in SWITCHES if os.environ.get(name)},
    }
    if not on_cpu:
        facts["accelerator"] = torch.cuda.get_device_name(device)
    return facts


def fresh_environment(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variables of a process that is to compute as a lineage says.

    Args:
        facts: what `environment_of` returned there; of it, the threads and the switches are used.

    Returns:
        This process's variables, with its own threads and switches replaced.
    """
    variables = {k: v for k, v in os.environ.items() if k not in SWITCHES}
    switches = facts.get("switches") or {}
    variables |= {name: str(switches[name]) for name in SWITCHES if switches.get(name)}
    if facts.get("threads"):
        variables |= dict.fromkeys(_THREADS, str(int(facts["threads"])))
    return variables


def quantised(model: Any) -> str | None:
    """Return in which form the base of a model is quantised, in words; None where it is not.

    Weights on disk are those of the base as it came: what was computed with depends on this, too.

    Args:
        model: an opened model, with adapters or without.

    Returns:
        Such as `nf4 in blocks of 64, computed in float32, bitsandbytes 0.50.0`.
    """
    if not getattr(model, "is_loaded_in_4bit", False):
        return None
    config = model.config.quantization_config
    kind = str(config.bnb_4bit_compute_dtype).removeprefix("torch.")
    blocks = {m.weight.quant_state.blocksize for m in model.modules() if _holds_codes(m)}
    sizes = " or ".join(map(str, sorted(blocks)))
    return (
        f"{config.bnb_4bit_quant_type} in blocks of {sizes}, computed in {kind}, "
        f"bitsandbytes {importlib.metadata.version('bitsandbytes')}"
    )


def _holds_codes(module: Any) -> bool:
    """Say whether a module's weights are 4-bit codes."""
    return getattr(getattr(module, "weight", None), "quant_state", None) is not None


def _processor(name: str) -> str:
    """Return a line of what Linux says of the first processor; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() if name == "model name" else ""
    found = (line.partition(":") for line in lines)
    names = {name, "Features"} if name == "flags" else {name}
    return next((value.strip() for key, _, value in found if key.strip() in names), "")
