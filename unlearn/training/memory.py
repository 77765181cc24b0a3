"""The peak memory of a training run and its operations, from shapes alone.

peak = W + A + R + O + K + max(S, P), in bytes of tensors in one process:

- W, the base: parameters × bytes of the number format; of an NF4 base 1/2 + 4/64 bytes for each
  weight of the blocks' matrices, the rest in `--dtype`;
- A, the adapters, float32;
- R, references: one more adapter where a loss compares with the state before, or one more model in
  a full fine-tune; nothing for the base, which is the model with its adapter switched off;
- O, the optimizer: two numbers for each that trains (AdamW), or one (Muon);
- K, what comes out of frozen blocks that are computed once, tokens × width, at most 1 GiB;
- S, one optimizer step: what `unlearn.model.held` counts of a forward and a backward pass of the
  largest batch of the run on the meta device: activations, gradients, the logits of one chunk of
  predicted tokens, references that are run live. With several batches a step, a second pass, in
  which the gradients of the first are there;
- P, scoring: the same of a forward pass over the largest batch that is scored without gradient.

Left out are workspaces inside operators, what an allocator holds in reserve, the interpreter and
the libraries (some 0.5 GB, and about as much for a CUDA context), the records, and what `sam_rho`,
`project_retain` and `latent_radius` hold besides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unlearn.data.batching import collate, token_budget_batches
from unlearn.data.tokenization import Example
from unlearn.losses import HiddenLoss, Loss
from unlearn.model.blocks import (
    block_outputs,
    blocks_of,
    only_blocks,
    parse_blocks,
    set_checkpointing,
)
from unlearn.model.frozen import first_trained_block
from unlearn.model.held import bytes_of, counted
from unlearn.model.lm_head import hidden_states, unwrapped
from unlearn.model.scoring import TOKEN_BUDGET, log_prob, token_statistics, token_values
from unlearn.model.weightless import Weightless
from unlearn.processes import world_size
from unlearn.training.bucketing import length_groups
from unlearn.training.frozen_blocks import MEMORY
from unlearn.training.levels import sample
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions
from unlearn.training.sampler import ALTERNATE, FORGET, RETAIN, Pairs, Rows, collate_pairs

__all__ = ["Memory", "Needs", "Work", "needs_of", "scoring_needs"]

_LOOKED_AT = 100_000  # samples of a run among which the largest batch is looked for

_BEFORE = {"before_logits", "before_hidden"}
_LIVE = _BEFORE | {"base_logits"}


@dataclass(frozen=True)
class Work:
    """What a training run is made of.

    Attributes:
        objective: what is minimised.
        training: options.
        steps: optimizer steps at most.
        forget: examples to forget; empty for plain training.
        retain: examples to keep, or to train on.
        alternates: what to answer instead.
        seed: of the order of the records.
    """

    objective: Objective
    training: TrainingOptions
    steps: int
    forget: Sequence[Example] = ()
    retain: Sequence[Example] = ()
    alternates: Sequence[Example] = ()
    seed: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes of tensors in one process.

    Attributes:
        weights: of the base.
        adapters: on it.
        references: copies that a loss compares with.
        optimizer: its state.
        kept: what came out of frozen blocks.
        passes: the most that a training or scoring pass holds besides: activations, gradients,
            logits.
    """

    weights: int
    adapters: int = 0
    references: int = 0
    optimizer: int = 0
    kept: int = 0
    passes: int = 0

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(vars(self).values())

    @property
    def parts(self) -> dict[str, int]:
        """What there is of it, by words."""
        words = {
            "weights": self.weights,
            "adapters": self.adapters,
            "references": self.references,
            "optimizer": self.optimizer,
            "outputs of frozen blocks": self.kept,
            "activations, gradients and logits": self.passes,
        }
        return {name: size for name, size in words.items() if size}


@dataclass(frozen=True)
class Needs:
    """What a run takes.

    Attributes:
        memory: of one process.
        operations: floating-point operations for each token that goes through it.
    """

    memory: Memory
    operations: float


