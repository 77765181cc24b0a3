"""What an audit will take, told before it starts: no state is measured and no look noted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from unlearn.data.tokenization import Example
from unlearn.model.folders import place_of, resolve_folder
from unlearn.model.lm_head import unwrapped
from unlearn.model.scoring import TOKEN_BUDGET
from unlearn.model.shape import shape_of
from unlearn.model.state import ModelState
from unlearn.model.weightless import Weightless, weightless
from unlearn.provenance.lineage import Lineage
from unlearn.runs.run_plan import Part, RunPlan, examples_for, is_opened, needed
from unlearn.training.memory import Memory, Needs, scoring_needs
from unlearn_eval.audit.drift import spread
from unlearn_eval.audit.inputs import Inputs, resolve_inputs
from unlearn_eval.audit.options import AuditOptions
from unlearn_eval.audit.preparation import material_of
from unlearn_eval.audit.states import open_states
from unlearn_eval.passes import plan
from unlearn_eval.robustness.treatments.options import OPTIONS, TrainingTreatment
from unlearn_eval.scores.continuations import continue_examples
from unlearn_eval.scores.model_scores import score_model

__all__ = ["audit_plan"]

_TIMED = 16  # records of which scoring and continuing are timed

Examples = Mapping[str, Sequence[Example]]


@dataclass(frozen=True)
class _Work:
    """What an audit goes through, in all states.

    Attributes:
        scored: tokens that go forward.
        continued: records that are continued.
        written: tokens of these.
        states: how many models there are.
    """

    scored: float
    continued: int
    written: int
    states: int


def audit_plan(options: AuditOptions) -> RunPlan:
    """Return what `audit_of` would take, with an empty cache.

    Peak memory is the base, its adapters, and a forward pass of the largest batch as
    `unlearn.training.memory` counts it, with the cache of keys and values of a batch that is
    continued. Time is that of scoring and continuing a few records.

    Args:
        options: of the audit.

    Returns:
        The plan.

    Raises:
        UnlearnError: for any input that cannot be used.
    """
    inputs = resolve_inputs(options)
    folder = resolve_folder(options.model, "model", weights=False)
    stack = [*inputs.adapters.below]
    stack += [] if inputs.adapters.audited is None else [inputs.adapters.audited]
    shapes = weightless(
        folder,
        options.opening,
        place_of(options.device),
        [shape_of(resolve_folder(each, "adapter")) for each in stack],
    )
    state, in_passes = None, 0.0
    if is_opened(folder):
        states = open_states(options, inputs)
        material, told = material_of(options, inputs, states)
        examples, state, notes = material.examples, states.unlearned, (*states.notes, *told)
        mean = _mean(examples)
        in_passes = sum(each.records for each in plan(inputs.passes, material)) * mean
    else:
        examples, notes = _by_shapes(options, inputs, shapes)
    work = _work(options, inputs, examples, in_passes)
    training = [
        each.name
        for each in inputs.treatments
        if isinstance(_options_of(each.name, inputs), TrainingTreatment)
    ]
    if training:
        notes += (
            f"{', '.join(training)}: the memory of its training (gradients, optimizer, a copy of "
            "what trains) is not in the peak",
        )
    needs, more = needed(lambda: _needs(options, shapes, examples))
    return RunPlan(
        f"audit {work.states} states of the model on {sum(map(len, examples.values()))} records",
        shapes.parameters,
        0,
        tuple(Part.of(name, part) for name, part in examples.items()),
        work.scored + work.written,
        "forward only, with an empty cache",
        None if needs is None else needs.operations * (work.scored + work.written),
        None if needs is None else needs.memory,
        None if state is None else _seconds(state, examples, work),
        "",
        (*inputs.records.notes, *notes, *more),
    )


def _by_shapes(
    options: AuditOptions, inputs: Inputs, shapes: Weightless
) -> tuple[Examples, tuple[str, ...]]:
    """Return the records as tokens, without a model."""
    folder = resolve_folder(options.model, "model", weights=False)
    audited = inputs.adapters.audited
    line = Lineage.read(resolve_folder(audited, "adapter") if audited else folder)
    template = options.template or (line.template if line else None)
    parts = inputs.records.parts
    found, notes = examples_for(
        [*parts.values()], folder, options.opening, template, shapes.max_length
    )
    notes += ("no weights were opened: shapes come from config.json alone",)
    if inputs.passes:
        notes += (f"not counted, for want of a model: {', '.join(inputs.passes)}",)
    return dict(zip(parts, found, strict=True)), notes


def _work(options: AuditOptions, inputs: Inputs, examples: Examples, in_passes: float) -> _Work:
    """Add up what all states go through."""
    references = len(inputs.references)
    base = 1 if inputs.adapters.audited else 0
    states = 1 + base + references + (0 if options.before is None else 1)
    once = sum(len(each.ids) for part in examples.values() for each in part)
    runs = [each.passes * _options_of(each.name, inputs).runs for each in inputs.treatments]
    chosen = [
        part[i] for part in examples.values() for i in spread(len(part), options.generate).tolist()
    ]
    return _Work(
        once * (states + len(inputs.shadows) + sum(runs) * (1 + references)) + in_passes * states,
        len(chosen) * states,
        sum(len(each.ids) for each in chosen) * states,
        states + len(inputs.shadows),
    )


def _options_of(name: str, inputs: Inputs) -> Any:
    """Return the options of a treatment."""
    return inputs.treatment_options.get(name) or OPTIONS[name]()


def _needs(options: AuditOptions, shapes: Weightless, examples: Examples) -> Needs:
    """Count a pass over the largest batch, with keys and values where records are continued."""
    everything = [each for part in examples.values() for each in part]
    shapes.model.requires_grad_(False)
    found = scoring_needs(shapes, everything, place_of(options.device).type)
    if not options.generate:
        return found
    config = unwrapped(shapes.model).config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    each = 2 * (getattr(config, "num_key_value_heads", None) or heads) * width
    tokens = min(TOKEN_BUDGET, sum(len(one.ids) for one in everything))
    cache = tokens * each * config.num_hidden_layers * shapes.dtype.itemsize
    memory: Memory = replace(found.memory, passes=found.memory.passes + cache)
    return replace(found, memory=memory)


def _seconds(state: ModelState, examples: Examples, work: _Work) -> float:
    """Time scoring and continuing a few records, for all that is to be done."""
    everything = [each for part in examples.values() for each in part]
    some = everything[:: max(1, len(everything) // _TIMED)][:_TIMED]
    score_model(state.model, state.head, some[:1])  # the first call pays for warming up
    start = time.perf_counter()
    score_model(state.model, state.head, some)
    between = time.perf_counter()
    if work.continued:
        continue_examples(state.model, state.tokenizer, some)
    if state.device.type == "cuda":
        torch.cuda.synchronize(state.device)
    end = time.perf_counter()
    tokens = sum(len(each.ids) for each in some)
    return (between - start) * work.scored / tokens + (end - between) * work.continued / len(some)


def _mean(examples: Examples) -> float:
    """Return the mean number of tokens of a record."""
    lengths = [len(each.ids) for part in examples.values() for each in part]
    return sum(lengths) / max(1, len(lengths))
