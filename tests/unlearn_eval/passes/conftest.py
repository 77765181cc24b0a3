from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import encode
from unlearn.model.state import open_model
from unlearn_eval.passes.base import AuditedState, Material
from unlearn_eval.scores.model_scores import score_model


@pytest.fixture(scope="session")
def opened(tiny_model: Path, adapter: Path) -> SimpleNamespace:
    """The tiny model with its adapter as `state`, and as the `view` of an audit."""
    state = open_model(tiny_model, [adapter])
    view = AuditedState("after", state.model, state.head, "", adapter, "stamp")
    return SimpleNamespace(state=state, view=view)


@pytest.fixture
def make_material(
    opened: SimpleNamespace, data_file: Path, holdout_file: Path
) -> Callable[..., Material]:
    """Build what an audit has: two forget records, ten kept ones and eight unseen ones."""

    def make(**options) -> Material:
        records = Records.load(data_file)
        gone = options.pop("gone", records.select("r0,r1"))
        split = {
            "forget": gone,
            "retain": records.without(gone),
            "holdout": Records.load(holdout_file),
        }
        without = options.pop("without", ())
        split = {k: v for k, v in split.items() if k not in without}
        template = options.pop("template", Template("qa"))
        tokenizer = opened.state.tokenizer
        examples = {k: encode(part, tokenizer, template, 128) for k, part in split.items()}
        limit = options.pop("max_length", 128)
        return Material(split, examples, tokenizer, template, limit, **options)

    return make


@pytest.fixture
def scored(opened: SimpleNamespace):
    """Score all splits, as an audit does first."""

    def run(material: Material):
        view = opened.view
        return {k: score_model(view.model, view.head, e) for k, e in material.examples.items()}

    return run
