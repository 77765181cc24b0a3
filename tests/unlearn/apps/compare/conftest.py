from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.compare.recipe import CompareRecipe
from unlearn.apps.compare.study import Study


def rows(n: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {
            "id": f"r{i}",
            "prompt": f"What is the number of {i}?",
            "completion": f"It is {(i * 7919 + 13) % 10007}.",
        }
        for i in range(start, start + n)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve records, of which four are never seen."""
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(12)))
    return path


@pytest.fixture
def recipe(tiny_model: Path, data: Path) -> Callable[..., CompareRecipe]:
    """A recipe that trains hardly at all, with some of its keys changed."""

    def make(**changes: Any) -> CompareRecipe:
        few = {"max_steps": 2, "batch_size": 2}
        plain = {
            "kind": "compare",
            "model": str(tiny_model),
            "data": str(data),
            "train": "rows:0-7",
            "forget": ["r0,r1", "r2,r3"],
            "holdout": "rows:8-11",
            "template": "qa",
            "seeds": (0, 1),
            "references": 2,
            "generate": 0,
            "finetune": {"lora": {"r": 2}, "options": few},
            "methods": [
                {"method": "npo", "options": few},
                {"name": "none to give", "method": "dpo", "options": few},
            ],
        }
        return CompareRecipe.model_validate(plain | changes)

    return make


@pytest.fixture
def study(recipe: Callable[..., CompareRecipe], tmp_path: Path) -> Callable[..., Study]:
    """The study of such a recipe, in one folder."""
    return lambda **changes: Study.of(recipe(**changes), tmp_path / "out", {"dtype": "float32"})
