"""How far two adapters are apart: in their weights, and in what they say of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearn.data.records import Records
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import encode
from unlearn.errors import ModelError
from unlearn.model.opening import Opening
from unlearn.model.scoring import score_examples
from unlearn.model.shape import BOOKKEEPING
from unlearn.provenance.digests import weight_files
from unlearn.strict_json import NotJsonError, read_json_file

__all__ = ["LIMIT", "WeightsApart", "apart_in_scores", "apart_in_weights", "otherwise_set", "share"]

LIMIT = 0.01
"""Largest part of the distance of two seeds that rounding is taken to make: what differs by more
was not the same training."""


class WeightsApart(NamedTuple):
    """How the weights of two folders compare.

    Attributes:
        tensors: how many there are in the first.
        strange: those that only one of them has, or that have another shape or type.
        unequal: how many of the others differ in a bit.
        most: max |Δw| over them; NaN where one has no number.
    """

    tensors: int
    strange: tuple[str, ...]
    unequal: int
    most: float


def apart_in_weights(first: Path, second: Path) -> WeightsApart:
    """Compare all tensors of two folders, bit by bit.

    Args:
        first: an adapter or model.
        second: another.

    Returns:
        What differs.
    """
    mine, other = _tensors(first), _tensors(second)
    strange = {name for name in {*mine, *other} if name not in mine or name not in other}
    both = [name for name in mine if name in other]
    strange |= {
        name
        for name in both
        if (mine[name].shape, mine[name].dtype) != (other[name].shape, other[name].dtype)
    }
    unequal, most = 0, 0.0
    for name in both:
        if name in strange or _bits(mine[name]) == _bits(other[name]):
            continue
        unequal += 1
        change = float((mine[name].double() - other[name].double()).abs().max())
        most = float(np.maximum(most, change))  # a NaN stays
    return WeightsApart(len(mine), tuple(sorted(strange)), unequal, most)


def otherwise_set(first: Path, second: Path) -> list[str]:
    """Name the settings in which the configurations of two adapters or models differ.

    Where the base lies, which PEFT wrote it and the like are no settings.

    Args:
        first: a folder.
        second: another.

    Returns:
        Names.
    """
    mine, other = _configuration(first), _configuration(second)
    return sorted(k for k in {*mine, *other} if mine.get(k) != other.get(k))


def apart_in_scores(
    model: Path, adapters: Sequence[Path], records: Records, template: str, opening: Opening
) -> list[float]:
    """Return how far adapters are from the first of them in the log-probabilities of tokens.

    √(mean over tokens of (log p − log p₀)²), in nats, over the tokens of the records' targets.

    Args:
        model: the base.
        adapters: folders, two or more.
        records: on which to compare.
        template: how they are written.
        opening: how models are opened.

    Returns:
        One distance for each adapter but the first.
    """
    scores = []
    for adapter in adapters:
        state = opening.open(model, adapter)
        used = choose_template(template, state.tokenizer, records)
        examples = encode(records, state.tokenizer, used, state.max_length)
        statistics, _ = score_examples(state.model, state.head, examples)
        scores.append(statistics.log_prob.double().numpy())
    return [float(np.sqrt(np.mean((each - scores[0]) ** 2))) for each in scores[1:]]


def share(near: Mapping[str, float], far: Mapping[str, float]) -> float:
    """Return the largest part that distances are of those of two seeds; ∞ where these are 0.

    Args:
        near: distances by name.
        far: those of two seeds, by the same names.

    Returns:
        max near / far.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.divide(near[name], far[name]) for name in near]
    worst = float(np.max(parts))
    return worst if np.isfinite(worst) else float("inf")


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    for path in weight_files(folder).values():
        tensors |= load_file(path)
    return tensors


def _bits(tensor: Any) -> bytes:
    import torch

    content: bytes = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return content


def _configuration(folder: Path) -> dict[str, Any]:
    name = "adapter_config.json"
    file = folder / (name if (folder / name).is_file() else "config.json")
    try:
        content = read_json_file(file)
    except (OSError, NotJsonError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file} does not hold a JSON object")
    left_out = (BOOKKEEPING | {"transformers_version", "_name_or_path"}) - {
        "peft_type",
        "task_type",
    }
    # an adapter's modules are a set, and PEFT writes them in any order
    return {
        key: sorted(value) if key == "target_modules" and isinstance(value, list) else value
        for key, value in content.items()
        if key not in left_out
    }
