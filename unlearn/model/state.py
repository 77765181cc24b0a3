"""Open a base with adapters or a full fine-tune, look at its references, save it.

But for the encoder of texts nothing else calls `from_pretrained`. Weights are read and written as
safetensors only; code from a model's folder is not run unless the user asks for it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unlearn.errors import ModelError
from unlearn.model.adapted_base import for_adapters
from unlearn.model.adapters import check_adapter_folder, check_finite, check_finite_model
from unlearn.model.blocks import set_checkpointing
from unlearn.model.embeddings import check_frozen_rows, embedding_rows
from unlearn.model.folders import (
    check_loaded,
    check_model_folder,
    one_line,
    place_of,
    resolve_folder,
    stacked,
)
from unlearn.model.lora import (
    TRAINABLE,
    Switched,
    activate,
    attach,
    in_blocks,
    ships_embeddings,
    switched,
)
from unlearn.model.number_format import dtype_of, keep_codes, nf4
from unlearn.model.quiet import quiet
from unlearn.model.reading import Reading, fitted, open_tokenizer
from unlearn.model.save import load_trained, save_state
from unlearn.model.scoring import Head
from unlearn.provenance.lineage import Lineage, weights_digest

__all__ = [
    "ModelState",
    "Reference",
    "load_trained",
    "new_adapter",
    "open_model",
    "resolve_folder",
    "swap_adapters",
]

Reference = Literal["base", "before"]

_BEFORE = "before"


@dataclass
class ModelState:
    """A base model with zero or more adapters, or a full fine-tune.

    Attributes:
        model: the `PreTrainedModel`, or the `PeftModel` around it.
        tokenizer: how it reads text: the last adapter's tokenizer and chat template, where its
            folder ships its own, else the base's.
        name: the base as the user named it.
        folder: where the base's files lie.
        adapter: the folder of the last adapter (the one that trains), if any.
        head: the output projection.
        stack: names of the active adapters, frozen ones first.
        frozen: folders of the frozen adapters below.
        notes: what the user should know of how it was opened.
        reading: how it reads text, and whose tokenizer that is.
        base_reading: how the base reads text.
        base_rows: tokens for which the base has embeddings by itself.
        saves_embeddings: whether the adapter is saved with embeddings that do not train: those of a
            resized base; None leaves it to PEFT.
        trust_remote_code: whether code from the folders may be run.
    """

    model: Any
    tokenizer: Any
    name: str
    folder: Path
    adapter: Path | None
    head: Head
    stack: tuple[str, ...] = ()
    frozen: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    reading: Reading | None = None
    base_reading: Reading | None = None
    base_rows: int = 0
    saves_embeddings: bool | None = None
    trust_remote_code: bool = False
    _before: tuple[nn.Module, Head] | None = field(default=None, repr=False)

    @property
    def kind(self) -> Literal["adapter", "full"]:
        """Say whether an adapter or the whole model is trained and saved."""
        return "adapter" if self.stack else "full"

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def max_length(self) -> int:
        """The longest sequence the model takes, in tokens."""
        config = self.model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None) or getattr(
            config, "n_positions", 0
        )
        told = self.tokenizer.model_max_length
        return int(min(x for x in (limit or 1 << 20, told or 1 << 20, 1 << 20)))

    def digest(self) -> str:
        """Return the digest of the weights on disk that tell this state apart from its base."""
        return weights_digest(self.adapter or self.folder)

    def base_digest(self) -> str:
        """Return the digest of the base's weights on disk."""
        return weights_digest(self.folder)

    def prepare_reference(self, which: Reference) -> None:
        """Make a reference available: nothing for the base of an adapter, else what is cheapest.

        `before` is the state as opened. For an adapter its weights are loaded a second time on the
        same base (the cost of one adapter); only a full fine-tune needs a frozen copy.

        Args:
            which: `base` or `before`.

        Raises:
            ModelError: if a full fine-tune is asked for its base.
        """
        if which == "base":
            if not self.stack:
                raise ModelError(
                    "a full fine-tune has no base to compare with: this method needs an adapter"
                )
            return
        if not self.stack:
            if self._before is None:
                frozen = copy.deepcopy(self.model).eval().requires_grad_(False)
                self._before = (frozen, Head.of(frozen))
        elif _BEFORE not in self.model.peft_config:
            with quiet():
                self.model.load_adapter(
                    str(self.adapter), adapter_name=_BEFORE, is_trainable=False, torch_device="cpu"
                )
            self.model.to(self.device)

    @contextlib.contextmanager
    def reference(self, which: Reference) -> Iterator[tuple[nn.Module, Head]]:
        """Yield the reference model and its head: no gradient, eval mode, all restored afterwards.

        Adapters are switched by the layers' own flags, so `requires_grad` is never touched
        (PEFT's `set_adapter` and `disable_adapter` reset it), and training mode and active adapter
        are put back exactly, also after an error. The head keeps giving the reference's logits
        after the block has ended.

        Args:
            which: `base` (adapters off) or `before` (the state as opened).

        Yields:
            (the module to call, the head for its hidden states).
        """
        if which == "before" and not self.stack:
            if self._before is None:
                raise ModelError("prepare_reference('before') was not called")
            with torch.no_grad():
                yield self._before
            return
        names = None if which == "base" else [*self.stack[:-1], _BEFORE]
        training = [(module, module.training) for module in self.model.modules()]
        try:
            self.model.eval()
            with torch.no_grad(), switched(self.model, names):
                yield self.model, replace(self.head, module=Switched(self.head.module, names))
        finally:
            for module, mode in training:
                module.training = mode

    def set_checkpointing(self, on: bool) -> None:
        """Recompute activations in the backward pass to save memory, or stop doing so.

        Args:
            on: which of the two.
        """
        set_checkpointing(self.model, on)

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the weights into a folder: a plain PEFT adapter, or a whole model with tokenizer.

        A tokenizer or chat template that is not the base's goes with the adapter.

        Args:
            folder: an existing folder, best one from `staged_folder`.
            weights: what `whole_weights` gathered, where processes hold slices.

        Raises:
            ModelError: if a trained tensor holds NaN or infinity.
        """
        save_state(self, folder, weights)


def open_model(
    model: str | Path,
    adapters: Sequence[str | Path] | str | Path | None = None,
    *,
    trainable: bool = False,
    dtype: str = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    load_in_4bit: bool = False,
) -> ModelState:
    """Open a base model and, on it, zero or more PEFT adapters.

    Args:
        model: a local folder or a hub name.
        adapters: adapter folders (or hub names), applied together; the last is the one that trains.
        trainable: let gradients reach the last adapter, or the whole model without one.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 where a GPU supports it, else
            float32. Adapters are always kept in float32.
        device: `cpu`, `cuda`, `cuda:1`, …; by default the accelerator if there is one.
        trust_remote_code: run code from the model's folder.
        load_in_4bit: quantise the base on load with bitsandbytes NF4; `dtype` is what it computes
            in.

    Returns:
        The opened state.

    Raises:
        ModelError: if a folder is missing, incomplete, unsafe, not finite, or does not fit.
    """
    folder = resolve_folder(model, "model")
    paths = [resolve_folder(a, "adapter") for a in stacked(adapters)]
    check_model_folder(folder)
    for path in paths:
        check_adapter_folder(path)  # before the base is loaded, which can take minutes
    place = place_of(device)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    if load_in_4bit:
        if trainable and not paths:
            raise ModelError(
                "a base that is quantised on load does not train: train an adapter on it, or leave "
                "out --load-in-4bit"
            )
        options["quantization_config"] = nf4(place, dtype_of(dtype, place))
        options["device_map"] = {"": place}
    try:
        with quiet():
            net = _weights(folder, dtype_of(dtype, place), options)
            tokenizer = open_tokenizer(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever a file that transformers cannot read leads to
        raise ModelError(f"cannot open the model {model}: {one_line(error)}") from error
    if load_in_4bit:
        keep_codes(net)
    else:
        net = net.to(place)
    check_finite_model(net, folder)
    reading = Reading(tokenizer)
    bare = ModelState(
        net,
        tokenizer,
        str(model),
        folder,
        None,
        Head.of(net),
        reading=reading,
        base_reading=reading,
        base_rows=embedding_rows(net),
        trust_remote_code=trust_remote_code,
    )
    if paths:
        return _with_adapters(bare, paths, trainable=trainable)
    reading = fitted(reading, bare.base_rows, f"the model {model}")
    net.requires_grad_(trainable).eval()
    return replace(bare, tokenizer=reading.tokenizer, reading=reading, notes=reading.notes)


def _weights(folder: Path, kind: torch.dtype, options: dict[str, Any]) -> Any:
    """Load a causal language model, refusing a file that lacks weights."""
    from transformers import AutoModelForCausalLM

    net, told = AutoModelForCausalLM.from_pretrained(
        folder, use_safetensors=True, dtype=kind, output_loading_info=True, **options
    )
    check_loaded(told)
    return net


def swap_adapters(state: ModelState, adapters: Sequence[str | Path]) -> ModelState:
    """Put other adapters on the base that is already in memory.

    Args:
        state: a state with adapters; must not be used afterwards.
        adapters: folders (or hub names), the frozen ones first.

    Returns:
        The new state, not trainable.

    Raises:
        ModelError: if an adapter cannot be used or does not fit.
    """
    paths = [resolve_folder(a, "adapter") for a in adapters]
    bare = replace(state, model=state.model.unload(), adapter=None, stack=(), frozen=())
    return _with_adapters(bare, paths, trainable=False)


def _with_adapters(bare: ModelState, paths: Sequence[Path], *, trainable: bool) -> ModelState:
    """Attach adapters to a base without any, the last one under the name that is saved."""
    for path in paths:
        check_adapter_folder(path)
        check_finite(path)
        _check_base(path, bare)
    net = bare.model.requires_grad_(False)
    bare = for_adapters(bare, paths)
    for path in paths:
        check_frozen_rows(net, path, check_adapter_folder(path), bare.base_rows)
    stack: list[str] = []
    for i, path in enumerate(paths):
        name = TRAINABLE if i == len(paths) - 1 else f"frozen{i}"
        with quiet():
            net = attach(net, path, name, trainable=trainable and name == TRAINABLE)
        stack.append(name)
    if len(stack) > 1:
        activate(net, stack, trainable)
    net.eval()
    return replace(
        bare,
        model=net,
        adapter=paths[-1],
        head=Head.of(net),
        stack=tuple(stack),
        frozen=tuple(paths[:-1]),
        saves_embeddings=ships_embeddings(net, paths[-1]),
    )


def new_adapter(state: ModelState, config: dict[str, Any], seed: int) -> ModelState:
    """Put a fresh LoRA adapter on a base.

    Args:
        state: an opened base without adapters.
        config: keyword arguments of `peft.LoraConfig`.
        seed: seed of the initial weights.

    Returns:
        The same base with one trainable adapter.

    Raises:
        ModelError: if PEFT cannot place the adapter on this architecture.
        OptionError: if the model lacks a block that is named.
    """
    from peft import LoraConfig, get_peft_model

    config = in_blocks(state.model, config)
    torch.manual_seed(seed)
    try:
        with quiet():
            net = get_peft_model(
                state.model.requires_grad_(False), LoraConfig(task_type="CAUSAL_LM", **config)
            )
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(f"no LoRA adapter fits {state.name}: {one_line(error)}") from error
    return replace(state, model=net.eval(), head=Head.of(net), stack=(TRAINABLE,))


def _check_base(adapter: Path, bare: ModelState) -> None:
    """Refuse an adapter whose lineage says it was trained on other base weights."""
    lineage = Lineage.read(adapter)
    if lineage and lineage.kind == "adapter" and lineage.base.digest != bare.base_digest():
        raise ModelError(
            f"the adapter {adapter} was trained on another base ({lineage.base.name}) than "
            f"{bare.name}: their weights differ"
        )
