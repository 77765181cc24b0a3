"""The trainer: right under accumulation, several processes and resuming; loud when wrong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from unlearn import losses
from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.errors import OptionError, TrainingError
from unlearn.methods.pilot import teacher_of
from unlearn.model.scoring import log_prob
from unlearn.model.state import ModelState, open_model
from unlearn.training.fitting import Fit, fit, mean_loss
from unlearn.training.options import TrainingOptions
from unlearn.training.sampler import FORGET, RETAIN, PairStream
from unlearn.training.stopping import Monitor, Rescoring, StopRules
from unlearn.training.trainer import Constraint, Objective

OBJECTIVES = {
    "reference-free": Objective(losses.GradAscent(), losses.NLL(), retain_weight=2.0),
    "cached reference": Objective(losses.NPO(), losses.NLL()),
    "live reference": Objective(losses.GradAscent(), losses.KLFromBefore()),
    "base reference": Objective(losses.KLFromBase(), losses.NLL()),
    "alternates": Objective(losses.DPO(), losses.NLL()),
    "hidden states": Objective(losses.MisdirectByNorm(0), losses.HiddenMSE(0), 1e-3, 10.0),
    "dual variable": Objective(losses.Flatness(), losses.NLL(), constraint=Constraint(1.0, 0.5)),
    "teacher": Objective(losses.MatchTeacher(sharpness=2.0), losses.NLL()),
    "floor": Objective(losses.GradAscent(), losses.FlooredNLL()),
}
# Wrappers of the forget term: name → (objective, options). The options are far larger than one
# would train with, so that what they do is far above rounding.
WRAPPED: dict[str, tuple[str, dict[str, Any]]] = {
    "sharpness": ("cached reference", {"sam_rho": 0.5}),
    "projection": ("reference-free", {"project_retain": True}),
    "latent": ("live reference", {"latent_radius": 0.5, "latent_steps": 3}),
    "all wrappers": (
        "alternates",
        {"sam_rho": 0.5, "project_retain": True, "latent_radius": 0.5, "latent_steps": 2},
    ),
}
# kinds whose parts others hold, too: their losses, or all three wrappers at once
HELD = ("reference-free", "base reference", "sharpness", "projection", "latent")
KINDS = [
    pytest.param(kind, marks=[pytest.mark.slow] if kind in HELD else [])
    for kind in (*OBJECTIVES, *WRAPPED)
]
# one of a kind: a plain loss, a state of the trainer's own, and passes beyond the first
RESUMED = ["cached reference", "dual variable", "all wrappers"]
RESUMED_TOO = [k for k in (*OBJECTIVES, *WRAPPED) if k not in (*RESUMED, "base reference")]


def asked(kind: str) -> tuple[Objective, dict[str, Any]]:
    """The objective and the wrappers' options of a kind."""
    name, options = WRAPPED.get(kind, (kind, {}))
    return OBJECTIVES[name], options


