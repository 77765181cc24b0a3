"""What a comparison is about: the resolved recipe, how models are opened, digests of its inputs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn import __version__
from unlearn.apps.compare.data import is_hub, model_folder, sources
from unlearn.apps.compare.recipe import CompareRecipe
from unlearn.files import staged_file
from unlearn.provenance.digests import DECIDING, weight_files
from unlearn.provenance.lineage import library_versions
from unlearn.strict_json import NotJsonError, read_json_file

__all__ = ["Study"]

_MEMORY = ".digests.json"

# All in a model's folder that decides what it computes.
_PATTERNS = ("*.safetensors", "*.json", "*.jinja", *DECIDING)


@dataclass(frozen=True)
class Study:
    """A recipe with everything decided that its steps have in common.

    Attributes:
        recipe: the recipe.
        root: the output folder.
        opening: `dtype` and `device` of `open_model`.
        inputs: digest of each input, by what it is.
        report_to: trackers that are told of training runs; nothing depends on them.
    """

    recipe: CompareRecipe
    root: Path
    opening: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    report_to: tuple[str, ...] = ()

    @classmethod
    def of(cls, recipe: CompareRecipe, root: Path, opening: Mapping[str, Any]) -> Study:
        """Take the digests of a recipe's inputs.

        Files whose size and time of change are those of the last run are not read again: weights
        can be large. What is on the hub is taken by its name, and not fetched.

        Args:
            recipe: the recipe.
            root: the output folder; need not exist.
            opening: `dtype` and `device` of `open_model`.

        Returns:
            The study.
        """
        digests = _Digests(root / _MEMORY)
        inputs = {"model": digests.of(model_folder(recipe.model))}
        for part, source in sources(recipe.data).items():
            inputs[f"data.{part}"] = digests.of(source)
        options = [method.options for method in recipe.methods]
        named = [recipe.train, recipe.holdout, recipe.looked_at, *recipe.forget_sets]
        named += [recipe.tune.forget] if recipe.tune else []
        named += [recipe.policy] if recipe.policy else []
        named += [recipe.trigger] if recipe.trigger else []
        named += [value for given in options for value in given.values() if isinstance(value, str)]
        for text in named:
            path = Path(text.removeprefix("@")).expanduser()
            if len(text) < 4096 and path.is_file():
                inputs[text] = digests.of(str(path))
        for method in recipe.methods:
            if own := _source(method.method):
                inputs[method.method] = digests.of(own)
        digests.keep()
        return cls(recipe, root, dict(opening), inputs)

    @property
    def model(self) -> str:
        """The folder or hub name of the model."""
        return model_folder(self.recipe.model)

    def common(self) -> dict[str, Any]:
        """Return the settings that every step depends on.

        Versions are among them: what a recipe leaves open is decided by this toolkit's, and how
        numbers are computed by those of the libraries.
        """
        data = {key: value for key, value in self.inputs.items() if key.startswith("data.")}
        return {
            "version": __version__,
            "libraries": library_versions(),
            "model": self.inputs["model"],
            "data": data,
            "template": self.recipe.template,
            "dtype": self.opening.get("dtype"),
        }

    def chosen(self, *selectors: str) -> list[list[str | None]]:
        """Return selectors, each with the digest of the file that it names, if it names one."""
        return [[selector, self.inputs.get(selector)] for selector in selectors]


def _source(method: str) -> str | None:
    """Return the file of a method of the user's own, `package.module:NAME`: it is an input, too."""
    module, mark, _ = method.partition(":")
    try:
        spec = importlib.util.find_spec(module) if mark else None
    except (ImportError, ValueError):  # which is said where the method is looked up
        return None
    return spec.origin if spec and spec.origin else None


class _Digests:
    """Digests of files and folders, remembered by size and time of change.

    Args:
        memory: the file that remembers them.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        try:
            known = read_json_file(memory)
        except (OSError, NotJsonError):
            known = None
        self._known = known if isinstance(known, dict) else {}
        self._seen: dict[str, list[Any]] = {}

    def of(self, source: str) -> str:
        """Return the digest of a file, of a model's or dataset's folder, or the name itself."""
        path = Path(source).expanduser()
        if path.is_file():
            return self._file(path)
        if path.is_dir() and not is_hub(source):
            total = hashlib.sha256()
            files = {file for pattern in _PATTERNS for file in path.glob(pattern)}
            files |= {*path.glob("*.arrow"), *path.glob("*/*.arrow"), *weight_files(path).values()}
            for file in sorted(files):
                total.update(f"{file.relative_to(path)}\0{self._file(file)}\n".encode())
            return f"sha256:{total.hexdigest()}"
        return source

    def _file(self, path: Path) -> str:
        name, facts = str(path.resolve()), path.stat()
        stamp = [facts.st_size, facts.st_mtime_ns, facts.st_ino]
        known = self._known.get(name)
        if isinstance(known, list) and known[:3] == stamp:
            self._seen[name] = known
        else:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._seen[name] = [*stamp, f"sha256:{digest}"]
        return str(self._seen[name][3])

    def keep(self) -> None:
        """Remember what was seen, where there is an output folder already."""
        if self._memory.parent.is_dir() and self._seen != self._known:
            with staged_file(self._memory) as stage:
                stage.write_text(json.dumps(self._seen, indent=1) + "\n", encoding="utf-8")
