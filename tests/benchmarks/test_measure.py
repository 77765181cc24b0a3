"""The benchmarks measure what they say, on allocations of known size and a tiny model."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _helpers_importable() -> Iterator[None]:
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def tiny(**changes: Any) -> Any:
    from _steps import Setting

    sizes = {"vocabulary": 512, "length": 8, "rows": 2, "hidden": 32, "intermediate": 48}
    return Setting(**sizes | {"layers": 2, "heads": 2} | changes)


def test_peak_is_the_most_that_was_held_at_once() -> None:
    from _measure import peak_bytes

    def action() -> None:
        a = torch.zeros(1000)
        b = torch.zeros(3000)
        del a, b
        torch.zeros(2000)

    assert peak_bytes(action) == 4 * 4000


def test_peak_counts_what_autograd_keeps_and_what_operators_use_inside() -> None:
    from _measure import peak_bytes

    x = torch.ones(1000, requires_grad=True)

    def keeps() -> None:
        x.exp().exp().detach()  # the inner result is needed by the backward pass, not by Python

    def inside() -> None:
        torch.nn.functional.mse_loss(x.detach(), torch.zeros(()).expand(1000))

    assert peak_bytes(keeps) == 4 * 2000
    assert peak_bytes(inside) > 4 * 1000


def test_peak_is_above_what_was_held_before_and_repeats_exactly() -> None:
    from _measure import peak_bytes
    from _steps import NPO, opened, product

    with opened(tiny()) as state:
        step = product(state, tiny(), NPO)
        step()
        peaks = [peak_bytes(step) for _ in range(2)]
    assert peaks[0] == peaks[1] > 0


def test_steps_run_in_turn_and_the_first_round_is_not_counted() -> None:
    from _measure import interleaved, paired_ratio

    ran: list[str] = []

    def slow() -> None:
        ran.append("slow")
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass

    found = interleaved({"slow": slow, "fast": lambda: ran.append("fast")}, rounds=2)
    assert ran == ["slow", "fast"] * 3
    assert [len(x) for x in found.values()] == [2, 2]
    assert min(found["slow"]) >= 0.009
    assert paired_ratio([1.0, 9.0, 3.0], [2.0, 3.0, 3.0]) == 1.0


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_all_sides_make_the_same_gradient(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the comparison would be of different work."""
    import _steps as steps

    found: dict[str, torch.Tensor] = {}

    def compare(name: str, make: Any) -> None:
        with steps.opened(tiny(kind=kind)) as state:
            trained = [p for p in state.model.parameters() if p.requires_grad]

            def keep() -> None:
                found[name] = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])

            monkeypatch.setattr(steps, "_updating", lambda _: keep)
            make(state, tiny(kind=kind))()

    compare("ours", lambda state, setting: steps.product(state, setting, steps.NPO))
    compare("two", steps.two_models)
    compare("plain", steps.plain)
    compare("strict", steps.plain_at_targets)
    for a, b in (("ours", "two"), ("plain", "strict")):
        assert found[b].norm() > 1e-4
        assert (found[a] - found[b]).norm() < 1e-4 * found[b].norm()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_the_gpu_report_runs_on_a_small_model() -> None:
    from _cuda import report

    found = report(tiny(dtype=torch.bfloat16), rounds=2, ceiling_size=64)
    assert found["tokens a second"] > 0
    assert found["peak MiB above the loaded model"] > 0
    # 4 multiply-adds a weight and token: forward, and backward into the activations
    backbone = 2 * (4 * 32 * 32 + 3 * 32 * 48)
    assert found["operations of a step"] > 4 * backbone * 4 * 8
    assert found["operations of a step"] < 3 * (4 * backbone * 4 * 8 + 4 * 512 * 32 * 4 * 4)


@pytest.mark.slow
def test_growth_of_a_tiny_step_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    from _measure import Ratio
    from bench_step import beyond

    monkeypatch.setattr("unlearn.model.chunked_logits._CHUNK_ELEMENTS", 1)
    once, twice = beyond(tiny()), beyond(tiny(vocabulary=1024))
    assert once > 0
    # chunks of 16 tokens are the smallest there are, and these rows hold 16: logits double here
    assert once < twice < 2.5 * once
    assert "missed" in Ratio("", 2.0, 1.0).line()
    assert "missed" not in Ratio("", 1.0, 1.0).line()


def test_both_sides_of_an_audit_measure_the_same() -> None:
    """Else the comparison would be of different work."""
    import _audits as audits
    import numpy as np
    from _steps import opened

    from unlearn_eval.scores.model_scores import score_model
    from unlearn_eval.scores.token_scores import SAMPLER

    setting = tiny(length=12)
    with opened(setting) as state:
        examples = audits.records(setting, 5)
        for parameter in state.model.parameters():  # an adapter that does something
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2)
        with state.reference("base") as (model, head):
            base = score_model(model, head, examples)
        found = audits.likelihood_set(state, examples, base)
        scores = score_model(state.model, state.head, examples)
        found["discoverable"] = scores.per_record(scores.sampled[SAMPLER], "sum")
        found["entropy"] = scores.per_record(scores.entropy)
        for name in audits.ALONE:
            alone = audits.alone(state, examples, name, base)
            np.testing.assert_allclose(found[name], alone, rtol=1e-4, atol=1e-5, err_msg=name)
        norms = audits.norms(state, examples)
        np.testing.assert_allclose(norms, audits.norms_by_loop(state, examples), rtol=1e-4)
        assert norms.min() > 0


@pytest.mark.slow
def test_memory_of_scoring_does_not_grow_with_the_records() -> None:
    from bench_audit import memory_ratio

    assert memory_ratio(tiny(length=64), 100, 400).value == pytest.approx(1, abs=0.02)
