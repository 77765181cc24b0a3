"""How an adapter was trained that another tool made, from the files which that left beside it.

Read are Trainer's `trainer_state.json`, the hyperparameters of a model card (`README.md`, with the
configuration that axolotl puts into it), YAML and JSON of axolotl, LLaMA-Factory and the like, and
their logs. Nothing is unpickled: `training_args.bin` can run code when it is opened.

Where files contradict each other, the record of the run itself counts more than what somebody
declared.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = ["TrainedElsewhere", "trained_elsewhere"]

_LARGEST = 32 << 20
"""Bytes of a file that is still read."""

# What others call the fields of `TrainingOptions`, most telling first.
_NAMES = {
    "learning_rate": ("learning_rate", "lr"),
    "epochs": ("num_train_epochs", "num_epochs", "epochs"),
    "max_steps": ("max_steps", "training_steps"),
    "schedule": ("lr_scheduler_type", "lr_scheduler"),
    "warmup_steps": ("warmup_steps", "lr_scheduler_warmup_steps"),
    "weight_decay": ("weight_decay",),
    "max_grad_norm": ("max_grad_norm", "gradient_clipping"),
    "max_length": ("max_length", "max_seq_length", "cutoff_len", "sequence_len"),
}
_WHOLE_BATCH = ("total_train_batch_size", "effective_batch_size")
_DEVICE_BATCH = ("per_device_train_batch_size", "train_batch_size", "micro_batch_size")
_SCHEDULES = {"constant_with_warmup": "constant"} | {
    name: name for name in ("constant", "linear", "cosine")
}
_KEYS = (
    *(name for names in _NAMES.values() for name in names),
    *_WHOLE_BATCH,
    *_DEVICE_BATCH,
    "gradient_accumulation_steps",
    "num_devices",
)

# Beyond these a number is a slip, or not what its name says.
_LIMITS: dict[str, tuple[type, float, float]] = {
    "learning_rate": (float, 0.0, 1.0),
    "epochs": (float, 0.0, 1e4),
    "max_steps": (int, 0.0, 1e8),
    "batch_size": (int, 0.0, 1e6),
    "warmup_steps": (int, -1.0, 1e7),
    "weight_decay": (float, -1.0, 1.0),
    "max_grad_norm": (float, -1.0, 1e6),
    "max_length": (int, 1.0, 1e7),
}


@dataclass(frozen=True)
class TrainedElsewhere:
    """What files beside an adapter tell of its training.

    Attributes:
        values: by field of `TrainingOptions`.
        sources: by field, the file and its word for it.
        notes: what contradicts, and what was not read.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Told:
    """What one file tells: by field, its value and the file's word for it."""

    file: str
    values: Mapping[str, tuple[Any, str]]


def trained_elsewhere(folder: str | Path) -> TrainedElsewhere:
    """Return how an adapter was trained, by the files beside it.

    Args:
        folder: the adapter's folder.

    Returns:
        What they tell; empty where they tell nothing.
    """
    place = Path(folder)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    notes: list[str] = []
    for told in _all(place, notes):
        for name, (value, word) in told.values.items():
            source = f"{told.file}: {word}"
            if name not in values:
                values[name], sources[name] = value, source
            elif told.file == sources[name].partition(":")[0]:
                continue
            elif name == "learning_rate" and _peak_of(values[name], value, sources[name]):
                values[name], sources[name] = value, source
            elif name == "batch_size":
                if word in _WHOLE_BATCH and not sources[name].endswith(_WHOLE_BATCH):
                    values[name], sources[name] = value, source  # others know of one device only
            elif not _same(values[name], value):
                notes.append(
                    f"files beside the adapter contradict each other: {name} is {_show(value)} by "
                    f"{source}, and {_show(values[name])} by {sources[name]}, which counts"
                )
    if "epochs" in values and "max_steps" in values:
        # in one file a number of steps takes the place of passes; made passes count more than both
        files = [sources[name].partition(":")[0] for name in ("epochs", "max_steps")]
        dropped = "epochs" if files[0] == files[1] else "max_steps"
        del values[dropped], sources[dropped]
    if (place / "training_args.bin").is_file():
        notes.append(
            f"{place / 'training_args.bin'} was not read: it is a pickle, which can run code"
        )
    return TrainedElsewhere(values, sources, tuple(notes))


