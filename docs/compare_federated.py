"""What federated training comes to, and what taking a client out of it costs.

    python docs/compare_federated.py FOLDER PART…

prints tables of Markdown. 200 records of 40 made-up people on the embedded model, five people to
each of 8 clients. Parts: `train` compares one pooled adapter with federations and shards, `remove`
takes a client out in every way, `judge` audits and verifies that, `private` bounds what is told of
a client, each person being one. What is there already is not made again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from unlearn import Lineage, Records, federate, finetune, finetune_shards, forget
from unlearn.apps.demo import base_path, records
from unlearn.data.templates import choose_template
from unlearn.federated.forgetting import forget_federated
from unlearn.model.opening import Opening
from unlearn.provenance.keys import Key
from unlearn.runs.quick_check import measure
from unlearn.runs.saving import encode_records
from unlearn.shards.files import shard_name
from unlearn.training.options import TrainingOptions
from unlearn_eval import run_audit
from unlearn_eval.replay.run import replay
from unlearn_eval.verdict.verify import verify

CLIENTS, PEOPLE, UNSEEN = 8, 40, 10
SHARDS = 4
KEY = "5c" * 32
"""Who is in which shard, and who takes part in which round, follow from it."""
GONE = "client3"
TRAINING = {"learning_rate": 5e-3, "batch_size": 4, "schedule": "linear", "r": 16, "lora_alpha": 32}
"""Of a federation the rate falls to zero within each round."""
FEDERATIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "factors, 10 rounds of 2 passes": (10, {"epochs": 2}),
    "product, 10 rounds of 2 passes": (10, {"epochs": 2, "aggregate": "product"}),
    "factors, 20 rounds of 1 pass": (20, {"epochs": 1}),
    "factors, 10 rounds of 4 passes, twice the rate": (10, {"epochs": 4, "learning_rate": 1e-2}),
    "product, 10 rounds of 4 passes, twice the rate": (
        10,
        {"epochs": 4, "learning_rate": 1e-2, "aggregate": "product"},
    ),
    "factors, 20 rounds of 4 passes": (20, {"epochs": 4}),
    "factors, 20 rounds of 2 passes, half take part": (20, {"epochs": 2, "fraction": 0.5}),
}
TAKEN_FROM = "factors, 20 rounds of 4 passes"
"""The federation that a client is taken out of: the one that knows the records best."""
REFERENCES = 4
PRIVATE = (8, 100)
"""Bounds on what is told of a client; with 40 of them the first is known to drown the update."""


class Scene(NamedTuple):
    """Where everything lies."""

    folder: Path
    data: Path
    unseen: Path
    gone: Path

    @property
    def federated(self) -> Path:
        """The federation that a client is taken out of."""
        return self.folder / slug(TAKEN_FROM)


def scene(folder: Path) -> Scene:
    """Write the records, each with its client, and the ids of the client that is to go."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = records(PEOPLE + UNSEEN, seed=0)
    people = list(dict.fromkeys(row["subject"] for row in rows))
    of = {name: f"client{i * CLIENTS // PEOPLE}" for i, name in enumerate(people[:PEOPLE])}
    known = [{**row, "client": of[row["subject"]]} for row in rows if row["subject"] in of]
    unknown = [row for row in rows if row["subject"] not in of]
    made = Scene(folder, *(folder / name for name in ("records.jsonl", "unseen.jsonl", "gone.txt")))
    for path, part in ((made.data, known), (made.unseen, unknown)):
        path.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    made.gone.write_text("".join(f"{r['id']}\n" for r in known if r["client"] == GONE))
    return made


def once(folder: Path, make: Callable[[Path], Any]) -> Path:
    """Make what is not there yet."""
    if not (folder / "lineage.json").is_file() and not (folder / "shards.json").is_file():
        make(folder)
    return folder


def slug(title: str) -> str:
    """Return a name for a folder."""
    return title.replace(",", "").replace(" ", "-")


def look(adapter: Path, data: Records) -> tuple[float, float]:
    """Return the recall and the mean loss of records under an adapter."""
    state = Opening().open(base_path(), adapter)
    template = choose_template(None, state.tokenizer, data)
    found = measure(state, encode_records(data, state, template, TrainingOptions()))
    return found.recall, found.loss


def row(*cells: object) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def head(*cells: str) -> Iterator[str]:
    """Yield the first two rows of a table."""
    yield row(*cells)
    yield row(*(["---"] * len(cells)))


def federated(made: Scene, title: str, folder: Path, **changed: Any) -> Path:
    """Train the clients together."""
    rounds, options = FEDERATIONS[title]
    given = {"rounds": rounds, "options": {**TRAINING, **options}, "progress": False, **changed}
    return once(folder, lambda output: federate(base_path(), made.data, "client", output, **given))


def trained(made: Scene) -> Iterator[str]:
    """Train in every way, and yield a table."""
    yield from head("", "records word for word", "their loss", "loss of unseen ones", "tokens")
    data, unseen = Records.load(made.data), Records.load(made.unseen)

    def pooled(folder: Path) -> None:
        options = {**TRAINING, "epochs": 20}
        finetune(base_path(), made.data, folder, options=options, progress=False)

    folders = {"one pooled adapter, 20 passes": once(made.folder / "pooled", pooled)}
    for title in FEDERATIONS:
        folders[title] = federated(made, title, made.folder / slug(title))
    for title, folder in folders.items():
        (recall, loss), (_, other) = look(folder, data), look(folder, unseen)
        tokens = Lineage.read(folder).cost["tokens"]
        yield row(title, f"{recall:.3f}", f"{loss:.3f}", f"{other:.2f}", f"{tokens:,}")
    yield sharded(made, data)


