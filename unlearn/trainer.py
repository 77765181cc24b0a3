"""One trainer for every loss: an objective of forget and retain terms over one forward pass."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from unlearn._blocks import block_outputs
from unlearn._grouping import length_groups
from unlearn._pairing import ALTERNATE, FORGET, RETAIN, Pairs, PairStream, collate_pairs
from unlearn._stopping import Monitor
from unlearn.batches import Example
from unlearn.errors import TrainingError
from unlearn.losses import HiddenLoss, Loss, TokenView, Unit
from unlearn.models import ModelState, Reference, load_trained
from unlearn.scoring import Projection, hidden_states, log_prob, target_positions, token_values

__all__ = ["Constraint", "Objective", "Teacher", "UnlearnTrainer", "latest_checkpoint"]

_ROLE_NAMES = ("forget", "retain")
_STATE_FILE = "unlearn_state.json"


@dataclass(frozen=True)
class Constraint:
    """Keep the retain records' mean loss under a limit, by a weight that follows its violation.

    After each optimizer step λ ← max(0, λ + η·(l̄_r − ε)): projected gradient ascent on the dual
    (2506.05314). λ starts at the objective's retain weight.

    Attributes:
        limit: ε, in nats a token.
        rate: η.
    """

    limit: float
    rate: float


@dataclass(frozen=True)
class Objective:
    """forget_weight · L_forget + retain_weight · L_retain; a missing term is absent, not zero.

    Attributes:
        forget: loss of the forget records.
        retain: loss of the retain records.
        forget_weight: weight of the first.
        retain_weight: weight of the second.
        constraint: lets the second weight follow the retain loss.
    """

    forget: Loss | None = None
    retain: Loss | None = None
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    constraint: Constraint | None = None

    def terms(self) -> list[tuple[int, Loss, float]]:
        """Return (role, loss, weight) of the terms there are."""
        both = (
            (FORGET, self.forget, self.forget_weight),
            (RETAIN, self.retain, self.retain_weight),
        )
        return [(role, loss, weight) for role, loss, weight in both if loss is not None]

    @property
    def needs(self) -> frozenset[str]:
        """What the terms need beyond the model's own log-probabilities."""
        return frozenset().union(*(loss.needs for _, loss, _ in self.terms()))


@dataclass(frozen=True)
class Teacher:
    """What a model predicted of the forget records, kept so that the model need not be.

    Attributes:
        hidden: hidden states at the target tokens of each forget record, [tokens, H].
        head: what makes logits of them; a model's projection.
    """

    hidden: Sequence[Tensor]
    head: Projection


class _Seen(NamedTuple):
    """What one forward pass gave: a batch, hidden states, and where its target tokens are."""

    inputs: dict[str, Tensor]
    last: Tensor
    blocks: dict[int, Tensor]
    row: Tensor
    position: Tensor
    target: Tensor


def _on_log_prob(loss: Loss) -> bool:
    """Whether a term is a function of the tokens' log-probabilities."""
    return not isinstance(loss, HiddenLoss) and loss.statistic is log_prob


def _parts(role: int, loss: Loss) -> list[int]:
    """Return the roles that a term looks at: its own, and the alternates where it needs them."""
    return [role, ALTERNATE] if "alternates" in loss.needs else [role]


def _layer(loss: Loss) -> set[int]:
    """Return the block whose output a term looks at, if any."""
    return {loss.layer} if isinstance(loss, HiddenLoss) else set()


def _count(counts: Tensor, role: int, unit: Unit) -> Tensor:
    """Return what a term's sum is divided by."""
    if unit == "alternate_tokens":
        return counts[ALTERNATE, 0]
    return counts[role, 0 if unit == "tokens" else 1]


