"""Train several LoRA adapters on one frozen base at once, each as if it were trained alone.

Every step takes the next rows of each adapter's own stream, runs all of them through the base
together, and moves each adapter by its own loss, its own clipped gradient, its own optimizer and
its own schedule. What is shared is the work: one set of passes over rows grouped by length, instead
of one for each adapter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.data.batching import collate
from unlearn.data.tokenization import Example
from unlearn.errors import ModelError, OptionError, TrainingError
from unlearn.model.blocks import blocks_of, only_blocks, parse_blocks
from unlearn.model.folders import one_line
from unlearn.model.lora_routing import Route, routed
from unlearn.model.scoring import hidden_states, log_prob, target_positions, token_values
from unlearn.model.state import ModelState, new_adapter
from unlearn.training.bucketing import length_groups
from unlearn.training.fitting import Fit, total_steps
from unlearn.training.optimizers import muon
from unlearn.training.options import TrainingOptions
from unlearn.training.sampler import RETAIN, PairStream

__all__ = ["check_stackable", "fit_stacked", "save_stacked", "stack_adapters"]

BESIDE = 4
"""Adapters whose rows share a pass on a CPU. More make the passes larger than its caches or each
adapter's part of them smaller, and either costs more than is saved: a step of one of 4, of 8 and of
1 took 0.14, 0.15 and 0.16 s on a model of 656 thousand parameters, 16 rows each."""


def check_stackable(config: Mapping[str, Any], training: TrainingOptions) -> None:
    """Refuse what only an adapter alone can be trained with.

    Args:
        config: keyword arguments of `peft.LoraConfig`.
        training: how the adapters will be trained.

    Raises:
        OptionError: naming the option.
    """
    alone = "; such adapters can only be trained one by one, with finetune"
    if config.get("use_dora"):
        raise OptionError(f"use_dora: DoRA normalises the whole weight of each adapter{alone}")
    if config.get("modules_to_save"):
        names = ", ".join(config["modules_to_save"])
        raise OptionError(f"modules_to_save ({names}): whole copies of layers do not stack{alone}")
    micro = training.micro_batch_size or training.batch_size
    if training.batch_size % micro:
        raise OptionError(
            f"batch_size {training.batch_size} cannot be split into batches of {micro} "
            "(micro_batch_size)"
        )


def stack_adapters(state: ModelState, config: dict[str, Any], seeds: Sequence[int]) -> ModelState:
    """Put fresh LoRA adapters on a base, each as `new_adapter` with its seed would make it.

    Args:
        state: an opened base without adapters.
        config: keyword arguments of `peft.LoraConfig`.
        seeds: of the initial weights, one an adapter.

    Returns:
        The same base with an adapter for each seed, all trainable.

    Raises:
        ModelError: if PEFT cannot place the adapter on this architecture.
    """
    from peft import LoraConfig

    stacked = new_adapter(state, config, seeds[0])
    names = [*stacked.stack, *(f"stacked{i}" for i in range(1, len(seeds)))]
    for name, seed in zip(names[1:], seeds[1:], strict=True):
        torch.manual_seed(seed)
        try:
            stacked.model.add_adapter(name, LoraConfig(task_type="CAUSAL_LM", **config))
        except ValueError as error:
            raise ModelError(f"no LoRA adapter fits {state.name}: {one_line(error)}") from error
    stacked.model.to(state.device)
    _only(stacked.model, names)
    return replace(stacked, stack=tuple(names))


def fit_stacked(
    state: ModelState,
    training: TrainingOptions,
    examples: Sequence[Sequence[Example]],
    seeds: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> list[Fit]:
    """Train stacked adapters in place, each on its own examples by the mean loss of its tokens.

    The gradient of Σ_k (1/n_k) Σ_t −log p_k(t), with n_k the target tokens of adapter k in the
    step, is for each adapter the one that it has alone. An adapter that has done its steps gets no
    more rows and is not touched again, by momentum and weight decay neither. Data order is that of
    `fit` with the same seed. Dropout draws from one stream for all of them, so that an adapter with
    dropout equals one trained alone in distribution only.

    Args:
        state: as `stack_adapters` returns it.
        training: how; the number of steps follows from each adapter's number of examples.
        examples: what each adapter trains on.
        seeds: of data order, one an adapter.
        progress: called with (steps done, steps planned), over all adapters.

    Returns:
        What was done, by adapter; the time is shared out by the tokens of each.

    Raises:
        OptionError: if `batch_size` cannot be split as asked.
        TrainingError: if a loss is not finite or a trainable tensor gets no gradient.
    """
    from transformers import set_seed

    check_stackable({}, training)
    set_seed(seeds[0])
    blocks = None
    if training.train_layers is not None:
        blocks = parse_blocks(training.train_layers, len(blocks_of(state.model)))
    if training.gradient_checkpointing:
        state.set_checkpointing(True)
    start = time.perf_counter()
    route = Route(state.stack)
    with only_blocks(state.model, blocks), routed(state.model, route):
        learners = [
            _learner(state, name, training, part, seed)
            for name, part, seed in zip(state.stack, examples, seeds, strict=True)
        ]
        state.model.train()
        planned = sum(learner.steps for learner in learners)
        for step in range(max(learner.steps for learner in learners)):
            _step(state, route, training, learners)
            for learner in learners:
                learner.update(training.max_grad_norm, step)
            if progress:
                progress(sum(learner.done for learner in learners), planned)
    state.model.eval()
    if training.gradient_checkpointing:
        state.set_checkpointing(False)
    seconds = (time.perf_counter() - start) / sum(learner.tokens for learner in learners)
    return [
        Fit(
            steps=learner.done,
            planned_steps=learner.steps,
            seconds=seconds * learner.tokens,
            tokens=learner.tokens,
            stopped=None,
            rules="all epochs",
            training=training,
        )
        for learner in learners
    ]


def save_stacked(state: ModelState, position: int, folder: Path) -> None:
    """Write one of the stacked adapters into a folder, as a plain PEFT adapter.

    Args:
        state: as `stack_adapters` returns it.
        position: which adapter.
        folder: an existing, empty folder.

    Raises:
        ModelError: if a trained tensor holds NaN or infinity.
    """
    name = state.stack[position]
    for key, parameter in _named(state.model, name):
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(f"the trained tensor {key} holds NaN or infinity; nothing saved")
    state.model.save_pretrained(folder, selected_adapters=[name])
    below = folder / name  # PEFT gives a folder of its own to all but the first
    if below.is_dir():
        for path in below.iterdir():
            path.rename(folder / path.name)
        below.rmdir()


@dataclass
class _Learner:
    """One adapter in training.

    Attributes:
        name: of the adapter.
        parameters: what of it trains.
        optimizer: over them.
        scheduler: of its learning rate.
        examples: what it trains on.
        order: positions of its rows, without end.
        steps: how many it makes.
        done: how many it has made.
        tokens: how many have gone through.
        passed: its rows of the step under way.
    """

    name: str
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: Any
    examples: Sequence[Example]
    order: Iterator[int]
    steps: int
    done: int = 0
    tokens: int = 0
    passed: list[Example] = field(default_factory=list)

    def draw(self, rows: int) -> list[Example]:
        """Take the rows of the next step; none when all steps are done."""
        wanted = rows if self.done < self.steps else 0
        self.passed = [self.examples[i] for i in islice(self.order, wanted)]
        self.tokens += sum(len(example.ids) for example in self.passed)
        return self.passed

    def update(self, max_grad_norm: float, step: int) -> None:
        """Clip this adapter's gradient by its own norm, and move it."""
        if not self.passed:
            return
        if step == 0 and any(p.grad is None for p in self.parameters):
            raise TrainingError(
                f"trainable tensors of the adapter {self.name} got no gradient in the first step: "
                "they would silently stay untrained"
            )
        if max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self.parameters, max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.done += 1


