"""Private training does what the accountant believes: sampling, clipping, noise, and no more."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("opacus")

from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.errors import OutputError, TrainingError
from unlearn.model.scoring import score_examples
from unlearn.model.state import ModelState, new_adapter, open_model
from unlearn.training.options import TrainingOptions
from unlearn.training.private import loop
from unlearn.training.private.gradients import UnitGradients, unit_gradients
from unlearn.training.private.loop import Mechanism, fit_privately, noisy_gradient

SECRET = bytes(range(32))
TRAINING = TrainingOptions(learning_rate=1e-2, batch_size=4, micro_batch_size=3)
LORA = {"r": 2, "lora_alpha": 4, "target_modules": "all-linear"}


def mechanism(**other: Any) -> Mechanism:
    given = {"units": 12, "expected": 4, "noise": 1.0, "clip": 0.5, "steps": 4, "secret": SECRET}
    return Mechanism(**given | other)


@pytest.fixture
def state(tiny_model: Path) -> ModelState:
    """A new adapter whose B is not zero, so that every weight has a gradient."""
    opened = new_adapter(open_model(tiny_model), LORA, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in opened.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1, generator=generator)
    return opened


@pytest.fixture
def examples(state: ModelState, data_file: Path) -> list[Example]:
    template = Template("qa")
    return encode(Records.load(data_file), state.tokenizer, template, 128)


@pytest.fixture
def gradients(state: ModelState) -> Iterator[UnitGradients]:
    with unit_gradients(state, 3) as made:
        yield made


def alone(state: ModelState, example: Example) -> Tensor:
    """The gradient of one record's mean loss a token, by autograd and the model's own head."""
    ids = torch.from_numpy(np.asarray(example.ids, dtype=np.int64))[None]
    target = torch.from_numpy(np.asarray(example.target, dtype=bool))
    log_probs = state.model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    each = log_probs.gather(1, ids[0, 1:, None])[:, 0][target[1:]]
    weights = [w for w in state.model.parameters() if w.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(-each.mean(), weights)])


def test_gradients_of_a_batch_are_those_of_each_record_alone(
    state: ModelState, examples: list[Example]
) -> None:
    expected = torch.stack([alone(state, example) for example in examples[:5]])
    with unit_gradients(state, 3) as gradients:
        found = gradients.of([[example] for example in examples[:5]])
    assert expected.norm(dim=1).min() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not any(hasattr(weight, "grad_sample") for weight in state.model.parameters())


def test_a_persons_records_are_clipped_together(
    gradients: UnitGradients, examples: list[Example]
) -> None:
    records = gradients.of([[example] for example in examples[:5]])
    person = gradients.of([examples[:5]])  # more records than one pass has
    torch.testing.assert_close(person[0], records.sum(0), rtol=1e-4, atol=1e-5)
    clip = 0.5 * float(person.norm())
    assert float(gradients.clipped_sum([examples[:5]], clip).norm()) == pytest.approx(clip)
    small = gradients.clipped_sum([[example] for example in examples[:2]], 1e6)
    torch.testing.assert_close(small, records[:2].sum(0), rtol=1e-4, atol=1e-5)


def test_one_more_unit_moves_the_sum_by_the_clipping_norm_at_most(
    gradients: UnitGradients, examples: list[Example]
) -> None:
    units = [[example] for example in examples]
    clip = 0.1
    less, more = (gradients.clipped_sum(part, clip) for part in (units[1:], units))
    assert float((more - less).norm()) == pytest.approx(clip, rel=1e-3)


def test_noise_has_the_standard_deviation_that_is_accounted(
    gradients: UnitGradients, examples: list[Example]
) -> None:
    units = [[example] for example in examples]
    how = mechanism(noise=3.0, clip=0.2)
    sums, differences = [], []
    for step in range(3):
        noisy, _ = noisy_gradient(gradients, units, how, step)
        plain, _ = noisy_gradient(gradients, units, replace(how, noise=0.0), step)
        differences.append((noisy - plain).double())
        sums.append(plain)
    noise = torch.cat(differences)
    expected = 3.0 * 0.2 / 4
    assert float(noise.std()) == pytest.approx(expected, rel=4 / math.sqrt(2 * len(noise)))
    assert abs(float(noise.mean())) < 4 * expected / math.sqrt(len(noise))
    assert not torch.equal(differences[0], differences[1])  # never the same noise twice


def test_an_empty_step_is_noise_alone(gradients: UnitGradients, examples: list[Example]) -> None:
    how = mechanism(units=12, expected=1, secret=b"\x00" * 32)
    empty = next(s for s in range(50) if not loop.poisson_sample(how.secret, s, 12, how.rate))
    noisy, tokens = noisy_gradient(gradients, [[e] for e in examples], how, empty)
    assert tokens == 0
    assert float(noisy.norm()) > 0


Sampler = Callable[[bytes, int, int, float], Sequence[int]]


def looks_poisson(sample: Sampler) -> bool:
    """Whether 40 units take part in 400 steps as the accountant believes: by themselves."""
    drawn = np.zeros((400, 40), dtype=bool)
    for step in range(400):
        drawn[step, list(sample(SECRET, step, 40, 0.2))] = True
    # each statistic has the mean that is compared with, and lies within four of its deviations
    share = abs(drawn.mean() - 0.2) < 4 * math.sqrt(0.16 / drawn.size)
    sizes = abs(drawn.sum(1).var() / (40 * 0.16) - 1) < 4 * math.sqrt(2 / 400)
    turns = abs(drawn.sum(0).var() / (400 * 0.16) - 1) < 4 * math.sqrt(2 / 40)
    return bool(share and sizes and turns)


def of_fixed_size(secret: bytes, step: int, units: int, rate: float) -> Sequence[int]:
    rng = np.random.default_rng(step)
    return rng.choice(units, round(rate * units), replace=False).tolist()


def shuffled(secret: bytes, step: int, units: int, rate: float) -> Sequence[int]:
    size, epoch = round(rate * units), step // round(1 / rate)
    order = np.random.default_rng(epoch).permutation(units)
    return order[step % round(1 / rate) * size :][:size].tolist()


def test_units_take_part_by_themselves_with_the_accounted_probability() -> None:
    assert looks_poisson(loop.poisson_sample)
    assert not looks_poisson(of_fixed_size)
    assert not looks_poisson(shuffled)
    assert not looks_poisson(lambda secret, step, units, rate: range(units))


def trained(state: ModelState) -> Tensor:
    return torch.cat([w.detach().flatten() for w in state.model.parameters() if w.requires_grad])


@pytest.fixture
def everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every unit take part in every step."""
    monkeypatch.setattr(loop, "poisson_sample", lambda secret, step, units, rate: range(units))


