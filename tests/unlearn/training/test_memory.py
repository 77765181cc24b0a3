"""Peak memory as planned from shapes, beside what trainings of tiny models hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn import losses
from unlearn.errors import OptionError
from unlearn.model.opening import Opening
from unlearn.model.weightless import weightless
from unlearn.training.memory import Work, needs_of
from unlearn.training.objective import Objective
from unlearn.training.options import LoraOptions, TrainingOptions

NPO = Objective(losses.NPO(), losses.NLL())
PLAIN = Objective(retain=losses.NLL())
KL = Objective(losses.GradAscent(), losses.KLFromBefore())
RMU = Objective(losses.Misdirect(layer=1), losses.HiddenMSE(layer=1))


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_importable() -> Iterator[None]:
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def tiny(**changes: Any) -> Any:
    from _steps import Setting

    sizes = {"vocabulary": 512, "length": 32, "hidden": 64, "intermediate": 160}
    return Setting(**sizes | {"layers": 3, "heads": 4} | changes)


@pytest.mark.parametrize(
    ("objective", "changes", "options"),
    [
        (NPO, {}, {}),
        (PLAIN, {}, {}),
        (KL, {}, {}),
        (RMU, {}, {"train_layers": "0-1"}),
        (NPO, {}, {"micro_batch_size": 2}),
        (NPO, {}, {"gradient_checkpointing": True}),
        (NPO, {"kv_heads": 2}, {}),
        (PLAIN, {"kind": "full"}, {}),
        (NPO, {"kind": "full"}, {}),
        (PLAIN, {}, {"optimizer": "muon"}),
    ],
)
def test_planned_peaks_are_within_15_percent_of_measured_ones(
    objective: Objective, changes: dict[str, Any], options: dict[str, Any]
) -> None:
    from _planned import Case, peaks

    found = peaks(Case("", tiny(**changes), objective, tuple(options.items())))
    assert found.planned_weights == found.weights
    assert found.whole == pytest.approx(1, abs=0.15)
    assert found.beyond == pytest.approx(1, abs=0.15)


def test_a_quantised_base_is_planned_as_codes() -> None:
    pytest.importorskip("bitsandbytes")
    from _planned import Case, peaks

    found = peaks(Case("", tiny(nf4=True), NPO))
    # 16 numbers that codes stand for lie beside each matrix
    assert found.planned_weights == pytest.approx(found.weights, rel=0.02)
    assert found.whole == pytest.approx(1, abs=0.15)


def needs(folder: Path, objective: Objective, **options: Any) -> Any:
    setting = tiny()
    shapes = weightless(
        folder, Opening(dtype="float32"), torch.device("cpu"), [LoraOptions().model_dump()]
    )
    examples = setting.examples()
    training = TrainingOptions(**{"batch_size": 8, "max_steps": 2} | options)
    forget = examples[:8] if objective.forget else []
    return needs_of(shapes, Work(objective, training, 2, forget, examples[8:]), "cpu")


def test_operations_are_those_of_the_matrices(tiny_model: Path) -> None:
    """Each weight of a matrix: 2 forward, 2 for inputs' gradients, and 2 more where it trains."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(tiny_model)
    hidden, wide, layers, rank = 32, 64, 2, 16
    sizes = [(hidden, hidden)] * 4 + [(hidden, wide)] * 2 + [(wide, hidden)]
    base = layers * sum(a * b for a, b in sizes)
    factors = layers * sum(rank * (a + b) for a, b in sizes)
    half = config.vocab_size * hidden / 2  # projected are the predicted tokens, every second one
    length = tiny().length
    attention = layers * 2 * length * hidden * 7  # two products forward, five backward
    expected = 4 * base + 6 * factors + 4 * half + attention
    found = needs(tiny_model, PLAIN).operations
    # the lowest block has no input whose gradient is wanted
    assert found == pytest.approx(expected, rel=0.1)


def test_what_takes_memory_shows(tiny_model: Path) -> None:
    plain, more = needs(tiny_model, PLAIN).memory, needs(tiny_model, KL).memory
    assert plain.references == 0
    assert more.references == plain.adapters
    assert plain.optimizer == 2 * plain.adapters
    assert needs(tiny_model, PLAIN, optimizer="muon").memory.optimizer == plain.adapters
    less = needs(tiny_model, PLAIN, gradient_checkpointing=True).memory
    assert less.passes < plain.passes
    assert plain.peak == sum(plain.parts.values())


def test_blocks_that_the_model_lacks_are_refused(tiny_model: Path) -> None:
    with pytest.raises(OptionError, match="2 blocks"):
        needs(tiny_model, PLAIN, train_layers="5")


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_ragged_batches_are_planned_with_their_padding(kv_heads: int) -> None:
    from _planned import Case, peaks

    found = peaks(Case("", tiny(kv_heads=kv_heads, ragged=True), NPO))
    assert found.beyond == pytest.approx(1, abs=0.15)
