"""What comes out of frozen blocks is computed once, through many models' own code."""

from __future__ import annotations

import errno
import gc
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from unlearn.model.blocks import blocks_of
from unlearn.model.frozen import FrozenLower, Kept, first_trained_block, frozen_lower, whole_pass

SIZE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT = {"vocab_size": 96, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": SIZE,
    "mistral": SIZE,
    "qwen2": SIZE,
    "qwen3": SIZE,
    "gemma": SIZE,
    "gemma2": SIZE,
    "gemma3_text": SIZE,
    "phi": SIZE,
    "phi3": SIZE,
    "gpt_neox": SIZE,
    "gpt2": GPT,
    "gptj": GPT | {"rotary_dim": 4},
    "bloom": SIZE | {"n_layer": 4, "n_head": 4},
    "stablelm": SIZE,
    "olmo2": SIZE,
    "cohere2": SIZE,
    "granite": SIZE,
    "mixtral": SIZE | {"num_local_experts": 4},
    "gpt_oss": SIZE | {"num_local_experts": 4, "layer_types": ["sliding_attention"] * 4},
    "mamba": SIZE | {"state_size": 4},
}
LENGTHS = (11, 33, 20, 64, 1, 16, 30)


def model_of(name: str, trains: int = 2, **changes: Any) -> Any:
    """A random model without dropout in which the blocks from `trains` on train."""
    config = AutoConfig.for_model(name, **ARCHITECTURES.get(name, SIZE) | changes)
    for key in vars(config):
        if ("drop" in key or "pdrop" in key) and key not in changes:
            setattr(config, key, 0.0)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for block in blocks_of(model)[trains:]:
        block.requires_grad_(True)
    return model


def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 96, (n,), generator=generator) for n in LENGTHS]


def padded(chosen: list[Tensor], side: str = "right") -> dict[str, Tensor]:
    width = max(map(len, chosen))
    ids = torch.full((len(chosen), width), 7)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(chosen):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = row, 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if side == "left":
        batch["position_ids"] = (mask.cumsum(-1) - 1).clip(min=0)
    return batch


def lower_of(model: Any, kept: Kept | None = None, **options: Any) -> FrozenLower:
    lower = frozen_lower(model, rows(), kept or Kept(1 << 30), **options)
    assert isinstance(lower, FrozenLower), lower
    return lower


class Nothing(Kept):
    """Keeps nothing."""

    def put(self, name: object, tensor: Tensor) -> None:
        pass


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_that_starts_above_its_frozen_blocks_says_the_same(name: str) -> None:
    model, batch = model_of(name), padded(rows())
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        whole = whole_pass(model, batch)[real]
        once = lower_of(model).hidden_states(model, batch)[real]
    assert torch.allclose(once, whole, atol=1e-5, rtol=1e-5)
    assert not torch.equal(whole, torch.zeros_like(whole))


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_what_is_kept_equals_what_is_computed_anew_to_the_bit(name: str) -> None:
    model = model_of(name)
    on_disk = Kept(0)
    lowers = [lower_of(model), lower_of(model, on_disk), lower_of(model, Nothing(1 << 30))]
    batches = [padded(rows()), padded(rows()[2:5]), padded(rows()[::-1]), padded(rows()[4:5])]
    for _ in range(2):
        for batch in batches:
            first, *others = [lower.outputs(model, batch) for lower in lowers]
            assert all(torch.equal(first, other) for other in others)
    on_disk.close()


def test_a_row_is_the_same_wherever_its_padding_is() -> None:
    model = model_of("llama")
    lower = lower_of(model)
    right, left = padded(rows()), padded(rows(), "left")
    a, b = lower.outputs(model, right), lower.outputs(model, left)
    assert torch.equal(a[right["attention_mask"].bool()], b[left["attention_mask"].bool()])
    real = left["attention_mask"].bool()
    with torch.no_grad():
        once, whole = lower.hidden_states(model, left), whole_pass(model, left)
    assert torch.allclose(once[real], whole[real], atol=1e-5)


def test_lower_blocks_run_once_a_record_and_are_whole_afterwards() -> None:
    model, calls = model_of("llama"), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lower = lower_of(model)
    mlp: nn.Module = blocks_of(model)[0].mlp
    handle = mlp.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        lower.hidden_states(model, padded(rows()))
    assert len(calls) == 1  # all rows fit into one batch
    lower.hidden_states(model, padded([torch.arange(5, 10)]))  # not among the records
    assert len(calls) == 2
    handle.remove()
    assert all("forward" not in vars(block) for block in blocks_of(model))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_blocks_are_whole_again_after_an_error() -> None:
    model, batch = model_of("llama"), padded(rows())
    lower = lower_of(model)
    expected = whole_pass(model, batch)

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    handle = blocks_of(model)[3].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        lower.hidden_states(model, batch)
    handle.remove()
    assert torch.equal(whole_pass(model, batch), expected)


def test_gradients_are_those_of_the_whole_model_also_recomputed() -> None:
    batch = padded(rows())
    found = []
    for recomputed in (False, True):
        model = model_of("llama").train()
        lower = lower_of(model)
        if recomputed:
            # transformers 5.23 renamed it
            new = hasattr(model, "activation_checkpointing_enable")
            word = "activation" if new else "gradient"
            getattr(model, f"{word}_checkpointing_enable")({"use_reentrant": False})
        lower.hidden_states(model, batch)[batch["attention_mask"].bool()].square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    model = model_of("llama").train()
    whole_pass(model, batch)[batch["attention_mask"].bool()].square().sum().backward()
    whole = [p.grad for p in model.parameters() if p.requires_grad]
    for once, again, plain in zip(*found, whole, strict=True):
        assert torch.equal(once, again)
        assert torch.allclose(once, plain, atol=1e-4, rtol=1e-4)


