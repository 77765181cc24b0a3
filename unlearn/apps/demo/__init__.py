"""The embedded demo: a small base model made by this project, and synthetic personal records.

`base_path()` is a folder that `transformers` loads like any other model. It was trained by
`python -m unlearn.apps.demo.train_base` on text about people who appear in no record.
"""

from __future__ import annotations

from pathlib import Path

from unlearn.apps.demo.generator import Person, corpus, facts, people, records
from unlearn.model.folders import embedded_model

__all__ = ["Person", "base_path", "corpus", "facts", "people", "records"]


def base_path() -> Path:
    """Return the folder of the embedded base model, which is installed with the package."""
    return embedded_model()
