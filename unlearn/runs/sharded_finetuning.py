"""Fine-tune as shards: adapters of which a deletion retrains one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.config import called_with
from unlearn.data.records import Records
from unlearn.data.splits import loaded
from unlearn.data.templates import choose_template
from unlearn.errors import OptionError, OutputError
from unlearn.files import check_output
from unlearn.model.state import ModelState
from unlearn.processes import if_interrupted, world_size
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import FILE_NAME, Base, Lineage, RecordDigests, now
from unlearn.provenance.suppression import check_suppressed
from unlearn.runs.finetuning import without_excluded
from unlearn.runs.options import FinetuneShardsOptions
from unlearn.runs.progress import shown
from unlearn.runs.ray_cluster import check_engine
from unlearn.runs.reference_training import Reference, ReferenceTrainer, plan_of, train_missing
from unlearn.runs.saving import encode_records, encoding_notes
from unlearn.runs.sharded_lineage import write_whole_lineage
from unlearn.shards.assignment import BY_RECORD, Assigned, assigned, shard_seed, units_of
from unlearn.shards.costs import Forecast, forecasts
from unlearn.shards.files import FILE, Cost, Shard, Shards, shard_name
from unlearn.shards.router import ROUTER_FILE, Router
from unlearn.training.options import LoraOptions, TrainingOptions, finetuning_options

__all__ = ["TrainedShards", "finetune_shards", "plan_shards", "run_finetune_shards"]


@dataclass(frozen=True)
class TrainedShards:
    """A folder of shards.

    Attributes:
        folder: where it is.
        shards: what `shards.json` says.
        kept: how many shards were there already.
        notes: what the user should know.
    """

    folder: Path
    shards: Shards
    kept: int = 0
    notes: tuple[str, ...] = ()


def run_finetune_shards(options: FinetuneShardsOptions) -> TrainedShards:
    """Train K adapters, each on the people that the user's key deals to it.

    Each is a plain adapter in a folder of its own, `output/shard-00` …, equal to what `finetune`
    makes of its records in the order of their keyed digests, bit by bit where as many threads
    compute it. Who is in which shard, its seed and its order follow from the key and never from who
    else is there. `shards.json` and the table of routes come last: a folder without them is not
    finished, and the same command goes on with it.

    Raises UnlearnError for any input that cannot be used; nothing is written then.
    """
    count = _checked(options)
    check_engine(options.engine, options.address)
    target = _target(options)
    training, lora = _settings(options)
    key = Key.load()
    records, units, notes = _units(options, key)
    check_suppressed(records, key, advice="leave them out with --exclude")
    dealt = assigned(records, units, count, key)
    _check_sizes(dealt, training, count)
    state = options.open(options.model)
    trainer, facts = _prepared(options, records, state, (training, lora))
    notes += _notes(dealt, options.shard_by) + list(encoding_notes(trainer.examples))
    wanted = _wanted(target, dealt, trainer, facts, options.seed)
    missing = _missing(wanted, overwrite=options.overwrite)
    if options.announce and missing:
        options.announce(plan_of(trainer, missing, options.jobs, tuple(notes), "shards"))
    with (
        shown(options.progress, "training shards") as progress,
        if_interrupted(lambda: "shards that are whole stay, and the same command goes on"),
    ):
        notes += train_missing(
            trainer,
            missing,
            options.jobs,
            progress,
            engine=options.engine,
            address=options.address,
        )
    members = [dealt.members(number) for number in range(count)]
    router = Router.of(members, key, named=options.shard_by != BY_RECORD)
    shards = _written(options, target, facts, router)
    return TrainedShards(target, shards, count - len(missing), tuple(notes))


finetune_shards = called_with(FinetuneShardsOptions, run_finetune_shards, "finetune_shards")


def plan_shards(options: FinetuneShardsOptions) -> list[Forecast]:
    """Return what a deletion would cost with 1 to 32 shards of the data at hand; train nothing.

    Args:
        options: of the run; `shards` need not be set.

    Returns:
        A forecast for each number of shards.
    """
    training, _ = _settings(options)
    key = Key.load()
    records, units, _ = _units(options, key)
    state = options.open(options.model)
    template = choose_template(options.template, state.tokenizer, records)
    lengths: dict[str, list[int]] = {}
    examples = encode_records(records, state, template, training)
    for unit, example in zip(units, examples, strict=True):
        lengths.setdefault(unit, []).append(len(example.ids))
    return forecasts(lengths, training.batch_size, key)


def _checked(options: FinetuneShardsOptions) -> int:
    """Return the number of shards, refusing what goes with one adapter only."""
    if options.shards is None:
        raise OptionError("finetune: how many shards? give --shards, or see --plan")
    if world_size() > 1:
        raise OptionError("shards train in one process: start the command without a launcher")
    if options.full:
        raise OptionError("--shards trains adapters: a whole model a shard is not offered (--full)")
    if options.dp:
        raise OptionError("--dp is for one adapter: shards promise nothing of the kind")
    if options.canaries:
        raise OptionError(
            "--canaries are for one adapter: of shards each deletion is proven by replay instead"
        )
    if options.report_to:
        raise OptionError("--report-to is for one adapter: shards keep no curves")
    return options.shards


def _target(options: FinetuneShardsOptions) -> Path:
    """Return where shards go; what else lies there is not mixed with them."""
    target = check_output(options.output, overwrite=True)
    names = {path.name for path in target.iterdir()} if target.is_dir() else set()
    strange = sorted(n for n in names if not n.startswith(("shard-", ".shard-")))
    strange = [name for name in strange if name not in {FILE, ROUTER_FILE, FILE_NAME}]
    if strange:
        raise OutputError(
            f"--output {options.output} holds {strange[0]}, which is no shard: name another folder"
        )
    return target


def _settings(options: FinetuneShardsOptions) -> tuple[TrainingOptions, LoraOptions]:
    """Return how to train, and the shape."""
    training, lora = finetuning_options(options.options, options.lora, "finetune")
    # a shard is kept when it is done: there is nothing between that could be resumed
    return training.model_copy(update={"save_steps": None}), lora


def _units(options: FinetuneShardsOptions, key: Key) -> tuple[Records, list[str], list[str]]:
    """Return the records to train on, the unit of each, and notes."""
    records = loaded(options.data)
    units = units_of(options.data, records, options.shard_by, key)
    chosen = without_excluded(records, options.exclude, key)
    of = dict(zip(records.ids, units, strict=True))
    return chosen.records, [of[name] for name in chosen.records.ids], [*chosen.notes]


def _check_sizes(dealt: Assigned, training: TrainingOptions, count: int) -> None:
    """Refuse shards that have not so much as a batch of records."""
    sizes = [*map(len, dealt.positions)]
    small = min(range(count), key=sizes.__getitem__)
    if sizes[small] < training.batch_size:
        raise OptionError(
            f"--shards {count}: {shard_name(small)} would have {sizes[small]} record(s), fewer "
            f"than a batch of {training.batch_size}: take fewer shards (--plan shows how many are "
            "possible) or a smaller batch_size"
        )


def _prepared(
    options: FinetuneShardsOptions,
    records: Records,
    base: ModelState,
    settings: tuple[TrainingOptions, LoraOptions],
) -> tuple[ReferenceTrainer, dict[str, Any]]:
    """Return what trains shards, and what all their lineages say."""
    training, lora = settings
    template = choose_template(options.template, base.tokenizer, records)
    examples = encode_records(records, base, template, training)
    shape = lora.model_dump()
    trainer = ReferenceTrainer(
        options.model, options.opening, shape, training, examples, template, base
    )
    facts = {
        "verb": "finetune",
        "base": Base(name=base.name, digest=base.base_digest()),
        "template": template.name,
        "finetuned_with": {"training": training.model_dump(), "lora": shape},
    }
    return trainer, facts


def _wanted(
    target: Path,
    dealt: Assigned,
    trainer: ReferenceTrainer,
    facts: Mapping[str, Any],
    seed: int,
) -> list[Reference]:
    """Return the shards that are asked for."""
    key = Key.load()
    wanted = []
    for number, positions in enumerate(dealt.positions):
        trained = RecordDigests(key_id=key.id, trained=[dealt.digests[p] for p in positions])
        own = {**facts, "seed": shard_seed(seed, number, key), "records": trained}
        own["made_from"] = trainer.made_from(positions, dealt.digests, key)
        wanted.append(Reference(target / shard_name(number), positions, own))
    return wanted


def _missing(wanted: Sequence[Reference], *, overwrite: bool) -> list[Reference]:
    """Return the shards that are not there; refuse to mix them with others."""
    place = wanted[0].folder.parent
    names = {one.folder.name for one in wanted}
    surplus = [path for path in sorted(place.glob("shard-*")) if path.name not in names]
    if surplus:
        raise OutputError(f"{surplus[0]} is one more than --shards {len(wanted)}: delete it")
    missing = []
    for one in wanted:
        problem = one.differs() if one.folder.exists() else "it is not there"
        if problem is not None and one.folder.exists() and not overwrite:
            raise OutputError(
                f"{one.folder} is not the shard asked for: {problem}; shards are of one making: "
                "name another --output, or pass --overwrite to train it again"
            )
        if problem is not None:
            missing.append(one)
    return missing


def _notes(dealt: Assigned, by: str) -> list[str]:
    """Say what the user should know of how records were dealt out."""
    notes = []
    if dealt.repeated:
        notes.append(
            f"{dealt.repeated} record(s) repeat one of their shard: it trains on each content once"
        )
    if by == BY_RECORD:
        notes.append(
            "records are dealt out one by one: whoever has several lies in several shards, and a "
            "deletion of one person touches nearly all of them"
        )
    return notes


def _written(
    options: FinetuneShardsOptions, target: Path, facts: Mapping[str, Any], router: Router
) -> Shards:
    """Write the table of routes and `shards.json`, which makes the folder whole."""
    found = []
    for number in range(options.shards or 0):
        line = Lineage.read(target / shard_name(number))
        assert line is not None
        records = len(line.records.trained)
        whole = Cost(tokens=line.cost["tokens"], seconds=line.cost["seconds"], records=records)
        found.append(
            Shard(
                state="on",
                digest=line.digest,
                seed=line.seed,
                records=records,
                units=router.units_in(number),
                whole=whole,
            )
        )
    shards = Shards(
        schema=1,
        created=now(),
        key_id=router.key_id,
        base=facts["base"],
        by=options.shard_by,
        seed=options.seed,
        template=facts["template"],
        made_with=dict(facts["finetuned_with"]),
        shards=found,
        digest=Shards.of(found),
    )
    router.write(target)
    shards.write(target)
    costs = [shard.whole for shard in found]
    cost = {"tokens": sum(c.tokens for c in costs), "seconds": sum(c.seconds for c in costs)}
    write_whole_lineage(target, shards, "finetune", cost=cost)
    return shards
