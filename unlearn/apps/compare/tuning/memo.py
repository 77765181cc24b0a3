"""Answers that are remembered, so that a finished comparison is read without asking again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unlearn import __version__
from unlearn.files import staged_file
from unlearn.strict_json import NotJsonError, read_json_file

__all__ = ["MEMORY", "Memo"]

MEMORY = ".suggested.json"


class Memo:
    """Answers by question, in a file of the output folder.

    What is remembered stays as it was when a library that gives the answers changes: trials that
    were done are found again.

    Args:
        root: the output folder; need not exist.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / MEMORY
        try:
            known = read_json_file(self._path)
        except (OSError, NotJsonError):
            known = None
        self._known: dict[str, Any] = known if isinstance(known, dict) else {}
        self._kept = len(self._known)

    def of(self, question: Any, answer: Callable[[], Any]) -> Any:
        """Return the answer to a question, asking only if it is not remembered.

        Args:
            question: everything that the answer depends on.
            answer: gives it.

        Returns:
            The answer.
        """
        text = json.dumps([__version__, question], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        if key not in self._known:
            self._known[key] = answer()
        return self._known[key]

    def keep(self) -> None:
        """Write down what is new, where there is an output folder already."""
        if len(self._known) != self._kept and self._path.parent.is_dir():
            with staged_file(self._path) as stage:
                stage.write_text(json.dumps(self._known, indent=1) + "\n", encoding="utf-8")
            self._kept = len(self._known)