@pytest.mark.usefixtures("everyone")
def test_without_noise_and_clipping_it_is_plain_training(
    state: ModelState, examples: list[Example]
) -> None:
    how = mechanism(units=5, expected=5, noise=0.0, clip=1e6, steps=3)
    weights = [w for w in state.model.parameters() if w.requires_grad]
    before = [w.detach().clone() for w in weights]
    training = TRAINING.model_copy(update={"weight_decay": 0.1})
    fit_privately(state, [[e] for e in examples[:5]], training, how)
    found = trained(state)
    with torch.no_grad():
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(old)
    optimizer = torch.optim.AdamW(weights, lr=1e-2, betas=(0.9, 0.999), weight_decay=0.1)
    for _ in range(3):
        mean = torch.stack([alone(state, e) for e in examples[:5]]).mean(0)
        for weight, part in zip(weights, mean.split([w.numel() for w in weights]), strict=True):
            weight.grad = part.view_as(weight)
        optimizer.step()
    # Adam's first steps divide by gradients near zero
    assert float((found - trained(state)).abs().max()) < 2e-3
    assert float((found - trained(state)).norm() / trained(state).norm()) < 1e-3


class _Cut(Exception):
    pass


def test_a_resumed_run_is_the_run_that_was_never_interrupted(
    state: ModelState, tiny_model: Path, examples: list[Example], tmp_path: Path
) -> None:
    units = [[example] for example in examples]
    training = TRAINING.model_copy(update={"save_steps": 1, "warmup_steps": 3})
    start = trained(state)

    def cut(done: int, planned: int) -> None:
        if done == 3:
            raise _Cut

    with pytest.raises(_Cut):
        fit_privately(state, units, training, mechanism(), checkpoints=tmp_path, progress=cut)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-2"]
    result = fit_privately(state, units, training, mechanism(), checkpoints=tmp_path)
    assert result.steps == 4
    resumed = trained(state)
    with torch.no_grad():
        weights = [w for w in state.model.parameters() if w.requires_grad]
        for weight, part in zip(weights, start.split([w.numel() for w in weights]), strict=True):
            weight.copy_(part.view_as(weight))
    whole = fit_privately(state, units, training, mechanism())
    assert torch.equal(resumed, trained(state))
    assert whole.tokens == result.tokens


@pytest.mark.parametrize("harm", ["other noise", "no accountant", "no optimizer"])
def test_a_checkpoint_without_its_accountant_is_refused(
    harm: str, state: ModelState, examples: list[Example], tmp_path: Path
) -> None:
    units = [[example] for example in examples]
    training = TRAINING.model_copy(update={"save_steps": 1})

    def cut(done: int, planned: int) -> None:
        if done == 2:
            raise _Cut

    with pytest.raises(_Cut):
        fit_privately(state, units, training, mechanism(), checkpoints=tmp_path, progress=cut)
    folder = tmp_path / "checkpoint-1"
    facts = json.loads((folder / "unlearn_state.json").read_text())
    if harm == "no optimizer":
        (folder / "optimizer.pt").unlink()
    else:
        facts["accountant"] = [0.5, 1 / 3, 1] if harm == "other noise" else None
        (folder / "unlearn_state.json").write_text(json.dumps(facts))
    with pytest.raises(OutputError, match="the privacy spent until then is not known"):
        fit_privately(state, units, training, mechanism(), checkpoints=tmp_path)


def test_a_gradient_that_is_not_finite_ends_the_run(
    state: ModelState, examples: list[Example]
) -> None:
    with torch.no_grad():
        next(w for w in state.model.parameters() if w.requires_grad).fill_(math.nan)
    with pytest.raises(TrainingError, match="not finite"):
        fit_privately(state, [[e] for e in examples], TRAINING, mechanism())


def scores(state: ModelState, examples: Sequence[Example]) -> float:
    return float(score_examples(state.model, state.head, examples)[0].log_prob.mean())


def test_noise_keeps_it_from_learning_what_it_learns_without(
    state: ModelState, examples: list[Example]
) -> None:
    units, start = [[example] for example in examples], scores(state, examples)
    first = trained(state)
    fit_privately(state, units, TRAINING, mechanism(noise=0.0, steps=20))
    learned = scores(state, examples) - start
    with torch.no_grad():
        weights = [w for w in state.model.parameters() if w.requires_grad]
        for weight, part in zip(weights, first.split([w.numel() for w in weights]), strict=True):
            weight.copy_(part.view_as(weight))
    fit_privately(state, units, TRAINING, mechanism(noise=100.0, steps=20))
    assert scores(state, examples) - start < 0.5 * learned
