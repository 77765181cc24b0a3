"""Stacked adapters, each against the same adapter trained alone through the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from unlearn.config import validated
from unlearn.data.tokenization import Example
from unlearn.errors import OptionError, TrainingError
from unlearn.losses import NLL
from unlearn.model.lora_routing import Route, _Product, _sum_of_parts, routed
from unlearn.model.state import new_adapter, open_model
from unlearn.training.fitting import fit, mean_loss
from unlearn.training.options import TrainingOptions
from unlearn.training.stacked import check_stackable, fit_stacked, save_stacked, stack_adapters
from unlearn.training.trainer import Objective

SEEDS = (3, 1, 4, 15)
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def examples(n: int, seed: int) -> list[Example]:
    """Ragged rows of random tokens, part of each a target."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        length = int(rng.integers(4, 24))
        target = rng.random(length) < 0.6
        target[0], target[-1] = False, True
        made.append(Example(f"{seed}-{i}", rng.integers(2, 250, length), target))
    return made


# other records and another number of them for each, and so other numbers of steps
SUBSETS = [examples(n, seed) for seed, n in enumerate((20, 13, 20, 7))]


def options(**more: Any) -> TrainingOptions:
    usual = {"learning_rate": 3e-3, "batch_size": 4, "epochs": 10}
    return validated(TrainingOptions, usual | more, "test")


def factors(model: nn.Module, name: str) -> dict[str, torch.Tensor]:
    return {
        key.replace(f".{name}.", "."): p.detach().clone()
        for key, p in model.named_parameters()
        if f".{name}." in key
    }


def alone(model: Path, position: int, training: TrainingOptions, lora: dict[str, Any] = LORA):
    state = new_adapter(open_model(model), lora, SEEDS[position])
    done = fit(
        state, Objective(retain=NLL()), training, retain=SUBSETS[position], seed=SEEDS[position]
    )
    return state, done


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    apart = sum(float((ours[k] - theirs[k]).square().sum()) for k in ours)
    return (apart / sum(float(v.square().sum()) for v in theirs.values())) ** 0.5