def needs_of(shapes: Weightless, work: Work, place: str) -> Needs:
    """Return what a training run takes, see the head of this file.

    Args:
        shapes: the model, with what trains.
        work: the run.
        place: type of the device: `cpu` or `cuda`.

    Returns:
        Memory, and operations for each token that goes forward and backward.

    Raises:
        OptionError: for blocks that the model lacks.
    """
    net, training = shapes.model, work.training
    text = training.train_layers
    chosen = None if text is None else parse_blocks(text, len(blocks_of(net)))
    with only_blocks(net, chosen):
        trained = [p for p in net.parameters() if p.requires_grad]
        states = (1 if training.optimizer == "muon" else 2) * bytes_of(trained)
        step = _step(shapes, work, place)
        scored = scoring_needs(shapes, _scored(work), place)
        kept = _kept(shapes, work)
    copies = 0
    if work.objective.needs & _BEFORE:
        copies = shapes.adapters or shapes.weights
    memory = Memory(
        shapes.weights,
        shapes.adapters,
        copies,
        states,
        kept,
        max(step.memory.passes, scored.memory.passes),
    )
    return Needs(memory, step.operations)


def scoring_needs(shapes: Weightless, examples: Sequence[Example], place: str) -> Needs:
    """Return what scoring some records takes: a forward pass of the largest batch.

    Args:
        shapes: the model.
        examples: the records.
        place: type of the device.

    Returns:
        Memory, and operations for each token.
    """
    if not examples:
        return Needs(Memory(shapes.weights, shapes.adapters), 0.0)
    rows = token_budget_batches([len(e.ids) for e in examples], TOKEN_BUDGET)[0]
    batch = collate([examples[i] for i in rows])
    shape = _Shape.of(batch | {"role": torch.full((len(rows),), RETAIN)})
    with counted(shapes.model.eval(), place, padded=shape.padded) as held, torch.no_grad():
        count = shape.targets[RETAIN]
        token_statistics(shapes.head, _picked(_pass(shapes, shape), count), _zeros(count))
    memory = Memory(shapes.weights, shapes.adapters, passes=held.peak)
    return Needs(memory, held.operations / shape.tokens)


class _Shape(NamedTuple):
    """Of a batch.

    Attributes:
        width: tokens of its longest row.
        padded: whether others are shorter.
        tokens: of all rows, without padding.
        rows: by role.
        targets: by role, how many tokens are predicted.
    """

    width: int
    padded: bool
    tokens: int
    rows: Mapping[int, int]
    targets: Mapping[int, int]

    @classmethod
    def of(cls, batch: Mapping[str, Tensor]) -> _Shape:
        """Return the shape of a batch of `collate_pairs`."""
        mask, role = batch["attention_mask"], batch["role"]
        roles = (FORGET, RETAIN, ALTERNATE)
        return cls(
            mask.shape[1],
            bool((mask == 0).any()),
            int(mask.sum()),
            {each: int((role == each).sum()) for each in roles},
            {each: int(batch["target"][role == each].sum()) for each in roles},
        )


def _step(shapes: Weightless, work: Work, place: str) -> Needs:
    """Count the largest batch of a run, forward and backward."""
    micro, count = _share(work.training)
    batch = _largest(work, micro)
    alone = place == "cpu" and world_size() == 1
    groups = [_Shape.of(group) for group in (length_groups(batch) if alone else [batch])]
    net: nn.Module = shapes.model.train()
    if work.training.gradient_checkpointing:
        set_checkpointing(net, True)
    try:
        with counted(net, place, padded=any(group.padded for group in groups)) as held:
            for _ in range(min(2, count)):
                for group in groups:
                    _forward_and_backward(shapes, work.objective, group)
    finally:
        net.zero_grad(set_to_none=True)
        if work.training.gradient_checkpointing:
            set_checkpointing(net, False)
    tokens = min(2, count) * sum(group.tokens for group in groups)
    return Needs(Memory(shapes.weights, passes=held.peak), held.operations / tokens)