def _peak_of(logged: float, declared: float, source: str) -> bool:
    """Say whether a logged peak is that of a declared rate: warm-up and decay leave less in a log.

    A schedule that warms up or decays is logged now and then only, so its true peak falls between
    two lines of the log.
    """
    return "peak" in source and 0.5 * declared <= logged <= 1.0001 * declared


def _all(folder: Path, notes: list[str]) -> Iterator[_Told]:
    """Yield what each file tells, the record of the run first."""
    readers: list[tuple[Path, Callable[[str], Iterator[Mapping[str, tuple[Any, str]]]]]] = [
        *((path, _trainer_state) for path in _states(folder)),
        (folder / "trainer_log.jsonl", _log),
    ]
    plain = ("training_args.yaml", "training_args.json", "args.json", "training_config.json")
    readers += [(folder / name, _settings) for name in plain]
    named = {folder / name for name in plain}
    yamls = sorted({*folder.glob("*.yaml"), *folder.glob("*.yml")} - named)
    readers += [(path, _settings) for path in yamls]
    readers += [(folder / "README.md", _card)]
    readers += [(folder / name, _results) for name in ("all_results.json", "train_results.json")]
    # of several devices and of accumulated gradients it says nothing, so others come before it
    readers += [(path, _device_batch) for path in _states(folder)]
    for path, reader in readers:
        if not path.is_file():
            continue
        try:
            if path.stat().st_size > _LARGEST:
                raise ValueError("it is too large")
            told = [*reader(path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())[:120]
            notes.append(f"{path} cannot be read and tells nothing of the training: {reason}")
            continue
        file = path.relative_to(folder).as_posix()
        yield from (_Told(file, each) for each in told)


def _states(folder: Path) -> list[Path]:
    """Return Trainer's state of this folder, or that of the last checkpoint in it."""
    if (folder / "trainer_state.json").is_file():
        return [folder / "trainer_state.json"]
    checkpoints = [
        (int(found[1]), path)
        for path in folder.glob("checkpoint-*/trainer_state.json")
        if (found := re.fullmatch(r"checkpoint-(\d+)", path.parent.name))
    ]
    return [max(checkpoints)[1]] if checkpoints else []


def _trainer_state(text: str) -> Iterator[Mapping[str, tuple[Any, str]]]:
    """Read Trainer's state: the peak of the logged learning rates, passes and steps made."""
    state = _object(json.loads(text))
    log = state.get("log_history")
    rows = [row for row in log if isinstance(row, dict)] if isinstance(log, list) else []
    epochs = _number("epochs", state.get("epoch"))
    told = {
        "learning_rate": (_peak(rows, "learning_rate"), "peak of learning_rate in log_history"),
        "epochs": (None if epochs is None else _rounded(epochs), "epoch"),
    }
    if told["epochs"][0] is None:
        told["epochs"] = (_number("epochs", state.get("num_train_epochs")), "num_train_epochs")
    if told["epochs"][0] is None:
        told["max_steps"] = (_number("max_steps", state.get("max_steps")), "max_steps")
    yield _known(told)


def _device_batch(text: str) -> Iterator[Mapping[str, tuple[Any, str]]]:
    """Read the batch of one device from Trainer's state."""
    word = "train_batch_size"
    batch = _number("batch_size", _object(json.loads(text)).get(word))
    yield _known({"batch_size": (batch, word)})


def _log(text: str) -> Iterator[Mapping[str, tuple[Any, str]]]:
    """Read LLaMA-Factory's log."""
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    rows = [row for row in rows if isinstance(row, dict)]
    word = next((w for w in ("learning_rate", "lr") if _peak(rows, w) is not None), "lr")
    passes = [e for row in rows if (e := _number("epochs", row.get("epoch"))) is not None]
    yield _known(
        {
            "learning_rate": (_peak(rows, word), f"peak of {word}"),
            "epochs": (_rounded(max(passes)) if passes else None, "epoch"),
        }
    )


def _settings(text: str) -> Iterator[Mapping[str, tuple[Any, str]]]:
    """Read settings that a tool was given, YAML or JSON (which is YAML, too)."""
    content = yaml.safe_load(text)
    if isinstance(content, dict):
        yield _mapped(content)


def _results(text: str) -> Iterator[Mapping[str, tuple[Any, str]]]:
    """Read the summary of a run."""
    passes = _number("epochs", _object(json.loads(text)).get("epoch"))
    yield _known({"epochs": (None if passes is None else _rounded(passes), "epoch")})


_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_FENCED = re.compile(r"^```(?:ya?ml)?[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINE = re.compile(
    r"^[\s>|*+-]*[`*_]*({})[`*]*\s*[:=|]\s*[`*]*\s*([\w.+-]+)".format(
        "|".join(sorted({key.replace("_", "[_ ]") for key in _KEYS}, key=len, reverse=True))
    ),
    re.IGNORECASE | re.MULTILINE,
)


def _card(text: str) -> Iterator[Mapping[str, tuple[Any, str]]]:
    """Read a model card: its front matter, its list of hyperparameters, a configuration in it."""
    body = text
    if front := _FRONT.match(text):
        body = text[front.end() :]
        content = _yaml(front[1])
        if "unlearn" in (content.get("tags") or ()):
            return  # written by us: the rate in it may be that of an unlearning
        yield _mapped(content)
    listed: dict[str, Any] = {}
    for found in _LINE.finditer(_FENCED.sub("", body)):
        listed.setdefault(found[1].lower().replace(" ", "_"), found[2])
    yield _mapped(listed)
    for block in _FENCED.finditer(body):
        yield _mapped(_yaml(block[1]))


def _yaml(text: str) -> dict[str, Any]:
    """Return a part of a card as settings; other code stands in cards, too."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def _mapped(content: Mapping[Any, Any]) -> Mapping[str, tuple[Any, str]]:
    """Return the fields of `TrainingOptions` that some settings tell, by other tools' names."""
    told: dict[str, tuple[Any, str]] = {}
    for name, words in _NAMES.items():
        for word in words:
            value = content.get(word)
            known = _SCHEDULES.get(str(value)) if name == "schedule" else _number(name, value)
            if known is not None:
                told.setdefault(name, (known, word))
    told["batch_size"] = _batch(content)
    return _known(told)


def _batch(content: Mapping[Any, Any]) -> tuple[int | None, str]:
    """Return the records of an optimizer step: of all devices, accumulated ones included."""
    for word in _WHOLE_BATCH:
        if (whole := _number("batch_size", content.get(word))) is not None:
            return whole, word
    for word in _DEVICE_BATCH:
        if (part := _number("batch_size", content.get(word))) is None:
            continue
        for factor in ("gradient_accumulation_steps", "num_devices"):
            if (times := _number("batch_size", content.get(factor))) is not None and times > 1:
                part, word = part * times, f"{word} × {factor}"
        return part, word
    return None, ""


def _known(told: Mapping[str, tuple[Any, str]]) -> dict[str, tuple[Any, str]]:
    return {name: each for name, each in told.items() if each[0] is not None}


def _peak(rows: list[dict[str, Any]], word: str) -> float | None:
    rates = [_number("learning_rate", row.get(word)) for row in rows]
    return max((rate for rate in rates if rate is not None), default=None)


def _number(name: str, value: Any) -> Any:
    """Return a number that a field can have, else None; PyYAML reads 1e-5 as a text."""
    kind, low, high = _LIMITS[name]
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # of a whole number beyond all floats
        return None
    if not (math.isfinite(number) and low < number <= high):
        return None
    return int(number) if kind is int else number


def _rounded(epochs: float) -> float:
    """Take 2.99 passes for 3: the last batch of a pass is often left out."""
    whole = round(epochs)
    return float(whole) if whole and abs(epochs - whole) <= 0.02 * whole else epochs


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    return math.isclose(one, other, rel_tol=0.02)


def _show(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _object(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError("it does not hold a JSON object")
    return content
