"""One trainer for every loss: an objective of forget and retain terms over one forward pass."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from unlearn.errors import OptionError, TrainingError
from unlearn.model.save import whole_weights
from unlearn.preemption import Preemption
from unlearn.strict_json import read_json_file
from unlearn.training.bucketing import length_groups
from unlearn.training.launched import check_launched
from unlearn.training.loss_terms import Term, Terms
from unlearn.training.objective import Constraint, Objective, Teacher
from unlearn.training.sampler import ALTERNATE, FORGET, RETAIN, Pairs, PairStream, collate_pairs
from unlearn.training.stopping import Monitor
from unlearn.training.telling import tell_losses
from unlearn.training.tokens import FORWARD
from unlearn.training.wrappers import Wrappers
from unlearn.training.wrappers.step import WrappedStep

__all__ = [
    "STATE_FILE",
    "Constraint",
    "Objective",
    "Teacher",
    "UnlearnTrainer",
    "latest_checkpoint",
]

_ROLE_NAMES = ("forget", "retain")

STATE_FILE = "unlearn_state.json"
"""Written last: a checkpoint without it was cut short, and is not resumed from."""


class UnlearnTrainer(Trainer):  # type: ignore[misc]
    """`transformers.Trainer` over an `Objective`.

    Each term is divided by its own count of tokens or records in the whole optimizer step, over
    all accumulated batches and all processes, so 4 batches of 1 and 1 batch of 4 give the same
    gradient, and so do 2 processes and 1.

    Args:
        terms: the loss of the opened model, whose weights that require gradient are trained.
        args: Trainer's arguments; `per_device_train_batch_size` counts samples (a forget record
            with its retain records).
        pairs: the examples.
        stream: which of them make the samples of the run.
        wrappers: what changes the gradient of a step, if anything does.
        monitor: watches losses and ends the run.
        optimizer: over the trainable weights; None for the AdamW that `args` describe.
        progress: called with (steps done, steps planned) after each step.
    """

    def __init__(
        self,
        terms: Terms,
        args: TrainingArguments,
        pairs: Pairs,
        stream: PairStream,
        *,
        wrappers: Wrappers | None = None,
        monitor: Monitor | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._terms = terms
        self._stream = stream
        self._waiting: list[list[dict[str, Tensor]]] = []
        self.monitor = monitor
        self.stopped: str | None = None
        self.preemption: Preemption | None = None
        self.tokens_trained = 0
        self.retain_weight = terms.objective.retain_weight
        self._seen: list[tuple[Tensor, ...]] = []
        self._logged: dict[str, float] = {}
        self._logged_from = 0
        self._step_losses: dict[str, float] = {}
        super().__init__(
            model=terms.state.model,
            args=args,
            train_dataset=pairs,
            data_collator=collate_pairs,
            callbacks=[_Watch(self, progress)],
            optimizers=(optimizer, None),
        )
        check_launched(self.accelerator)
        self.remove_callback(PrinterCallback)  # the command line has a table of its own
        # Losses are already divided by the counts of the whole optimizer step.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = True
        self._wrapped = (
            WrappedStep(wrappers, self._terms, self._adding_up(), self._check_finite)
            if wrappers
            else None
        )

    def _adding_up(self) -> Callable[[Tensor], Tensor] | None:
        """Return what sums a vector over processes; None where there is one."""
        whole = {DistributedType.NO, *(kind for kind in DistributedType if "MULTI" in kind.value)}
        if self.accelerator.distributed_type not in whole:
            raise OptionError(
                "sam_rho, project_retain and latent_radius need whole weights in every process, "
                f"which {self.accelerator.distributed_type.value} splits up: use plain data "
                "parallelism (DDP)"
            )
        if self.args.world_size == 1:
            return None
        return lambda vector: self.accelerator.reduce(vector, "sum")

    def _get_train_sampler(self, train_dataset: Any = None) -> PairStream:
        return self._stream

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor]:
        """Collect the batches of one optimizer step and count what each term is divided by.

        Args:
            epoch_iterator: yields collated batches.
            num_batches: how many make a step.
            device: where the counts are needed.

        Returns:
            (batches, counts [3, 2]: role × (tokens, records), over all processes).
        """
        batches = list(itertools.islice(epoch_iterator, num_batches))
        counts = torch.zeros(3, 2, dtype=torch.long)
        for batch in batches:
            for role in (FORGET, RETAIN, ALTERNATE):
                rows = batch["role"].cpu() == role
                counts[role, 0] += batch["target"].cpu()[rows].sum()
                counts[role, 1] += rows.sum()
        seen = sum(int(batch["attention_mask"].sum()) for batch in batches)
        self.tokens_trained += self._over_all(seen)
        counts = counts.to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, "sum")
        return batches, counts

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Evaluate every term on one forward pass of a batch.

        Args:
            model: the wrapped model.
            inputs: a batch of `collate_pairs`.
            return_outputs: not supported beyond Trainer's signature; outputs are empty.
            num_items_in_batch: the counts of `get_batch_samples`.

        Returns:
            The loss, float32 scalar.

        Raises:
            TrainingError: if the loss is NaN or infinite.
        """
        assert num_items_in_batch is not None
        terms = self._terms.on(model, inputs, num_items_in_batch, self._terms.references(inputs))
        total = self._noted(terms) * self.args.world_size  # DDP averages over processes
        return (total, {}) if return_outputs else total

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Go forward and backward on a batch; under wrappers, on all of the step at its last one.

        On one CPU process a batch runs in groups of similar length. Each term is divided by its
        count in the whole step, so the gradient is the same. Several processes would have to agree
        on the number of passes, and a GPU that a small group does not fill gains nothing: there the
        batch stays whole.

        Args:
            model: the wrapped model.
            inputs: a batch of `collate_pairs`.
            num_items_in_batch: the counts of `get_batch_samples`.

        Returns:
            The loss, without gradient.
        """
        alone = self.args.world_size == 1 and self.args.device.type == "cpu"
        groups = length_groups(inputs) if alone else [inputs]
        loss = torch.zeros((), device=self.args.device)
        if self._wrapped is None:
            for group in groups:
                loss += super().training_step(model, group, num_items_in_batch)
            return loss
        assert num_items_in_batch is not None
        model.train()
        self._waiting.append([self._prepare_inputs(group) for group in groups])
        if len(self._waiting) < self.current_gradient_accumulation_steps:
            return loss
        batches, self._waiting = list(itertools.chain(*self._waiting)), []
        before = self._wrapped.tokens
        terms_by_batch = self._wrapped(batches, num_items_in_batch, self.retain_weight)
        self.tokens_trained += self._over_all(self._wrapped.tokens - before)
        total = torch.stack([self._noted(part).detach() for part in terms_by_batch]).sum()
        return total.mul_(self.args.world_size)

    def _noted(self, terms: Mapping[int, Term]) -> Tensor:
        """Return the sum of a batch's terms, noting each for the log and the stop rules."""
        weights = {FORGET: self._terms.objective.forget_weight, RETAIN: self.retain_weight}
        total = torch.zeros((), device=self.args.device)
        for role, term in terms.items():
            part = term.weighted(weights[role])
            total = total + part
            loss = float(part.detach()) * self.args.world_size
            for sums, name in (
                (self._logged, f"{_ROLE_NAMES[role]}_loss"),
                (self._step_losses, _ROLE_NAMES[role]),
            ):
                sums[name] = sums.get(name, 0.0) + loss
        self._check_finite(total)
        empty = total.new_zeros(2, 0)
        self._seen.append(tuple(terms[r].losses if r in terms else empty for r in (FORGET, RETAIN)))
        return total

    def _check_finite(self, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}: lower "
                "learning_rate, or keep the stop rules on; nothing was saved"
            )

    def step_finished(self) -> None:
        """Let the monitor and the constraint see the losses of the step just done."""
        seen, self._seen = self._seen, []
        if not seen:
            return
        forget = torch.cat([f for f, _ in seen], 1)
        retain = torch.cat([r for _, r in seen], 1)
        if self.args.world_size > 1:
            forget, retain = (
                self.accelerator.gather_for_metrics(
                    self.accelerator.pad_across_processes(x.T.contiguous(), pad_index=-1)
                ).T
                for x in (forget, retain)
            )
            forget, retain = (x[:, x[0] >= 0] for x in (forget, retain))
        forget, retain = forget.double().cpu(), retain.double().cpu()
        constraint = self._terms.objective.constraint
        if constraint is not None and retain.shape[1]:
            violation = float(retain[1].mean()) - constraint.limit
            self.retain_weight = max(0.0, self.retain_weight + constraint.rate * violation)
        if self.monitor is not None:
            self.monitor.update(
                forget[0].numpy().astype(np.int64), forget[1].numpy(), retain[1].numpy()
            )
            if self.monitor.due:
                self._score_anew(self.monitor)
            self.stopped = self.monitor.verdict()

    def _over_all(self, tokens: int) -> int:
        """Return how many tokens all processes went through."""
        if self.args.world_size == 1:
            return tokens
        mine = torch.tensor(tokens, dtype=torch.long, device=self.args.device)
        return int(self.accelerator.reduce(mine, "sum"))

    def _score_anew(self, monitor: Monitor) -> None:
        """Let the monitor see the forget records' loss as it is now, the same in all processes."""
        assert monitor.rescoring is not None
        loss = monitor.rescoring.score()
        self.tokens_trained += round(monitor.rescoring.tokens * FORWARD)
        if self.args.world_size > 1:
            mine = torch.tensor(loss, dtype=torch.float64, device=self.args.device)
            loss = float(self.accelerator.reduce(mine, "mean"))
        monitor.look(loss)

    def preempted(self) -> bool:
        """Say whether the run is to be kept and left, at the same step in all processes."""
        if self.preemption is None:
            return False
        if self.args.world_size == 1:
            return self.preemption.asked
        mine = torch.tensor(float(self.preemption.asked), device=self.args.device)
        # whoever was not told itself must not take the run for done
        self.preemption.asked = float(self.accelerator.reduce(mine, "sum")) > 0
        return self.preemption.asked

    def step_losses(self) -> dict[str, float]:
        """Return the loss of each term in the step just done; `loss` where there is one term."""
        losses, self._step_losses = self._step_losses, {}
        return {"loss": losses["retain"]} if [*losses] == ["retain"] else losses

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add each term's mean since the last log, so that no term hides behind the sum."""
        if self._logged:
            steps = max(1, self.state.global_step - self._logged_from)
            logs |= {k: v / steps for k, v in self._logged.items()}
            self._logged, self._logged_from = {}, self.state.global_step
        if self.monitor is not None and not math.isnan(self.monitor.retain_loss):
            logs["retain_nll"] = self.monitor.retain_loss
        if self.monitor is not None and not math.isnan(self.monitor.forget_loss):
            logs["forget_nll"] = self.monitor.forget_loss
        super().log(logs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what a result has; Trainer would gather frozen weights, too, where they are split.

        Args:
            output_dir: the folder; by default that of the run.
            _internal_call: of Trainer's signature.
        """
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        weights = whole_weights(self._terms.state)
        if self.args.should_save:
            self._terms.state.save(folder, weights)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir)) / (
            f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        )
        if self.is_world_process_zero():
            text = json.dumps(
                {
                    "monitor": self.monitor.state() if self.monitor else None,
                    "tokens_trained": self.tokens_trained,
                    "retain_weight": self.retain_weight,
                }
            )
            (folder / STATE_FILE).write_text(text, encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._logged_from = int(Path(resume_from_checkpoint).name.rpartition("-")[2])
        file = Path(resume_from_checkpoint) / STATE_FILE
        try:
            saved = read_json_file(file)
            self.tokens_trained = int(saved["tokens_trained"])
            self.retain_weight = float(saved["retain_weight"])
            if self.monitor and saved["monitor"]:
                self.monitor.load(saved["monitor"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"{file} is not the state of a training: {error!r}; delete the folder it lies in"
            ) from None


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Checks the first gradient, and ends the run when the monitor says so."""

    def __init__(
        self, trainer: UnlearnTrainer, progress: Callable[[int, int], None] | None
    ) -> None:
        self._trainer = trainer
        self._progress = progress
        self._checked = False

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._checked:
            return
        self._checked = True
        model = kwargs["model"]
        lost = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        if lost:
            raise TrainingError(
                f"{len(lost)} trainable tensor(s) got no gradient in the first step, among them "
                f"{lost[0]}: they would silently stay untrained"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.step_finished()
        tell_losses(self._trainer.step_losses())
        if self._progress:
            self._progress(state.global_step, state.max_steps)
        over = self._trainer.stopped or state.global_step >= state.max_steps
        if self._trainer.stopped:
            control.should_training_stop = True
        if self._trainer.preempted() and not over:
            control.should_save = control.should_training_stop = True


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in Trainer's output folder, or None."""
    complete = [p.parent for p in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{STATE_FILE}")]
    return max(complete, key=lambda p: int(p.name.rpartition("-")[2]), default=None)