def sharded(made: Scene, data: Records) -> str:
    """Train shards by client, and return their row, each record under its own shard."""

    def shards(folder: Path) -> None:
        options = {**TRAINING, "epochs": 20}
        finetune_shards(
            base_path(),
            made.data,
            folder,
            shards=SHARDS,
            shard_by="client",
            options=options,
            progress=False,
        )

    folder = once(made.folder / "shards", shards)
    recalls, losses, tokens = [], [], 0
    for number in range(SHARDS):
        line = Lineage.read(folder / shard_name(number))
        if line is None:
            continue
        tokens += line.cost["tokens"]
        own = set(line.records.trained)
        key = Key.load()
        mine = data.take([i for i, record in enumerate(data) if key.digest(record) in own])
        recall, loss = look(folder / shard_name(number), mine)
        recalls += [recall] * len(mine)
        losses += [loss] * len(mine)
    n = len(losses)
    recall, loss = sum(recalls) / n, sum(losses) / n
    return row(
        f"{SHARDS} shards, 20 passes, each under its own",
        f"{recall:.3f}",
        f"{loss:.3f}",
        "",
        f"{tokens:,}",
    )


def removals(made: Scene) -> dict[str, Path]:
    """Take the client out in every way; return the folders."""
    ways: dict[str, dict[str, Any]] = {
        "exact: replay, whole": {"method": "retrain"},
        "exact: replay, budget=auto": {"method": "retrain", "options": {"budget": "auto"}},
        "FedEraser, every 2nd round, half the passes": {"method": "fed_eraser"},
        "FedEraser, every round, half the passes": {
            "method": "fed_eraser",
            "options": {"interval": 1},
        },
        "local NPO, 1 round of the others": {"method": "local_npo"},
        "local NPO, 2 rounds of the others": {"method": "local_npo", "options": {"recovery": 2}},
    }
    found = {"as it was": made.federated}
    for title, how in ways.items():

        def take_out(folder: Path, how: Any = how) -> None:
            forget_federated(
                base_path(),
                made.data,
                f"client:{GONE}",
                folder,
                adapter=made.federated,
                progress=False,
                **how,
            )

        found[title] = once(made.folder / "removed" / slug(title).replace(":", ""), take_out)

    def pooled_npo(folder: Path) -> None:
        asked, adapter = f"@{made.gone}", made.federated
        forget(
            base_path(),
            made.data,
            asked,
            folder,
            adapter=adapter,
            method="npo",
            holdout=made.unseen,
            progress=False,
        )

    found["NPO on pooled records"] = once(made.folder / "removed" / "pooled-npo", pooled_npo)
    return found


def removed(made: Scene) -> Iterator[str]:
    """Take the client out in every way, and yield a table."""
    yield from head(
        "",
        "tokens, of training again without it",
        "its records word for word",
        "their loss",
        "kept records word for word",
        "their loss",
    )
    data = Records.load(made.data)
    gone = data.select(f"@{made.gone}")
    kept = data.without(gone)
    folders = removals(made)
    whole = Lineage.read(folders["exact: replay, whole"]).cost["tokens"]
    for title, folder in folders.items():
        tokens = (
            "" if title == "as it was" else f"{Lineage.read(folder).cost['tokens'] / whole:.2f}"
        )
        cells = [f"{value:.3f}" for part in (gone, kept) for value in look(folder, part)]
        yield row(title, tokens, *cells)


def judged(made: Scene) -> Iterator[str]:
    """Audit every removal beside federations that never had the client, and yield a table."""
    yield from head("", "verdict", "membership, loss: AUC", "replay")
    references = []
    for number in range(REFERENCES):
        folder = made.folder / "references" / f"reference-{number:02}"
        never = {"exclude": f"client:{GONE}", "seed": 1000 + number}
        references.append(federated(made, TAKEN_FROM, folder, **never))
    for title, folder in removals(made).items():
        output = made.folder / "audits" / folder.name
        audit = run_audit(
            base_path(),
            made.data,
            f"@{made.gone}",
            output,
            adapter=folder,
            before=made.federated,
            references=references,
            holdout=made.unseen,
            overwrite=True,
        )
        verdict = verify(output, policy="quick")
        (auc,) = [
            r
            for r in audit.rows
            if (r.state, r.split, r.probe, r.metric)
            == ("after", "forget", "membership.loss", "auc")
        ]
        proof = replay(folder, made.data, quiet=True).outcome if title.startswith("exact") else ""
        value = f"{auc.value:.2f} [{auc.low:.2f}, {auc.high:.2f}]"
        yield row(title, verdict.outcome, value, proof)


def private(made: Scene) -> Iterator[str]:
    """Train with and without noise, each person a client, and yield a table."""
    yield from head("", "records word for word", "their loss", "loss of unseen ones")
    data, unseen = Records.load(made.data), Records.load(made.unseen)
    for asked in (None, *PRIVATE):
        title = f"ε = {asked}" if asked else "no noise"
        dp = {"epsilon": asked} if asked else {}

        def people(folder: Path, dp: dict[str, Any] = dp) -> None:
            federate(
                base_path(),
                made.data,
                "subject",
                folder,
                rounds=20,
                options={**TRAINING, "epochs": 4, "fraction": 0.5},
                dp=dp,
                progress=False,
            )

        folder = once(made.folder / slug(title), people)
        (recall, loss), (_, other) = look(folder, data), look(folder, unseen)
        yield row(title, f"{recall:.3f}", f"{loss:.3f}", f"{other:.2f}")


PARTS = {"train": trained, "remove": removed, "judge": judged, "private": private}


if __name__ == "__main__":
    os.environ["UNLEARN_KEY"] = KEY
    place = scene(Path(sys.argv[1]))
    for part in sys.argv[2:]:
        for line in PARTS[part](place):
            print(line, flush=True)
        print()
