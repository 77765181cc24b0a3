"""Runs and scores on one base share what comes out of frozen blocks, and no bit differs for it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from unlearn import losses
from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.methods.budget import Budget
from unlearn.methods.reduced import Old, Search
from unlearn.model import frozen_outputs
from unlearn.model.blocks import blocks_of
from unlearn.model.frozen import Kept
from unlearn.model.frozen_outputs import OUTPUTS, FrozenOutputs, lower_key
from unlearn.model.scoring import score_examples
from unlearn.model.state import ModelState, new_adapter, open_model, swap_adapters
from unlearn.training.expected_time import STEP, expected_seconds
from unlearn.training.fitting import Fit, fit, mean_loss
from unlearn.training.objective import Objective
from unlearn.training.options import TrainingOptions
from unlearn.training.tokens import mean_length

PLAIN = Objective(retain=losses.NLL())
UPPER = {"r": 4, "target_modules": "all-linear", "layers_to_transform": [3, 4]}
SHAPES = {
    "upper": UPPER,
    "other": UPPER,
    "top": UPPER | {"layers_to_transform": [4]},
    "dora": UPPER | {"use_dora": True},
    "all": UPPER | {"layers_to_transform": None},
    "embeddings": UPPER | {"modules_to_save": ["embed_tokens"]},
}


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of five blocks with the tokenizer of the tiny model."""
    folder = tmp_path_factory.mktemp("five") / "model"
    shutil.copytree(tiny_model, folder)
    config = LlamaConfig.from_pretrained(tiny_model, num_hidden_layers=5)
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of several shapes, each with weights of its own."""
    folders = {}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        state = new_adapter(open_model(base), dict(shape), seed=seed)
        with torch.no_grad():
            for key, parameter in state.model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(0, 0.05)
        folders[name] = tmp_path_factory.mktemp("adapters") / name
        folders[name].mkdir()
        state.save(folders[name])
    return folders


@pytest.fixture(scope="module")
def examples(base: Path, data_file: Path) -> list[Example]:
    return encode(Records.load(data_file), open_model(base).tokenizer, Template("qa"), 128)


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    OUTPUTS.clear()
    yield
    OUTPUTS.clear()


@pytest.fixture
def lowest(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What came into the lowest block, each time that it ran."""
    seen: list[Tensor] = []
    forward = LlamaDecoderLayer.forward

    def counted(self: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.self_attn.layer_idx == 0:
            seen.append(hidden)
        return forward(self, hidden, *args, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", counted)
    return seen


def scores(state: ModelState, examples: list[Example], anew: bool = False) -> list[Tensor]:
    with OUTPUTS.resting() if anew else contextlib.nullcontext():
        statistics, _ = score_examples(
            state.model, state.head, examples, samplers=[(1.0, 5)], token_budget=256
        )
    return [*statistics[:6], *statistics.sampled.values()]


def tokens(passes: list[Tensor]) -> int:
    return sum(hidden.shape[0] * hidden.shape[1] for hidden in passes)


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def test_adapters_on_one_base_are_scored_to_the_bit_with_the_lower_blocks_run_once(
    base: Path, adapters: dict[str, Path], examples: list[Example], lowest: list[Tensor]
) -> None:
    state = open_model(base, adapters["upper"])
    expected = {}
    for name in ("upper", "other", "dora"):
        state = swap_adapters(state, [adapters[name]])
        expected[name] = scores(state, examples, anew=True)
    with state.reference("base") as (model, head):
        plain = score_examples(model, head, examples, token_budget=256)[0].log_prob
    OUTPUTS.clear()
    assert not equal(expected["upper"], expected["other"])
    passes = []
    for name in ("upper", "upper", "other", "dora"):
        state = open_model(base, adapters[name])  # another copy of the base: its contents count
        lowest.clear()
        assert equal(scores(state, examples), expected[name])
        passes.append(len(lowest))
    assert passes[0] > 1
    assert passes[1:] == [2, 0, 0]  # two to try, once
    with state.reference("base") as (model, head):
        again = score_examples(model, head, examples, token_budget=256)[0].log_prob
    assert torch.equal(again, plain)
    assert not lowest


def test_other_batches_and_other_blocks_have_results_of_their_own(
    base: Path, adapters: dict[str, Path], examples: list[Example], lowest: list[Tensor]
) -> None:
    for name in ("upper", "top"):
        state = open_model(base, adapters[name])
        for part in (examples, examples[1:], [*examples[::-1], examples[0]]):
            expected = scores(state, part, anew=True)
            lowest.clear()
            assert equal(scores(state, part), expected)
            assert lowest
            assert equal(scores(state, part), expected)


def _written(state: ModelState) -> None:
    with torch.no_grad():
        blocks_of(state.model)[1].mlp.up_proj.weight.mul_(1.01)


def _written_unseen(state: ModelState) -> None:
    blocks_of(state.model)[1].mlp.up_proj.weight.data += 0.01


def _hung_in(state: ModelState) -> None:
    module = blocks_of(state.model)[1].mlp.up_proj
    module.weight = torch.nn.Parameter(module.weight.detach().clone() * 1.01, requires_grad=False)


def _rounded(state: ModelState) -> None:
    state.model.to(torch.bfloat16)


def _norm_told(state: ModelState) -> None:
    state.model.config.rms_norm_eps = 0.5
    for block in blocks_of(state.model):
        block.input_layernorm.variance_epsilon = 0.5


def _hooked(state: ModelState) -> None:
    blocks_of(state.model)[0].register_forward_hook(lambda *a: a[2] * 1.1)


CHANGES = [_written, _written_unseen, _hung_in, _rounded, _norm_told, _hooked]


@pytest.mark.parametrize("change", CHANGES)
def test_a_base_that_was_changed_is_not_taken_for_what_it_was(
    base: Path, adapters: dict[str, Path], examples: list[Example], change: Any
) -> None:
    state = open_model(base, adapters["upper"])
    before = scores(state, examples)
    key = lower_key(state.model, 3)
    assert key is not None
    change(state)
    assert lower_key(state.model, 3) != key
    after = scores(state, examples)
    assert not equal(before, after)
    assert equal(after, scores(state, examples, anew=True))
    assert equal(after, scores(state, examples))


def test_the_upper_blocks_and_the_head_do_not_matter(
    base: Path, adapters: dict[str, Path], examples: list[Example]
) -> None:
    state = open_model(base, adapters["upper"])
    key = lower_key(state.model, 3)
    with torch.no_grad():
        blocks_of(state.model)[3].mlp.up_proj.weight.mul_(1.5)
        state.model.get_output_embeddings().weight = torch.nn.Parameter(
            torch.randn_like(state.model.get_output_embeddings().weight)
        )
    assert lower_key(state.model, 3) == key
    assert lower_key(state.model, 2) != key
    assert lower_key(state.model, 0) is None


@pytest.mark.parametrize("name", ["all", "embeddings"])
def test_an_adapter_below_is_scored_as_always(
    base: Path,
    adapters: dict[str, Path],
    examples: list[Example],
    lowest: list[Tensor],
    name: str,
) -> None:
    state = open_model(base, adapters[name])
    assert lower_key(state.model, 3) is None
    lowest.clear()
    first = scores(state, examples)
    count = len(lowest)
    assert equal(scores(state, examples), first)
    assert len(lowest) == 2 * count
    assert OUTPUTS.in_memory == 0


def test_how_the_process_computes_is_part_of_the_key(
    base: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(base, adapters["upper"]).model
    key = lower_key(model, 3)
    model.config._attn_implementation = "eager"
    assert lower_key(model, 3) != key
    model.config._attn_implementation = "sdpa"
    assert lower_key(model, 3) == key
    for name in ("get_num_threads", "are_deterministic_algorithms_enabled"):
        with monkeypatch.context() as patch:
            patch.setattr(torch, name, lambda: 17)
            assert lower_key(model, 3) != key
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")  # weights may be split
    assert lower_key(model, 3) is None


def trained(
    state: ModelState, examples: list[Example], **options: Any
) -> tuple[Fit, dict[str, Tensor]]:
    settings = {"learning_rate": 1e-2, "batch_size": 4, "epochs": 3, "stop": "none"} | options
    result = fit(state, PLAIN, TrainingOptions.model_validate(settings), retain=examples)
    named = state.model.named_parameters()
    return result, {name: p.detach().clone() for name, p in named}


@pytest.mark.parametrize("anew", [False, True])
def test_runs_on_one_base_share_to_the_bit(
    base: Path,
    adapters: dict[str, Path],
    examples: list[Example],
    lowest: list[Tensor],
    anew: bool,
) -> None:
    def opened(name: str) -> ModelState:
        return open_model(base, adapters[name], trainable=True)

    with OUTPUTS.resting():
        expected = {name: trained(opened(name), examples)[1] for name in ("upper", "other")}
        loss = mean_loss(opened("upper"), examples)
    passes = []
    with OUTPUTS.resting() if anew else contextlib.nullcontext():
        for name in ("upper", "other", "upper"):
            state = opened(name)
            lowest.clear()
            _, weights = trained(state, examples)
            passes.append(len(lowest))
            assert all(torch.equal(expected[name][key], value) for key, value in weights.items())
        state = opened("upper")
        lowest.clear()
        assert [mean_loss(state, examples) for _ in range(3)] == [loss] * 3
    # each run tries the model in two passes; the records are one batch
    assert passes == ([3, 3, 3] if anew else [3, 2, 2])
    assert len(lowest) == (3 if anew else 1 + 2)


def test_runs_on_other_records_have_results_of_their_own(
    base: Path, adapters: dict[str, Path], examples: list[Example]
) -> None:
    for part in (examples, examples[2:]):
        made = []
        for anew in (True, False):
            state = open_model(base, adapters["upper"], trainable=True)
            with OUTPUTS.resting() if anew else contextlib.nullcontext():
                made.append(trained(state, part)[1])
        assert all(torch.equal(made[0][key], value) for key, value in made[1].items())


def test_all_weights_that_train_are_shared_by_none(base: Path, examples: list[Example]) -> None:
    for _ in range(2):
        trained(open_model(base, trainable=True), examples, train_layers="3-4")
    assert OUTPUTS.in_memory == 0


def test_a_search_with_a_budget_finds_the_same_to_the_bit(
    base: Path, adapters: dict[str, Path], examples: list[Example], lowest: list[Tensor]
) -> None:
    training = TrainingOptions.model_validate(
        {"learning_rate": 1e-5, "batch_size": 2, "epochs": 16, "stop": "none"}
    )

    def searched() -> tuple[Any, dict[str, Tensor]]:
        low = mean_loss(open_model(base, adapters["other"]), examples) - 0.5
        state = open_model(base, adapters["upper"], trainable=True)
        search = Search(state, examples, training, Budget(None, 0.001), 0, old=Old(low))
        result = search.run()
        return result.trail, {n: p.detach().clone() for n, p in state.model.named_parameters()}

    with OUTPUTS.resting():
        trail, expected = searched()
    alone = tokens(lowest)
    lowest.clear()
    again, weights = searched()
    assert again == trail
    assert len(trail["tries"]) > 1
    assert all(torch.equal(expected[key], value) for key, value in weights.items())
    assert tokens(lowest) < alone


def test_a_plan_counts_the_lower_blocks_for_what_is_not_known(
    base: Path,
    adapters: dict[str, Path],
    examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks: list[int] = []
    forward = LlamaDecoderLayer.forward

    def ticking(self: Any, *args: Any, **kwargs: Any) -> Any:
        ticks.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", ticking)
    training = TrainingOptions.model_validate({"learning_rate": 1e-2, "batch_size": 4, "epochs": 3})
    state = open_model(base, adapters["upper"], trainable=True)
    steps = 30

    def planned(part: list[Example]) -> float:
        with monkeypatch.context() as patch:
            patch.setattr("time.perf_counter", lambda: float(len(ticks)))
            return expected_seconds(state, PLAIN, training, steps, retain=part) - steps * STEP

    # a pass of a batch of four takes a tick a block, and longer records take longer
    def ticks_of(part: list[Example], below: int) -> Any:
        longer = mean_length(part) / mean_length(part[:: len(part) // 4][:4])
        return pytest.approx(longer * (steps * 2 + below / 4 * 3))

    for _ in range(2):
        assert planned(examples) == ticks_of(examples, len(examples))
    fit(state, PLAIN, training, retain=examples)
    assert planned(examples) == ticks_of(examples, 0)
    assert planned(examples[4:]) == ticks_of(examples[4:], len(examples[4:]))


def _filled(outputs: FrozenOutputs, key: str | None, size: int, memory: int = 1000) -> list[str]:
    """Open a set, put a tensor of so many bytes into it where none is, and say what is there."""
    with outputs.opened(key, lambda: Kept(memory)) as kept:
        if "x" not in kept:
            kept.put("x", torch.zeros(size, dtype=torch.uint8))
        return [name for name in ("x", "y") if name in kept]


def test_what_was_not_used_for_longest_goes_first() -> None:
    outputs = FrozenOutputs(250)
    made = []

    def make() -> Kept:
        made.append(1)
        return Kept(1000)

    for key in ("a", "b", "a", "c"):  # the third tensor is too much: b goes
        with outputs.opened(key, make) as kept:
            kept.put("x", torch.zeros(100, dtype=torch.uint8)) if "x" not in kept else None
    assert len(made) == 3
    assert outputs.in_memory == 200
    for key in ("a", "c"):
        with outputs.opened(key, make) as kept:
            assert "x" in kept
    with outputs.opened("b", make) as kept:
        assert "x" not in kept
    assert _filled(outputs, "d", 251) == ["x"]
    assert outputs.in_memory <= 250


def test_sets_of_ones_own_or_with_a_file_are_gone_afterwards() -> None:
    outputs = FrozenOutputs()
    _filled(outputs, None, 100)
    _filled(outputs, "a", 100, memory=10)
    assert outputs.in_memory == 0
    with outputs.resting():
        _filled(outputs, "b", 100)
        assert outputs.rests
    assert outputs.in_memory == 0
    assert not outputs.rests


def test_a_set_has_one_user_at_a_time() -> None:
    outputs = FrozenOutputs()
    _filled(outputs, "a", 100)
    with outputs.opened("a", lambda: Kept(1000)) as outer:
        with outputs.opened("a", lambda: Kept(1000)) as inner:
            assert inner is not outer
            assert "x" not in inner
        assert "x" in outer
    assert outputs.in_memory in {0, 100}
    with pytest.raises(ValueError, match="stop"), outputs.opened("a", lambda: Kept(1000)):
        raise ValueError("stop")


def test_scores_that_find_no_room_are_computed_as_always(
    base: Path,
    adapters: dict[str, Path],
    examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = open_model(base, adapters["upper"])
    expected = scores(state, examples, anew=True)
    batch = max(len(e.ids) for e in examples) * 4 * state.model.config.hidden_size * 4
    monkeypatch.setattr(frozen_outputs, "LIMIT", batch * 2)
    for _ in range(3):
        assert equal(scores(state, examples), expected)
    assert 0 <= OUTPUTS.in_memory <= batch * 2
