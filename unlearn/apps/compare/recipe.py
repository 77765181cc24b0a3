"""Methods side by side: the fields of a recipe of `kind: compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from unlearn.config import StrictModel
from unlearn.errors import OptionError
from unlearn.recipe import beside, options_beside
from unlearn.runs.fields import Seed

__all__ = ["CompareRecipe", "Expected", "FinetuneSettings", "MethodSettings", "TuneSettings"]


_DATA = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Endings of files of records."""


class FinetuneSettings(StrictModel):
    """How the adapter under study and its references are trained."""

    options: dict[str, Any] = Field(default_factory=dict)
    lora: dict[str, Any] = Field(default_factory=dict)


class MethodSettings(StrictModel):
    """One row of a comparison; `name` is needed where two rows have the same method.

    `search` says what to try for some options, where the recipe says to `tune`: a list of values,
    or `{low: 1e-4, high: 1e-2, log: true}`.
    """

    name: str = Field("", pattern=r"^[\w .,:+=()/-]*$")  # it stands in file names and drawings
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, list[Any] | dict[str, Any]] = Field(default_factory=dict)


class TuneSettings(StrictModel):
    """How methods are tuned: so many trials each, on records that no reported cell forgets."""

    trials: Annotated[int, Field(ge=2)]
    forget: str
    seed: Seed = 0


class Expected(StrictModel):
    """What a plan cannot look up while model or data are still on the hub."""

    parameters: Annotated[float, Field(gt=0)] | None = None
    records: dict[str, int] = Field(default_factory=dict)
    tokens: Annotated[float, Field(gt=0)] | None = None
    tflops: Annotated[float, Field(gt=0)] | None = None


def _file(name: str, folder: Path, what: str) -> str:
    """Return a file of records, refusing one that is neither here nor beside the recipe."""
    found = beside(name, folder)
    is_file = what.startswith("@") or (Path(name).suffix in _DATA and "#" not in name)
    if is_file and not Path(found).expanduser().exists():
        raise OptionError(
            f"{what}: there is no such file, neither in {Path.cwd()} nor beside the recipe, in "
            f"{folder.absolute()}"
        )
    return found


def _selector(selector: str, folder: Path) -> str:
    """Return a selector; the file of `@file` is looked up."""
    if not selector.startswith("@"):
        return selector
    return "@" + _file(selector[1:], folder, selector)


class CompareRecipe(StrictModel):
    """Methods side by side on the same records, for `unlearn compare`.

    `data` is one source, or several by name; `train`, `forget` and `holdout` say which records of
    it are meant, in IDS syntax or as `part:NAME,NAME[0-99]`. `forget` may list several sets.
    `holdout` was never seen by the model and is what methods are judged by; `validation` was not
    seen either, and is what methods look at, for where to stop, and what they are tuned by. Without
    it they look at the holdout.
    `trigger` is the manifest of a backdoor in `train`, to be measured on the holdout.
    `policy` is that of the verdicts on the cells, by name or file; null for none. What
    `expect` says serves the plan alone: parameters of the model, records by part, mean tokens of a
    record, and the speed of the machine it is meant for.
    """

    kind: Literal["compare"]
    description: str = ""
    model: str
    data: str | dict[str, str]
    train: str
    forget: str | Annotated[list[str], Field(min_length=1)]
    holdout: str
    validation: str | None = None
    template: str | None = None
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    references: Annotated[int, Field(ge=1)] = 1
    finetune: FinetuneSettings = FinetuneSettings()
    methods: Annotated[list[MethodSettings], Field(min_length=1)]
    generate: Annotated[int, Field(ge=0)] = 64
    robustness: tuple[str, ...] = ()
    trigger: str | None = None
    policy: str | None = "standard"
    tune: TuneSettings | None = None
    expect: Expected = Expected()

    def with_files(self, folder: Path) -> Self:
        """Return the recipe with its files looked up from here and beside it.

        A `holdout` or `validation` that is a file of records, and no selector, becomes a part of
        the data.

        Args:
            folder: of the recipe.

        Returns:
            The recipe.

        Raises:
            OptionError: if there is no such file in either place.
        """
        named = {"data": self.data} if isinstance(self.data, str) else self.data
        data = {part: _file(source, folder, f"data {source!r}") for part, source in named.items()}
        changed: dict[str, Any] = {}
        for name in ("holdout", "validation"):
            selector = getattr(self, name)
            if selector is None:
                continue
            if Path(selector).suffix in _DATA and ":" not in selector and selector[:1] != "@":
                part = f"{name}-file"
                data[part] = _file(selector, folder, f"{name} {selector!r}")
                changed[name] = f"part:{part}"
            else:
                changed[name] = _selector(selector, folder)
        changed["train"] = _selector(self.train, folder)
        sets = [_selector(selector, folder) for selector in self.forget_sets]
        changed["forget"] = sets[0] if isinstance(self.forget, str) else sets
        changed["data"] = data["data"] if isinstance(self.data, str) and len(data) == 1 else data
        if self.trigger:
            changed["trigger"] = _file(self.trigger, folder, f"trigger {self.trigger!r}")
        if self.policy and Path(self.policy).suffix in {".yaml", ".yml"}:
            changed["policy"] = beside(self.policy, folder)
        if self.tune:
            tuned = {"forget": _selector(self.tune.forget, folder)}
            changed["tune"] = self.tune.model_copy(update=tuned)
        changed["model"] = beside(self.model, folder)
        changed["methods"] = [
            method.model_copy(update={"options": options_beside(method.options, folder)})
            for method in self.methods
        ]
        return self.model_copy(update=changed)

    @property
    def forget_sets(self) -> tuple[str, ...]:
        """The selectors of the records to forget, one a set."""
        return (self.forget,) if isinstance(self.forget, str) else tuple(self.forget)

    @property
    def looked_at(self) -> str:
        """The selector of the unseen records that methods look at."""
        return self.validation or self.holdout
