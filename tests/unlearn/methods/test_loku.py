"""LoKU: the function does not change at the start, and only what matters most changes after it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from unlearn.data.batching import collate
from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import encode
from unlearn.errors import ModelError, OptionError
from unlearn.methods import loku
from unlearn.methods.fisher import lora_layers, row_information
from unlearn.methods.job import Job
from unlearn.methods.registry import METHODS, resolve
from unlearn.model.scoring import score_examples
from unlearn.model.state import ModelState, open_model
from unlearn.runs.forgetting import forget


def job(model: Path, adapter: Path | None, data: Path, **options: Any) -> Job:
    state = open_model(model, adapter, trainable=True)
    examples = encode(Records.load(data), state.tokenizer, Template("qa"), 128)
    settings = {"learning_rate": 1e-2, "batch_size": 4, "max_steps": 3, "stop": "none"}
    return Job(
        state,
        resolve(METHODS["loku"], settings | options),
        None,
        {"forget": examples[:4], "retain": examples[4:], "holdout": []},
        0,
        None,
        None,
        None,
        {},
    )


def products(state: ModelState) -> dict[str, Tensor]:
    """B·A of each layer, float64."""
    return {
        name: layer.lora_B["default"].weight.detach().double()
        @ layer.lora_A["default"].weight.detach().double()
        for name, layer in lora_layers(state).items()
    }


def first_gradient(model: Path, adapter: Path, data: Path) -> dict[str, Tensor]:
    """The gradient that the optimizer is given in the first step."""
    work = job(model, adapter, data, max_steps=1, max_grad_norm=0)
    caught: dict[str, Tensor] = {}

    def catch(*_: Any) -> None:
        for name, parameter in work.state.model.named_parameters():
            if parameter.grad is not None:
                caught[name] = parameter.grad.detach().clone()

    handle = register_optimizer_step_pre_hook(catch)
    try:
        loku.run(work)
    finally:
        handle.remove()
    return caught


def random_factors(out: int, rank: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(out + rank)
    return (
        torch.randn(rank, width, generator=generator),
        torch.randn(out, rank, generator=generator),
    )


def test_what_matters_comes_first() -> None:
    # BA = diag(1, 2): the second row is larger, but the first one matters ten times as much
    a, b = torch.eye(2), torch.diag(torch.tensor([1.0, 2.0]))
    for d, first in (([10.0, 1.0], [[1.0, 0.0], [0.0, 0.0]]), ([1.0, 1.0], [[0, 0], [0, 2.0]])):
        new_a, new_b = loku.refactored(a, b, torch.tensor(d))
        torch.testing.assert_close(new_b[:, :1] @ new_a[:1], torch.tensor(first))
        torch.testing.assert_close(new_b @ new_a, b @ a)
    # A' = √S Vᵀ and B' = diag(1/d) U √S with S = (10, 2)
    new_a, new_b = loku.refactored(a, b, torch.tensor([10.0, 1.0]))
    torch.testing.assert_close(new_a.abs(), torch.diag(torch.tensor([10.0, 2.0]).sqrt()))
    torch.testing.assert_close(new_b.abs(), torch.diag(torch.tensor([0.1 * 10**0.5, 2**0.5])))


def test_the_first_part_is_the_best_of_its_rank() -> None:
    a, b = random_factors(12, 5, 9)
    d = torch.rand(12, generator=torch.Generator().manual_seed(3)).double() + 0.1
    new_a, new_b = loku.refactored(a.double(), b.double(), d)
    torch.testing.assert_close(new_b @ new_a, b.double() @ a.double())
    u, s, vt = torch.linalg.svd(d[:, None] * (b.double() @ a.double()))
    for k in range(1, 6):
        best = (u[:, :k] * s[:k]) @ vt[:k] / d[:, None]
        torch.testing.assert_close(new_b[:, :k] @ new_a[:k], best)
    # the same in float32, with weights as far apart as they get
    new_a, new_b = loku.refactored(a, b, torch.logspace(-1.5, 1.5, 12))
    assert new_a.dtype == new_b.dtype == torch.float32
    torch.testing.assert_close(new_b @ new_a, b @ a, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("out", "width"), [(3, 9), (9, 3), (2, 2)])
def test_a_rank_above_the_size_of_the_weight_leaves_empty_components(out: int, width: int) -> None:
    a, b = random_factors(out, 5, width)
    new_a, new_b = loku.refactored(a, b, torch.ones(out))
    assert (new_a.shape, new_b.shape) == (a.shape, b.shape)
    torch.testing.assert_close(new_b @ new_a, b @ a, rtol=1e-5, atol=1e-5)
    full = min(out, width)
    assert not bool(new_a[full:].any() or new_b[:, full:].any())


def test_factors_of_zero_stay_zero() -> None:
    # a fresh adapter: B = 0
    new_a, new_b = loku.refactored(torch.randn(2, 4), torch.zeros(3, 2), torch.ones(3))
    assert bool(torch.isfinite(new_a).all())
    assert not bool((new_b @ new_a).any())


def test_rows_are_weighed_by_relative_information() -> None:
    # means 2 and 2: shares (1.5, 0.5) and (0.5, 1.5), each + 0.001
    d = loku.row_weights(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 3.0]))
    assert float(d[0] / d[1]) == pytest.approx(1.501 / 0.501)
    assert float(d.mean()) == pytest.approx(1.0)
    more = loku.row_weights(torch.tensor([300.0, 100.0]), torch.tensor([1e-9, 3e-9]))
    torch.testing.assert_close(more, d)
    # a row that nobody uses is as ordinary as one that both use alike
    d = loku.row_weights(torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert float(d[0]) == pytest.approx(float(d[1]))
    assert float(d[2]) > float(d[0]) > float(d[3]) > 0
    assert loku.row_weights(torch.zeros(3), torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]


def test_information_is_that_of_the_gradient_in_the_whole_weight(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    work = job(tiny_model, adapter, data_file)
    state, examples = work.state, [*work.split["forget"], *work.split["retain"]]
    assert len({len(e.ids) for e in examples}) > 3  # ragged: padding must not count
    found = row_information(state, examples)
    layers = lora_layers(state)
    assert found.keys() == layers.keys()
    assert len(layers) == 14
    expected = {name: torch.zeros_like(rows) for name, rows in found.items()}
    weights = {name: layer.base_layer.weight for name, layer in layers.items()}
    for weight in weights.values():
        weight.requires_grad_()
    for example in examples:
        batch = collate([example])
        logits = state.model(input_ids=batch["input_ids"]).logits[0]
        log_p = logits.double().log_softmax(-1)
        mean = -sum(
            log_p[t - 1, batch["input_ids"][0, t]] for t in batch["target"][0].nonzero()[:, 0]
        ) / int(batch["target"].sum())
        gradients = torch.autograd.grad(mean, list(weights.values()))
        for name, g in zip(weights, gradients, strict=True):
            expected[name] += example.targets * g.double().square().sum(1)
    for name, rows in expected.items():
        total = rows / sum(e.targets for e in examples)
        torch.testing.assert_close(found[name], total, rtol=1e-4, atol=1e-4 * float(total.mean()))
    assert all(p.grad is None for p in state.model.parameters())


def test_the_function_is_unchanged_at_the_start(
    tiny_model: Path, adapter: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = job(tiny_model, adapter, data_file)
    examples = work.split["retain"]
    before, _ = score_examples(work.state.model, work.state.head, examples)
    was = products(work.state)
    factors = {n: x.lora_A["default"].weight.clone() for n, x in lora_layers(work.state).items()}
    monkeypatch.setattr(loku, "run_loss", lambda job: (job.state, None))
    state, _ = loku.run(work)
    after, _ = score_examples(state.model, state.head, examples)
    torch.testing.assert_close(after.log_prob, before.log_prob, rtol=0, atol=1e-4)
    for name, product in products(state).items():
        assert float((product - was[name]).norm() / was[name].norm()) < 1e-6
        # the factors are others: the first components matter most
        assert not torch.allclose(lora_layers(state)[name].lora_A["default"].weight, factors[name])


@pytest.mark.parametrize("wrappers", [{}, {"sam_rho": 0.5, "project_retain": True}])
def test_only_the_first_components_train(
    wrappers: dict[str, Any],
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = job(tiny_model, adapter, data_file, **wrappers)
    start: dict[str, tuple[Tensor, Tensor]] = {}
    run_loss = loku.run_loss

    def watched(job: Job) -> Any:
        for name, layer in lora_layers(job.state).items():
            start[name] = (
                layer.lora_A["default"].weight.detach().clone(),
                layer.lora_B["default"].weight.detach().clone(),
            )
        return run_loss(job)

    monkeypatch.setattr(loku, "run_loss", watched)
    state, done = loku.run(work)
    assert done.steps == 3
    for name, layer in lora_layers(state).items():
        (a, b), (new_a, new_b) = (
            start[name],
            (layer.lora_A["default"].weight, layer.lora_B["default"].weight),
        )
        assert a.shape[0] == 4
        assert torch.equal(new_a[2:], a[2:])
        assert torch.equal(new_b[:, 2:], b[:, 2:])
        assert not bool((new_a[:2] == a[:2]).any())
        assert not bool((new_b[:, :2] == b[:, :2]).any())
    # and nothing is left behind that would stop the rest from training another time
    loss = sum(p.square().sum() for p in state.model.parameters() if p.requires_grad)
    weights = [layer.lora_A["default"].weight for layer in lora_layers(state).values()]
    assert all(bool(g[2:].any()) for g in torch.autograd.grad(loss, weights))


def test_with_the_whole_share_everything_trains(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    work = job(tiny_model, adapter, data_file, trainable_share=1, max_steps=1, weight_decay=0.01)
    caught = {n: x.lora_A["default"].weight for n, x in lora_layers(work.state).items()}
    before = products(work.state)
    state, _ = loku.run(work)
    assert all(bool((products(state)[name] != before[name]).all()) for name in caught)


def test_resumed_equals_uninterrupted(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def stop(done: int, _: int) -> None:
        if done == 3:
            raise Killed

    options = {"learning_rate": 1e-2, "max_steps": 5, "batch_size": 2, "save_steps": 2}

    def run(name: str, **more: Any) -> dict[str, Tensor]:
        forget(
            tiny_model,
            data_file,
            "rows:0-2",
            tmp_path / name,
            adapter=adapter,
            method="loku",
            options=options | {"stop": "none"},
            **more,
        )
        return load_file(tmp_path / name / "adapter_model.safetensors")

    whole = run("whole")
    with pytest.raises(Killed):
        run("cut", progress=stop)
    assert (tmp_path / ".cut.checkpoints").is_dir()
    resumed = run("cut")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    # a plain adapter of the same shape as the one it came from
    old = load_file(adapter / "adapter_model.safetensors")
    assert {n: t.shape for n, t in whole.items()} == {n: t.shape for n, t in old.items()}


@pytest.mark.slow
def test_two_processes_equal_one(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    script = Path(__file__).parents[1] / "training" / "two_processes.py"
    found = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        output.mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(processes)]
        command += [str(script), str(tiny_model), str(adapter), str(data_file), str(output), "loku"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(load_file(output / "loku.safetensors"))
    one, two = found
    assert one.keys() == two.keys()
    for name, expected in one.items():
        scale = float(expected.norm())
        assert scale > 0
        assert float((two[name] - expected).norm()) < 1e-4 * scale, name
        rest = expected[2:] if "lora_A" in name else expected[:, 2:]
        assert not bool(rest.any())


def test_what_loku_cannot_do_is_refused(tiny_model: Path, adapter: Path, data_file: Path) -> None:
    with pytest.raises(ModelError, match="loku: needs a LoRA adapter"):
        loku.run(job(tiny_model, None, data_file))
    with pytest.raises(OptionError, match="weight_decay would shrink"):
        loku.run(job(tiny_model, adapter, data_file, weight_decay=0.1))
    for share in (0, 1.5):
        with pytest.raises(OptionError, match="trainable_share must be above 0"):
            resolve(METHODS["loku"], {"trainable_share": share})
    work = job(tiny_model, adapter, data_file)
    layer = next(iter(lora_layers(work.state).values()))
    with pytest.raises(ModelError, match="does not see whole records"):
        layer.register_forward_pre_hook(lambda _, args: (args[0].flatten(0, 1),))
        row_information(work.state, work.split["forget"])
