"""What `bench_audit.py` compares: an audit's one pass, a bare forward pass, a pass for each metric.

All sides see the same model, the same records and the same batches.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from _measure import Step
from _steps import Setting
from torch import Tensor

from unlearn.data.batching import collate, token_budget_batches
from unlearn.data.tokenization import Example, Span
from unlearn.model.scoring import TOKEN_BUDGET
from unlearn.model.state import ModelState
from unlearn_eval.extraction import PROBES
from unlearn_eval.membership import ATTACKS
from unlearn_eval.passes.grad_norm import gradient_norms
from unlearn_eval.scores.model_scores import score_model
from unlearn_eval.scores.token_scores import SAMPLER, TokenScores

Values = dict[str, np.ndarray]


def records(setting: Setting, count: int) -> list[Example]:
    """Return records of one length, the second half targets, with a secret in them."""
    rng = np.random.default_rng(0)
    middle = setting.length // 2
    target = np.arange(setting.length) >= middle
    secret = (Span(middle + 1, middle + 3, "pin"),)
    return [
        Example(str(i), rng.integers(3, setting.vocabulary, setting.length), target, secret, f"{i}")
        for i in range(count)
    ]


def likelihood_set(state: ModelState, examples: Sequence[Example], base: TokenScores) -> Values:
    """Return every attack and probe that reads likelihoods, from one pass."""
    scores = score_model(state.model, state.head, examples)
    found = {name: attack.score(scores, base) for name, attack in ATTACKS.items()}
    return found | {
        f"{name} {metric}": probe.score(scores, **options)
        for name, probe in PROBES.items()
        for metric, options in probe.metrics.items()
    }


def likelihoods(state: ModelState, examples: Sequence[Example], base: TokenScores) -> Step:
    """Time `likelihood_set`."""
    return lambda: void(likelihood_set(state, examples, base))


def scored(state: ModelState, examples: Sequence[Example]) -> Step:
    """The pass alone, as the base has it."""
    return lambda: void(score_model(state.model, state.head, examples))


def bare(state: ModelState, examples: Sequence[Example]) -> Step:
    """One forward pass of the records, logits of all positions."""

    def step() -> None:
        for _ in _logits(state, examples):
            pass

    return step


def void(_: object) -> None:
    """Let a value go."""


@torch.no_grad()
def _logits(
    state: ModelState, examples: Sequence[Example]
) -> Iterator[tuple[list[int], dict[str, Tensor], Tensor]]:
    """Yield (positions, batch, logits [B, S, V]) as a model of transformers gives them."""
    net = state.model.eval()
    for chosen in token_budget_batches([len(e.ids) for e in examples], TOKEN_BUDGET):
        batch = collate([examples[i] for i in chosen])
        logits = net(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits
        yield chosen, batch, logits.float()


# A metric by itself: one record's target logits [n, V], its targets [n], what else is known of it.
Metric = Callable[[Tensor, Tensor, dict[str, Any]], float]


def _token_log_probs(logits: Tensor, target: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, target[:, None])[:, 0]


def _lowest(values: Tensor, share: float = 0.2) -> float:
    return float(values.sort().values[: max(1, int(share * len(values)))].mean())


def _min_k_plus_plus(logits: Tensor, target: Tensor, _: dict[str, Any]) -> float:
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    std = (p * (log_p - mean[:, None]).square()).sum(-1).sqrt()
    return _lowest((log_p.gather(-1, target[:, None])[:, 0] - mean) / std)


def _sampled(logits: Tensor, target: Tensor) -> float:
    temperature, k = SAMPLER
    kept = (logits / temperature).topk(k, -1)
    found = kept.values.log_softmax(-1)
    return float(found.masked_fill(kept.indices != target[:, None], -torch.inf).amax(-1).sum())


def _strength(logits: Tensor, target: Tensor, _: dict[str, Any]) -> float:
    hit = (logits.argmax(-1) == target).tolist()
    suffix = next((i for i, h in enumerate(reversed(hit)) if not h), len(hit))
    return suffix / len(hit)


ALONE: dict[str, Metric] = {
    "loss": lambda z, y, _: float(_token_log_probs(z, y).mean()),
    "reference": lambda z, y, k: float(_token_log_probs(z, y).mean()) - k["base"],
    "zlib": lambda z, y, k: float(_token_log_probs(z, y).mean()) / len(zlib.compress(k["text"])),
    "min_k": lambda z, y, _: _lowest(_token_log_probs(z, y)),
    "min_k_plus_plus": _min_k_plus_plus,
    "verbatim rate": lambda z, y, _: float((z.argmax(-1) == y).all()),
    "exact mean": lambda z, y, _: float((z.argmax(-1) == y).float().mean()),
    "strength mean": _strength,
    "discoverable": lambda z, y, _: _sampled(z, y),
    "secret rate": lambda z, y, k: float((z.argmax(-1) == y)[k["secret"]].all()),
    "entropy": lambda z, y, _: float(torch.distributions.Categorical(logits=z).entropy().mean()),
}
"""Metrics of `likelihood_set` as one writes them by themselves; the base's loss is given."""


def alone(
    state: ModelState, examples: Sequence[Example], name: str, base: TokenScores
) -> np.ndarray:
    """Return one metric of each record, by a pass of its own."""
    of_base = base.per_record(base.log_prob)
    found = np.zeros(len(examples))
    for chosen, batch, logits in _logits(state, examples):
        for row, i in enumerate(chosen):
            where = batch["target"][row].nonzero()[:, 0]
            first = int(where[0])
            known = {
                "base": of_base[i],
                "text": examples[i].target_text.encode(),
                "secret": slice(
                    *(x - first for s in examples[i].secrets for x in (s.start, s.end))
                ),
            }
            found[i] = ALONE[name](logits[row, where - 1], batch["input_ids"][row, where], known)
    return found


def one_by_one(state: ModelState, examples: Sequence[Example], base: TokenScores) -> Step:
    """Every metric by a pass of its own."""

    def step() -> None:
        for name in ALONE:
            alone(state, examples, name, base)

    return step


def norms(state: ModelState, examples: Sequence[Example]) -> np.ndarray:
    """Return the gradient norm of each record, many in one backward pass."""
    return gradient_norms(state.model, state.head, examples)


def norms_by_loop(state: ModelState, examples: Sequence[Example]) -> np.ndarray:
    """The same as one writes it: the loss of transformers and a backward pass for each record."""
    net = state.model.eval()
    weights = [p for p in net.parameters() if p.requires_grad]
    found = []
    for example in examples:
        ids = torch.from_numpy(example.ids)[None]
        labels = ids.masked_fill(~torch.from_numpy(example.target)[None], -100)
        net.zero_grad()
        net(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        squares = [p.grad.square().sum() for p in weights if p.grad is not None]
        found.append(float(torch.stack(squares).sum().sqrt()))
    net.zero_grad()
    return np.array(found)


def one_backward(state: ModelState, examples: Sequence[Example]) -> Step:
    """One forward and backward pass of all records at once: what any batched norm must cost."""
    net = state.model.eval()
    batch = collate(examples)
    labels = batch["input_ids"].masked_fill(~batch["target"], -100)
    mask = batch["attention_mask"]

    def step() -> None:
        net.zero_grad()
        net(
            input_ids=batch["input_ids"], attention_mask=mask, labels=labels, use_cache=False
        ).loss.backward()

    return step
