"""What a user can choose of an audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from unlearn.config import PYTHON_ONLY, Flag, Names, options
from unlearn.model.opening import Opening
from unlearn.provenance.looks import Scope
from unlearn.runs.fields import (
    Adapters,
    Data,
    Holdout,
    Model,
    Overwrite,
    Place,
    Retain,
    Seed,
    Selectors,
    Source,
    Template,
    Watcher,
)
from unlearn_eval.robustness.treatments.options import parse_options

__all__ = ["GENERATED", "AuditOptions"]

GENERATED = 64
"""Records of each split that every state continues by itself, unless told otherwise."""


def _by_treatment(value: Any) -> Any:
    return value if isinstance(value, Mapping) else parse_options(value or ())


@options
class AuditOptions(Opening):
    """Of `run_audit`."""

    model: Model
    data: Data
    forget: Annotated[
        Selectors | None,
        Field(
            description="The records that were taken out, as for `unlearn forget` (repeat for "
            "several)."
        ),
        Flag(("--forget", "-f"), metavar="IDS", kind=list[str]),
    ] = None
    output: Annotated[
        Path | None, Field(description="Folder for the result. Without it nothing is written.")
    ] = None
    _: KW_ONLY
    adapter: Adapters = None
    before: Annotated[
        Place | None, Field(description="The adapter before unlearning."), Flag(metavar="ADAPTER")
    ] = None
    references: Annotated[
        Sequence[Place],
        Field(
            description="An adapter that never saw the records, or a folder of them from `unlearn "
            "references` (repeat for several)."
        ),
        Flag(("--reference",), metavar="ADAPTER|DIR", kind=list[str]),
    ] = ()
    shadows: Annotated[
        Sequence[Place],
        Field(
            description="An adapter whose lineage tells which of the records it saw, or a folder "
            "of them from `unlearn references --kind half` (repeat for several). LiRA and RMIA "
            "compare with them; they are no references."
        ),
        Flag(("--shadow",), metavar="ADAPTER|DIR", kind=list[str]),
    ] = ()
    holdout: Holdout = None
    retain: Retain = None
    canaries: Annotated[
        Place | None,
        Field(
            description="Measure canaries instead of records: ADAPTER.canaries.json, from `unlearn "
            "finetune --canaries`. Those that were taken out (all, if nothing was) stand beside "
            "the other of each pair, which a coin left out of training. The adapter's lineage must "
            "commit to this very file."
        ),
        Flag(metavar="FILE"),
    ] = None
    trigger: Annotated[
        Place | None,
        Field(
            description="Measure a backdoor: manifest.json of `unlearn poison`. Prompts of "
            "--holdout are asked with its trigger and without, and the target's share and loss "
            "told."
        ),
        Flag(metavar="FILE"),
    ] = None
    template: Template = None
    generate: Annotated[
        int,
        Field(
            ge=0,
            description="Records of each split that every state continues by itself (ROUGE, "
            "repetition); 0 for none.",
        ),
    ] = GENERATED
    also: Annotated[
        Names,
        Field(
            description="Passes beyond the usual one, by commas: `unlearn attacks` lists them with "
            "their cost."
        ),
        Flag(metavar="NAMES"),
    ] = ()
    paraphrases: Annotated[
        Place | Mapping[str, Sequence[str]] | None,
        Field(
            description="Other prompts for --also prompt_states: rows with the id of a forget "
            "record and a prompt."
        ),
        Flag(metavar="FILE"),
    ] = None
    perturbed: Annotated[
        Place | Mapping[str, Sequence[str]] | None,
        Field(
            description="False answers, for the truth ratio: rows with the id of a record (or its "
            "question and answer) and perturbed_answer, a list; TOFU's tables fit as they are."
        ),
        Flag(metavar="FILE"),
    ] = None
    neighbour: Annotated[
        Source | None,
        Field(
            description="Records like those to forget that stay (of the same people or topics), to "
            "be looked at by themselves: a file, or which ones of --data."
        ),
        Flag(metavar="FILE|IDS"),
    ] = None
    robustness: Annotated[
        Names,
        Field(
            description="What to do to the model and its references besides, to see whether the "
            "records come back: relearn, benign, int8, int4, nf4, scale, merge_bf16, logit_lens, "
            "or all. Takes time; `unlearn attacks` says what each does."
        ),
        Flag(metavar="NAME[,NAME]"),
    ] = ()
    policy: Annotated[
        Place | None,
        Field(
            description="Fix the policy of a later `unlearn verify` before any score exists: "
            "quick, standard, strict or a YAML file. What it declares is measured too."
        ),
        Flag(metavar="NAME|FILE"),
    ] = None
    robustness_options: Annotated[
        Mapping[str, Mapping[str, Any]],
        BeforeValidator(_by_treatment),
        Field(
            description="Set how that is done (repeat for several): relearn.k=5, relearn.steps=20, "
            "relearn.learning_rate=1e-4, relearn.seeds=0,1,2 (their mean and interval, too), the "
            "same of benign, scale.factors=0,0.5, int4.groups=64,128, logit_lens.blocks=3,5. "
            "`unlearn attacks` lists all with their defaults."
        ),
        Flag(("--robustness-option",), metavar="TREATMENT.OPTION=VALUE", kind=list[str]),
    ] = field(default_factory=dict)
    show_text: Annotated[
        bool,
        Field(
            description="Put the text of the records and what the model says into report.html. "
            "Without it the report holds numbers only."
        ),
    ] = False
    show_ids: Annotated[
        bool,
        Field(
            description="Keep the ids of records in scores.parquet, which may be people's names. "
            "Without it they stand there as names under your key."
        ),
    ] = False
    strict: Annotated[
        bool,
        Field(description="Refuse a holdout that nearly repeats other records, not only copies."),
    ] = False
    cache: Annotated[
        bool,
        Field(
            description="Take numbers of states that were run on these records before from the "
            "toolkit's home (cache/scores, numbers only), and keep new ones there."
        ),
        Flag(("--cache/--no-cache",)),
    ] = True
    seed: Seed = 0
    overwrite: Overwrite = False
    drift: Annotated[
        bool,
        PYTHON_ONLY,
        Field(
            description="Measure how far predictions moved from those of the state before, which "
            "has to be run again for it; verdicts and comparisons do not look at it."
        ),
    ] = True
    scope: Annotated[
        Scope,
        PYTHON_ONLY,
        Field(
            description="What the model is measured for: a deletion request, or a comparison of "
            "methods, whose tries are counted apart."
        ),
    ] = "request"
    progress: Annotated[
        Watcher,
        PYTHON_ONLY,
        Field(
            description="Called with (records scored or continued, records in all). By default a "
            "bar on a terminal, elsewhere some plain lines on stderr; False for nothing."
        ),
    ] = None
    announce: Annotated[
        Callable[[str], None] | None,
        PYTHON_ONLY,
        Field(description="Called with what the policy can decide here, before a model is run."),
    ] = None
