"""The model card of what is saved: how it was made, in words and numbers, and how to load it.

It names no record and holds no text of one: counts only. Names that users choose are written so
that neither YAML nor Markdown takes them for anything but names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from unlearn.data.templates import PRESETS
from unlearn.methods.registry import METHODS
from unlearn.model.state import ModelState
from unlearn.provenance.lineage import Lineage
from unlearn.version import __version__

__all__ = ["model_card", "write_card"]


def write_card(line: Lineage, state: ModelState, folder: Path) -> None:
    """Write the card of a saved state into its folder, in place of any that is there."""
    (folder / "README.md").write_text(model_card(line, state), encoding="utf-8")


def model_card(line: Lineage, state: ModelState) -> str:
    """Return the card of a saved state, Markdown with YAML in front, as the hub reads it.

    Args:
        line: its lineage.
        state: the state.

    Returns:
        The text.
    """
    adapter = line.kind == "adapter"
    tags = [*(["lora"] if adapter else []), "unlearn", "machine-unlearning"]
    front = "".join(
        # in double quotes a text stays on its line, so that no line of it can end the front matter
        f"{key}: {_quoted(value)}\n"
        for key, value in (
            ("base_model", line.base.name),
            ("library_name", "peft" if adapter else "transformers"),
            ("pipeline_tag", "text-generation"),
        )
    )
    front += f"tags: [{', '.join(tags)}]\n"
    parts = [
        f"---\n{front}---",
        f"# {'A LoRA adapter' if adapter else 'A language model'} made by unlearn {__version__}",
        _origin(line, state),
        "## How it was made\n\n" + "\n".join(f"- {fact}" for fact in _facts(line)),
        "## What is shown and what is not\n\n" + _shown(line),
        "## How to load it\n\n" + _loading(line, state),
    ]
    return "\n\n".join(parts) + "\n"


def _origin(line: Lineage, state: ModelState) -> str:
    """Say in a sentence or two what it is."""
    what = "the adapter" if line.kind == "adapter" else "the model"
    base = f"Its base is {_name(line.base.name)}."
    if state.frozen:
        base += f" It lies on top of {len(state.frozen)} other adapter(s), which belong to it."
    if line.verb != "forget":
        return f"It was trained on {_records(len(line.records.trained))}. {base}"
    count = len(line.records.forgotten)
    if line.parent is None:
        return (
            f"It was trained anew, without {_records(count)} that {what} before had learned or was "
            f"to forget. {base}"
        )
    return f"It was made from another of its kind, to take {_records(count)} out of it. {base}"


def _facts(line: Lineage) -> Iterator[str]:
    """Yield what the lineage tells, numbers and digests of weights only."""
    method = METHODS.get(line.method)
    yield f"method: {_name(line.method)}" + (f" ({method.summary})" if method else "")
    yield f"records that shaped its weights at some time: {len(line.records.trained)}"
    yield f"records that were to be taken out: {len(line.records.forgotten)}"
    if line.canaries is not None:
        yield f"pairs of canaries planted: {line.canaries.pairs}"
    if (federation := line.federation) is not None:
        clients, rounds = len(federation.members), federation.rounds
        yield f"clients that trained it together: {clients}, in {rounds} rounds"
    if line.poisoned:
        yield f"records among them that were poisoned on purpose: {line.poisoned}; do not deploy it"
    if (claim := line.privacy) is not None:
        yield (
            f"differential privacy of the weights: ε = {claim.epsilon:g}, δ = {claim.delta:.2g} "
            f"for adding or removing one {claim.unit} of {claim.units} (noise multiplier "
            f"{claim.noise_multiplier:.3g}, clipping norm {claim.clip:g})"
        )
    known = line.template in {*PRESETS, "chat", "roles"}
    yield f"template: {_name(line.template) if known else 'a text of the user’s own'}"
    yield f"seed: {line.seed}"
    length = "max_steps" if line.options.get("max_steps") else "epochs"
    for name in ("learning_rate", length, "batch_size"):
        if isinstance(value := line.options.get(name), int | float):
            yield f"{name}: {value:g}"
    for name, value in line.cost.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{name.replace('_', ' ')}: {value:g}"
    if line.budget.get("used", 1.0) != 1.0:
        yield f"part of the original training that was repeated: {line.budget['used']:g}"
    if line.stopped:
        yield f"training was ended by a rule: {_name(line.stopped)}"
    yield f"made on: {line.created[:10]}"
    yield f"weights: {_name(line.digest)}"
    yield f"weights of the base: {_name(line.base.digest)}"
    if line.parent:
        yield f"weights it was made from: {_name(line.parent)}"
    if line.start:
        yield f"weights that training began with: {_name(line.start.digest)}"
    yield "versions: " + ", ".join(f"{k} {_name(v)}" for k, v in sorted(line.versions.items()))


def _shown(line: Lineage) -> str:
    text = (
        "`lineage.json` holds the settings and, as keyed digests, which records were used; nobody "
        "without the key can tell from it who they are about. "
    )
    if line.verb != "forget":
        return f"{text}No audit was made when this was written."
    if line.parent is None:
        text += (
            "The records were not among those that it was trained on; that they are unknown to the "
            "base, or stand in no other record, is not shown. "
        )
    else:
        text += (
            "That the records have been forgotten is not shown: the method approximates a training "
            "without them. "
        )
    return f"{text}No audit was made when this was written; `unlearn audit` makes one."


def _loading(line: Lineage, state: ModelState) -> str:
    """Return code that loads it with plain PEFT and transformers."""
    own = state.reading is not None and state.reading.adapter is not None
    code = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if line.kind == "full":
        code += ["", 'model = AutoModelForCausalLM.from_pretrained("FOLDER")']
        code += ['tokenizer = AutoTokenizer.from_pretrained("FOLDER")']
    else:
        base = ascii(line.base.name)
        code = ["from peft import PeftModel", *code, ""]
        code += [f"base = AutoModelForCausalLM.from_pretrained({base})"]
        if (rows := _rows(state)) != state.base_rows:
            code += [f"base.resize_token_embeddings({rows})"]
        code += ['model = PeftModel.from_pretrained(base, "FOLDER")']
        code += [f"tokenizer = AutoTokenizer.from_pretrained({ascii('FOLDER') if own else base})"]
    text = "\n".join(["```python", *code, "```"])
    if own:
        text += "\n\nIt has a tokenizer and chat template of its own, which lie beside it."
    if state.frozen:
        text += "\n\nThe adapters below it are to be loaded first, and all made active together."
    return text


def _quoted(text: str) -> str:
    return str(yaml.safe_dump(text, default_style='"', width=math.inf, allow_unicode=True)).strip()


def _records(count: int) -> str:
    return f"{count} record" + ("" if count == 1 else "s")


def _rows(state: ModelState) -> int:
    return int(state.model.get_input_embeddings().weight.shape[0])


def _name(text: str) -> str:
    """Write a text as Markdown's code whatever it holds: on one line, in more ticks than it has."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split())[:300]
    ticks = "`" * (max(map(len, re.findall(r"`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"
