"""What an audit was asked for, read and checked before any model is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn.backdoors.poisoning import Manifest
from unlearn.data.records import Records
from unlearn.data.splits import loaded, without_copies
from unlearn.errors import SelectionError
from unlearn.files import check_output
from unlearn.runs.fields import Place
from unlearn.runs.references import reference_folders
from unlearn_eval.arrays import BoolArray
from unlearn_eval.audit.canaries import PlantedSplit, check_alone, split_canaries
from unlearn_eval.audit.neighbours import neighbours
from unlearn_eval.audit.options import AuditOptions
from unlearn_eval.audit.overlap import check_overlap
from unlearn_eval.passes import check
from unlearn_eval.passes.inputs import read_paraphrases
from unlearn_eval.results.shadows import membership
from unlearn_eval.robustness import Treatment, chosen
from unlearn_eval.robustness.treatments.options import Options, options_of
from unlearn_eval.verdict.preregistered import FixedPolicy

__all__ = ["AdapterStack", "Inputs", "SplitRecords", "resolve_inputs"]


@dataclass(frozen=True)
class AdapterStack:
    """The adapters on the base.

    Attributes:
        below: the lower ones, which every state has.
        audited: the one on top, which is under audit; None for a full fine-tune.
    """

    below: tuple[Place, ...] = ()
    audited: Place | None = None

    @classmethod
    def of(cls, adapters: Place | Sequence[Place] | None) -> AdapterStack:
        """Take the last of the adapters that were named as the one under audit."""
        stack = [adapters] if isinstance(adapters, (str, Path)) else list(adapters or ())
        return cls(tuple(stack[:-1]), stack[-1]) if stack else cls()

    @property
    def kind(self) -> str:
        """What is under audit: `adapter` or `model`."""
        return "adapter" if self.audited else "model"


@dataclass(frozen=True)
class SplitRecords:
    """The records of an audit.

    Attributes:
        data: of the original training.
        parts: by split, those that are measured, none empty: `forget`, `retain`, `neighbour`,
            `holdout`.
        canaries: what was planted, where canaries are measured instead of records.
        notes: what the user should know of them.
    """

    data: Records
    parts: Mapping[str, Records]
    canaries: PlantedSplit | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Inputs:
    """What an audit was asked for, read and checked.

    Attributes:
        policy: that of a later verdict, fixed now.
        treatments: of the unlearned state and each reference.
        treatment_options: by name of the treatment.
        passes: names of those beyond the usual one.
        references: models that never saw the records, one by one.
        shadows: models that saw a known part of them, one by one.
        shadow_members: by split, bool [shadows, records]: what each of them saw.
        adapters: on the base.
        records: by split.
        paraphrases: other prompts by record id.
        trigger: what `unlearn poison` planted, where a backdoor is measured.
    """

    policy: FixedPolicy | None
    treatments: Sequence[Treatment]
    treatment_options: Mapping[str, Options]
    passes: Sequence[str]
    references: Sequence[Place]
    shadows: Sequence[Place]
    shadow_members: Mapping[str, BoolArray]
    adapters: AdapterStack
    records: SplitRecords
    paraphrases: Mapping[str, Sequence[str]]
    trigger: Manifest | None = None


def resolve_inputs(options: AuditOptions) -> Inputs:
    """Read and check what an audit was asked for; raises UnlearnError for what cannot be used."""
    policy = None if options.policy is None else FixedPolicy.now(options.policy)
    robustness, passes = options.robustness, options.also
    if policy is not None:
        robustness, passes = policy.adds(robustness, passes)
    treatments = chosen(robustness)
    treatment_options = options_of(options.robustness_options, [each.name for each in treatments])
    references, shadows = _one_by_one(options.references), _one_by_one(options.shadows)
    if options.output is not None:
        check_output(options.output, overwrite=options.overwrite)
    passes = [*passes, *(["truth_ratio"] if options.perturbed is not None else [])]
    check(
        passes,
        paraphrased=options.paraphrases is not None,
        perturbed=options.perturbed is not None,
    )
    adapters = AdapterStack.of(options.adapter)
    records = _split(options, adapters)
    return Inputs(
        policy,
        treatments,
        treatment_options,
        passes,
        references,
        shadows,
        membership(shadows, records.parts, adapters.kind),
        adapters,
        records,
        read_paraphrases(options.paraphrases, records.parts["forget"]),
        None if options.trigger is None else Manifest.read(options.trigger),
    )


def _one_by_one(paths: Sequence[Place]) -> list[Place]:
    """Return models, with those in a folder of several in its place."""
    return [folder for path in paths for folder in reference_folders(path)]


def _split(options: AuditOptions, adapters: AdapterStack) -> SplitRecords:
    """Return the records by split, refusing a holdout that was seen."""
    data = loaded(options.data)
    holdout, retain = options.holdout, options.retain
    canaries = None
    if options.canaries is not None:
        check_alone(options.forget, holdout)
        audited = adapters.audited or options.model
        canaries = split_canaries(options.canaries, audited, data, retain)
        forget_records = canaries.forget
        holdout, retain = canaries.holdout, canaries.retain
    elif options.forget is None:
        raise SelectionError("name the records with --forget, or audit canaries with --canaries")
    else:
        forget_records = data.select(options.forget)
    neighbour = neighbours(options.neighbour, data, forget_records)
    rest, copies = without_copies(data if retain is None else loaded(retain), forget_records)
    parts = {"forget": forget_records, "retain": rest}
    if neighbour is not None:
        parts |= {"retain": rest.without(neighbour), "neighbour": neighbour}
    if holdout is not None:
        parts["holdout"] = loaded(holdout)
    parts = {split: part for split, part in parts.items() if len(part)}
    # both of a pair of canaries are put in the same words, which is no fault of the holdout
    notes = [canaries.note] if canaries else check_overlap(parts, options.strict)
    return SplitRecords(data, parts, canaries, (*copies, *notes))
