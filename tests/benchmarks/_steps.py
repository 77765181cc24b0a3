"""The optimizer steps that are compared; each includes clipping and AdamW.

All steps of one comparison see the same model, the same rows and the same optimizer.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from _measure import Step
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from unlearn import losses
from unlearn.data.batching import collate
from unlearn.data.tokenization import Example
from unlearn.losses import TokenView
from unlearn.model.number_format import keep_codes
from unlearn.model.scoring import Head, hidden_states, score_examples, target_positions
from unlearn.model.state import ModelState, new_adapter
from unlearn.training.loss_terms import Terms
from unlearn.training.sampler import FORGET, Pairs, Rows, collate_pairs
from unlearn.training.trainer import Objective, UnlearnTrainer

NPO = Objective(losses.NPO(), losses.NLL())
RETRAIN = Objective(retain=losses.NLL())
RMU = Objective(losses.Misdirect(), losses.HiddenMSE())
KL_MIN = Objective(losses.GradAscent(), losses.KLFromBefore())


@dataclass(frozen=True)
class Setting:
    """A random Llama and a batch of `rows` forget and `rows` retain records.

    Attributes:
        kind: what trains.
        vocabulary: V.
        length: tokens of a record; the second half are targets.
        rows: records of each role.
        hidden: H.
        intermediate: width of the feed-forward layers.
        layers: number of blocks.
        heads: attention heads.
        dtype: of the base.
        device: where it all happens.
        kv_heads: heads of keys and values; None for as many as there are of queries.
        nf4: whether the matrices of the blocks are quantised, as `--load-in-4bit` does.
        ragged: whether records differ in length, down to half of `length`.
    """

    kind: Literal["lora", "full"] = "lora"
    vocabulary: int = 32_000
    length: int = 64
    rows: int = 8
    hidden: int = 512
    intermediate: int = 1408
    layers: int = 6
    heads: int = 8
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    kv_heads: int | None = None
    nf4: bool = False
    ragged: bool = False

    def examples(self) -> list[Example]:
        """Return the forget records, then the retain records."""
        rng = np.random.default_rng(0)
        target = np.arange(self.length) >= self.length // 2
        ids = [rng.integers(3, self.vocabulary, self.length) for _ in range(2 * self.rows)]
        least = self.length // 2 + 1 if self.ragged else self.length
        ends = np.linspace(least, self.length, len(ids)).astype(int)
        return [
            Example(str(i), row[:end], target[:end])
            for i, (row, end) in enumerate(zip(ids, ends, strict=True))
        ]

    def batch(self) -> dict[str, Tensor]:
        """Return all records as one batch."""
        return {k: v.to(self.device) for k, v in collate(self.examples()).items()}


@contextmanager
def opened(setting: Setting) -> Iterator[ModelState]:
    """Make the model, and its adapter in a folder as if it had been loaded from there."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=setting.vocabulary,
        hidden_size=setting.hidden,
        intermediate_size=setting.intermediate,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        num_key_value_heads=setting.kv_heads or setting.heads,
        max_position_embeddings=max(2048, setting.length),
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.device(setting.device):
        net = LlamaForCausalLM(config).to(setting.dtype)
    if setting.nf4:
        quantise(net, setting.dtype)
    with tempfile.TemporaryDirectory() as folder:
        state = ModelState(net, None, "random", Path(folder), None, Head.of(net))
        if setting.kind == "lora":
            state = new_adapter(state, {"r": 16, "target_modules": "all-linear"}, seed=0)
            state.adapter = Path(folder)
            state.save(state.adapter)
        yield state


