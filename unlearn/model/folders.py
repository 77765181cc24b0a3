"""Find the folder of a model or adapter, and say what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn.errors import LineageError, ModelError, did_you_mean
from unlearn.processes import check_splitting
from unlearn.provenance.digests import weight_files
from unlearn.strict_json import NotJsonError, read_json_file

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEMO",
    "check_loaded",
    "check_model_folder",
    "embedded_model",
    "one_line",
    "place_of",
    "resolve_folder",
    "stacked",
]


def stacked(adapters: Sequence[str | Path] | str | Path | None) -> list[str | Path]:
    """Return adapters as a list, the frozen ones first, whether none, one or several are named."""
    if adapters is None:
        return []
    return [adapters] if isinstance(adapters, (str, Path)) else list(adapters)


DEMO = "demo"
"""The name of the model that is installed with the package."""


def embedded_model() -> Path:
    """Return the folder of the small base model that is installed with the package."""
    return Path(__file__).resolve().parents[1] / "apps" / "demo" / "base"


def resolve_folder(name: str | Path, what: str, *, weights: bool = True) -> Path:
    """Find the local folder of a model or adapter, fetching a hub name where that is possible.

    Args:
        name: a local folder, a hub name such as `owner/model`, or `demo`, the embedded model, where
            no folder is called so.
        what: `model` or `adapter`, for the message.
        weights: whether its weights are fetched, too.

    Returns:
        The folder.

    Raises:
        ModelError: if there is no such folder and the hub does not give it.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    text = str(name)
    if text == DEMO and what == "model":
        return embedded_model()
    if path.is_file():
        raise ModelError(f"the {what} {text} is a file; name the folder that holds it")
    if text.startswith((".", "/", "~")) or text.count("/") > 1 or text.endswith("/"):
        near = did_you_mean(path.name, _folders_beside(path))
        raise ModelError(f"the {what} folder {text} does not exist{near}")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                text,
                # README.md and YAML tell how an adapter was trained
                allow_patterns=[
                    *("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"),
                    *("README.md", "*.yaml", "*.yml"),
                    *(["*.safetensors"] if weights else []),
                ],
            )
        )
    except Exception as error:
        near = did_you_mean(path.name, _folders_beside(path))
        raise ModelError(
            f"there is no {what} folder {text} here{near}, and the hub does not give one of that "
            f"name: {one_line(error)}"
        ) from error


def _folders_beside(path: Path) -> list[str]:
    """Return the names of the folders where a folder should have been."""
    place = path.parent
    return [one.name for one in place.iterdir() if one.is_dir()] if place.is_dir() else []


def check_model_folder(folder: Path) -> None:
    """Refuse a folder that is no model, or has only pickled weights.

    Args:
        folder: the model's folder.

    Raises:
        ModelError: naming what is missing.
    """
    if not (folder / "config.json").is_file():
        hint = (
            "; it is an adapter: pass its base as --model and this folder as --adapter"
            if (folder / "adapter_config.json").is_file()
            else ""
        )
        raise ModelError(f"{folder} is not a model: it has no config.json{hint}")
    try:
        weights = weight_files(folder)
    except LineageError as error:
        raise ModelError(str(error)) from None
    if not weights:
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
            raise ModelError(
                f"{folder} holds only pickled weights, which can run code when opened; convert "
                "them to safetensors where you trust them"
            )
        raise ModelError(f"{folder} has config.json but no .safetensors weights")
    _check_depth(folder, weights.values())


_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
"""What configurations call the number of a model's layers."""


def _check_depth(folder: Path, weights: Iterable[Path]) -> None:
    """Refuse more layers than there are tensors: building them one by one would not end."""
    from safetensors import SafetensorError, safe_open

    try:
        config = read_json_file(folder / "config.json")
        parts = [part for part in (config, config.get("text_config")) if isinstance(part, dict)]
        layers = max(part[name] for part in parts for name in _LAYERS if name in part)
        tensors = 0
        for path in weights:
            with safe_open(path, framework="pt") as file:
                tensors += len(file.keys())
        too_many = layers > tensors
    except (OSError, NotJsonError, SafetensorError, AttributeError, TypeError, ValueError):
        return  # who reads the file for what is in it says what is wrong with it
    if too_many:
        raise ModelError(
            f"{folder}: config.json names {layers} layers, and the weights have {tensors} tensors"
        )


def place_of(device: str | None) -> torch.device:
    """Return where a model goes.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, …; None takes the accelerator if there is one.

    Returns:
        The device.

    Raises:
        ModelError: if there is no such device here.
        OptionError: if a launcher was asked to split weights over processes as it cannot be.
    """
    import torch

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"--device {device}: there is no such device here; try cpu ({one_line(error)[:120]})"
        ) from error
    check_splitting(place.type)
    return place


def check_loaded(loaded: Mapping[str, Any], *, unread: str = "") -> None:
    """Refuse a model whose file lacks weights: transformers makes those up, with a warning only.

    Args:
        loaded: what `from_pretrained(…, output_loading_info=True)` tells.
        unread: beginning of names that nothing reads, so that they may be missing.

    Raises:
        ModelError: naming one that is missing.
    """
    missing = sorted(n for n in loaded["missing_keys"] if not (unread and n.startswith(unread)))
    if missing:
        raise ModelError(f"{len(missing)} of its weights are missing, among them {missing[0]}")


def one_line(error: BaseException) -> str:
    """Return an error of another library as one line, not too long."""
    return " ".join(str(error).split())[:300]
