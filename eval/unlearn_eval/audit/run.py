"""Measure a state of a model beside others, and lay the results out as a tidy table."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unlearn.config import called_with
from unlearn.errors import OutputError
from unlearn.files import staged_folder
from unlearn.processes import if_interrupted
from unlearn.provenance.keys import Key
from unlearn.runs.progress import shown
from unlearn_eval.audit.canaries import privacy_rows
from unlearn_eval.audit.inputs import Inputs, resolve_inputs
from unlearn_eval.audit.measurement import Measured, measure
from unlearn_eval.audit.options import GENERATED, AuditOptions
from unlearn_eval.audit.preparation import Preparation, prepare
from unlearn_eval.audit.states import States, open_states
from unlearn_eval.certificate.files import deciding_files
from unlearn_eval.report import ShownRecord, audit_page, shown_records
from unlearn_eval.results.record_names import keyed_text
from unlearn_eval.results.rows import Audit, AuditRow, audit_rows
from unlearn_eval.results.scores_file import scores_table
from unlearn_eval.results.shadows import Shadows
from unlearn_eval.robustness.rows import robustness_rows
from unlearn_eval.scores.processes import first, together
from unlearn_eval.verdict.policy import DEFAULT
from unlearn_eval.verdict.preregistered import FixedPolicy

__all__ = ["GENERATED", "Audit", "AuditRow", "audit_of", "audit_rows", "run_audit"]


@together
def audit_of(options: AuditOptions) -> Audit:
    """Measure one unlearned state beside itself before, references and the base.

    Every state is run once: one forward pass over each record serves all likelihood-based probes.
    Some records of each split are also continued by the model itself. Where a launcher
    (`accelerate launch`, `torchrun`) started several processes, all of them must call this: they
    share the records, all return the same, and the first one writes `audit.json`, `scores.parquet`
    and `report.html`.

    `data`, `holdout`, `retain` and `neighbour` may also be given as records; `paraphrases` and
    `perturbed` as texts by record id; `robustness_options` as
    `{"relearn": {"steps": 20, "seeds": [0, 1]}}`. Before any score exists, the look is noted in the
    log of looks, and a policy is stored with its hash; where the log or the cache shows that the
    unlearned state was looked at before, on these records and not by this policy, that is noted
    too.

    Raises UnlearnError for any input that cannot be used; nothing is written then.
    """
    inputs = resolve_inputs(options)
    states = open_states(options, inputs)
    preparation = prepare(options, inputs, states)
    with (
        shown(options.progress, "scoring", "records") as progress,
        if_interrupted(functools.partial(_what_is_kept, options.cache)),
    ):
        measured = measure(options, states, preparation, progress)
    result = _assembled(options, inputs, states, preparation, measured)
    if options.output is not None and first():
        forget_records = inputs.records.parts["forget"]
        texts = shown_records(forget_records, result.said) if options.show_text else None
        key = None if options.show_ids else Key.load()
        _write(result, texts, options.output, options.overwrite, key)
    return result


def _what_is_kept(cached: bool) -> str:
    """Say what an interruption leaves of an audit."""
    if cached:
        return (
            "what was scored of whole states and splits is taken from the cache by the same command"
        )
    return "the audit begins anew, as there is no cache"


run_audit = called_with(AuditOptions, audit_of, "run_audit")


def _assembled(
    options: AuditOptions,
    inputs: Inputs,
    states: States,
    preparation: Preparation,
    measured: Measured,
) -> Audit:
    """Compute the rows from what was measured, and put everything together."""
    each = measured.states
    scores = {name: state.scores for name, state in each.items()}
    measurements = {name: state.measurements for name, state in each.items()}
    prompted = {name: state.prompted for name, state in each.items() if state.prompted}
    subjects = preparation.material.subjects
    shadows = Shadows(measured.shadows, inputs.shadow_members) if inputs.shadows else None
    rows = audit_rows(scores, subjects, measures=measurements, prompted=prompted, shadows=shadows)
    unmeasured = preparation.unmeasured
    cut = [f"the prompt state {name} was {why}" for name, why in unmeasured.items()]
    policy, canaries = preparation.policy, inputs.records.canaries
    backdoor = preparation.material.backdoor
    audit = Audit(
        model=str(options.model),
        states={name: state.digest for name, state in each.items()},
        rows=[*rows, *robustness_rows(preparation.treatments, scores, subjects)],
        scores=scores,
        measures=measurements,
        prompted=prompted,
        treated=preparation.treatments.scores(),
        shadows=shadows,
        training={name: state.training for name, state in each.items() if state.training},
        subjects=subjects,
        said={name: state.texts for name, state in each.items() if state.texts is not None},
        notes=(*preparation.notes, *inputs.records.notes, *cut),
        unmeasured=unmeasured,
        files=deciding_files(states.folder),
        records=states.lineage_facts.records,
        references=states.lineage_facts.references,
        policy=None if policy is None else policy.as_dict(),
        canaries=None if canaries is None else canaries.as_dict(),
        backdoor=None if backdoor is None else backdoor.as_dict(),
        looks=preparation.looks._asdict(),
    )
    rule = (policy or FixedPolicy.now(DEFAULT)).policy
    more = privacy_rows(audit, rule.tested[0], 1 - rule.alpha)
    said = [f"ε is at least {row.value:.2f}; {row.note}" for row in more if row.value is not None]
    return replace(audit, rows=[*audit.rows, *more], notes=(*audit.notes, *said))


def _write(
    result: Audit,
    texts: Sequence[ShownRecord] | None,
    folder: Path,
    overwrite: bool,
    key: Key | None,
) -> None:
    """Write `audit.json`, `scores.parquet` and `report.html` together; ids under a key if any.

    A page with the text of records calls them by their ids all the same.
    """
    import pyarrow.parquet as pq

    if key is not None:
        ids = {name for parts in result.scores.values() for m in parts.values() for name in m.ids}
        result = replace(result, notes=tuple(keyed_text(note, ids, key) for note in result.notes))
    try:
        text = result.as_json()
    except ValueError as error:
        raise OutputError(f"audit.json would hold a number that JSON has not: {error}") from error
    with staged_folder(folder, overwrite=overwrite) as stage:
        # numbers of single records are for their owner alone, and so are ids, which may be names
        (stage / "scores.parquet").touch(mode=0o600)
        pq.write_table(scores_table(result, key), stage / "scores.parquet")
        (stage / "audit.json").write_text(text + "\n", encoding="utf-8")
        (stage / "report.html").write_text(audit_page(result, texts), encoding="utf-8")
