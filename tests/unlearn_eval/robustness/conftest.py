from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from unlearn.data.records import Records
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import encode
from unlearn.model.state import ModelState, open_model

OpenState = Callable[..., ModelState]


@pytest.fixture
def open_state(tiny_model: Path, adapter: Path) -> OpenState:
    """Open the tiny model with the session's adapter, or what is told."""

    def opened(*adapters: Path) -> ModelState:
        return open_model(tiny_model, list(adapters) or [adapter])

    return opened


@pytest.fixture(scope="module")
def examples(tiny_model, data_file, holdout_file):
    """Four forgotten records, eight to keep, eight unseen."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = Records.load(data_file)
    template = choose_template("qa", tokenizer, rows)
    encoded = encode(rows, tokenizer, template, 128)
    unseen = encode(Records.load(holdout_file), tokenizer, template, 128)
    return {"forget": encoded[:4], "retain": encoded[4:], "holdout": unseen}
