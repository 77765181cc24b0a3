"""Likelihoods of copies of records in which the model itself has changed a few tokens."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from unlearn.data.tokenization import Example
from unlearn.errors import DataError
from unlearn.model.generation import end_tokens
from unlearn.model.scoring import TOKEN_BUDGET, score_examples
from unlearn_eval.arrays import FloatArray, IntArray
from unlearn_eval.membership import neighbourhood
from unlearn_eval.passes.base import AuditedState, Material, PassResult, PlannedPass
from unlearn_eval.passes.likelihoods import mean_log_probs
from unlearn_eval.scores.cache import Cache, examples_digest
from unlearn_eval.scores.measures import Measurement
from unlearn_eval.scores.processes import sharded
from unlearn_eval.scores.token_scores import TokenScores

__all__ = ["NEIGHBOURS", "SHARE", "neighbours", "plan"]

NEIGHBOURS = 25
"""Copies of each record: what MIMIR (arXiv 2402.07841) uses."""
SHARE = 0.1
"""Share of the target tokens that a copy changes, at least one; chosen here."""

# Records whose copies are in memory at a time.
_AT_ONCE = 64


def plan(material: Material) -> PlannedPass:
    """Plan the passes of an audit: one that draws tokens, and one for each copy."""
    sides = material.sides()
    params = {"neighbours": NEIGHBOURS, "share": SHARE, "seed": material.seed}

    def compute(audited: AuditedState, part: Sequence[Example]) -> dict[str, FloatArray]:
        ends = end_tokens(audited.model, material.tokenizer)
        rows = []
        for start in range(0, len(part), _AT_ONCE):
            some = part[start : start + _AT_ONCE]
            seed = (material.seed, start)
            copies = neighbours(audited, some, ends, seed=seed)
            means = mean_log_probs(audited, list(itertools.chain.from_iterable(copies)))
            rows.append(means.reshape(len(some), NEIGHBOURS))
        return {"mean": np.concatenate([np.zeros((0, NEIGHBOURS)), *rows])}

    def run(audited: AuditedState, scores: Mapping[str, TokenScores], cache: Cache) -> PassResult:
        result = PassResult()
        for split, part in sides.items():
            facts = ("neighbours", params, audited.stamp, examples_digest(part), TOKEN_BUDGET)
            means = cache.get(partial(compute, audited, part), *facts)["mean"]
            values = neighbourhood.score(scores[split].per_record(scores[split].log_prob), means)
            positions = np.arange(len(part))
            result.add(
                split, Measurement("membership.neighbourhood", "score", positions, values, params)
            )
        return result

    return PlannedPass(run, (NEIGHBOURS + 1) * sum(map(len, sides.values())))


def neighbours(
    audited: AuditedState,
    examples: Sequence[Example],
    ends: IntArray,
    *,
    copies: int = NEIGHBOURS,
    share: float = SHARE,
    seed: Sequence[int] = (0,),
) -> list[list[Example]]:
    """Return copies of records in which a few target tokens are others, drawn from the model.

    At each changed position the token is drawn from the model's distribution given the true text
    before it, the true token left out. The paper draws from a masked language model, which also
    sees what follows; that would be a second model, and these copies fit their left side only.
    Tokens that end a text are kept where there are others.

    Args:
        audited: the state.
        examples: the records.
        ends: tokens that end a text.
        copies: how many of each record.
        share: share of the target tokens to change, at least one.
        seed: of the draws.

    Returns:
        The copies of each record.
    """
    chosen = [
        _positions(example, ends, copies, share, np.random.default_rng([*seed, i]))
        for i, example in enumerate(examples)
    ]

    def draws(mine: list[int]) -> list[IntArray]:
        drawn: dict[int, IntArray] = {}

        def observe(batch: Sequence[int], hidden: Tensor) -> None:
            sizes = [examples[mine[i]].targets for i in batch]
            for b, part in zip(batch, torch.split(hidden, sizes), strict=True):
                i = mine[b]
                drawn[i] = _draw(audited, examples[i], part, chosen[i], [*seed, i])

        score_examples(audited.model, audited.head, [examples[i] for i in mine], observe=observe)
        return [drawn[i] for i in mine]

    drawn = sharded(draws, len(examples))
    return [
        [_changed(example, at, new) for at, new in zip(chosen[i], drawn[i], strict=True)]
        for i, example in enumerate(examples)
    ]


def _positions(
    example: Example, ends: IntArray, copies: int, share: float, rng: np.random.Generator
) -> IntArray:
    """Return which target tokens (counted among the targets) each copy changes, [copies, m]."""
    free = np.flatnonzero(~np.isin(example.ids[example.target], ends))
    free = free if free.size else np.arange(example.targets)
    size = min(len(free), max(1, round(share * example.targets)))
    return np.stack([np.sort(rng.choice(free, size, replace=False)) for _ in range(copies)])


def _draw(
    audited: AuditedState, example: Example, hidden: Tensor, chosen: IntArray, seed: Sequence[int]
) -> IntArray:
    """Draw a token for every chosen position, in the shape of `chosen`."""
    state = int(np.random.SeedSequence(list(seed)).generate_state(1)[0])
    generator = torch.Generator().manual_seed(state)
    truth = torch.from_numpy(example.ids[example.target])
    drawn = np.zeros_like(chosen)
    for at in np.unique(chosen):
        where = chosen == at
        logits = audited.head(hidden[at : at + 1])[0].float().cpu()
        logits[truth[at]] = -torch.inf
        p = logits.softmax(-1)
        if bool(p.isnan().any()):
            raise DataError(
                f"record {example.id!r}, target token {at}: the logits are NaN; look for overflow "
                "in the weights"
            )
        drawn[where] = torch.multinomial(
            p, int(where.sum()), replacement=True, generator=generator
        ).numpy()
    return drawn


def _changed(example: Example, at: IntArray, new: IntArray) -> Example:
    """Return a record with other tokens at some of its targets."""
    ids = example.ids.copy()
    ids[np.flatnonzero(example.target)[at]] = new
    return replace(example, ids=ids, secrets=())
