"""PEFT adapters on disk: which kinds are supported, and refusing the others by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from unlearn.errors import ModelError
from unlearn.provenance.digests import weight_files
from unlearn.strict_json import NotJsonError, read_json_file

__all__ = [
    "check_adapter_folder",
    "check_finite",
    "check_finite_model",
    "lora_delta_scale",
    "read_adapter_config",
    "unknown_fields",
]

# Initialisations that also change the base weights when the adapter is made: without the adapter
# such a base is not the model the user named, so it cannot serve as its own reference.
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga", "eva_base")


def check_adapter_folder(folder: Path) -> dict[str, Any]:
    """Check that a folder holds an adapter this toolkit can train and switch off exactly.

    Plain LoRA, rsLoRA, DoRA and `modules_to_save` are supported.

    Args:
        folder: the adapter's folder.

    Returns:
        The parsed `adapter_config.json`.

    Raises:
        ModelError: naming what is missing or not supported.
    """
    config = read_adapter_config(folder)
    if not (folder / "adapter_model.safetensors").is_file():
        if (folder / "adapter_model.bin").is_file():
            raise ModelError(
                f"{folder} holds only pickled weights (adapter_model.bin), which can run code when "
                "opened; convert them to adapter_model.safetensors where you trust them"
            )
        raise ModelError(f"{folder} has adapter_config.json but no adapter_model.safetensors")
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        raise ModelError(
            f"{folder}: adapters of type {kind} are not supported (supported: LoRA, with or "
            "without rsLoRA, DoRA and modules_to_save)"
        )
    if str(config.get("bias", "none")) != "none":
        raise ModelError(
            f"{folder}: LoRA with bias={config['bias']!r} changes the base's own biases, so the "
            "base can no longer be had by switching the adapter off; train it with bias='none'"
        )
    if config.get("layer_replication"):
        raise ModelError(f"{folder}: LoRA with layer_replication is not supported")
    if config.get("alora_invocation_tokens"):
        raise ModelError(f"{folder}: activated LoRA (alora_invocation_tokens) is not supported")
    if config.get("kasa_config"):
        raise ModelError(f"{folder}: KaSA (kasa_config) also changes the base's weights")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_BASE_CHANGING):
        raise ModelError(
            f"{folder}: LoRA initialised with {start!r} also changed the base's weights; save it "
            "as a plain LoRA first (peft: path_initial_model_for_weight_conversion)"
        )
    return config


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Parse `adapter_config.json`.

    Args:
        folder: the adapter's folder.

    Returns:
        The configuration as a dictionary.

    Raises:
        ModelError: if there is none, or it is not a JSON object.
    """
    path = folder / "adapter_config.json"
    if not path.is_file():
        hint = (
            "; it holds a whole model: pass it as --model without --adapter"
            if (folder / "config.json").is_file()
            else ""
        )
        raise ModelError(f"{folder} is not an adapter: it has no adapter_config.json{hint}")
    try:
        config = read_json_file(path)
    except (NotJsonError, OSError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return config


def unknown_fields(folder: Path) -> tuple[str, ...]:
    """Say which settings of an adapter the installed PEFT does not know and leaves out, if any."""
    from peft import LoraConfig

    known = {field.name for field in dataclasses.fields(LoraConfig)}
    config = read_adapter_config(folder)
    unknown = [name for name in sorted(set(config) - known) if config[name]]
    if not unknown:
        return ()
    return (
        f"the installed PEFT does not know {', '.join(unknown)} of the adapter {folder} and leaves "
        "that out; a newer version may read the adapter otherwise",
    )


def check_finite_model(net: nn.Module, folder: Path) -> None:
    """Refuse a model with NaN or infinite weights, without reading its files again."""
    for name, parameter in net.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise ModelError(f"{folder}: the tensor {name} holds NaN or infinity")


def check_finite(folder: Path) -> None:
    """Refuse weights that hold NaN or infinity.

    Args:
        folder: a folder with safetensors files.

    Raises:
        ModelError: naming the first such tensor, or the file that cannot be read.
    """
    for path in weight_files(folder).values():
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    tensor = file.get_tensor(name)
                    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                        raise ModelError(f"{path}: the tensor {name} holds NaN or infinity")
        except safetensors.SafetensorError as error:
            raise ModelError(f"{path} cannot be read as safetensors: {error}") from None


def lora_delta_scale(config: dict[str, Any], rank: int, alpha: float) -> float:
    """Return s in ΔW = s·B·A: alpha / r, or alpha / √r for rsLoRA (2312.03732, eq. 7)."""
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