def test_initial_weights_are_those_of_each_seed_alone(tiny_model: Path) -> None:
    stacked = stack_adapters(open_model(tiny_model), LORA, SEEDS)
    for name, seed in zip(stacked.stack, SEEDS, strict=True):
        expected = factors(new_adapter(open_model(tiny_model), LORA, seed).model, "default")
        found = factors(stacked.model, name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    trainable = {key for key, p in stacked.model.named_parameters() if p.requires_grad}
    assert trainable == {k for k, _ in stacked.model.named_parameters() if ".lora_" in k}


@pytest.mark.slow
def test_each_equals_the_one_trained_alone(tiny_model: Path, tmp_path: Path) -> None:
    training = options()
    stacked = stack_adapters(open_model(tiny_model), LORA, SEEDS)
    told: list[tuple[int, int]] = []
    done = fit_stacked(stacked, training, SUBSETS, SEEDS, lambda *now: told.append(now))
    assert [f.steps for f in done] == [50, 33, 50, 18]
    assert told[-1] == (151, 151)
    for i, name in enumerate(stacked.stack):
        single, theirs = alone(tiny_model, i, training)
        expected = factors(single.model, "default")
        assert distance(factors(stacked.model, name), expected) < 1e-4
        assert (done[i].steps, done[i].tokens) == (theirs.steps, theirs.tokens)
        folder = tmp_path / name
        folder.mkdir()
        save_stacked(stacked, i, folder)
        ours, alone_ = (mean_loss(s, SUBSETS[i]) for s in (open_model(tiny_model, folder), single))
        assert ours == pytest.approx(alone_, rel=0.01)
        assert ours < 0.95 * mean_loss(open_model(tiny_model), SUBSETS[i])


@pytest.mark.parametrize(
    ("training", "lora", "close"),
    [
        ({"schedule": "cosine", "warmup_steps": 5, "weight_decay": 0.1}, {}, 1e-4),
        pytest.param({"max_grad_norm": 0.3}, {"use_rslora": True}, 1e-4, marks=pytest.mark.slow),
        ({"micro_batch_size": 2, "schedule": "linear", "max_grad_norm": 0}, {}, 1e-4),
        # its orthogonalisation is in bfloat16, which makes steps of rounding
        ({"optimizer": "muon", "learning_rate": 1e-3}, {"target_modules": ["q_proj"]}, 3e-3),
        pytest.param(
            {"train_layers": "1", "gradient_checkpointing": True}, {}, 1e-4, marks=pytest.mark.slow
        ),
    ],
    ids=["decayed", "clipped-rslora", "accumulated", "muon", "one-block-recomputed"],
)
def test_so_it_does_with_other_options(
    tiny_model: Path,
    training: dict[str, Any],
    lora: dict[str, Any],
    close: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unlearn.training.stacked.BESIDE", 3)  # the last one in passes of its own
    # the last one is done first, and must not move after that
    how = options(epochs=5, **training)
    stacked = stack_adapters(open_model(tiny_model), LORA | lora, SEEDS)
    before = factors(stacked.model, stacked.stack[3])
    done = fit_stacked(stacked, how, SUBSETS, SEEDS)
    assert [f.steps for f in done] == [25, 17, 25, 9]
    single, _ = alone(tiny_model, 3, how, LORA | lora)
    expected = factors(single.model, "default")
    assert distance(factors(stacked.model, stacked.stack[3]), expected) < close
    assert distance(before, expected) > 10 * close


def test_a_saved_one_is_a_plain_adapter(tiny_model: Path, tmp_path: Path) -> None:
    stacked = stack_adapters(open_model(tiny_model), LORA, SEEDS[:2])
    for i, name in enumerate(stacked.stack):
        folder = tmp_path / name
        folder.mkdir()
        save_stacked(stacked, i, folder)
        assert {"adapter_config.json", "adapter_model.safetensors"} <= {
            path.name for path in folder.iterdir()
        }
        assert not [path for path in folder.iterdir() if path.is_dir()]
        found = load_file(folder / "adapter_model.safetensors")
        expected = factors(stacked.model, name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)
        open_model(tiny_model, folder)


def test_an_endless_loss_is_told_and_the_layers_are_put_back(tiny_model: Path) -> None:
    stacked = stack_adapters(open_model(tiny_model), LORA, SEEDS[:2])
    with pytest.raises(TrainingError, match="learning_rate"):
        fit_stacked(stacked, options(learning_rate=1e30), SUBSETS[:2], SEEDS[:2])
    assert not any("forward" in vars(module) for module in stacked.model.modules())


@pytest.mark.parametrize("rows", [(5, 3, 4), (40, 30, 50), (4, 4, 4), (0, 7, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_product_and_its_gradient_are_those_of_autograd(
    rows: tuple[int, ...], bias: bool
) -> None:
    # few rows take the factors one by one, many the whole weight: both against plain operations
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    route = Route(("a", "b", "c"), rows)
    x = made(sum(rows), 2, 24).requires_grad_()
    weight, shift = made(20, 24), made(20) if bias else None
    parts = route.parts(x)
    pairs = [(made(3, 24).requires_grad_(), made(20, 3).requires_grad_()) for _ in parts]
    scales, where = [0.5 + i for i in range(len(parts))], [part for _, part in parts]
    flat = [f for pair in pairs for f in pair]
    upstream = made(sum(rows), 2, 20)

    y = _Product.apply(x, weight, shift, where, scales, *flat)
    found = torch.autograd.grad(y, [x, *flat], upstream)

    start, expected_y = 0, []
    for n, (a, b), s in zip([n for n in rows if n], pairs, scales, strict=True):
        part = x[start : start + n]
        expected_y.append(nn.functional.linear(part, weight + s * b @ a, shift))
        start += n
    expected = torch.autograd.grad(torch.cat(expected_y), [x, *flat], upstream)
    torch.testing.assert_close(y, torch.cat(expected_y))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    delta = _sum_of_parts(x.flatten(0, 1), where, scales, flat)
    plain = nn.functional.linear(x, weight, shift).flatten(0, 1)
    torch.testing.assert_close(plain + delta, y.flatten(0, 1))


def test_dropout_and_other_types_take_the_general_path(tiny_model: Path) -> None:
    # bfloat16 bases and dropout are not merged; without dropout's noise both must agree
    state = stack_adapters(open_model(tiny_model), LORA | {"lora_dropout": 0.5}, SEEDS[:2])
    for key, parameter in state.model.named_parameters():
        if "lora_B" in key:
            nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(3, 27).view(4, 6)
    route = Route(state.stack, (1, 3))
    with torch.no_grad(), routed(state.model, route):
        state.model.eval()
        merged = state.model(input_ids=ids).logits
        assert torch.equal(merged, state.model(input_ids=ids).logits)
        state.model.train()
        noisy = state.model(input_ids=ids).logits
        assert (noisy - merged).abs().max() > 0.01
        state.model.eval().to(torch.bfloat16)
        coarse = state.model(input_ids=ids).logits.float()
    assert (coarse - merged).abs().max() < 0.1 * merged.abs().max()


@pytest.mark.parametrize(
    ("config", "more", "problem"),
    [
        ({"use_dora": True}, {}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, {}, "lm_head"),
        ({}, {"micro_batch_size": 3}, "micro_batch_size"),
    ],
)
def test_what_cannot_be_stacked_is_refused(
    config: dict[str, Any], more: dict[str, Any], problem: str
) -> None:
    with pytest.raises(OptionError, match=problem):
        check_stackable(config, options(**more))