def _learner(
    state: ModelState,
    name: str,
    training: TrainingOptions,
    examples: Sequence[Example],
    seed: int,
) -> _Learner:
    """Set up what Trainer would set up for this adapter alone."""
    from transformers import get_scheduler

    if training.learning_rate is None:
        raise OptionError("learning_rate is open: set it to a number")
    named = [(key, p) for key, p in _named(state.model, name) if p.requires_grad]
    parameters = [p for _, p in named]
    optimizer: torch.optim.Optimizer
    if training.optimizer == "muon":
        optimizer = muon(_Part(named), training)
    else:
        optimizer = torch.optim.AdamW(
            parameters,
            lr=training.learning_rate,
            betas=(training.momentum, 0.999),
            weight_decay=training.weight_decay,
            fused=True,
        )
    steps = total_steps(training, len(examples))
    constant = training.schedule == "constant"
    scheduler = get_scheduler(
        "constant_with_warmup" if constant else training.schedule,
        optimizer,
        num_warmup_steps=training.warmup_steps,
        num_training_steps=steps,
    )
    stream = PairStream(0, len(examples), steps * training.batch_size, seed)
    order = (row for rows in stream for row in rows.retain)
    return _Learner(name, parameters, optimizer, scheduler, examples, order, steps)


def _step(
    state: ModelState, route: Route, training: TrainingOptions, learners: Sequence[_Learner]
) -> None:
    """Add up the gradients of one step of every adapter that still has some to do."""
    drawn = [learner.draw(training.batch_size) for learner in learners]
    counts = torch.tensor([sum(e.targets for e in rows) for rows in drawn], device=state.device)
    micro = training.micro_batch_size or training.batch_size
    beside = BESIDE if state.device.type == "cpu" else len(drawn)
    for start, first in product(range(0, training.batch_size, micro), range(0, len(drawn), beside)):
        parts = [
            rows[start : start + micro] if first <= i < first + beside else []
            for i, rows in enumerate(drawn)
        ]
        if not any(parts):
            continue
        batch = collate([example for part in parts for example in part])
        batch["index"] = torch.arange(len(parts)).repeat_interleave(
            torch.tensor([*map(len, parts)])
        )
        batch["role"] = torch.full_like(batch["index"], RETAIN)
        # as in the trainer: an accelerator gains nothing from small passes, and equal runs of rows
        # make one product there
        for group in length_groups(batch) if state.device.type == "cpu" else [batch]:
            inputs = {key: value.to(state.device) for key, value in group.items()}
            route.rows = torch.bincount(group["index"], minlength=len(learners)).tolist()
            loss = _loss(state, inputs, counts)
            if not bool(torch.isfinite(loss)):
                raise TrainingError(
                    f"the loss became {loss.item()} at step {max(x.done for x in learners) + 1}: "
                    "lower learning_rate; nothing was saved"
                )
            loss.backward()  # type: ignore[no-untyped-call]


def _loss(state: ModelState, inputs: Mapping[str, Tensor], counts: Tensor) -> Tensor:
    """Return Σ_k (1/n_k) Σ_t −log p_k(t) of one pass, float32 scalar."""
    hidden = hidden_states(state.model, inputs)
    row, position, target = target_positions(inputs)
    values, _ = token_values(log_prob, state.head, hidden[row, position], target)
    return -(values / counts[inputs["index"][row]]).sum()


class _Part(nn.Module):
    """Some parameters under their own names."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]]) -> None:
        super().__init__()
        self._named = list(named)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self._named


def _named(model: nn.Module, name: str) -> list[tuple[str, nn.Parameter]]:
    """Return the weights of one adapter by their names."""
    return [(key, p) for key, p in model.named_parameters() if f".{name}." in key]


def _only(model: nn.Module, names: Sequence[str]) -> None:
    """Let the adapters of these names train, and nothing else."""
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(any(f".{name}." in key for name in names))
