"""The terms of an objective on one batch: one forward pass, each term on its own rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlearn.losses import HiddenLoss, Loss, TokenView, Unit
from unlearn.model.blocks import block_outputs
from unlearn.model.frozen import whole_pass
from unlearn.model.scoring import (
    Projection,
    log_prob,
    target_positions,
    token_values,
)
from unlearn.model.state import ModelState, Reference
from unlearn.training.objective import Objective, Teacher
from unlearn.training.sampler import ALTERNATE

__all__ = ["References", "Term", "Terms", "rows_of"]

References = Mapping[tuple[int, int], tuple[Tensor | None, Projection | None]]
"""(role of a term, role of rows) → the reference's hidden states at the target tokens, its head."""


class Term(NamedTuple):
    """One term on one batch.

    Attributes:
        total: the loss's sum, float32 scalar.
        divisor: what it is divided by, over the whole optimizer step.
        losses: [2, R]: the records' positions and their mean token losses −l̄, without gradient.
    """

    total: Tensor
    divisor: Tensor
    losses: Tensor

    def weighted(self, weight: float) -> Tensor:
        """Return this batch's part of the term in the step's loss."""
        return weight * self.total / self.divisor


class _Pass(NamedTuple):
    """What one forward pass gave: a batch, hidden states, and where its target tokens are."""

    inputs: Mapping[str, Tensor]
    last: Tensor
    blocks: dict[int, Tensor]
    row: Tensor
    position: Tensor
    target: Tensor


def rows_of(inputs: Mapping[str, Tensor], roles: Iterable[int]) -> dict[str, Tensor] | None:
    """Return the rows of some roles of a batch, in order; None where there are none.

    Args:
        inputs: a batch of `collate_pairs`.
        roles: which rows.

    Returns:
        A smaller batch.
    """
    chosen = torch.isin(inputs["role"], torch.tensor(list(roles), device=inputs["role"].device))
    return {k: v[chosen] for k, v in inputs.items()} if bool(chosen.any()) else None


@dataclass(frozen=True)
class Terms:
    """Evaluates an objective.

    Attributes:
        state: the opened model; gives references and the output projection.
        objective: the terms.
        reference_log_probs: Σ_t log p before training of each record, role → [records].
        teacher: for losses that need one.
        run: takes (model, batch, view) up to the output projection, see
            `unlearn.model.frozen.whole_pass`; a view names a reference.
    """

    state: ModelState
    objective: Objective
    reference_log_probs: Mapping[int, Tensor]
    teacher: Teacher | None
    run: Callable[..., Tensor] = whole_pass

    def references(self, inputs: Mapping[str, Tensor]) -> References:
        """Run the references over the rows that each term compares with them."""
        return {
            (role, part): self._reference(loss, inputs, part)
            for role, loss, _ in self.objective.terms()
            for part in _parts(role, loss)
        }

    def on(
        self, model: Any, inputs: Mapping[str, Tensor], counts: Tensor, references: References
    ) -> dict[int, Term]:
        """Evaluate every term that has rows in a batch, on one forward pass.

        Args:
            model: the model, wrapped or not.
            inputs: a batch of `collate_pairs`, or some of its rows.
            counts: [3, 2]: role × (tokens, records) of the whole optimizer step.
            references: of the same rows.

        Returns:
            Role → its term.
        """
        terms = self.objective.terms()
        with block_outputs(model, {layer for _, loss, _ in terms for layer in _layer(loss)}) as mid:
            last = self.run(model, inputs)
        seen = _Pass(inputs, last, mid, *target_positions(inputs))
        log_p = self._log_probs(seen)
        terms_by_role: dict[int, Term] = {}
        for role, loss, _ in terms:
            views = {
                part: self._look(loss, part, seen, references[role, part], log_p)
                for part in _parts(role, loss)
            }
            mine = views[role]
            if mine is None:
                continue
            view, losses = mine
            other = views.get(ALTERNATE)
            view = replace(view, alternate=other[0] if other else None)
            terms_by_role[role] = Term(
                loss(view), _count(counts, role, loss.unit).clamp(min=1), losses
            )
        return terms_by_role

    def _log_probs(self, seen: _Pass) -> Tensor:
        """Project the tokens of all terms on log p at once, so that W gets one gradient; [N]."""
        terms = self.objective.terms()
        roles = {
            part for role, loss, _ in terms if _on_log_prob(loss) for part in _parts(role, loss)
        }
        role = seen.inputs["role"][seen.row]
        mine = torch.isin(role, torch.tensor(sorted(roles), device=role.device))
        hidden = seen.last[seen.row[mine], seen.position[mine]]
        values, _ = token_values(log_prob, self.state.head, hidden, seen.target[mine])
        return values.new_zeros(len(role)).masked_scatter(mine, values)

    def _look(
        self,
        loss: Loss,
        role: int,
        seen: _Pass,
        reference: tuple[Tensor | None, Projection | None],
        log_p: Tensor,
    ) -> tuple[TokenView, Tensor] | None:
        """Return a loss's view of one role's rows, and [2, R]: their positions and mean losses."""
        rows = (seen.inputs["role"] == role).nonzero()[:, 0]
        if not len(rows):
            return None
        mine = (seen.inputs["role"] == role)[seen.row]
        row, position, target = seen.row[mine], seen.position[mine], seen.target[mine]
        hidden, head = seen.last[row, position], self.state.head
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
        cached = self.reference_log_probs.get(role)
        known_sums = None if cached is None else cached.to(index.device)[index]
        view = TokenView(values, record, len(rows), known_sums)
        nll = TokenView(-log_probs, record, len(rows)).per_record_mean().detach()
        return view, torch.stack([index.to(nll.dtype), nll])

    def _reference(
        self, loss: Loss, inputs: Mapping[str, Tensor], role: int
    ) -> tuple[Tensor | None, Projection | None]:
        """Run the reference that a loss needs over its own rows; nothing for a loss without."""
        rows = inputs["role"] == role
        if not bool(rows.any()) or role == ALTERNATE:
            return None, None
        if "teacher_logits" in loss.needs:
            assert self.teacher is not None, "this loss needs a teacher"
            chosen = [self.teacher.hidden[int(i)] for i in inputs["index"][rows]]
            return torch.cat(chosen).to(inputs["input_ids"].device), self.teacher.head
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
            self.state.reference(which) as (reference, head),
            block_outputs(reference, _layer(loss)) as inner,
        ):
            hidden = self.run(reference, part, which)
            for layer in _layer(loss):
                hidden = inner[layer]
            return hidden[row, position], head


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
