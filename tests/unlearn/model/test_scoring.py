"""The one pass against the plain computation, over architectures, paddings and batch sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unlearn.data.batching import collate
from unlearn.data.tokenization import Example
from unlearn.errors import ModelError
from unlearn.model.scoring import (
    Head,
    TokenStatistics,
    hidden_states,
    log_prob,
    score_examples,
    target_positions,
    token_statistics,
    token_values,
)

VOCABULARY = 97

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _configs() -> dict[str, Any]:
    from transformers import (
        CohereConfig,
        Gemma2Config,
        GPT2Config,
        GPTNeoXConfig,
        GraniteConfig,
        LlamaConfig,
        MistralConfig,
        PhiConfig,
        Qwen3Config,
    )

    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    plain = {k: v for k, v in _SIZES.items() if k not in {"head_dim", "num_key_value_heads"}}
    return {
        "llama": LlamaConfig(**_SIZES),
        "qwen3": Qwen3Config(**_SIZES, tie_word_embeddings=True),
        "mistral": MistralConfig(**_SIZES, sliding_window=8),
        "gemma2": Gemma2Config(**_SIZES, final_logit_softcapping=3.0, query_pre_attn_scalar=8),
        "granite": GraniteConfig(**_SIZES, logits_scaling=2.5),
        "cohere": CohereConfig(**plain | {"num_key_value_heads": 2}, logit_scale=0.25),
        "phi": PhiConfig(**plain),
        "gpt_neox": GPTNeoXConfig(**plain),
        "gpt2": GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, **ends
        ),
    }


NAMES = ["llama", "qwen3", "mistral", "gemma2", "granite", "cohere", "phi", "gpt_neox", "gpt2"]


def make_model(name: str, seed: int = 0) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_configs()[name]).eval()
    with torch.no_grad():  # sharper than at initialisation, so that a wrong number shows
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model


def make_examples(n: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        length = int(rng.integers(3, 20))
        prompt = int(rng.integers(1, length))
        examples.append(
            Example(
                id=f"r{i}",
                ids=rng.integers(3, VOCABULARY, length),
                target=np.arange(length) >= prompt,
            )
        )
    return examples


SAMPLERS = [(0.7, 5), (1.3, 0)]


def sampled_alone(z: Tensor, y: Tensor, temperature: float, k: int) -> Tensor:
    """log p of y when everything outside the k largest logits is cut off first."""
    floor = z.topk(k).values[:, -1:]
    cut = z.masked_fill(z < floor, -torch.inf)
    return (cut / temperature).log_softmax(-1)[range(len(y)), y]


@torch.no_grad()
def plain(model: Any, example: Example) -> dict[str, Tensor]:
    """Everything from full logits of one record alone, in float64, without padding."""
    ids = torch.from_numpy(example.ids)[None]
    logits = model(input_ids=ids).logits[0].double()
    positions = np.flatnonzero(example.target)
    z = logits[positions - 1]
    y = ids[0, positions]
    log_p = z.log_softmax(-1)
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    return {
        "log_prob": log_p[range(len(y)), y],
        "hit": z.argmax(-1) == y,
        "rank": (z > z[range(len(y)), y][:, None]).sum(-1),
        "mean": mean,
        "std": ((p * log_p**2).sum(-1) - mean**2).clamp(min=0).sqrt(),
        "entropy": -(p * log_p).sum(-1),
        "top": log_p.amax(-1),
        "top5": sampled_alone(z, y, 0.7, 5),
        "warm": (z / 1.3).log_softmax(-1)[range(len(y)), y],
    }


def assert_same(found: TokenStatistics, expected: dict[str, Tensor]) -> None:
    numbers = {
        "log_prob": found.log_prob,
        "mean": found.mean,
        "std": found.std,
        "entropy": found.entropy,
        "top": found.top,
        "top5": found.sampled[0.7, 5],
        "warm": found.sampled[1.3, 0],
    }
    for name, value in numbers.items():
        outside = expected[name].isneginf()
        assert (value.isneginf() == outside).all(), name
        off = (value.double() - expected[name]).abs() / expected[name].abs().clamp(min=1)
        off = off[~outside]
        assert off.max() < 1e-5, (name, off.max())
    assert (found.hit == expected["hit"]).all()
    assert (found.rank == expected["rank"]).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_pass_equals_full_logits(name: str) -> None:
    model = make_model(name)
    head = Head.of(model)
    examples = make_examples(9)
    parts = [plain(model, e) for e in examples]
    expected = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    for budget in (1, 64, 4096):
        found, offsets = score_examples(
            model, head, examples, samplers=SAMPLERS, token_budget=budget
        )
        assert_same(found, expected)
        assert offsets.tolist() == [0, *np.cumsum([e.targets for e in examples])]
    order = [4, 0, 8, 2, 1, 7, 3, 6, 5]
    found, _ = score_examples(model, head, [examples[i] for i in order], samplers=SAMPLERS)
    assert_same(found, {k: torch.cat([parts[i][k] for i in order]) for k in parts[0]})


@pytest.mark.parametrize("name", NAMES)
def test_padding_side_does_not_matter(name: str) -> None:
    model = make_model(name)
    head = Head.of(model)
    examples = make_examples(5)
    parts = [plain(model, e) for e in examples]
    for side in ("left", "right"):
        batch = collate(examples, side=side)
        row, position, target = target_positions(batch)
        with torch.no_grad():
            hidden = hidden_states(model, batch)[row, position]
        found = token_statistics(head, hidden, target, SAMPLERS)
        assert_same(found, {k: torch.cat([p[k] for p in parts]) for k in parts[0]})


def test_padding_with_a_token_that_occurs_in_the_text_hides_nothing() -> None:
    model = make_model("llama")
    examples = [
        Example("a", np.array([5, 2, 7, 2, 9]), np.array([0, 0, 1, 1, 1], dtype=bool)),
        Example("b", np.array([5, 6]), np.array([0, 1], dtype=bool)),
    ]
    rows = [collate(examples, pad=pad) for pad in (0, 2)]
    values = [hidden_states(model, batch)[0] for batch in rows]
    torch.testing.assert_close(values[0], values[1])


def test_chunks_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("gemma2")
    examples = make_examples(12)
    whole, _ = score_examples(model, Head.of(model), examples)
    monkeypatch.setattr("unlearn.model.chunked_logits._CHUNK_ELEMENTS", 1)
    parts, _ = score_examples(model, Head.of(model), examples)
    for a, b in zip(whole[:5], parts[:5], strict=True):
        torch.testing.assert_close(a, b)


def _square(logits: Tensor, target: Tensor, reference: Tensor | None) -> Tensor:
    """A statistic with another derivative than log-prob, using the reference."""
    assert reference is not None
    return (logits.softmax(-1) * (logits - reference) ** 2).sum(-1) + log_prob(logits, target)


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "phi"])
@pytest.mark.parametrize("trainable_head", [False, True])
@pytest.mark.parametrize("statistic", [log_prob, _square])
def test_gradients_equal_those_of_full_logits(
    name: str, trainable_head: bool, statistic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unlearn.model.chunked_logits._CHUNK_ELEMENTS", 1)
    model = make_model(name).double()
    head = Head.of(model)
    for parameter in head.module.parameters():
        parameter.requires_grad_(trainable_head)
    wanted = [p for p in model.parameters() if p.requires_grad]
    batch = collate(make_examples(6))
    row, position, target = target_positions(batch)
    reference = torch.randn(len(target), 32, dtype=torch.float64)
    weight = torch.randn(len(target), dtype=torch.float64)

    hidden = hidden_states(model, batch)[row, position]
    values, log_probs = token_values(statistic, head, hidden, target, reference)
    ours = torch.autograd.grad((values * weight).sum(), wanted)

    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[
        row, position
    ]
    plain_values = statistic(logits, target, head(reference).detach())
    theirs = torch.autograd.grad((plain_values * weight).sum(), wanted)
    torch.testing.assert_close(values.double(), plain_values.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_probs.double(), log_prob(logits, target), rtol=1e-5, atol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm().clamp(min=1e-3)


def test_impossible_tokens_give_minus_infinity_not_nan() -> None:
    head = Head(torch.nn.Linear(2, 3, bias=True))
    with torch.no_grad():
        head.module.weight.zero_()
        head.module.bias.copy_(torch.tensor([0.0, 0.0, -torch.inf]))
    found = token_statistics(head, torch.zeros(2, 2), torch.tensor([2, 0]))
    assert found.log_prob.tolist() == [-torch.inf, pytest.approx(-np.log(2))]
    assert found.mean.tolist() == pytest.approx([-np.log(2)] * 2)
    assert found.std.tolist() == pytest.approx([0.0, 0.0])
    assert found.rank.tolist() == [2, 0]
    assert found.top.tolist() == pytest.approx([-np.log(2)] * 2)


def test_an_unknown_kind_of_output_is_refused() -> None:
    model = make_model("llama")
    inner = model.forward

    def odd(*args: Any, **kwargs: Any) -> Any:
        out = inner(*args, **kwargs)
        out.logits = out.logits.exp()
        return out

    model.forward = odd
    with pytest.raises(ModelError, match="not a plain projection"):
        Head.of(model)


def test_scoring_leaves_the_mode_alone_and_uses_one_forward_a_record() -> None:
    model = make_model("llama").train()
    rows = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    head = Head.of(model)
    rows.clear()
    score_examples(model, head, make_examples(10), token_budget=40)
    assert sum(rows) == 10
    assert model.training


def test_a_bf16_model_is_reduced_in_float32() -> None:
    model = make_model("llama").bfloat16()
    head = Head.of(model)
    batch = collate(make_examples(6))
    row, position, target = target_positions(batch)
    with torch.no_grad():
        hidden = hidden_states(model, batch)[row, position]
        logits = model.lm_head(hidden)
    assert hidden.dtype == torch.bfloat16
    found = token_statistics(head, hidden, target)
    assert found.log_prob.dtype == torch.float32
    exact = log_prob(logits.double(), target)
    rough = logits.log_softmax(-1).gather(-1, target[:, None])[:, 0].double()
    ours = (found.log_prob.double() - exact).abs().max()
    assert ours < 1e-5
    assert ours < 1e-2 * (rough - exact).abs().max()
