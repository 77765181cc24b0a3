"""Run probes over model states and lay the results out as a tidy table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearn.data.near_duplicates import near_duplicates
from unlearn.data.records import Records
from unlearn.data.splits import loaded, refuse_shared
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import encode
from unlearn.errors import DataError, OutputError, SelectionError
from unlearn.files import check_output, staged_folder
from unlearn.methods.defaults import trained_with
from unlearn.model.state import ModelState, open_model, resolve_folder, swap_adapters
from unlearn.provenance.lineage import Lineage
from unlearn.runs.references import reference_folders
from unlearn.training.options import USUAL_RATE
from unlearn_eval.audit.canaries import check_alone, split_canaries
from unlearn_eval.audit.lineages import lineages_of
from unlearn_eval.audit.measurement import Look
from unlearn_eval.audit.neighbours import neighbours
from unlearn_eval.audit.preregistration import seen_without
from unlearn_eval.certificate.files import deciding_files
from unlearn_eval.passes import check, plan
from unlearn_eval.passes.base import Material, View
from unlearn_eval.passes.inputs import read_paraphrases, read_perturbed
from unlearn_eval.report import ShownRecord, audit_page, shown_records
from unlearn_eval.results.rows import Audit, AuditRow, audit_rows
from unlearn_eval.results.scores_file import scores_table
from unlearn_eval.results.shadows import Shadows, membership
from unlearn_eval.robustness import chosen
from unlearn_eval.robustness.rows import robustness_rows
from unlearn_eval.robustness.run import Trial, treats
from unlearn_eval.robustness.treatments.options import options_of
from unlearn_eval.robustness.treatments.treated import Setting
from unlearn_eval.scores.cache import Cache, folder_digest, setting
from unlearn_eval.scores.processes import first, together
from unlearn_eval.verdict.preregistered import Fixed

__all__ = ["GENERATED", "Audit", "AuditRow", "audit_rows", "run_audit"]

_SHADOW = "shadow:"

GENERATED = 64
"""Records of each split that every state continues by itself, unless told otherwise."""

# Pairs of near-duplicates that a note names.
_SHOWN = 5


@together
def run_audit(
    model: str | Path,
    data: str | Path | Records,
    forget: str | None = None,
    output: str | Path | None = None,
    *,
    adapter: str | Path | Sequence[str | Path] | None = None,
    before: str | Path | None = None,
    references: Sequence[str | Path] = (),
    shadows: Sequence[str | Path] = (),
    holdout: str | Path | Records | None = None,
    retain: str | Path | Records | None = None,
    canaries: str | Path | None = None,
    template: str | None = None,
    generate: int = GENERATED,
    also: Sequence[str] = (),
    paraphrases: str | Path | Mapping[str, Sequence[str]] | None = None,
    perturbed: str | Path | Mapping[str, Sequence[str]] | None = None,
    neighbour: str | Path | Records | None = None,
    robustness: Sequence[str] = (),
    policy: str | Path | None = None,
    robustness_options: Mapping[str, Mapping[str, Any]] | None = None,
    show_text: bool = False,
    strict: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
    announce: Callable[[str], None] | None = None,
    **opening: Any,
) -> Audit:
    """Measure one unlearned state beside itself before, references and the base.

    Every state is run once: one forward pass over each record serves all likelihood-based probes.
    Some records of each split are also continued by the model itself. Where a launcher
    (`accelerate launch`, `torchrun`) started several processes, all of them must call this: they
    share the records, all return the same, and the first one writes.

    Args:
        model: base model; without `adapter`, the fully fine-tuned, unlearned model.
        data: the records of the original training.
        forget: which of them were taken out (IDS syntax); without it, `canaries`.
        output: folder for `audit.json`, `scores.parquet` and `report.html`; None writes nothing.
        adapter: the unlearned adapter, on top of any others before it.
        before: the adapter (or full model) before unlearning.
        references: adapters (or full models) that never saw the records, or folders of several as
            `unlearn references` makes them.
        shadows: adapters (or full models), or folders of several, whose lineage tells which of the
            records they saw, such as half-splits: LiRA and RMIA compare with them; they are no
            states of the audit.
        holdout: records no state ever saw.
        retain: the records kept, where `data` no longer holds the rest.
        canaries: file of those planted in the adapter, to be measured instead of records: the
            included ones that were taken out (all of them, if nothing was) are the forget split,
            and what the coin left out is the holdout, pair by pair.
        template: how records are written; by default what the lineage says.
        generate: records of each split that every state continues by itself, spread evenly; 0
            for none.
        also: names of passes beyond the one, each at its own cost; see `unlearn attacks`.
        paraphrases: other prompts for `prompt_states`, by record id; or a file with a row (`id`,
            `prompt`) for each.
        perturbed: false answers by record id, or a file of them, for the truth ratio; see
            `unlearn_eval.passes.inputs`.
        neighbour: records about the same people or topics as those taken out, a split of their own:
            a file, or which ones of `data` (IDS syntax).
        robustness: treatments of the unlearned state and of each reference, by name, or `all`; see
            `unlearn_eval.robustness`.
        policy: of a later verdict, by name or file: it is stored with its hash before any score
            exists, and what it declares is measured. Where the cache shows that the unlearned state
            was looked at before, on these records and not by this policy, that is noted too.
        robustness_options: what to set of them, as `{"relearn": {"steps": 20, "seeds": [0, 1]}}`;
            see `unlearn_eval.robustness.treatments.options`.
        show_text: put the text of forget records, their secrets and what the states say into the
            report; otherwise it holds numbers only.
        strict: refuse a holdout that nearly repeats other records, instead of noting it.
        seed: of what passes in `also` draw at random, and of treatments that train.
        overwrite: replace an output folder that is not empty.
        cache: take numbers of states that were run on these records before from the folder
            `cache/scores` of `UNLEARN_HOME`, and keep new ones there.
        progress: called with (records scored or continued, records in all).
        announce: called with what the policy can decide here, before a model is run.
        **opening: `dtype`, `device`, `trust_remote_code`, `load_in_4bit` of `open_model`.

    Returns:
        The audit.

    Raises:
        UnlearnError: for any input that cannot be used; nothing is written then.
    """
    fixed = Fixed.now(policy) if policy is not None else None
    if fixed is not None:
        robustness, also = fixed.adds(robustness, also)
    treatments = chosen(robustness)
    options = options_of(robustness_options or {}, [t.name for t in treatments])
    references, shadows = (
        [one for path in paths for one in reference_folders(path)]
        for paths in (references, shadows)
    )
    if output is not None:
        check_output(output, overwrite=overwrite)
    also = [*also, *(["truth_ratio"] if perturbed is not None else [])]
    check(also, paraphrased=paraphrases is not None, perturbed=perturbed is not None)
    records = loaded(data)
    below, last = _stack(adapter)
    planted = None
    if canaries is not None:
        check_alone(forget, holdout)
        planted = split_canaries(canaries, last or model, records, retain)
        gone, holdout, retain = planted.forget, planted.holdout, planted.retain
    elif forget is None:
        raise SelectionError("name the records with --forget, or audit canaries with --canaries")
    else:
        gone = records.select(forget)
    told = read_paraphrases(paraphrases, gone)
    beside = neighbours(neighbour, records, gone)
    rest = (records if retain is None else loaded(retain)).without(gone)
    split = {"forget": gone, "retain": rest if beside is None else rest.without(beside)}
    if beside is not None:
        split["neighbour"] = beside
    if holdout is not None:
        split["holdout"] = loaded(holdout)
    split = {name: part for name, part in split.items() if len(part)}
    # both of a pair are put in the same words, which is no fault of the holdout
    near = _check_overlap(split, strict) if planted is None else [planted.note]
    member = membership(shadows, split, "adapter" if last else "model")
    state = open_model(model, [*below, *([last] if last else [])], **opening)
    line = Lineage.read(state.adapter or state.folder)
    what = "adapter" if last else "model"
    earlier = None if before is None else Lineage.read(resolve_folder(before, what))
    root = state.base_digest() if last else _base_of(line, earlier)
    told_by = lineages_of(references, split, line, what, root, earlier)
    if fixed is not None:
        fixed = fixed.with_power(split, len(references), told_by.partial)
        if announce is not None:
            announce(fixed.power)
    name = template or (line.template if line else None)
    used = choose_template(name, state.tokenizer, records)
    assumed = [] if name else [f"no lineage names the template: assumed {used.name!r}"]
    examples = {
        key: encode(part, state.tokenizer, used, state.max_length) for key, part in split.items()
    }
    others: dict[str, str | Path] = {} if before is None else {"before": before}
    others |= {f"reference:{i}": path for i, path in enumerate(references)}
    others |= {f"{_SHADOW}{i}": path for i, path in enumerate(shadows)}
    false = read_perturbed(perturbed, split)
    material = Material(split, examples, state.tokenizer, used, state.max_length, seed, told, false)
    passes = plan(also, material)
    unmeasured = {k: why for planned in passes for k, why in planned.unmeasured.items()}
    short = [f"the prompt state {name} was {why}" for name, why in unmeasured.items()]
    stamps = _stamps(state, below, last, others, opening)
    kept = Cache.open(cache)
    rate = trained_with(line).get("learning_rate") or USUAL_RATE
    trial = Trial(treatments, Setting(rate, seed), kept, options)
    further = trial.work(examples) * (1 + len(references))
    further += len(shadows) * sum(map(len, examples.values()))
    states = {key: stamp for key, stamp in stamps.items() if not key.startswith(_SHADOW)}
    chosen_by = None if fixed is None else fixed.policy.sha256
    seen = seen_without(chosen_by, kept, states, examples["forget"])
    fixed = fixed and replace(fixed, seen=seen)
    look = Look(
        examples, state.tokenizer, generate, progress, states, kept, show_text, passes, further
    )
    for view in _visit(state, below, last, others, opening, stamps):
        if view.key.startswith(_SHADOW):
            look.shadow(view)
            continue
        look.at(view)
        if view.state is not None and treats(view.key):
            trial.at(view.key, view.state, examples, look.count, view.stamp)
    kept.trim()
    order = dict.fromkeys(k for k in ("before", "after", *others, "base") if k in look.scores)
    scores = {key: look.scores[key] for key in order}
    measures = {key: look.measures[key] for key in order}
    prompted = {key: look.prompted[key] for key in order if look.prompted[key]}
    subjects = {key: part.subjects for key, part in split.items()}
    compared = Shadows(look.shadows, member) if shadows else None
    result = Audit(
        model=str(model),
        states={key: look.digests[key] for key in order},
        rows=[
            *audit_rows(
                scores,
                subjects,
                measures=measures,
                prompted=prompted,
                shadows=compared,
            ),
            *robustness_rows(trial, scores, subjects),
        ],
        scores=scores,
        measures=measures,
        prompted=prompted,
        treated=trial.scores(),
        shadows=compared,
        training={key: look.training[key] for key in order if key in look.training},
        subjects=subjects,
        said={key: look.said[key] for key in order if key in look.said},
        notes=(*assumed, *near, *short),
        unmeasured=unmeasured,
        files=deciding_files(state.adapter or state.folder),
        records=told_by.records,
        references=told_by.references,
        policy=None if fixed is None else fixed.as_dict(),
        canaries=None if planted is None else planted.as_dict(),
    )
    if output is not None and first():
        texts = shown_records(gone, result.said) if show_text else None
        _write(result, texts, Path(output), overwrite)
    return result


def _visit(
    state: ModelState,
    below: Sequence[str | Path],
    last: str | Path | None,
    others: Mapping[str, str | Path],
    opening: Mapping[str, Any],
    stamps: Mapping[str, str],
) -> Iterator[View]:
    """Open one state after the other, never two models at a time; the base comes last."""

    def view(key: str, opened: ModelState) -> View:
        folder = opened.adapter or opened.folder
        return View(key, opened.model, opened.head, opened.digest(), folder, stamps[key], opened)

    for key, path in others.items():
        other = _open_other(state, below, path, last, opening)
        yield view(key, other)
        if last:
            state = other
    if last and others:
        state = swap_adapters(state, [*below, last])
    yield view("after", state)
    if last:
        with state.reference("base") as (base, head):
            yield View("base", base, head, state.base_digest(), None, stamps["base"])


def _stamps(
    state: ModelState,
    below: Sequence[str | Path],
    last: str | Path | None,
    others: Mapping[str, str | Path],
    opening: Mapping[str, Any],
) -> dict[str, str]:
    """Return a digest of all that decides what each state computes, by its name."""
    form = setting(state, opening)

    def stamp(folders: Sequence[Path]) -> str:
        return json.dumps([form, *map(folder_digest, folders)])

    if not last:
        full = {key: resolve_folder(path, "model") for key, path in others.items()}
        return {key: stamp([path]) for key, path in (full | {"after": state.folder}).items()}
    under = [state.folder, *(resolve_folder(path, "adapter") for path in below)]
    tops = {
        key: resolve_folder(path, "adapter") for key, path in ({**others, "after": last}).items()
    }
    found = {key: stamp([*under, path]) for key, path in tops.items()}
    return found | {"base": stamp([state.folder])}


def _base_of(audited: Lineage | None, before: Lineage | None) -> str | None:
    """Return the digest of the base that a full fine-tune was trained from, where a lineage says.

    What is made of a full fine-tune has that one for its base, not the model that this started at.
    """
    first = [line for line in (audited, before) if line is not None and line.parent is None]
    return first[0].base.digest if first else None


def _stack(
    adapter: str | Path | Sequence[str | Path] | None,
) -> tuple[list[str | Path], str | Path | None]:
    """Split adapters into those below and the one under audit."""
    if adapter is None:
        return [], None
    stack = [adapter] if isinstance(adapter, (str, Path)) else list(adapter)
    return stack[:-1], (stack[-1] if stack else None)


def _open_other(
    state: ModelState,
    below: Sequence[str | Path],
    path: str | Path,
    adapter: str | Path | None,
    opening: Mapping[str, Any],
) -> ModelState:
    """Open another state: other adapters on the same base in memory, or another full model."""
    if adapter is not None:
        return swap_adapters(state, [*below, path])
    other = open_model(path, **opening)
    if other.tokenizer.get_vocab() != state.tokenizer.get_vocab():
        raise DataError(
            f"{path} reads text with another tokenizer than {state.name}: their scores cannot be "
            "compared"
        )
    return other


def _check_overlap(split: Mapping[str, Records], strict: bool) -> list[str]:
    """Refuse a holdout that shares exact copies with the other splits; note what is nearly one."""
    if "holdout" not in split:
        return []
    others = [record for key, part in split.items() if key != "holdout" for record in part]
    refuse_shared(
        split["holdout"],
        others,
        where="--holdout",
        what="record(s) are also in the forget or retain data",
        advice="a holdout must be unseen",
    )
    pairs = near_duplicates(split["holdout"], others)
    if not pairs:
        return []
    nearest: dict[str, str] = {}
    for mine, other, alike in sorted(pairs, key=lambda pair: -pair[2]):
        nearest.setdefault(mine, f"{mine!r} and {other!r} ({alike:.2f})")
    shown = list(nearest.values())[:_SHOWN] + ["…"] * (len(nearest) > _SHOWN)
    note = (
        f"the holdout nearly repeats forget or retain records in {len(nearest)} of its "
        f"{len(split['holdout'])} records: {', '.join(shown)}"
    )
    if strict:
        raise DataError(f"--holdout: {note}; leave these out, or drop --strict to have them noted")
    return [f"{note}; what is alike is partly known to a model that was trained on either"]


def _write(
    result: Audit, texts: Sequence[ShownRecord] | None, folder: Path, overwrite: bool
) -> None:
    """Write `audit.json`, `scores.parquet` and `report.html` together."""
    import pyarrow.parquet as pq

    try:
        text = result.as_json()
    except ValueError as error:
        raise OutputError(f"audit.json would hold a number that JSON has not: {error}") from error
    with staged_folder(folder, overwrite=overwrite) as stage:
        pq.write_table(scores_table(result), stage / "scores.parquet")
        (stage / "audit.json").write_text(text + "\n", encoding="utf-8")
        (stage / "report.html").write_text(audit_page(result, texts), encoding="utf-8")
