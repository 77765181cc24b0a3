"""What a comparison will take, told without loading weights: tokens, operations, hours."""

from __future__ import annotations

import math
import re
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from unlearn.apps.compare.data import Pool, is_hub, parts_of, sources
from unlearn.apps.compare.layout import Layout, Step
from unlearn.apps.compare.recipe import CompareRecipe
from unlearn.apps.compare.shards import method_of
from unlearn.apps.compare.study import Study
from unlearn.config import validated, without_auto
from unlearn.data.lengths import guessed_tokens
from unlearn.data.record import as_json, shown
from unlearn.errors import ModelError, OptionError
from unlearn.methods.budget import budget_of
from unlearn.methods.defaults import decided
from unlearn.methods.plans import AFFORDABLE, steps_within
from unlearn.methods.registry import Method, Resolved
from unlearn.provenance.digests import weight_files
from unlearn.recipe import recipe_path
from unlearn.strict_json import parse_json, read_json_file
from unlearn.training.options import LoraOptions, TrainingOptions, total_steps

__all__ = ["Costs", "Counts", "Work", "costs", "counts", "parameters", "training_tokens"]

_SAMPLE = 256
_LONGEST_HEADER = 100_000_000  # bytes: what the format allows
_WIDEST = 1 << 15  # columns of the matrix that is timed, whatever a configuration says
_USUAL_TOKENS = 128.0  # of a record, where nothing tells

# Operations a token and parameter: 2 forward; backward as many for the inputs' gradient and, in a
# full fine-tune, as many again for the weights' (Kaplan et al., 2001.08361, section 2.1).
_FORWARD, _LORA = 2.0, 4.0

_FINETUNE = {"epochs": 10.0}


@dataclass(frozen=True)
class Counts:
    """How many records there are, and how long they are.

    Attributes:
        train: records trained on.
        forget: by forget set, records to forget.
        holdout: records never seen.
        tokens: mean tokens of a record.
        how: where `tokens` is from.
    """

    train: int
    forget: tuple[int, ...]
    holdout: int
    tokens: float
    how: str


@dataclass(frozen=True)
class Work:
    """What one step takes.

    Attributes:
        trained: tokens forward and backward.
        scored: tokens forward only.
    """

    trained: float = 0.0
    scored: float = 0.0

    def operations(self, parameters: float) -> float:
        """Return floating-point operations for a model of this size."""
        return parameters * (_LORA * self.trained + _FORWARD * self.scored)


@dataclass(frozen=True)
class Costs:
    """What all steps that are still to be done take.

    Attributes:
        work: by folder, what each takes; none of those that are done.
        parameters: of the model; None where nothing tells.
        seconds: expected wall time of one process; None where nothing tells.
        how: what `seconds` rests on.
    """

    work: Mapping[Path, Work]
    parameters: float | None
    seconds: float | None
    how: str

    @property
    def total(self) -> Work:
        """The sum over all steps."""
        return Work(
            sum(w.trained for w in self.work.values()), sum(w.scored for w in self.work.values())
        )