def more(
    kind: str | Objective, state: ModelState, examples: list[Example]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What else `fit` and the options must hold for an objective on the first five examples."""
    objective = OBJECTIVES[kind] if isinstance(kind, str) else kind
    given: dict[str, Any] = {}
    if "alternates" in objective.needs:
        given["alternates"] = (examples[5:] * 10)[:10]
    if "teacher_logits" in objective.needs:
        given["teacher"] = teacher_of(state, examples[:5])
    hidden = isinstance(objective.forget, losses.HiddenLoss)
    return given, {"train_layers": "0"} if hidden else {}


def opened(model: Path, adapter: Path, data: Path) -> tuple[ModelState, list[Example]]:
    state = open_model(model, adapter, trainable=True)
    return state, encode(Records.load(data), state.tokenizer, Template("qa"), 128)


def trained(
    model: Path, adapter: Path, data: Path, objective: Objective, **options: Any
) -> dict[str, Tensor]:
    state, examples = opened(model, adapter, data)
    checkpoints = options.pop("checkpoints", None)
    settings = {"learning_rate": 1e-3, "batch_size": 4, "max_steps": 3, "stop": "none"} | options
    given, needed = more(objective, state, examples)
    fit(
        state,
        objective,
        TrainingOptions.model_validate(settings | needed),
        forget=examples[:5],
        retain=examples[5:],
        checkpoints=checkpoints,
        **given,
    )
    return {n: p.detach().clone() for n, p in state.model.named_parameters() if p.requires_grad}


def gradients(
    model: Path,
    adapter: Path,
    data: Path,
    objective: Objective,
    micro: int | None = None,
    moved: dict[str, Tensor] | None = None,
    **wrappers: Any,
) -> dict[str, Tensor]:
    """The gradient that the optimizer is given in the first step, after all reductions.

    `moved` is added to the weights first.
    """
    state, examples = opened(model, adapter, data)
    with torch.no_grad():
        for name, parameter in state.model.named_parameters():
            if moved and name in moved:
                parameter.add_(moved[name])
    caught: dict[str, Tensor] = {}

    def catch(*_: Any) -> None:
        for name, parameter in state.model.named_parameters():
            if parameter.grad is not None:
                caught[name] = parameter.grad.detach().clone()

    handle = register_optimizer_step_pre_hook(catch)
    given, needed = more(objective, state, examples)
    fixed: dict[str, Any] = {"learning_rate": 1e-3, "max_steps": 1, "stop": "none"}
    options = TrainingOptions(
        batch_size=4, micro_batch_size=micro, max_grad_norm=0, **fixed, **needed, **wrappers
    )
    try:
        fit(state, objective, options, forget=examples[:5], retain=examples[5:], **given)
    finally:
        handle.remove()
    return caught


def relative_distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """‖found − expected‖ / ‖expected‖ over all tensors together."""
    assert found.keys() == expected.keys()
    a, b = (torch.cat([g[name].flatten() for name in sorted(expected)]) for g in (found, expected))
    assert b.norm() > 1e-3  # a gradient of nothing would prove nothing
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_accumulating_four_batches_of_one_is_one_batch_of_four(
    kind: str, tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    objective, wrappers = asked(kind)
    one = gradients(tiny_model, adapter, data_file, objective, micro=4, **wrappers)
    four = gradients(tiny_model, adapter, data_file, objective, micro=1, **wrappers)
    assert relative_distance(four, one) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_similar_length_give_the_gradient_of_the_whole_batch(
    kind: str, tiny_model: Path, adapter: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, wrappers = asked(kind)
    monkeypatch.setattr("unlearn.training.bucketing.PASS", 10**9)
    whole = gradients(tiny_model, adapter, data_file, objective, **wrappers)
    monkeypatch.setattr("unlearn.training.bucketing.PASS", 0)
    split = gradients(tiny_model, adapter, data_file, objective, **wrappers)
    assert relative_distance(split, whole) < 1e-5
    assert any(not torch.equal(split[name], whole[name]) for name in whole)  # they were split


@pytest.mark.parametrize(
    "kind", [*RESUMED, *(pytest.param(k, marks=pytest.mark.slow) for k in RESUMED_TOO)]
)
def test_resumed_equals_uninterrupted_bit_for_bit(
    kind: str, tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    objective, wrappers = asked(kind)
    whole = trained(tiny_model, adapter, data_file, objective, max_steps=6, **wrappers)

    class Killed(Exception):
        pass

    state, examples = opened(tiny_model, adapter, data_file)

    def progress(done: int, _: int) -> None:
        if done == 5:
            raise Killed

    given, needed = more(objective, state, examples)
    options = TrainingOptions(
        learning_rate=1e-3,
        batch_size=4,
        max_steps=6,
        stop="none",
        save_steps=2,
        **needed,
        **wrappers,
    )
    arguments: dict[str, Any] = {"forget": examples[:5], "retain": examples[5:]} | given
    with pytest.raises(Killed):
        fit(state, objective, options, checkpoints=tmp_path / "c", progress=progress, **arguments)
    # a checkpoint cut short is not resumed from
    (tmp_path / "c" / "checkpoint-5").mkdir()
    resumed = trained(
        tiny_model,
        adapter,
        data_file,
        objective,
        max_steps=6,
        save_steps=2,
        checkpoints=tmp_path / "c",
        **wrappers,
    )
    assert whole.keys() == resumed.keys()
    for name, expected in whole.items():
        assert torch.equal(resumed[name], expected), name
    assert not (tmp_path / "c").exists()


def until_stopped(model: Path, adapter: Path, data: Path) -> dict[str, Tensor]:
    """The steps after which ascent is stopped, and the weights then."""
    state, examples = opened(model, adapter, data)
    options = TrainingOptions(
        learning_rate=3e-3, batch_size=4, epochs=100, stop_loss=6.0, retain_budget=100
    )
    objective = OBJECTIVES["floor"]
    done = fit(state, objective, options, forget=examples[:4], retain=examples[4:])
    assert done.stopped is not None
    weights = {n: p.detach() for n, p in state.model.named_parameters() if p.requires_grad}
    counts = {
        "steps": torch.tensor([1e6 * done.steps]),
        "tokens": torch.tensor([1e4 * done.tokens]),
    }
    return counts | weights


@pytest.mark.slow
def test_two_processes_equal_one(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    kinds = ["reference-free", "live reference", "alternates", "hidden states", "dual variable"]
    kinds += [*WRAPPED, "stopped"]
    script = Path(__file__).with_name("two_processes.py")
    for processes in ("1", "2"):
        (tmp_path / processes).mkdir()
        # torchrun rather than `accelerate launch`: the latter asks the machine what it is
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", processes]
        command += [str(script), str(tiny_model), str(adapter), str(data_file)]
        command += [str(tmp_path / processes), *kinds]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    for kind in kinds:
        one, two = (load_file(tmp_path / n / f"{kind}.safetensors") for n in ("1", "2"))
        assert relative_distance(two, one) < 1e-5, kind


@dataclass(frozen=True)
class _Broken:
    """A loss that is NaN."""

    unit: ClassVar[Any] = "tokens"
    needs: ClassVar[frozenset[Any]] = frozenset()
    statistic: ClassVar[Any] = staticmethod(log_prob)

    def __call__(self, view: losses.TokenView) -> Tensor:
        return view.values.sum() * float("nan")


def test_a_loss_that_is_nan_ends_the_run(tiny_model: Path, adapter: Path, data_file: Path) -> None:
    with pytest.raises(TrainingError, match="nan at step 1"):
        trained(tiny_model, adapter, data_file, Objective(_Broken()))


def test_a_trainable_tensor_without_gradient_ends_the_run(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    state, examples = opened(tiny_model, adapter, data_file)
    state.model.register_parameter("unused", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(TrainingError, match="unused"):
        fit(
            state,
            Objective(losses.NLL()),
            TrainingOptions(learning_rate=1e-3, max_steps=1),
            forget=examples,
        )


def test_each_term_is_logged_and_adds_up(tiny_model: Path, adapter: Path, data_file: Path) -> None:
    state, examples = opened(tiny_model, adapter, data_file)
    options = TrainingOptions(
        learning_rate=1e-3, max_steps=3, batch_size=4, micro_batch_size=2, stop="none"
    )
    objective = Objective(losses.GradAscent(), losses.NLL(), forget_weight=0.5)
    done = fit(state, objective, options, forget=examples[:5], retain=examples[5:])
    logs = [line for line in done.history if "loss" in line]
    assert len(logs) == 3
    for line in logs:
        assert line["loss"] == pytest.approx(line["forget_loss"] + line["retain_loss"], rel=1e-4)
        assert line["forget_loss"] < 0 < line["retain_loss"]
        assert line["forget_nll"] > 0


def test_gradient_checkpointing_gives_the_same_weights(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    objective = OBJECTIVES["live reference"]
    plain = trained(tiny_model, adapter, data_file, objective)
    saved = trained(tiny_model, adapter, data_file, objective, gradient_checkpointing=True)
    for name, expected in plain.items():
        torch.testing.assert_close(saved[name], expected, rtol=1e-4, atol=1e-6)


def test_stop_rule_ends_ascent_at_the_level(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    state, examples = opened(tiny_model, adapter, data_file)
    options = TrainingOptions(
        learning_rate=5e-2, batch_size=4, epochs=100, stop_loss=6.0, retain_budget=100
    )
    done = fit(
        state, Objective(losses.GradAscent()), options, forget=examples[:4], retain=examples[4:]
    )
    assert done.stopped is not None
    assert "stop_loss" in done.stopped
    assert done.steps < done.planned_steps


def test_monitor_waits_until_every_forget_record_was_seen() -> None:
    monitor = Monitor(StopRules(forget_level=2.0, forget_source="test", retain_level=1.0), 2)
    empty = np.zeros(0)
    monitor.update(np.array([0]), np.array([9.0]), empty)
    assert monitor.verdict() is None
    monitor.update(np.array([1]), np.array([1.0]), empty)
    assert "forget loss 5.00 reached 2.00" in str(monitor.verdict())
    monitor.update(np.array([0]), np.array([1.0]), np.array([1.5]))
    assert "retain loss 1.50 went over" in str(monitor.verdict())
    fresh = Monitor(monitor.rules, 2)
    fresh.load(json.loads(json.dumps(monitor.state())))
    assert fresh.verdict() == monitor.verdict()


def _monitored(losses_anew: list[float], every: int = 2) -> Monitor:
    rules = StopRules(forget_level=3.0, forget_source="test")
    return Monitor(rules, 2, Rescoring(lambda: losses_anew.pop(0), start=1.0, every=every))


def test_a_stop_is_decided_on_losses_scored_anew() -> None:
    monitor = _monitored([])
    both, empty = np.array([0, 1]), np.zeros(0)
    monitor.update(both, np.array([9.0, 9.0]), empty)
    assert not monitor.due  # too early for what it costs
    assert monitor.verdict() is None  # whatever the training pass says
    monitor.update(both, np.array([1.4, 1.4]), empty)
    assert not monitor.due  # a fifth of the way from 1 to 3
    monitor.update(np.array([0]), np.array([1.7]), empty)
    assert monitor.due  # 1.55 is more than a quarter
    monitor.look(2.9)
    assert monitor.verdict() is None
    assert not monitor.due
    monitor.update(both, np.array([2.2, 2.2]), empty)
    monitor.update(both, np.array([2.2, 2.2]), empty)
    assert monitor.due
    fresh = _monitored([])
    fresh.load(json.loads(json.dumps(monitor.state())))
    for each in (monitor, fresh):
        assert each.due
        each.look(3.25)
        assert each.verdict() == "forget loss 3.25, scored anew, reached 3.00 (test)"


def test_looks_that_were_saved_up_are_spent_close_to_the_level() -> None:
    monitor, both, empty = _monitored([]), np.array([0, 1]), np.zeros(0)
    for _ in range(4):  # far from the level: enough for two looks
        monitor.update(both, np.array([1.0, 1.0]), empty)
        assert not monitor.due
    due = []
    for _ in range(7):
        monitor.update(both, np.array([2.6, 2.6]), empty)  # four fifths of the way
        due.append(monitor.due)
        if monitor.due:
            monitor.look(2.7)
    # in the end one look in two steps
    assert due == [True, True, True, True, False, True, False]


def test_a_checkpoint_of_before_goes_on() -> None:
    monitor = _monitored([])
    monitor.load({"forget": [1.0, None], "retain": []})
    assert math.isnan(monitor.forget_loss) is False
    assert not monitor.due


def test_what_ends_a_run_is_the_loss_that_the_records_have_then(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    state, examples = opened(tiny_model, adapter, data_file)
    options = TrainingOptions(
        learning_rate=3e-3, batch_size=2, epochs=100, stop_loss=6.0, retain_budget=100
    )
    forget = examples[:4]
    done = fit(state, Objective(losses.GradAscent()), options, forget=forget, retain=examples[4:])
    assert done.stopped is not None
    now = mean_loss(state, forget)
    assert now >= 6.0
    assert done.stopped.startswith(f"forget loss {now:.2f}, scored anew, reached 6.00")


def test_scoring_anew_takes_a_tenth_at_most(
    tiny_model: Path, adapter: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, examples = opened(tiny_model, adapter, data_file)
    common: dict[str, Any] = {"learning_rate": 1e-9, "batch_size": 2, "max_steps": 40}
    looks: list[float] = []
    take = Monitor.look

    def noted(self: Monitor, loss: float) -> None:
        looks.append(loss)
        take(self, loss)

    monkeypatch.setattr(Monitor, "look", noted)
    monkeypatch.setattr(Monitor, "verdict", lambda _: None)

    def tokens(level: float) -> int:
        options = TrainingOptions(stop_loss=level, retain_budget=100, **common)
        parts = {"forget": examples[:5], "retain": examples[5:]}
        return fit(state, OBJECTIVES["floor"], options, **parts).tokens

    never = tokens(1e9)
    assert not looks
    always = tokens(-1e9)  # every step is near a level below the start
    assert len(looks) > 1
    assert never < always <= 1.1 * never


def test_stopping_is_the_same_after_a_resume(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    def run(**more: Any) -> tuple[Fit, Tensor]:
        state, examples = opened(tiny_model, adapter, data_file)
        options = TrainingOptions(
            learning_rate=3e-3, batch_size=2, epochs=100, stop_loss=6.0, retain_budget=100, **more
        )
        done = fit(
            state,
            OBJECTIVES["floor"],
            options,
            forget=examples[:4],
            retain=examples[4:],
            checkpoints=tmp_path / "c" if more else None,
            progress=progress if more else None,
        )
        weights = [p.detach().flatten() for p in state.model.parameters() if p.requires_grad]
        return done, torch.cat(weights)

    killed: list[int] = []

    def progress(step: int, _: int) -> None:
        if step == whole.steps - 1 and not killed:
            killed.append(step)
            raise KeyboardInterrupt

    whole, weights = run()
    assert whole.steps > 4
    with pytest.raises(KeyboardInterrupt):
        run(save_steps=3)
    again, resumed = run(save_steps=3)
    assert (again.steps, again.stopped, again.tokens) == (whole.steps, whole.stopped, whole.tokens)
    assert torch.equal(resumed, weights)


def test_old_losses_are_known_of_the_records_that_a_run_uses() -> None:
    stream = PairStream(2, 9, 4, seed=3)
    used = sorted({i for rows in stream for i in rows.retain})
    assert stream.used(RETAIN) == used
    assert len(used) == 4
    assert stream.used(FORGET) == [0, 1]
    assert PairStream(2, 9, 9, seed=3).used(RETAIN) == list(range(9))


def test_the_stream_depends_on_seed_and_position_only() -> None:
    rows = list(PairStream(3, 5, 30, seed=1))
    assert rows == list(PairStream(3, 5, 30, seed=1))
    assert rows[:10] == list(PairStream(3, 5, 10, seed=1))
    assert rows != list(PairStream(3, 5, 30, seed=2))
    retain = [r.retain[0] for r in rows]
    forget = [r.forget[0] for r in rows]
    assert all(retain.count(i) == 6 for i in range(5))
    assert all(sorted(forget[i : i + 3]) == [0, 1, 2] for i in range(0, 30, 3))
    assert retain[:5] != retain[5:10] or retain[5:10] != retain[10:15]


def test_retain_ratio_draws_several_retain_records() -> None:
    rows = list(PairStream(2, 7, 4, seed=0, ratio=3))
    assert all(len(r.retain) == 3 and len(r.forget) == 1 for r in rows)


@pytest.mark.parametrize(
    ("kind", "passes"),
    [("reference-free", 1), ("cached reference", 1), ("live reference", 2), ("base reference", 2)],
)
def test_a_step_is_one_forward_pass_and_one_of_a_live_reference(
    kind: str, passes: int, tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    state, examples = opened(tiny_model, adapter, data_file)
    rows: list[int] = []
    state.model.get_base_model().model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    options = TrainingOptions(learning_rate=1e-3, batch_size=4, max_steps=3, stop="none")
    fit(state, OBJECTIVES[kind], options, forget=examples[:4], retain=examples[4:])
    once = kind == "cached reference"  # the forget records, before training, as one batch
    assert len(rows) == 3 * passes + once
    # a reference only sees the rows that need it
    assert sum(rows) == 3 * (8 + 4 * (passes - 1)) + 4 * once


def test_a_batch_that_cannot_be_split_is_an_error(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    with pytest.raises(OptionError, match="batch_size 4 cannot be split"):
        trained(tiny_model, adapter, data_file, OBJECTIVES["reference-free"], micro_batch_size=3)