class Residual(nn.Module):
    """A block that adds what another block computed: more than hidden states is shared."""

    def __init__(self, block: nn.Module, source: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.seen: list[Tensor] = []
        source.register_forward_hook(lambda *a: self.seen.append(a[2]))

    def forward(self, hidden: Tensor, **kwargs: Any) -> Tensor:
        output: Tensor = self.block(hidden, **kwargs)
        return output + self.seen[-1] if self.seen else output


def sharing() -> Any:
    model = model_of("llama")
    blocks = blocks_of(model)
    blocks[3] = Residual(blocks[3], blocks[0].mlp)
    model.register_forward_pre_hook(lambda *_: blocks[3].seen.clear())
    return model


def tied() -> Any:
    model = model_of("llama")
    model.get_input_embeddings().requires_grad_(True)
    return model


GEMMA_3N = {
    "vocab_size_per_layer_input": 96,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 2,
    "laurel_rank": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "activation_sparsity_pattern": [0.0] * 4,
}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (sharing, "use more of those below"),
        (tied, "weights below them train"),
        (lambda: model_of("gpt2", embd_pdrop=0.1), "dropout"),
        (lambda: model_of("llama", attention_dropout=0.1), "dropout"),
        (lambda: model_of("gemma3n_text", **GEMMA_3N), "more than one vector"),
    ],
)
def test_models_on_which_it_cannot_be_done_are_told(make: Any, reason: str) -> None:
    model = make()
    state, modes = torch.get_rng_state(), [m.training for m in model.modules()]
    assert reason in str(frozen_lower(model, rows(), Kept(1 << 30)))
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]


def test_more_than_there_is_room_for_is_not_begun() -> None:
    need = sum(LENGTHS) * 32 * 4
    assert "more than there is room for" in str(frozen_lower(model_of("llama"), rows(), Kept(8, 8)))
    lower_of(model_of("llama"), Kept(need // 2, need - need // 2))


def test_the_first_block_that_trains() -> None:
    assert [first_trained_block(model_of("llama", n)) for n in (0, 1, 4)] == [0, 1, 4]


def test_references_with_other_weights_below_have_results_of_their_own() -> None:
    model, other, batch = model_of("llama"), model_of("llama"), padded(rows())
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.5)
    shared, apart = lower_of(model), lower_of(model, apart=True)
    own = shared.outputs(model, batch)
    assert torch.equal(shared.outputs(other, batch, "before"), own)
    assert torch.equal(apart.outputs(model, batch), own)
    assert not torch.equal(apart.outputs(other, batch, "before"), own)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    gc.collect()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_come_back_to_the_bit(temporary: Path, dtype: torch.dtype) -> None:
    tensors = {n: torch.randn(n, 6).to(dtype) for n in range(1, 9)}
    kept = Kept(200)
    for name, tensor in tensors.items():
        kept.put(name, tensor)
    for name in [*tensors, *reversed(tensors)]:
        assert name in kept
        assert torch.equal(kept[name], tensors[name])
        assert kept[name].dtype is dtype
    kept.close()
    assert 1 not in kept


@pytest.mark.skipif(os.name == "nt", reason="files in use have names there")
def test_the_file_has_no_name_to_be_left_behind(temporary: Path) -> None:
    kept = Kept(0)
    kept.put("a", torch.ones(1000))
    assert "a" in kept
    assert list(temporary.iterdir()) == []
    kept.close()


class SmallDisk(io.FileIO):
    """A file on a disk with room for few bytes, that are taken some at a time."""

    room, at_once = 100, 7

    def write(self, buffer: Any) -> int:
        end = min(self.tell() + self.at_once, self.room)
        if end <= self.tell():
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(memoryview(buffer)[: end - self.tell()]) or 0

    def readinto(self, buffer: Any) -> int:
        return super().readinto(memoryview(buffer)[: self.at_once]) or 0


@pytest.fixture
def small_disk(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(**options: Any) -> Any:
        raw = SmallDisk(temporary / "file", "w+")
        return raw if options.get("buffering") == 0 else io.BufferedRandom(raw)

    monkeypatch.setattr("tempfile.TemporaryFile", opened)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_only_means_that_nothing_more_is_kept() -> None:
    kept = Kept(0, 1000)
    kept.put("a", torch.arange(20.0))
    assert not kept.full
    kept.put("b", torch.ones(10))
    kept.put("c", torch.ones(1))
    assert kept.full
    assert "b" not in kept
    assert "c" not in kept
    assert torch.equal(kept["a"], torch.arange(20.0))
    assert kept.room == 0
    kept.close()


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallDisk, "room", 32 * 4 * 50)
    monkeypatch.setattr(SmallDisk, "at_once", 1000)
    model, kept = model_of("llama"), Kept(0, 1 << 20)
    lowers = [lower_of(model), lower_of(model, kept)]
    for _ in range(2):
        first, other = [lower.outputs(model, padded(rows())) for lower in lowers]
        assert torch.equal(first, other)
    assert kept.full
    kept.close()
