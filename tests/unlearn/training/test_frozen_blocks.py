"""Runs that compute frozen blocks once train the weights of runs that compute them anew."""

from __future__ import annotations

import errno
import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from unlearn import losses
from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import encode
from unlearn.model.blocks import blocks_of
from unlearn.model.frozen import Kept
from unlearn.model.state import ModelState, new_adapter, open_model
from unlearn.training import frozen_blocks
from unlearn.training.expected_time import STEP, expected_seconds
from unlearn.training.fitting import Fit, fit
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions
from unlearn.training.tokens import mean_length

PLAIN = Objective(retain=losses.NLL())
OBJECTIVES = {
    "plain": PLAIN,
    "two terms": Objective(losses.NPO(), losses.NLL()),
    "live reference": Objective(losses.GradAscent(), losses.KLFromBefore()),
    "base reference": Objective(losses.KLFromBase(), losses.NLL()),
    "hidden states": Objective(losses.MisdirectByNorm(4), losses.HiddenMSE(4), 1e-3, 10.0),
}
USED = "what comes out of the lowest 3 of 5 blocks"


@dataclass(frozen=True)
class Trained:
    """The weights after training, what training did, and passes through the first block."""

    weights: dict[str, Tensor]
    fit: Fit
    passes: int

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.fit.history if "loss" in row]


@pytest.fixture(scope="module")
def five_blocks(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of five blocks with the tokenizer of the tiny model."""
    folder = tmp_path_factory.mktemp("five") / "model"
    shutil.copytree(tiny_model, folder)
    config = LlamaConfig.from_pretrained(tiny_model, num_hidden_layers=5)
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(five_blocks: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters that changed what the model says: one on the upper blocks, one on all."""
    folders = {}
    for name, where in (("upper", [3, 4]), ("all", None), ("dropout", None)):
        shape = {
            "r": 4,
            "target_modules": "all-linear",
            "layers_to_transform": where,
            "lora_dropout": 0.1 if name == "dropout" else 0.0,
        }
        state = new_adapter(open_model(five_blocks), shape, seed=0)
        with torch.no_grad():
            for key, parameter in state.model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(0, 0.05)
        folders[name] = tmp_path_factory.mktemp("adapters") / name
        folders[name].mkdir()
        state.save(folders[name])
    return folders


class Nothing(Kept):
    """Keeps nothing: all is computed anew each time."""

    def put(self, name: object, tensor: Tensor) -> None:
        pass


class OnDisk(Kept):
    """Keeps all of it in the file."""

    def __init__(self, memory: int) -> None:
        super().__init__(0)


@pytest.fixture(params=[OnDisk, Nothing])
def otherwise(request: pytest.FixtureRequest) -> Any:
    """Another way to keep than in memory."""
    return request.param


@pytest.fixture
def kept_as(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield lambda kind: monkeypatch.setattr(frozen_blocks, "Kept", kind)
    gc.collect()


def opened(model: Path, adapter: Path | None) -> ModelState:
    return open_model(model, adapter, trainable=True)


def run(state: ModelState, data: Path, objective: Objective = PLAIN, **options: Any) -> Trained:
    examples = encode(Records.load(data), state.tokenizer, Template("qa"), 128)
    halves = (examples[:5], examples[5:]) if objective.forget else ([], examples)
    checkpoints = options.pop("checkpoints", None)
    settings = {"learning_rate": 1e-2, "batch_size": 4, "epochs": 3, "stop": "none"} | options
    calls: list[int] = []
    handle = blocks_of(state.model)[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    result = fit(
        state,
        objective,
        TrainingOptions.model_validate(settings),
        forget=halves[0],
        retain=halves[1],
        checkpoints=checkpoints,
    )
    handle.remove()
    weights = {n: p.detach().clone() for n, p in state.model.named_parameters()}
    return Trained(weights, result, len(calls))


def same(a: Trained, b: Trained) -> bool:
    return all(torch.equal(value, b.weights[name]) for name, value in a.weights.items())


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 2}, {"gradient_checkpointing": True}])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_what_is_kept_trains_the_same_weights_to_the_bit(
    five_blocks: Path,
    adapters: dict[str, Path],
    data_file: Path,
    kept_as: Any,
    otherwise: Any,
    kind: str,
    options: dict[str, Any],
) -> None:
    objective = OBJECTIVES[kind]
    once = run(opened(five_blocks, adapters["upper"]), data_file, objective, **options)
    kept_as(otherwise)
    again = run(opened(five_blocks, adapters["upper"]), data_file, objective, **options)
    assert [note[: len(USED)] for note in once.fit.notes] == [USED]
    assert same(once, again)
    assert once.losses == again.losses


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("adapter", ["upper", "all", None])
def test_without_it_training_differs_by_rounding_only(
    five_blocks: Path, adapters: dict[str, Path], data_file: Path, kind: str, adapter: str | None
) -> None:
    if kind == "base reference" and adapter is None:
        pytest.skip("a whole model has no base to compare with")
    objective, options = OBJECTIVES[kind], {"learning_rate": 1e-3, "train_layers": "3-4"}
    folder = adapters[adapter] if adapter else None
    once = run(opened(five_blocks, folder), data_file, objective, **options)
    off = run(opened(five_blocks, folder), data_file, objective, **options, cache_frozen="off")
    assert once.fit.notes
    assert not off.fit.notes
    assert once.losses == pytest.approx(off.losses, rel=1e-4)
    start = dict(opened(five_blocks, folder).model.named_parameters())
    moved = {n for n, w in once.weights.items() if n in start and not torch.equal(w, start[n])}
    assert moved
    assert all("layers.3." in name or "layers.4." in name for name in moved)
    for name, value in once.weights.items():
        assert torch.allclose(value, off.weights[name], atol=2e-4), name


