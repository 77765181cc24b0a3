"""One optimizer step under wrappers: forget and retain gradient apart, then put together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unlearn.model.blocks import shifted_block
from unlearn.training.loss_terms import References, Term, Terms, rows_of
from unlearn.training.sampler import ALTERNATE, FORGET, RETAIN
from unlearn.training.wrappers import Wrappers
from unlearn.training.wrappers._gradient import Gradient, accumulated, reduced, weighted_sum
from unlearn.training.wrappers.latent import find_offset
from unlearn.training.wrappers.projection import rectified
from unlearn.training.wrappers.sharpness import perturbed

__all__ = ["WrappedStep", "step_gradient"]

_ROWS = {FORGET: (FORGET, ALTERNATE), RETAIN: (RETAIN,)}


class _Part(NamedTuple):
    """A term's rows of one batch.

    Attributes:
        inputs: the rows.
        references: of these rows, run once a step.
        plain: takes the term as it is at the weights as they are, undisturbed.
    """

    inputs: dict[str, Tensor]
    references: References
    plain: dict[int, Term]


def step_gradient(
    parameters: Sequence[nn.Parameter],
    forget: Callable[[], Gradient],
    retain: Callable[[], Gradient],
    retain_weight: float,
    *,
    rho: float = 0.0,
    project: bool = False,
) -> Gradient:
    """Return the gradient of an optimizer step: g_f, wrapped, plus λ·g_r.

    g_r is always that at the weights as they are. g_f is that at θ + ρ·g_f/‖g_f‖ with a ρ, and is
    then rectified against g_r if wanted; g_r is not weighted there, so that λ = 0 leaves GRU's own
    step, in which the retain records only give a direction to spare.

    Args:
        parameters: the trainable weights; unchanged afterwards, bit for bit.
        forget: evaluates the (weighted) forget gradient at the weights as they are.
        retain: evaluates the unweighted retain gradient.
        retain_weight: λ.
        rho: ρ of the sharpness-aware perturbation.
        project: whether to rectify.

    Returns:
        What the optimizer is given.
    """
    g_r = retain()
    g_f = forget()
    if rho:
        with perturbed(parameters, g_f, rho):
            g_f = forget()
    if project:
        g_f = rectified(g_f, g_r)
    return weighted_sum(g_f, g_r, retain_weight)


@dataclass
class WrappedStep:
    """Evaluates whole optimizer steps under wrappers.

    The model is called without its parallel wrapper: gradients are summed over processes here, once
    a pass and not once a batch, since norms and inner products are those of the whole step.

    Attributes:
        wrappers: which.
        terms: the objective.
        add_up: sums a vector over processes; None on a single one.
        check: raises for a loss that is not finite.
        tokens: tokens that went through forward and backward so far, beyond once for each row.
    """

    wrappers: Wrappers
    terms: Terms
    add_up: Callable[[Tensor], Tensor] | None
    check: Callable[[Tensor], None]
    tokens: int = field(default=0)

    def __call__(
        self, batches: Sequence[Mapping[str, Tensor]], counts: Tensor, retain_weight: float
    ) -> list[dict[int, Term]]:
        """Give every trainable weight its gradient.

        Args:
            batches: those of the step, as `collate_pairs` makes them.
            counts: [3, 2]: role × (tokens, records), over all of them and all processes.
            retain_weight: weight of the retain term.

        Returns:
            The terms of each batch at the weights as they are and undisturbed, without gradient.
        """
        parameters = [p for p in self.terms.state.model.parameters() if p.requires_grad]
        plain: list[dict[int, Term]] = [{} for _ in batches]
        roles = [role for role, _, _ in self.terms.objective.terms()]
        work = {role: self._parts(batches, role, plain) for role in roles}

        def gradient(role: int, weight: float) -> Gradient:
            if role not in roles:
                return [None] * len(parameters)
            parts = (self._gradient(p, role, weight, counts, parameters) for p in work[role])
            total = accumulated(parts, len(parameters))
            return reduced(total, parameters, self.add_up) if self.add_up else total

        total = step_gradient(
            parameters,
            lambda: gradient(FORGET, self.terms.objective.forget_weight),
            lambda: gradient(RETAIN, 1.0),
            retain_weight,
            rho=self.wrappers.rho,
            project=self.wrappers.project,
        )
        for parameter, g in zip(parameters, total, strict=True):
            parameter.grad = None if g is None else g.clone()  # it is clipped in place
        return plain

    def _parts(
        self, batches: Sequence[Mapping[str, Tensor]], role: int, plain: list[dict[int, Term]]
    ) -> list[_Part]:
        """Return the rows of a term in each batch that has any, with their references."""
        rows = [
            (rows_of(batch, _ROWS[role]), seen) for batch, seen in zip(batches, plain, strict=True)
        ]
        return [
            _Part(inputs, self.terms.references(inputs), seen)
            for inputs, seen in rows
            if inputs is not None
        ]

    def _gradient(
        self,
        part: _Part,
        role: int,
        weight: float,
        counts: Tensor,
        parameters: Sequence[nn.Parameter],
    ) -> Gradient:
        """Return one batch's part of a term's gradient, and note the term as it is undisturbed."""
        inputs, references, plain = part
        model = self.terms.state.model
        disturb = self.wrappers.latent is not None and role == FORGET
        again = role in plain
        if disturb and not again:
            with torch.no_grad():
                plain[role] = self.terms.on(model, inputs, counts, references)[role]
        with self._disturbed(model, inputs) if disturb else contextlib.nullcontext():
            term = self.terms.on(model, inputs, counts, references)[role]
            loss = term.weighted(weight)
            self.check(loss)
            # inside: recomputed activations must be disturbed as well
            gradient = torch.autograd.grad(loss, parameters, allow_unused=True)
        if again:
            self.tokens += int(inputs["attention_mask"].sum())
        plain.setdefault(role, term._replace(total=term.total.detach()))
        return gradient

    @contextlib.contextmanager
    def _disturbed(self, model: Any, inputs: Mapping[str, Tensor]) -> Iterator[None]:
        """Find the worst disturbance of a batch, and let the model run under it."""
        latent = self.wrappers.latent
        assert latent is not None
        offset = find_offset(model, self.terms.state.head, inputs, latent, self.terms.run)
        forget = inputs["role"] == FORGET
        self.tokens += latent.steps * int(inputs["attention_mask"][forget].sum())
        with shifted_block(model, latent.layer, offset):
            yield
