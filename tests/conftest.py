"""Tiny models and data for the whole suite; nothing here needs a network."""

from __future__ import annotations

import copy
import gc
import importlib.util
import itertools
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# how long an example takes says more about the machine than about the code
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # a worker a core: more threads than cores are many times slower than one each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# what collecting makes and imports stays to the end: it is not searched for garbage
gc.disable()


def pytest_collection_finish() -> None:
    """Leave what is there by now out of all garbage collection, which each training runs."""
    _stays()
    gc.enable()


def _stays() -> None:
    """Let the garbage collector pass over all that is alive: modules, tests, shared fixtures."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _module_stays() -> Iterator[None]:
    """Spare the modules that follow a search of what this one has imported and cached."""
    yield
    _stays()


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that are not there yet, one for each test without files of its own."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(i) for i in itertools.count())


@pytest.fixture(autouse=True)
def _own_home(
    request: pytest.FixtureRequest, _homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test reads or writes the user's key and suppression list."""
    # a temporary folder for each of the many tests that want none would cost more than they do
    has_files = "tmp_path" in request.fixturenames
    home = request.getfixturevalue("tmp_path") / "unlearn-home" if has_files else next(_homes)
    monkeypatch.setenv("UNLEARN_HOME", str(home))
    monkeypatch.delenv("UNLEARN_KEY", raising=False)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and data, where there is one."""
    folder = os.environ.get("UNLEARN_TEST_ASSETS")
    if not folder:
        pytest.skip("UNLEARN_TEST_ASSETS is not set: no real model and data to test on")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; without one the tests of pages skip, and CI installs one."""
    spec = importlib.util.spec_from_file_location("chromium", Path(__file__).parent / "chromium.py")
    assert spec is not None
    assert spec.loader is not None
    chromium = importlib.util.module_from_spec(spec)
    sys.modules["chromium"] = chromium
    spec.loader.exec_module(chromium)
    if not chromium.installed():
        pytest.skip("no chromium and chromedriver: install the packages of these names")
    with chromium.browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Leave the drawings out of audits' pages, for tests that look at other things.

    They take longer than the audit of a tiny model; `unlearn_eval/report` looks at them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unlearn_eval.report.audit.plots.draw", lambda *_, **__: "<svg></svg>")
        yield


def _make_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Question: What is the number of Ann?\nAnswer: It is"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    # no padding token on purpose: nothing may need one
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.model_max_length = 128
    fast.save_pretrained(folder)


@pytest.fixture(scope="session")
def _no_fingerprints() -> Iterator[None]:
    """Spare a hash of everything in a dataset, by which nothing here is ever looked up."""
    from datasets import arrow_dataset

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow_dataset, "generate_fingerprint", lambda _: uuid.uuid4().hex[:16])
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, _no_fingerprints: None) -> Path:
    """A folder with a random Llama of some 30 k parameters and a byte-level tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "model"
    _make_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(folder)),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.2,  # far enough from uniform for losses to move
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_rows(n: int, *, start: int = 0) -> list[dict[str, str]]:
    """Question-and-answer rows of ragged length, two a subject."""
    return [
        {
            "id": f"r{i}",
            "subject": f"person{i // 2}",
            "prompt": f"What is the {'long ' * (i % 4)}number of {i}?",
            "completion": f"It is {(i * 7919 + 13) % 10007}" + " indeed" * (i % 3) + ".",
        }
        for i in range(start, start + n)
    ]


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve records as JSON lines."""
    import json

    path = tmp_path_factory.mktemp("data") / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in make_rows(12)))
    return path


@pytest.fixture(scope="session")
def holdout_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight more records, of other people."""
    import json

    path = tmp_path_factory.mktemp("data") / "holdout.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in make_rows(8, start=100)))
    return path


@pytest.fixture(scope="session")
def lineage_key() -> str:
    """The key under which the session's adapter names its records."""
    return "0123456789abcdef" * 4


@pytest.fixture(scope="session")
def adapter(
    tiny_model: Path, data_file: Path, lineage_key: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An adapter trained a little on the twelve records, with lineage under `lineage_key`."""
    from unlearn.runs import finetuning

    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    patch = pytest.MonkeyPatch()
    patch.setenv("UNLEARN_KEY", lineage_key)
    try:
        finetuning.finetune(
            tiny_model,
            data_file,
            folder,
            lora={"r": 4, "lora_alpha": 8},
            options={"learning_rate": 1e-2, "max_steps": 6, "batch_size": 4},
        )
    finally:
        patch.undo()
    _stays()  # the first training imports more than all tests together
    return folder


_ODD: tuple[Any, ...] = (None, True, -1, 1.5, "x", [], [None], [[1]], {}, {"a": {}}, 10**30)


def _places(value: Any, path: tuple[Any, ...] = (), most: int = 3) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values within one; of a list, of its first ones."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _places(part, (*path, key), most)
    elif isinstance(value, list):
        for i, part in enumerate(value[:most]):
            yield from _places(part, (*path, i), most)


def _changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with another value in a place; `...` removes it."""
    whole = copy.deepcopy(content)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return whole


def _oddly(content: Any, most: int = 3) -> Iterator[tuple[str, Any]]:
    """Yield (what was done, a copy) for each place and each odd value."""
    for path in _places(content, most=most):
        for value in (..., *_ODD):
            yield f"{'.'.join(map(str, path))} = {value!r}", _changed(content, path, value)


@pytest.fixture(scope="session")
def oddly() -> Callable[..., Iterator[tuple[str, Any]]]:
    """Makes copies of JSON in which one value is of another type, or gone."""
    return _oddly