def test_frozen_blocks_see_each_record_once(
    five_blocks: Path, adapters: dict[str, Path], data_file: Path
) -> None:
    objective = OBJECTIVES["live reference"]
    once = run(opened(five_blocks, adapters["upper"]), data_file, objective, epochs=8)
    off = run(
        opened(five_blocks, adapters["upper"]), data_file, objective, epochs=8, cache_frozen="off"
    )
    assert once.passes <= 3  # two to try, one batch of records
    assert off.passes >= 20


def test_where_references_differ_below_each_has_its_own(
    five_blocks: Path, adapters: dict[str, Path], data_file: Path, kept_as: Any, otherwise: Any
) -> None:
    objective = Objective(losses.KLFromBase(), losses.KLFromBefore())
    once = run(opened(five_blocks, adapters["all"]), data_file, objective, train_layers="3-4")
    kept_as(otherwise)
    again = run(opened(five_blocks, adapters["all"]), data_file, objective, train_layers="3-4")
    assert once.fit.notes
    assert same(once, again)
    # the model is its own reference at first: the retain term begins at 0
    first = next(row for row in once.fit.history if "retain_loss" in row)
    assert first["retain_loss"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("adapter", ["upper", None])
def test_a_run_that_goes_on_trains_the_same_weights(
    five_blocks: Path,
    adapters: dict[str, Path],
    data_file: Path,
    tmp_path: Path,
    adapter: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = adapters[adapter] if adapter else None
    options = {"save_steps": 2, "max_steps": 7, "epochs": None, "train_layers": "3-4"}
    whole = run(opened(five_blocks, folder), data_file, **options)
    stop = RuntimeError("killed")

    def fail(self: Any) -> None:
        if self.state.global_step == 5:
            raise stop

    monkeypatch.setattr("unlearn.training.trainer.UnlearnTrainer.step_finished", fail)
    with pytest.raises(RuntimeError, match="killed"):
        run(opened(five_blocks, folder), data_file, **options, checkpoints=tmp_path / "c")
    monkeypatch.undo()
    resumed = run(opened(five_blocks, folder), data_file, **options, checkpoints=tmp_path / "c")
    assert len(resumed.losses) < 7 or resumed.fit.steps == 7
    assert same(whole, resumed)


def test_disturbed_blocks_start_above_the_frozen_ones_too(
    five_blocks: Path, adapters: dict[str, Path], data_file: Path, kept_as: Any
) -> None:
    objective = OBJECTIVES["two terms"]
    options = {"latent_radius": 0.5, "latent_steps": 3, "sam_rho": 0.01}
    made = {
        kind: run(
            opened(five_blocks, adapters["upper"]), data_file, objective, **options, latent_layer=4
        )
        for kind in (Kept, Nothing)
        if kept_as(kind) is None
    }
    assert made[Kept].fit.notes
    assert made[Kept].passes <= 4  # and one for the log-probabilities before training
    assert same(made[Kept], made[Nothing])
    below = run(
        opened(five_blocks, adapters["upper"]), data_file, objective, **options, latent_layer=1
    )
    assert "what comes out of one of them is disturbed" in below.fit.notes[0]


def test_where_it_cannot_be_done_the_run_says_why(
    five_blocks: Path, adapters: dict[str, Path], data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropout = run(opened(five_blocks, adapters["dropout"]), data_file, train_layers="3-4")
    assert "dropout" in dropout.fit.notes[0]
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    reason = frozen_blocks._reason(3, PLAIN, None)
    assert reason == "weights are split over processes"


def test_planned_time_counts_frozen_blocks_once(
    five_blocks: Path, adapters: dict[str, Path], data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = opened(five_blocks, adapters["upper"])
    examples = encode(Records.load(data_file), state.tokenizer, Template("qa"), 128)
    ticks: list[int] = []
    for block in blocks_of(state.model):
        block.mlp.register_forward_hook(lambda *_: ticks.append(1))
    monkeypatch.setattr("time.perf_counter", lambda: float(len(ticks)))

    def planned(objective: Objective, steps: int, **options: Any) -> float:
        training = TrainingOptions.model_validate({"batch_size": 4} | options)
        retain = examples[2:] if objective.forget else examples
        parts = {"forget": examples[:2] if objective.forget else (), "retain": retain}
        rows = 8 if objective.forget else 4
        some = examples[:: max(1, len(examples) // rows)][:rows]
        seconds = expected_seconds(state, objective, training, steps, **parts) - steps * STEP
        return seconds * mean_length(some) / mean_length(examples)

    # a pass of a batch takes a tick a block, of four or eight records at once
    count, steps = len(examples), 30
    assert planned(PLAIN, steps, cache_frozen="off") == pytest.approx(steps * 5)
    assert planned(PLAIN, steps) == pytest.approx(steps * 2 + count / 4 * 3)
    pairs = OBJECTIVES["two terms"]
    assert planned(pairs, steps, cache_frozen="off") == pytest.approx(steps * 5)
    assert planned(pairs, steps) == pytest.approx(steps * 2 + count / 8 * 3)
    # none is seen again
    assert planned(PLAIN, 1) == pytest.approx(5)
    assert not any(p.grad is not None for p in state.model.parameters())


@pytest.mark.slow
def test_frozen_blocks_in_two_processes(
    five_blocks: Path, adapters: dict[str, Path], data_file: Path, tmp_path: Path
) -> None:
    kinds = ("plain", "live reference")
    script = Path(__file__).with_name("two_processes_frozen.py")
    for processes in ("1", "2"):
        (tmp_path / processes).mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", processes, str(script), str(five_blocks)]
        command += [str(adapters["upper"]), str(data_file), str(tmp_path / processes), *kinds]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    for kind in kinds:
        one, two, off = (
            load_file(tmp_path / f"{place}.safetensors")
            for place in (f"1/{kind}.auto", f"2/{kind}.auto", f"2/{kind}.off")
        )
        facts = json.loads((tmp_path / "2" / f"{kind}.auto.json").read_text())
        assert facts["notes"], kind
        assert facts["passes"] <= 3, kind  # as in one process: two to try, one batch of records
        for name, value in two.items():
            assert torch.allclose(value, off[name], atol=1e-5), (kind, name)
            assert torch.allclose(value, one[name], atol=1e-5), (kind, name)


class FullDisk(OnDisk):
    """Keeps what comes first in the file; then the disk is full."""

    def put(self, name: object, tensor: Tensor) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if self._places:
                patch.setattr("unlearn.model.frozen._whole", self._fail)
            super().put(name, tensor)

    def _fail(self, *_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_on_a_full_disk_the_same_weights_are_trained_and_it_is_said_once(
    five_blocks: Path, adapters: dict[str, Path], data_file: Path, kept_as: Any
) -> None:
    once = run(opened(five_blocks, adapters["upper"]), data_file)
    kept_as(FullDisk)
    full = run(opened(five_blocks, adapters["upper"]), data_file)
    assert same(once, full)
    assert full.passes > once.passes
    assert [note for note in full.fit.notes if "disk was full" in note] == [full.fit.notes[1]]


@pytest.mark.parametrize(
    ("adapter", "options"),
    [("all", {}), ("upper", {"epochs": 1}), ("upper", {"cache_frozen": "off"})],
)
def test_where_there_is_nothing_to_gain_nothing_is_said(
    five_blocks: Path,
    adapters: dict[str, Path],
    data_file: Path,
    adapter: str,
    options: dict[str, Any],
) -> None:
    assert run(opened(five_blocks, adapters[adapter]), data_file, **options).fit.notes == ()