class UnlearnTrainer(Trainer):  # type: ignore[misc]
    """`transformers.Trainer` over an `Objective`.

    Each term is divided by its own count of tokens or records in the whole optimizer step, over
    all accumulated batches and all processes, so 4 batches of 1 and 1 batch of 4 give the same
    gradient, and so do 2 processes and 1.

    Args:
        state: the opened model; what requires gradient is trained.
        objective: the loss.
        args: Trainer's arguments; `per_device_train_batch_size` counts samples (a forget record
            with its retain records).
        forget: examples to forget.
        retain: examples to keep, or to train on.
        alternates: what to answer instead, the same number for each forget record.
        samples: samples in the whole run.
        retain_ratio: retain records for each forget record.
        reference_log_probs: Σ_t log p before training of each forget record, and of each alternate,
            for losses that need them: role → [records].
        teacher: for losses that need one.
        monitor: watches losses and ends the run.
        progress: called with (steps done, steps planned) after each step.
    """

    def __init__(
        self,
        state: ModelState,
        objective: Objective,
        args: TrainingArguments,
        *,
        forget: Sequence[Example] = (),
        retain: Sequence[Example] = (),
        alternates: Sequence[Example] = (),
        samples: int,
        retain_ratio: int = 1,
        reference_log_probs: Mapping[int, Tensor] | None = None,
        teacher: Teacher | None = None,
        monitor: Monitor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._model_state = state
        self._objective = objective
        self._stream = PairStream(
            len(forget),
            len(retain),
            samples,
            int(args.seed),
            retain_ratio,
            len(alternates) // len(forget) if forget else 0,
        )
        self._reference_log_probs = dict(reference_log_probs or {})
        self._teacher = teacher
        self.monitor = monitor
        self.stopped: str | None = None
        self.tokens_trained = 0
        self.retain_weight = objective.retain_weight
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._logged: dict[str, float] = {}
        self._logged_from = 0
        super().__init__(
            model=state.model,
            args=args,
            train_dataset=Pairs(forget, retain, alternates),
            data_collator=collate_pairs,
            callbacks=[_Watch(self, progress)],
        )
        self.remove_callback(PrinterCallback)  # the command line has a table of its own
        # Losses are already divided by the counts of the whole optimizer step.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = True

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
            self.tokens_trained += int(batch["attention_mask"].sum())
        counts = counts.to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, "sum")
        return batches, counts

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Run a batch forward and backward; on one CPU process, in groups of similar length.

        Each term is divided by its count in the whole step, so the gradient is the same. Several
        processes would have to agree on the number of passes, and a GPU that a small group does not
        fill gains nothing: there the batch stays whole.

        Args:
            model: the wrapped model.
            inputs: a batch of `collate_pairs`.
            num_items_in_batch: the counts of `get_batch_samples`.

        Returns:
            The loss, without gradient.
        """
        alone = self.args.world_size == 1 and self.args.device.type == "cpu"
        total = torch.zeros((), device=self.args.device)
        for group in length_groups(inputs) if alone else [inputs]:
            total += super().training_step(model, group, num_items_in_batch)
        return total

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
        counts = num_items_in_batch
        assert counts is not None
        terms = self._objective.terms()
        references = {
            (role, part): self._reference(loss, inputs, part)
            for role, loss, _ in terms
            for part in _parts(role, loss)
        }
        with block_outputs(model, {layer for _, loss, _ in terms for layer in _layer(loss)}) as mid:
            last = hidden_states(model, inputs)
        seen = _Seen(inputs, last, mid, *target_positions(inputs))
        log_p = self._log_probs(terms, seen)
        total = last.new_zeros((), dtype=torch.float32)
        losses: dict[int, Tensor] = {}
        for role, loss, weight in terms:
            views = {
                part: self._look(loss, part, seen, references[role, part], log_p)
                for part in _parts(role, loss)
            }
            found = views[role]
            if found is None:
                continue
            view, losses[role] = found
            other = views.get(ALTERNATE)
            view = replace(view, alternate=other[0] if other else None)
            factor = self.retain_weight if role == RETAIN else weight
            term = factor * loss(view) / _count(counts, role, loss.unit).clamp(min=1)
            total = total + term
            name = f"{_ROLE_NAMES[role]}_loss"
            self._logged[name] = self._logged.get(name, 0.0) + float(term.detach())
        if not bool(torch.isfinite(total)):
            raise TrainingError(
                f"the loss became {total.item()} at step {self.state.global_step + 1}: lower "
                "learning_rate, or keep the stop rules on; nothing was saved"
            )
        empty = last.new_zeros(2, 0, dtype=torch.float32)
        self._seen.append((losses.get(FORGET, empty), losses.get(RETAIN, empty)))
        total = total * self.args.world_size  # DDP averages gradients over processes
        return (total, {}) if return_outputs else total

    def _log_probs(self, terms: Sequence[tuple[int, Loss, float]], seen: _Seen) -> Tensor:
        """Project the tokens of all terms on log p at once, so that W gets one gradient; [N]."""
        roles = {
            part for role, loss, _ in terms if _on_log_prob(loss) for part in _parts(role, loss)
        }
        role = seen.inputs["role"][seen.row]
        mine = torch.isin(role, torch.tensor(sorted(roles), device=role.device))
        hidden = seen.last[seen.row[mine], seen.position[mine]]
        values, _ = token_values(log_prob, self._model_state.head, hidden, seen.target[mine])
        return values.new_zeros(len(role)).masked_scatter(mine, values)

    def _look(
        self,
        loss: Loss,
        role: int,
        seen: _Seen,
        reference: tuple[Tensor | None, Projection | None],
        log_p: Tensor,
    ) -> tuple[TokenView, Tensor] | None:
        """Return a loss's view of one role's rows, and [2, R]: their positions and mean losses."""
        rows = (seen.inputs["role"] == role).nonzero()[:, 0]
        if not len(rows):
            return None
        mine = (seen.inputs["role"] == role)[seen.row]
        row, position, target = seen.row[mine], seen.position[mine], seen.target[mine]
        hidden, head = seen.last[row, position], self._model_state.head
        if isinstance(loss, HiddenLoss):
            inner = seen.blocks[loss.layer][row, position].float()
            known = reference[0]
            values = loss.hidden_statistic(inner, None if known is None else known.float())
            with torch.no_grad():
                _, log_probs = token_values(log_prob, head, hidden, target)
        elif _on_log_prob(loss):
            values = log_p[mine]
            log_probs = values.detach()
        else:
            values, log_probs = token_values(loss.statistic, head, hidden, target, *reference)
        record = row - rows[0]  # rows of one role are contiguous
        index = seen.inputs["index"][rows]
        cached = self._reference_log_probs.get(role)
        known_sums = None if cached is None else cached.to(index.device)[index]
        view = TokenView(values, record, len(rows), known_sums)
        nll = TokenView(-log_probs, record, len(rows)).per_record_mean().detach()
        return view, torch.stack([index.to(nll.dtype), nll])

    def _reference(
        self, loss: Loss, inputs: dict[str, Tensor], role: int
    ) -> tuple[Tensor | None, Projection | None]:
        """Run the reference that a loss needs over its own rows; nothing for a loss without."""
        rows = inputs["role"] == role
        if not bool(rows.any()) or role == ALTERNATE:
            return None, None
        if "teacher_logits" in loss.needs:
            assert self._teacher is not None, "this loss needs a teacher"
            chosen = [self._teacher.hidden[int(i)] for i in inputs["index"][rows]]
            return torch.cat(chosen).to(inputs["input_ids"].device), self._teacher.head
        which: Reference
        if "base_logits" in loss.needs:
            which = "base"
        elif {"before_logits", "before_hidden"} & loss.needs:
            which = "before"
        else:
            return None, None
        part = {k: v[rows] for k, v in inputs.items() if k not in {"role", "index"}}
        row, position, _ = target_positions(part)
        with (
            self._model_state.reference(which) as (reference, head),
            block_outputs(reference, _layer(loss)) as inner,
        ):
            hidden = hidden_states(reference, part)
            for layer in _layer(loss):
                hidden = inner[layer]
            return hidden[row, position], head

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
        constraint = self._objective.constraint
        if constraint is not None and retain.shape[1]:
            violation = float(retain[1].mean()) - constraint.limit
            self.retain_weight = max(0.0, self.retain_weight + constraint.rate * violation)
        if self.monitor is not None:
            self.monitor.update(
                forget[0].numpy().astype(np.int64), forget[1].numpy(), retain[1].numpy()
            )
            self.stopped = self.monitor.verdict()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add each term's mean since the last log, so that no term hides behind the sum.

        Args:
            logs: what Trainer logs.
            *args: passed on.
            **kwargs: passed on.
        """
        if self._logged:
            steps = max(1, self.state.global_step - self._logged_from)
            logs |= {k: v / steps for k, v in self._logged.items()}
            self._logged, self._logged_from = {}, self.state.global_step
        if self.monitor is not None and not math.isnan(self.monitor.retain_loss):
            logs["retain_nll"] = self.monitor.retain_loss
        if self.monitor is not None and not math.isnan(self.monitor.forget_loss):
            logs["forget_nll"] = self.monitor.forget_loss
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        self._model_state.save(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir)) / (
            f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        )
        if self.is_world_process_zero():
            # Written last: a checkpoint without it was cut short and is not resumed from.
            text = json.dumps(
                {
                    "monitor": self.monitor.state() if self.monitor else None,
                    "tokens_trained": self.tokens_trained,
                    "retain_weight": self.retain_weight,
                }
            )
            (folder / _STATE_FILE).write_text(text, encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self._model_state, Path(resume_from_checkpoint))
        saved = json.loads((Path(resume_from_checkpoint) / _STATE_FILE).read_text("utf-8"))
        self.tokens_trained = saved["tokens_trained"]
        self._logged_from = int(Path(resume_from_checkpoint).name.rpartition("-")[2])
        self.retain_weight = saved["retain_weight"]
        if self.monitor and saved["monitor"]:
            self.monitor.load(saved["monitor"])


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
        if self._progress:
            self._progress(state.global_step, state.max_steps)
        if self._trainer.stopped:
            control.should_training_stop = True


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in a folder, or None.

    Args:
        folder: Trainer's output folder.

    Returns:
        The checkpoint's folder.
    """
    complete = [p.parent for p in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{_STATE_FILE}")]
    return max(complete, key=lambda p: int(p.name.rpartition("-")[2]), default=None)