def quantise(net: Any, computed_in: torch.dtype) -> None:
    """Put NF4 codes in the place of the blocks' matrices, as transformers does on loading."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for block in net.model.layers:
        for parent in list(block.modules()):
            for name, old in list(parent.named_children()):
                if type(old) is nn.Linear:
                    new = Linear4bit(
                        old.in_features, old.out_features, False, computed_in, quant_type="nf4"
                    )
                    kept = old.weight.data
                    new.weight = Params4bit(kept, requires_grad=False, quant_type="nf4", module=new)
                    setattr(parent, name, new.to(kept.device))
                    del old, kept
    net.is_loaded_in_4bit = True
    keep_codes(net)


def _updating(parameters: Iterable[nn.Parameter]) -> Step:
    """Return what follows a backward pass: clip, update, forget the gradients."""
    trained = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)

    def update() -> None:
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def product(state: ModelState, setting: Setting, objective: Objective) -> Step:
    """This package's step, through its own trainer."""
    examples = setting.examples()
    forget, retain = examples[: setting.rows], examples[setting.rows :]
    if objective.forget is None:
        forget = []
    cached: dict[int, Tensor] = {}
    if "reference_log_probs" in objective.needs:
        found, offsets = score_examples(state.model, state.head, forget)
        record = torch.arange(len(forget)).repeat_interleave(torch.from_numpy(np.diff(offsets)))
        cached[FORGET] = TokenView(found.log_prob, record, len(forget)).per_record_sum()
    if objective.needs & {"before_logits", "before_hidden"}:
        state.prepare_reference("before")
    args = TrainingArguments(
        output_dir=str(state.folder),
        per_device_train_batch_size=setting.rows,
        max_steps=1,
        use_cpu=setting.device == "cpu",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    pairs = Pairs(forget, retain)
    terms = Terms(state, objective, cached, None)
    trainer = UnlearnTrainer(terms, args, pairs, pairs.stream(setting.rows, int(args.seed)))
    batch = collate_pairs([pairs[Rows((i,) if forget else (), (i,))] for i in range(setting.rows)])
    update = _updating(state.model.parameters())

    def step() -> None:
        batches, counts = trainer.get_batch_samples(iter([batch]), 1, state.device)
        trainer.training_step(state.model, batches[0], counts)
        update()
        trainer.step_finished()

    return step


def two_models(state: ModelState, setting: Setting) -> Step:
    """NPO + NLL the usual way: copied reference, logits of all positions, a pass for each term."""
    net, rows = state.model.train(), setting.batch()
    frozen = copy.deepcopy(net).eval().requires_grad_(False)
    labels = rows["input_ids"].masked_fill(~rows["target"], -100)
    update = _updating(net.parameters())

    def loss(model: Any, part: slice, reduction: str) -> Tensor:
        logits = model(
            input_ids=rows["input_ids"][part],
            attention_mask=rows["attention_mask"][part],
            use_cache=False,
        ).logits.float()
        shifted = logits[:, :-1].contiguous().view(-1, setting.vocabulary)
        wanted = labels[part][:, 1:].contiguous().view(-1)
        return F.cross_entropy(shifted, wanted, ignore_index=-100, reduction=reduction)

    def step() -> None:
        forget, retain = slice(0, setting.rows), slice(setting.rows, None)
        mine = -loss(net, forget, "none").view(setting.rows, -1).sum(-1)
        with torch.no_grad():
            theirs = -loss(frozen, forget, "none").view(setting.rows, -1).sum(-1)
        npo = 20 * F.softplus(0.1 * (mine - theirs)).mean()
        (npo + loss(net, retain, "mean")).backward()
        update()

    return step


def plain(state: ModelState, setting: Setting) -> Step:
    """One forward and backward pass of all rows with cross-entropy, as transformers does it."""
    net, rows = state.model.train(), setting.batch()
    labels = rows["input_ids"].masked_fill(~rows["target"], -100)
    update = _updating(net.parameters())

    def step() -> None:
        net(
            input_ids=rows["input_ids"],
            attention_mask=rows["attention_mask"],
            labels=labels,
            use_cache=False,
        ).loss.backward()
        update()

    return step


def plain_at_targets(state: ModelState, setting: Setting) -> Step:
    """The same, with the projection at the predicting positions only: a stricter floor."""
    return _on_hidden_states(state, setting, _cross_entropy)


def backbone(state: ModelState, setting: Setting) -> Step:
    """Forward and backward pass up to the projection, which only gets a gradient of zeros.

    What is left of a step's peak memory after subtracting this one's is what the projection and
    the loss take beyond weights, gradients, optimizer state and activations.
    """
    return _on_hidden_states(state, setting, _nothing)


def _on_hidden_states(
    state: ModelState, setting: Setting, loss: Callable[[nn.Linear, Tensor, Tensor], Tensor]
) -> Step:
    net, rows = state.model.train(), setting.batch()
    head = state.head.module
    assert isinstance(head, nn.Linear)
    row, position, target = target_positions(rows)
    update = _updating(net.parameters())

    def step() -> None:
        loss(head, hidden_states(net, rows)[row, position], target).backward()
        update()

    return step


def _cross_entropy(head: nn.Linear, hidden: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), target)


def _nothing(head: nn.Linear, hidden: Tensor, _: Tensor) -> Tensor:
    return hidden.sum() + (0 * head.weight.sum() if head.weight.requires_grad else 0)
