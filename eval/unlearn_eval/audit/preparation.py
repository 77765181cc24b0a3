"""Everything of an audit that is settled before its first state is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from unlearn.data.templates import choose_template
from unlearn.data.tokenization import encode
from unlearn.methods.defaults import original_training
from unlearn.provenance.looks import Looks, counted, policy_came_later
from unlearn.training.options import USUAL_RATE
from unlearn_eval.audit.inputs import Inputs
from unlearn_eval.audit.looks import note_of, register_look
from unlearn_eval.audit.options import AuditOptions
from unlearn_eval.audit.preregistration import seen_without
from unlearn_eval.audit.states import States, is_shadow
from unlearn_eval.backdoor.prompts import backdoor_prompts
from unlearn_eval.passes import plan
from unlearn_eval.passes.base import Material, PlannedPass
from unlearn_eval.passes.inputs import read_perturbed
from unlearn_eval.robustness.run import TreatmentRuns
from unlearn_eval.robustness.treatments.treated import Setting
from unlearn_eval.scores.cache import Cache
from unlearn_eval.verdict.policy import DEFAULT
from unlearn_eval.verdict.power import hopeless
from unlearn_eval.verdict.preregistered import FixedPolicy

__all__ = ["Preparation", "material_of", "prepare"]


@dataclass(frozen=True)
class Preparation:
    """Everything that is settled before the first state is run.

    Attributes:
        policy: of a later verdict, with what it can decide here.
        material: the records, as the models read them.
        passes: beyond the usual one.
        treatments: of the unlearned state and each reference.
        stamps: by model, a digest of all that decides what it computes.
        cache: where numbers are kept.
        looks: how many models and sets of references the request was looked at with, this audit
            included; noted before any score exists.
        notes: what the user should know.
    """

    policy: FixedPolicy | None
    material: Material
    passes: Sequence[PlannedPass]
    treatments: TreatmentRuns
    stamps: Mapping[str, str]
    cache: Cache
    looks: Looks
    notes: tuple[str, ...]

    @property
    def state_stamps(self) -> dict[str, str]:
        """The stamps of the states, without models that are compared with only."""
        return {name: stamp for name, stamp in self.stamps.items() if not is_shadow(name)}

    @property
    def unmeasured(self) -> dict[str, str]:
        """By prompt state, which records do not fit in the model's context."""
        return {state: why for each in self.passes for state, why in each.unmeasured.items()}


def prepare(options: AuditOptions, inputs: Inputs, states: States) -> Preparation:
    """Encode the records, plan the passes, and note under which policy they are looked at."""
    policy = _with_power(options, inputs, states)
    material, assumed = material_of(options, inputs, states)
    passes = plan(inputs.passes, material)
    cache = Cache.open(options.cache)
    original = original_training(states.lineage, states.folder)
    rate = original.options.get("learning_rate") or USUAL_RATE
    treatments = TreatmentRuns(
        inputs.treatments, Setting(rate, options.seed), cache, inputs.treatment_options
    )
    stamps = states.stamps()
    digest = None if policy is None else policy.policy.sha256
    history = register_look(states, digest, options.scope)
    preparation = Preparation(
        policy,
        material,
        passes,
        treatments,
        stamps,
        cache,
        counted(history),
        (*states.notes, *assumed, *note_of(history)),
    )
    seen = seen_without(digest, cache, preparation.state_stamps, material.examples["forget"])
    seen = seen or (policy is not None and policy_came_later(history))
    return replace(preparation, policy=policy and replace(policy, seen=seen))


def _with_power(options: AuditOptions, inputs: Inputs, states: States) -> FixedPolicy | None:
    """Return the policy with what it can decide here, and announce that.

    Without one, what the policy could decide by which a later verdict is reached if none is named.
    """
    partial = states.lineage_facts.partial
    looked_at = inputs.policy or FixedPolicy.now(DEFAULT)
    policy = looked_at.with_power(inputs.records.parts, len(inputs.references), partial)
    if options.announce is not None:
        by = "" if inputs.policy else f"a verdict by the policy {DEFAULT!r}: "
        options.announce(f"{by}{policy.power}{_WARNING if hopeless(policy.power) else ''}")
    return policy if inputs.policy else None


_WARNING = "; so a verdict on this audit can only be INCONCLUSIVE, unless records come out"


def material_of(
    options: AuditOptions, inputs: Inputs, states: States
) -> tuple[Material, tuple[str, ...]]:
    """Return the records as the models read them, and whether their template is a guess.

    Args:
        options: of the audit.
        inputs: what it was asked for.
        states: of the audit.

    Returns:
        (the material, what the user should know of the template).

    Raises:
        DataError: for a record that cannot be written or predicted.
        OptionError: if there is no such template.
    """
    state, parts = states.unlearned, inputs.records.parts
    name = options.template or (states.lineage.template if states.lineage else None)
    template = choose_template(name, state.tokenizer, inputs.records.data)
    backdoor = None
    if inputs.trigger is not None:
        backdoor = backdoor_prompts(
            inputs.trigger, parts.get("holdout"), state.tokenizer, template, state.max_length
        )
    material = Material(
        parts,
        {
            key: encode(part, state.tokenizer, template, state.max_length)
            for key, part in parts.items()
        },
        state.tokenizer,
        template,
        state.max_length,
        options.seed,
        inputs.paraphrases,
        read_perturbed(options.perturbed, parts),
        backdoor,
    )
    return material, () if name else (f"no lineage names the template: assumed {template.name!r}",)
