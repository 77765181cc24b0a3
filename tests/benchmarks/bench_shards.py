"""What shards keep, and what a deletion from them costs: beside one adapter and the default method.

On the model that comes with the package, 200 records of 40 people are learned by one adapter and by
8 shards of as many tokens. Parts, each of some minutes:

- `learn`: recall and loss of all records, by the route given, by names, by the shards' confidence
  (the names' part of the table left out), and what becomes of prompts about people and things that
  no shard knows;
- `requests`: 20 people, each deleted from the first folder by itself, by the default budget or
  with `--whole` by the whole recipe: tokens and time beside training everything again, and replay;
- `sequence`: 20 people one after another, after 1, 5 and 20 of them recall, cost and, of the whole
  recipe, whether all bits are those of shards that never saw them;
- `single`: the same sequence by one adapter with the default method, after 1 and 5 of them;
- `serving`: time of a forward pass over a batch that mixes all shards, over one adapter's;
- `real`: loss of TOFU's authors by one adapter and by shards of the upper blocks of a real model
  (`--model` its folder, `--tofu` the file `full.json`), and after one author was deleted.

Writes what each part found into a file:
`bench_shards.py FOLDER PART [--whole] [--shards K] [--first N]`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from unlearn import Records, ShardedModel, finetune, finetune_shards, forget, forget_shards
from unlearn.apps.demo import base_path, records
from unlearn.apps.demo.generator import facts
from unlearn.data.batching import collate
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import encode
from unlearn.model.lm_head import hidden_states
from unlearn.model.state import ModelState, open_model
from unlearn.provenance.lineage import weights_digest
from unlearn.runs.quick_check import measure
from unlearn.shards.files import Shards, shard_name
from unlearn_eval.replay.sharded import replay_shards

PEOPLE, REQUESTS = 40, 20
TRAINING = {
    "learning_rate": 5e-3,
    "batch_size": 4,
    "epochs": 20,
    "schedule": "linear",
    "warmup_steps": 10,
}
TEMPLATE = "qa"
AFTER = (1, 5, 20)
REAL_AUTHORS, REAL_RECORDS = 12, 5


def main() -> None:
    """Measure one part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="request to begin with")
    parser.add_argument("--model", help="of the part `real`: folder of a chat model")
    parser.add_argument("--tofu", type=Path, help="of the part `real`: TOFU's full.json")
    args = parser.parse_args()
    # one key for all parts: it decides who is in which shard
    os.environ["UNLEARN_KEY"] = "00112233445566778899aabbccddeeff" * 2
    os.environ["UNLEARN_HOME"] = str(args.folder / "home")
    args.folder.mkdir(parents=True, exist_ok=True)
    data = args.folder / "records.jsonl"
    rows = records(PEOPLE, seed=0)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = PARTS[args.part](args.folder, data, args)
    name = args.part + ("-whole" if args.whole else "")
    text = json.dumps(found, indent=1)
    (args.folder / f"{name}-{args.shards}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def old(folder: Path, data: Path, shards: int) -> Path:
    """Return the folder of shards that knows everybody, trained once."""
    place = folder / f"shards-{shards}"
    finetune_shards(
        base_path(), data, place, shards=shards, options=TRAINING, template=TEMPLATE, progress=False
    )
    return place


def single(folder: Path, data: Path) -> Path:
    """Return the one adapter that knows everybody, trained once."""
    place = folder / "single"
    if not place.exists():
        finetune(base_path(), data, place, options=TRAINING, template=TEMPLATE, progress=False)
    return place


def people(data: Path) -> list[str]:
    """Return the people who ask to be deleted, spread over the file."""
    names = list(dict.fromkeys(str(s) for s in Records.load(data).subjects))
    return names[:: len(names) // REQUESTS][:REQUESTS]


def of_shards(place: Path, kept: Records, base: str | None = None) -> dict[str, float]:
    """Return recall and loss of records under the routes of their subjects."""
    model = ShardedModel.load(base or base_path(), place)
    some = list(kept)
    routes = model.routes([""] * len(some), [record.subject for record in some])
    scored = model.score(model.encoded(some), [route.shard for route in routes])
    return {
        "recall": fmean(each.recalled for each in scored),
        "loss": fmean(each.loss for each in scored),
    }


def of_one(place: Path, kept: Records) -> dict[str, float]:
    """Return recall and loss of records under one adapter."""
    state = open_model(base_path(), place)
    template = choose_template(TEMPLATE, state.tokenizer, kept)
    seen = measure(state, encode(kept, state.tokenizer, template, state.max_length))
    return {"recall": seen.recall, "loss": seen.loss}


def learn(folder: Path, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Compare what is known, and which routes are found."""
    place, everything = old(folder, data, args.shards), Records.load(data)
    shards = Shards.read(place).shards
    found: dict[str, Any] = {
        "one": of_one(single(folder, data), everything),
        "shards": of_shards(place, everything),
        "largest": max(s.records for s in shards) / len(everything),
        "sizes": [s.records for s in shards],
    }
    model = ShardedModel.load(base_path(), place)
    some = list(everything)
    prompts = [str(record.prompt) for record in some]
    own = [route.shard for route in model.routes(prompts, [r.subject for r in some])]
    unknown = {
        "unknown people": [str(row["prompt"]) for row in records(20, seed=5)],
        "general questions": [str(row["prompt"]) for row in facts()],
    }
    found["routes"] = {"by name": _routed(model, prompts, own, confidence=False)}
    for name, asked in unknown.items():
        found["routes"][f"by name, {name}"] = _routed(model, asked, None, confidence=False)
    # without a name in the table only the shards can tell
    model.router = model.router.model_copy(update={"units": {}})
    found["routes"]["by confidence"] = _routed(model, prompts, own, confidence=True)
    for name, asked in unknown.items():
        found["routes"][f"by confidence, {name}"] = _routed(model, asked, None, confidence=True)
    return found


def _routed(
    model: ShardedModel, prompts: list[str], own: list[int | None] | None, *, confidence: bool
) -> dict[str, float]:
    routes = [route.shard for route in model.routes(prompts, confidence=confidence)]
    wanted = own or [None] * len(prompts)
    right = fmean(a == b for a, b in zip(routes, wanted, strict=True))
    return {"n": len(prompts), "right": right, "nowhere": fmean(r is None for r in routes)}


def requests(folder: Path, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Delete people, each from the folder that knows everybody, and replay each deletion."""
    place, rows = old(folder, data, args.shards), []
    for number, who in [*enumerate(people(data))][args.first :]:
        out = folder / f"request-{args.shards}-{args.whole}-{number}"
        made = _delete(place, data, who, out, args)
        result = replay_shards(out, data, quiet=True, model=base_path())
        kept = Records.load(data).without(Records.load(data).select(f"subject:{who}"))
        row = {
            "tokens": made.deletion.share,
            "time": made.deletion.time_share,
            "touched": len(made.deletion.touched),
            "replay": result.outcome,
            "kind": result.kind,
            **of_shards(out, kept),
        }
        rows.append(row)
        print(number, row, flush=True)
    shares = [row["tokens"] for row in rows]
    return {
        "requests": len(rows),
        "replayed": sum(row["replay"] == "PASS" for row in rows),
        "exact": sum(row["kind"] == "exact" for row in rows),
        "tokens": {"mean": fmean(shares), "most": max(shares)},
        "time": fmean(row["time"] for row in rows),
        "recall": {
            "mean": fmean(r["recall"] for r in rows),
            "least": min(r["recall"] for r in rows),
        },
    }


def _delete(place: Path, data: Path, who: str, out: Path, args: argparse.Namespace) -> Any:
    return forget_shards(
        base_path(),
        data,
        f"subject:{who}",
        out,
        adapter=place,
        options={"budget": 1.0} if args.whole else {},
        progress=False,
        overwrite=True,
    )


def sequence(folder: Path, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Delete people one after another."""
    place, everything = old(folder, data, args.shards), Records.load(data)
    gone: list[str] = []
    shares, found = [], {}
    for number, who in enumerate(people(data), start=1):
        out = folder / f"sequence-{args.shards}-{args.whole}-{number}"
        made = _delete(place, data, who, out, args)
        place, gone = out, [*gone, f"subject:{who}"]
        shares.append(made.deletion.share)
        if number in AFTER:
            kept = everything.without(everything.select(gone))
            found[number] = {"cost of each": fmean(shares), "of all": sum(shares)}
            found[number] |= of_shards(place, kept)
            if args.whole:
                found[number]["bits of never"] = _same_as_never(folder, kept, place, args)
            print(number, found[number], flush=True)
    return found


def _same_as_never(folder: Path, kept: Records, place: Path, args: argparse.Namespace) -> str:
    """Train shards that never saw the deleted, and count those with the same bits."""
    never = folder / "never"
    try:
        finetune_shards(
            base_path(),
            kept,
            never,
            shards=args.shards,
            options=TRAINING,
            template=TEMPLATE,
            progress=False,
            overwrite=True,
        )
    except Exception as error:  # a shard that is smaller than a batch is not begun with
        return str(error)
    names = [shard_name(i) for i in range(args.shards)]
    same = sum(weights_digest(never / n) == weights_digest(place / n) for n in names)
    return f"{same} of {len(names)}"


def one_adapter(folder: Path, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Delete people one after another from one adapter, by the default method."""
    place, everything = single(folder, data), Records.load(data)
    gone: list[str] = []
    shares, found = [], {}
    for number, who in enumerate(people(data)[:5], start=1):
        out = folder / f"single-{number}"
        made = forget(
            base_path(),
            data,
            f"subject:{who}",
            out,
            adapter=place,
            progress=False,
            overwrite=True,
        )
        place, gone = out, [*gone, f"subject:{who}"]
        shares.append(made.lineage.budget["cost"]["of_retraining"])
        if number in AFTER:
            kept = everything.without(everything.select(gone))
            found[number] = {"cost of each": fmean(shares), "of all": sum(shares)}
            found[number] |= of_one(place, kept)
            print(number, found[number], flush=True)
    return found


def serving(folder: Path, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Time a batch that mixes all shards beside the same batch under one adapter."""
    model = ShardedModel.load(base_path(), old(folder, data, args.shards))
    examples = model.encoded(list(Records.load(data)))
    one = open_model(base_path(), single(folder, data))
    found = {}
    for rows in (8, 32, 128):
        places = np.linspace(0, len(examples) - 1, rows).astype(int)
        batch = collate([examples[int(i)] for i in places])
        found[rows] = _ratio(*_calls(model, one, batch, args.shards))
    return found


def _calls(model: ShardedModel, one: ModelState, batch: Any, shards: int) -> tuple[Any, Any]:
    """Return what goes through a batch of all shards in turn, and through it by one adapter."""
    turns = [i % shards for i in range(len(batch["input_ids"]))]

    def mixed() -> None:
        with model.mixer.rows(turns):
            hidden_states(model.state.model, batch)

    return mixed, lambda: hidden_states(one.model, batch)


@torch.no_grad()
def _ratio(mixed: Any, plain: Any, rounds: int = 15) -> dict[str, float]:
    """Return the median ratio of the times of two functions, called in turn."""
    mixed(), plain()
    ratios = []
    for _ in range(rounds):
        times = []
        for call in (mixed, plain):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    return {"median": median(ratios), "least": min(ratios), "most": max(ratios)}


def real(folder: Path, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Train one adapter and shards on a real model's upper blocks, and delete an author."""
    file = folder / "authors.jsonl"
    lines = args.tofu.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    chosen = [
        {
            "id": f"{author}-{i}",
            "subject": f"author {author}",
            "prompt": rows[author * 20 + i]["question"],
            "completion": rows[author * 20 + i]["answer"],
        }
        for author in range(REAL_AUTHORS)
        for i in range(REAL_RECORDS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    config = json.loads((Path(args.model) / "config.json").read_text(encoding="utf-8"))
    upper = list(range(config["num_hidden_layers"] - 4, config["num_hidden_layers"]))
    training: dict[str, Any] = {
        "options": {"learning_rate": 1e-3, "batch_size": 4, "epochs": 4},
        "lora": {"r": 16, "lora_alpha": 32, "layers_to_transform": upper},
        "template": "chat",
        "progress": False,
    }
    one, many, left = folder / "real-one", folder / f"real-{args.shards}", folder / "real-left"
    if not one.exists():
        finetune(args.model, file, one, **training)
    made = finetune_shards(args.model, file, many, shards=args.shards, **training)
    gone = "author 3"
    deleted = forget_shards(
        args.model, file, f"subject:{gone}", left, adapter=many, options={"budget": 1.0},
        progress=False, overwrite=True,
    )  # fmt: skip
    state = open_model(args.model, one)
    records = Records.load(file)
    template = choose_template("chat", state.tokenizer, records)
    seen = measure(state, encode(records, state.tokenizer, template, state.max_length))
    kept = records.take([i for i, r in enumerate(records) if r.subject != gone])
    return {
        "records": [shard.records for shard in made.shards.shards],
        "one": {"recall": seen.recall, "loss": seen.loss},
        "shards": of_shards(many, records, args.model),
        "kept after a deletion": of_shards(left, kept, args.model),
        "share": deleted.deletion.share,
    }


PARTS = {
    "learn": learn,
    "requests": requests,
    "sequence": sequence,
    "single": one_adapter,
    "serving": serving,
    "real": real,
}


if __name__ == "__main__":
    main()