def counts(study: Study) -> Counts:
    """Count records and tokens, reading data that is here and asking the recipe for the rest.

    Args:
        study: the comparison.

    Returns:
        The counts.

    Raises:
        OptionError: if the data is on the hub and neither selectors nor `expect` tell its size.
        UnlearnError: if data that is here cannot be used.
    """
    recipe = study.recipe
    expect = recipe.expect
    if any(map(is_hub, sources(recipe.data).values())):
        sizes = [_told(s, recipe) for s in (recipe.train, recipe.holdout, *recipe.forget_sets)]
        tokens, how = (expect.tokens, "the recipe") if expect.tokens else (_USUAL_TOKENS, "a guess")
        return Counts(sizes[0], tuple(sizes[2:]), sizes[1], tokens, how)
    pool = Pool.sketch(recipe)
    train = pool.positions(recipe.train)
    gone = tuple(len(pool.positions(selector)) for selector in recipe.forget_sets)
    unseen = pool.positions(recipe.holdout)
    some = train[:: max(1, len(train) // _SAMPLE)]
    texts = [_text(pool.records[i]) for i in some]
    file = Path(study.model).expanduser() / "tokenizer.json"
    if file.is_file():
        from tokenizers import Tokenizer

        found = Tokenizer.from_file(str(file)).encode_batch(texts)
        mean, how = sum(len(e.ids) + 1 for e in found) / len(found), f"{len(found)} records counted"
    else:
        mean = sum(map(guessed_tokens, texts)) / len(texts)
        how = "four bytes a token"
    return Counts(len(train), gone, len(unseen), mean, how)


def _text(record: Any) -> str:
    """Return about what a template makes of a record."""
    if record.form == "messages":
        tools = record.tools or ()
        return "\n".join(
            [*map(as_json, tools), *(f"{turn['role']}: {shown(turn)}" for turn in record.messages)]
        )
    if record.form == "text":
        return str(record.text)
    return f"Question: {record.prompt}\nAnswer: {record.completion}"


def _told(selector: str, recipe: CompareRecipe) -> int:
    """Return how many records a selector names, as far as it and the recipe tell."""
    known = recipe.expect.records
    parts = parts_of(selector)
    if parts and all(rows is not None or name in known for name, rows in parts):
        return sum(known[name] if rows is None else len(rows) for name, rows in parts)
    if selector in known:
        return known[selector]
    ranges = re.findall(r"(\d+)(?:-(\d+))?", selector) if selector.startswith("rows:") else []
    if ranges:
        return sum(int(last or first) - int(first) + 1 for first, last in ranges)
    raise OptionError(
        f"how many records {selector!r} names cannot be known without fetching the data; say so "
        "in the recipe: expect: {records: {NAME: …}}, by part or selector"
    )


def parameters(study: Study) -> float | None:
    """Return the number of a model's parameters, from the headers of its files.

    Args:
        study: the comparison.

    Returns:
        The number; that of the recipe's `expect` for a model on the hub, None without one.
    """
    files = weight_files(Path(study.model).expanduser()).values()
    if not files:
        return study.recipe.expect.parameters
    total = 0
    for path in files:
        with path.open("rb") as file:
            total += _parameters_in(path, file.read(8), file)
    return float(total)


def _parameters_in(path: Path, size: bytes, rest: BinaryIO) -> int:
    """Return the parameters that the header of a safetensors file names."""
    try:
        (length,) = struct.unpack("<Q", size)
        if length > _LONGEST_HEADER:
            raise ValueError("its header has no end")
        header = parse_json(rest.read(length))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(map(int, shape)) for shape in shapes)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from None


def training_tokens(
    method: Method,
    options: Mapping[str, Any],
    finetune: TrainingOptions,
    forget: int,
    retain: int,
    tokens: float,
) -> float:
    """Return the tokens that go forward and backward if a method runs all its steps.

    Options that are a loss's own play no part in it, and are not looked at.

    Args:
        method: the method.
        options: what the recipe gives.
        finetune: how the adapter was trained.
        forget: records to forget.
        retain: records to keep.
        tokens: mean tokens of a record.

    Returns:
        Tokens at most: stop rules may end a run before.
    """
    given = dict(method.defaults) | without_auto(options)
    mine = {key: value for key, value in given.items() if key in TrainingOptions.model_fields}
    if method.kind == "exact":
        again = validated(TrainingOptions, finetune.model_dump() | mine, f"method {method.name}")
        most = budget_of(dict(method.extra) | given).most if "budget" in method.extra else 1.0
        return _rows(again, retain) * tokens * most
    training = validated(TrainingOptions, mine, f"method {method.name}")
    each = training.forget_passes + (1.0 if method.alternates else 0.0)
    if method.retain and given.get("retain_loss") != "none":
        each += training.retain_ratio
    first = {"pilot_epochs": retain, "reinforce_epochs": forget}
    before = sum(
        float(given.get(key, method.extra[key])) * records
        for key, records in first.items()
        if key in method.extra
    )

    def affordable(chosen: TrainingOptions) -> int:
        limit = AFFORDABLE * _rows(finetune, retain) - before
        a_step, most = chosen.batch_size * each, total_steps(chosen, forget)
        return steps_within(limit, lambda steps: steps * a_step, most)

    # what a comparison asks for is run, whatever the regime
    asked = Resolved(method, training, regime="memorised")
    training = decided(asked, None, forget, most=affordable)[0].training
    return (_rows(training, forget) * each + before) * tokens


def _rows(training: TrainingOptions, records: int) -> float:
    """Return the records that a run goes through, repeats counted."""
    batch = training.batch_size
    if training.max_steps:
        return float(training.max_steps * batch)
    return float(batch * max(1, math.ceil((training.epochs or 0) * records / batch - 1e-9)))


def costs(study: Study, layout: Layout, found: Counts) -> Costs:
    """Estimate what is still to be done.

    Args:
        study: the comparison.
        layout: its steps.
        found: its records.

    Returns:
        Tokens, operations and time.

    Raises:
        OptionError: if a training option or a treatment is unknown or impossible.
    """
    from unlearn_eval.robustness import chosen

    recipe = study.recipe
    tuning = validated(
        TrainingOptions, _FINETUNE | without_auto(recipe.finetune.options), "finetune"
    )
    validated(LoraOptions, recipe.finetune.lora, "lora")
    treatments = chosen(recipe.robustness)
    forms = chosen(_deployments(recipe.policy)) if recipe.policy else ()
    mean = found.tokens
    everything = (found.train + found.holdout) * mean
    written = recipe.generate * 3 * mean
    work: dict[Path, Work] = {}

    def add(step: Step, trained: float = 0.0, scored: float = 0.0) -> None:
        if not step.done:
            work[step.folder] = Work(trained, scored)

    add(layout.target, _rows(tuning, found.train) * mean)
    for f, gone in enumerate(found.forget):
        tried = sum(t.passes for t in treatments) * (gone + found.holdout + 64) * mean
        shown = everything + written
        judged = sum(t.passes for t in forms) * (gone + found.holdout + 64) * mean
        for step in layout.references[f]:
            add(step, _rows(tuning, found.train - gone) * mean)
        looked = shown * (2 + recipe.references) + judged * (1 + recipe.references)
        add(layout.before[f], scored=looked)
        for step in layout.trials[f]:
            add(step, scored=tried)
    for cell in layout.cells:
        gone = found.forget[cell.forget]
        if cell.target is not None:
            add(cell.target, _rows(tuning, found.train) * mean)
        options = cell.unlearn.settings["options"]
        method = method_of(cell.method)
        trained = training_tokens(method, options, tuning, gone, found.train - gone, mean)
        # at most as many shards are touched as records go
        parts = options.get("shards", method.extra["shards"]) if cell.target else 1
        add(cell.unlearn, trained * min(1.0, gone / parts))
        judged = sum(t.passes for t in forms) * (gone + found.holdout + 64) * mean
        add(cell.audit, scored=everything + written + judged)
        if cell.trial:
            passes = sum(t.passes for t in treatments)
            add(cell.trial, scored=passes * (gone + found.holdout + 64) * mean)
    size = parameters(study)
    seconds, how = _time(study, layout, work, size)
    return Costs(work, size, seconds, how)


def _deployments(policy: str) -> list[str]:
    """Return the forms in which a policy asks for the model, read without what checks policies."""
    from omegaconf import OmegaConf

    own = policy.endswith((".yaml", ".yml"))
    path = recipe_path(policy if own else f"policies/{policy}")
    content = OmegaConf.to_container(OmegaConf.load(path))
    named = content.get("deployments", []) if isinstance(content, dict) else []
    return [str(name) for name in named if name != "as-is"]


def _time(
    study: Study, layout: Layout, work: Mapping[Path, Work], size: float | None
) -> tuple[float | None, str]:
    """Return the expected wall time, from what was measured here if anything was."""
    total = Work(sum(w.trained for w in work.values()), sum(w.scored for w in work.values()))
    facts = [s.facts() for s in layout.steps if s.done]
    known = [f for f in facts if f.get("tokens") and f.get("seconds")]
    if known:
        rate = sum(f["tokens"] for f in known) / sum(f["seconds"] for f in known)
        tokens = total.trained + total.scored * _FORWARD / _LORA
        return tokens / rate, f"{len(known)} trainings done here"
    if size is None:
        return None, "expect: {parameters: …} in the recipe would tell"
    operations = total.operations(size)
    if study.recipe.expect.tflops:
        speed = study.recipe.expect.tflops
        return operations / (speed * 1e12), f"the recipe's {speed:g} TFLOP/s"
    return operations / _speed_here(
        study
    ), "the speed of a matrix product here (small models take several times that)"


def _speed_here(study: Study) -> float:
    """Time a matrix product of the model's width on this machine's processor, in FLOP/s."""
    import numpy as np

    try:
        width = int(read_json_file(Path(study.model) / "config.json").get("hidden_size") or 1024)
    except (OSError, ValueError, TypeError, AttributeError):
        width = 1024
    width = max(1, min(width, _WIDEST))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((512, width), dtype=np.float32)
    w = rng.standard_normal((width, width), dtype=np.float32)
    x @ w  # the first one pays for starting threads
    took: Sequence[float] = [_timed(lambda: x @ w) for _ in range(5)]
    return 2.0 * x.size * width / sorted(took)[2]


def _timed(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
