"""Wrappers inside the trainer, against the same thing put together from plain runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import DistributedType
from torch import Tensor

from unlearn import losses
from unlearn.errors import OptionError, TrainingError
from unlearn.methods.registry import METHODS, resolve
from unlearn.model.blocks import shifted_block
from unlearn.model.scoring import hidden_states, log_prob, target_positions, token_values
from unlearn.runs.finetuning import finetune
from unlearn.training.expected_time import STEP, expected_seconds
from unlearn.training.fitting import fit
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions
from unlearn.training.sampler import FORGET, RETAIN, Pairs, PairStream, collate_pairs
from unlearn.training.trainer import UnlearnTrainer
from unlearn.training.wrappers import Wrappers, wrappers_of
from unlearn.training.wrappers.latent import Latent, find_offset

_spec = importlib.util.spec_from_file_location(
    "trainer_tests", Path(__file__).parents[1] / "test_trainer.py"
)
assert _spec is not None
assert _spec.loader is not None
trainer_tests = importlib.util.module_from_spec(_spec)
sys.modules["trainer_tests"] = trainer_tests
_spec.loader.exec_module(trainer_tests)
gradients, opened, trained = trainer_tests.gradients, trainer_tests.opened, trainer_tests.trained
relative_distance = trainer_tests.relative_distance

BOTH = Objective(losses.GradAscent(), losses.NLL(), 1.5, 0.5)
FORGET_ONLY = Objective(losses.GradAscent(), None, 1.5)
RETAIN_ONLY = Objective(None, losses.NLL())


class Folders:
    """The model, the adapter and the data of a test."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths

    def gradient(self, objective: Objective, **options: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = gradients(*self.paths, objective, **options)
        return found


@pytest.fixture
def folders(tiny_model: Path, adapter: Path, data_file: Path) -> Folders:
    return Folders(tiny_model, adapter, data_file)


def combined(a: dict[str, Tensor], b: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    return {name: a[name] + weight * b[name] for name in a}


def inner(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return float(sum((a[n].double() * b[n].double()).sum() for n in a))


def retain_gradient(folders: Folders) -> dict[str, Tensor]:
    """g_r on the step's own retain rows: what is left of both when forgetting weighs nothing."""
    return folders.gradient(Objective(losses.GradAscent(), losses.NLL(), 0.0, 1.0))


def test_sharpness_is_the_forget_gradient_elsewhere_and_the_retain_gradient_here(
    folders: Folders,
) -> None:
    rho = 0.5
    g_f, g_r = folders.gradient(FORGET_ONLY), retain_gradient(folders)
    norm = inner(g_f, g_f) ** 0.5
    there = folders.gradient(FORGET_ONLY, moved={n: rho * g / norm for n, g in g_f.items()})
    expected = combined(there, g_r, 0.5)
    found = folders.gradient(BOTH, sam_rho=rho)
    assert relative_distance(found, expected) < 1e-5
    # neither the plain gradient nor the one on the other side is near
    wrong = folders.gradient(FORGET_ONLY, moved={n: -rho * g / norm for n, g in g_f.items()})
    assert relative_distance(combined(wrong, g_r, 0.5), expected) > 0.02
    assert relative_distance(folders.gradient(BOTH), expected) > 0.02


def test_projection_takes_the_retain_direction_out_of_the_forget_gradient(
    folders: Folders,
) -> None:
    g_f, g_r = folders.gradient(FORGET_ONLY), retain_gradient(folders)
    assert inner(g_f, g_r) < 0  # else this shows nothing
    share = inner(g_f, g_r) / inner(g_r, g_r)
    expected = combined(combined(g_f, g_r, -share), g_r, 0.5)
    assert relative_distance(folders.gradient(BOTH, project_retain=True), expected) < 1e-5
    # with no weight on retain the step neither raises nor lowers its loss, to first order
    alone = folders.gradient(
        Objective(losses.GradAscent(), losses.NLL(), 1.5, 0.0), project_retain=True
    )
    assert abs(inner(alone, g_r)) < 1e-4 * (inner(alone, alone) * inner(g_r, g_r)) ** 0.5


def test_projection_without_conflict_is_the_plain_step(folders: Folders) -> None:
    # learning the forget records agrees with learning the others
    agreeing = Objective(losses.NLL(), losses.NLL())
    assert (
        relative_distance(
            folders.gradient(agreeing, project_retain=True), folders.gradient(agreeing)
        )
        < 1e-5
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_latent_is_the_forget_gradient_under_the_disturbance_that_was_found(
    checkpointing: bool, folders: Folders
) -> None:
    state, examples = opened(*folders.paths)
    forget, retain = examples[:5], examples[5:]
    stream = PairStream(len(forget), len(retain), 4, 0)
    inputs = collate_pairs([Pairs(forget, retain)[rows] for rows in stream])
    offset = find_offset(state.model, state.head, inputs, Latent(1, 0.5, 3))
    parameters = {n: p for n, p in state.model.named_parameters() if p.requires_grad}

    def mean_nll(role: int) -> Tensor:
        row, position, target = target_positions(inputs)
        mine = (inputs["role"] == role)[row]
        hidden = hidden_states(state.model, inputs)[row[mine], position[mine]]
        return -token_values(log_prob, state.head, hidden, target[mine])[0].mean()

    with shifted_block(state.model, 1, offset):
        g_f = torch.autograd.grad(-1.5 * mean_nll(FORGET), list(parameters.values()))
    g_r = torch.autograd.grad(0.5 * mean_nll(RETAIN), list(parameters.values()))
    expected = {n: f + r for n, f, r in zip(parameters, g_f, g_r, strict=True)}
    options: dict[str, Any] = {"latent_radius": 0.5, "latent_steps": 3, "latent_layer": 1}
    if checkpointing:
        options["gradient_checkpointing"] = True
    found = folders.gradient(BOTH, **options)
    assert relative_distance(found, expected) < 1e-5
    assert relative_distance(folders.gradient(BOTH), expected) > 0.02


@pytest.mark.parametrize(
    "options",
    [
        {"sam_rho": 0.5},
        {"project_retain": True},
        {"latent_radius": 0.5, "latent_steps": 2},
        {"sam_rho": 0.5, "latent_radius": 0.5, "latent_steps": 2},
    ],
)
def test_what_is_logged_is_the_model_as_it_is(
    options: dict[str, Any], tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    logs = []
    for chosen in ({}, options):
        state, examples = opened(tiny_model, adapter, data_file)
        how = TrainingOptions(
            learning_rate=1e-3, max_steps=1, batch_size=4, micro_batch_size=2, stop="none", **chosen
        )
        done = fit(state, BOTH, how, forget=examples[:5], retain=examples[5:])
        logs.append(done.history[0])
    for key in ("loss", "forget_loss", "retain_loss", "forget_nll", "retain_nll"):
        assert logs[1][key] == pytest.approx(logs[0][key], rel=1e-5), key


def test_passes_and_tokens_are_what_is_announced(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    def rows_and_tokens(**options: Any) -> tuple[list[int], int]:
        state, examples = opened(tiny_model, adapter, data_file)
        rows: list[int] = []
        state.model.get_base_model().model.register_forward_pre_hook(
            lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        how = TrainingOptions(learning_rate=1e-3, batch_size=4, max_steps=1, stop="none", **options)
        done = fit(state, BOTH, how, forget=examples[:4], retain=examples[4:])
        return rows, done.tokens

    plain_rows, plain = rows_and_tokens()
    assert plain_rows == [8]
    assert rows_and_tokens(sam_rho=0.0) == (plain_rows, plain)
    assert rows_and_tokens(project_retain=True) == ([4, 4], plain)
    rows, tokens = rows_and_tokens(sam_rho=0.1)
    assert rows == [4, 4, 4]
    forget = tokens - plain
    assert 0 < forget < plain
    rows, tokens = rows_and_tokens(latent_radius=0.1, latent_steps=3)
    assert rows == [4] * 6  # retain, undisturbed, three to search, disturbed
    assert tokens == plain + 3 * forget
    both = TrainingOptions(sam_rho=0.1, latent_radius=0.1, latent_steps=3)
    assert both.forget_passes == pytest.approx(8 + 1 / 3)
    assert TrainingOptions().forget_passes == 1


def test_more_passes_take_longer(
    tiny_model: Path, adapter: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, examples = opened(tiny_model, adapter, data_file)
    clock = iter(range(100))
    monkeypatch.setattr(
        "unlearn.training.expected_time.time.perf_counter", lambda: float(next(clock))
    )
    plain, sharp = (
        expected_seconds(
            state, BOTH, TrainingOptions(sam_rho=rho), 2, forget=examples[:5], retain=examples[5:]
        )
        - 2 * STEP
        for rho in (None, 0.1)
    )
    assert sharp == pytest.approx(1.5 * plain)  # three passes over 8 rows instead of two


@pytest.mark.parametrize("options", [{"sam_rho": 0.05}, {"latent_radius": 0.1, "latent_steps": 1}])
def test_stop_rules_still_end_the_run(
    options: dict[str, Any], tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    state, examples = opened(tiny_model, adapter, data_file)
    how = TrainingOptions(
        learning_rate=5e-2, batch_size=4, epochs=100, stop_loss=6.0, retain_budget=100, **options
    )
    done = fit(state, FORGET_ONLY, how, forget=examples[:4])
    assert done.stopped is not None
    assert "stop_loss" in done.stopped
    assert done.steps < done.planned_steps


def test_a_loss_that_is_nan_somewhere_near_ends_the_run(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    with pytest.raises(TrainingError, match="at step 1"):
        trained(tiny_model, adapter, data_file, BOTH, sam_rho=1e30)


def test_off_is_exactly_off(tiny_model: Path, adapter: Path, data_file: Path) -> None:
    plain = trained(tiny_model, adapter, data_file, BOTH)
    off = trained(
        tiny_model, adapter, data_file, BOTH, sam_rho=0.0, latent_radius=0, project_retain=False
    )
    assert all(torch.equal(off[name], plain[name]) for name in plain)
    state, _ = opened(tiny_model, adapter, data_file)
    none = TrainingOptions(sam_rho=0.0, latent_radius=0.0)
    assert wrappers_of(none, BOTH, state, retain=True) is None
    # training without a forget term, as that of a pilot, has nothing to wrap
    assert wrappers_of(TrainingOptions(sam_rho=0.1), RETAIN_ONLY, state, retain=True) is None


def test_hidden_losses_go_with_wrappers_below_their_block(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    state, _ = opened(tiny_model, adapter, data_file)
    rmu = Objective(losses.Misdirect(0), losses.HiddenMSE(0))
    fine = wrappers_of(TrainingOptions(latent_radius=0.1), rmu, state, retain=True)
    assert fine == Wrappers(latent=Latent(0, 0.1, 16))
    with pytest.raises(OptionError, match="latent_layer 1 lies above block 0"):
        wrappers_of(TrainingOptions(latent_radius=0.1, latent_layer=1), rmu, state, retain=True)
    options = {"train_layers": "0", "latent_radius": 0.5, "latent_steps": 2, "sam_rho": 0.1}
    plain = trained(tiny_model, adapter, data_file, rmu, train_layers="0")
    wrapped = trained(tiny_model, adapter, data_file, rmu, **options)
    assert any(not torch.equal(plain[name], wrapped[name]) for name in plain)


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_weights_in_pieces_are_refused(kind: DistributedType) -> None:
    sharded = SimpleNamespace(accelerator=SimpleNamespace(distributed_type=kind))
    with pytest.raises(OptionError, match=f"which {kind.value} splits up"):
        UnlearnTrainer._adding_up(sharded)  # type: ignore[arg-type]


def test_a_full_fine_tune_can_be_wrapped(tiny_model: Path, data_file: Path) -> None:
    # its output projection trains too, and shares its weight with the embeddings
    options = {"sam_rho": 0.1, "project_retain": True, "latent_radius": 0.5, "latent_steps": 2}
    one, four = (
        gradients(tiny_model, None, data_file, BOTH, micro=micro, **options) for micro in (4, 1)
    )
    assert relative_distance(four, one) < 1e-5
    g_f = gradients(tiny_model, None, data_file, FORGET_ONLY)
    norm = inner(g_f, g_f) ** 0.5
    moved = {n: 0.1 * g / norm for n, g in g_f.items()}
    expected = gradients(tiny_model, None, data_file, FORGET_ONLY, moved=moved)
    found = gradients(tiny_model, None, data_file, FORGET_ONLY, sam_rho=0.1)
    assert relative_distance(found, expected) < 1e-5


def test_what_cannot_be_wrapped_is_refused(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    state, examples = opened(tiny_model, adapter, data_file)
    alone = TrainingOptions(learning_rate=1e-3, max_steps=1, project_retain=True)
    far = TrainingOptions(learning_rate=1e-3, max_steps=1, latent_radius=0.1, latent_layer=2)
    with pytest.raises(OptionError, match="latent_layer 2 does not exist: the model has 2 blocks"):
        fit(state, BOTH, far, forget=examples[:4], retain=examples[4:])
    with pytest.raises(OptionError, match="project_retain needs retain records"):
        fit(state, BOTH, alone, forget=examples[:4])
    with pytest.raises(OptionError, match="project_retain needs the gradient of a retain loss"):
        resolve(METHODS["grad_ascent"], {"project_retain": True})
    for name in ("retrain", "task_vector"):
        with pytest.raises(OptionError, match=f"method {name}: sam_rho wraps a forget loss"):
            resolve(METHODS[name], {"sam_rho": 0.01})
    with pytest.raises(OptionError, match="latent_layer has no effect without latent_radius"):
        resolve(METHODS["npo"], {"latent_layer": 0})
    with pytest.raises(OptionError, match="sam_rho"):
        resolve(METHODS["npo"], {"sam_rho": -1})
    with pytest.raises(OptionError, match="finetune: sam_rho wraps a forget loss"):
        finetune(tiny_model, data_file, tmp_path / "out", options={"sam_rho": 0.01})
    assert resolve(METHODS["npo"], {"sam_rho": None, "latent_steps": 16, "latent_radius": 1.0})