def _share(training: TrainingOptions) -> tuple[int, int]:
    """Return the samples of one pass of one process, and how many passes make a step."""
    mine = max(1, training.batch_size // world_size())
    micro = min(training.micro_batch_size or mine, mine)
    return micro, -(-mine // micro)


def _largest(work: Work, micro: int) -> dict[str, Tensor]:
    """Return the batch of a run with the most tokens, padding counted."""
    pairs = Pairs(work.forget, work.retain, work.alternates)
    samples = min(_LOOKED_AT, work.steps * work.training.batch_size)
    stream = pairs.stream(samples, work.seed, work.training.retain_ratio)

    def size(batch: Sequence[Rows]) -> int:
        lengths = [
            len(pairs.of(role)[i].ids)
            for rows in batch
            for role, chosen in zip((FORGET, RETAIN, ALTERNATE), rows, strict=True)
            for i in chosen
        ]
        return len(lengths) * max(lengths)

    most = max(_batches(iter(stream), micro), key=size)
    return collate_pairs([pairs[rows] for rows in most])


def _batches(stream: Iterator[Rows], size: int) -> Iterator[list[Rows]]:
    while batch := list(itertools.islice(stream, size)):
        yield batch


def _scored(work: Work) -> Sequence[Example]:
    """Return the records that are scored without gradient before, between or after the steps."""
    whole = [
        part
        for part, loss in (
            ([*work.forget, *work.alternates], work.objective.forget),
            ([*work.retain], work.objective.retain),
        )
        if loss is not None and "reference_log_probs" in loss.needs
    ]
    looks = [sample(part) for part in (work.forget, work.retain) if part]
    return max([*whole, *looks], key=lambda part: sum(len(e.ids) for e in part))


def _kept(shapes: Weightless, work: Work) -> int:
    """Return the bytes of what comes out of frozen blocks that are computed once."""
    if work.training.cache_frozen == "off" or not first_trained_block(shapes.model):
        return 0
    tokens = sum(len(e.ids) for part in (work.forget, work.retain, work.alternates) for e in part)
    return min(MEMORY, tokens * _width(shapes) * shapes.dtype.itemsize)


def _forward_and_backward(shapes: Weightless, objective: Objective, shape: _Shape) -> None:
    """Go through the operators of one batch, as `Terms` and Trainer do with contents."""
    terms = [(role, loss) for role, loss, _ in objective.terms() if shape.targets[role]]
    known = {role: _reference(shapes, loss, shape, role) for role, loss in terms}
    layers = {loss.layer for _, loss in terms if isinstance(loss, HiddenLoss)}
    with block_outputs(shapes.model, layers) as mid:
        last = _pass(shapes, shape)
    sums = []
    # tokens of all terms on log p are projected at once
    plain = [shape.targets[role] for role, loss in terms if _on_log_prob(loss)]
    plain += [shape.targets[ALTERNATE] for _, loss in terms if "alternates" in loss.needs]
    if plain:
        hidden = _picked(last, sum(plain))
        sums.append(token_values(log_prob, shapes.head, hidden, _zeros(len(hidden)))[0].sum())
    for role, loss in terms:
        if isinstance(loss, HiddenLoss):
            inner = _picked(mid[loss.layer], shape.targets[role]).float()
            sums.append(loss.hidden_statistic(inner, known[role]).sum())
        elif not _on_log_prob(loss):
            hidden = _picked(last, shape.targets[role])
            target = _zeros(len(hidden))
            values = token_values(loss.statistic, shapes.head, hidden, target, known[role])[0]
            sums.append(values.sum())
    del last, mid
    torch.autograd.backward(sums)


def _reference(shapes: Weightless, loss: Loss, shape: _Shape, role: int) -> Tensor | None:
    """Run a reference over the rows of a term; None where it needs none."""
    count = shape.targets[role]
    if loss.needs & _LIVE:
        layer = loss.layer if isinstance(loss, HiddenLoss) else None
        layers = set() if layer is None else {layer}
        with torch.no_grad(), block_outputs(shapes.model, layers) as mid:
            last = _pass(shapes, shape, role)
            return _picked(last, count) if layer is None else _picked(mid[layer], count).float()
    if "teacher_logits" in loss.needs:
        return torch.empty(count, _width(shapes), dtype=shapes.dtype)
    return None


def _on_log_prob(loss: Loss) -> bool:
    return not isinstance(loss, HiddenLoss) and loss.statistic is log_prob


def _width(shapes: Weightless) -> int:
    return int(unwrapped(shapes.model).config.get_text_config().hidden_size)


def _pass(shapes: Weightless, shape: _Shape, role: int | None = None) -> Tensor:
    """Run the model up to its output projection on a batch, or on its rows of one role."""
    rows = sum(shape.rows.values()) if role is None else shape.rows[role]
    ids = _zeros(rows, shape.width)
    return hidden_states(shapes.model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def _picked(hidden: Tensor, count: int) -> Tensor:
    """Return the hidden states of so many positions."""
    return hidden[_zeros(count), _zeros(count)]


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.long, device="meta")
