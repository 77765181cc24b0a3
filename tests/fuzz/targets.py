"""Everything that reads bytes of others: a valid file, and what is done with one like it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unlearn.errors import UnlearnError

from . import mutations
from .mutations import Mutation

__all__ = ["Target", "targets"]


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        name: of what it reads.
        file: that is written anew before each try.
        seed: what a valid one holds.
        read: reads it, and does with it what is done first.
        mutate: changes the content.
        refuses: the errors that it may end in; of others than ours the caller takes care.
    """

    name: str
    file: Path
    seed: bytes
    read: Callable[[], Any]
    mutate: Mutation
    refuses: tuple[type[Exception], ...] = (UnlearnError,)


def targets(work: Path, model: Path, adapter: Path, data: Path, holdout: Path) -> list[Target]:
    """Return all of them, with their files below a folder.

    Args:
        work: empty.
        model: a small model's folder.
        adapter: one on it, with its lineage.
        data: records that it was trained on.
        holdout: others.
    """
    return [
        *_adapters(work / "adapters", model, adapter),
        *_audits(work / "audits", model, adapter, data, holdout),
        *_certificates(work / "certificates"),
        *_records(work / "records", data),
        *_settings(work / "settings"),
        *_home(work / "home", data),
        *_ledgers(work / "ledgers"),
    ]


def _target(file: Path, seed: bytes, read: Callable[[], Any], mutate: Mutation, **more: Any) -> Any:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(seed)
    name = more.pop("name", f"{file.parent.name}/{file.name}")
    return Target(name, file, seed, read, mutate, **more)


def _adapters(work: Path, model: Path, adapter: Path) -> Iterator[Target]:
    """Lineages, configurations, indexes, headers of weights, files of other tools."""
    from unlearn.apps.compare.estimate import _parameters_in
    from unlearn.apps.requests.price import Price
    from unlearn.apps.requests.sweep.merged_weights import unreadable
    from unlearn.methods.defaults import original_training
    from unlearn.model.adapters import check_finite, read_adapter_config
    from unlearn.model.state import open_model
    from unlearn.provenance.digests import folder_digest, weights_digest
    from unlearn.provenance.eligibility import otherwise_trained
    from unlearn.provenance.elsewhere import trained_elsewhere
    from unlearn.provenance.lineage import Lineage

    def copied(name: str) -> Path:
        return Path(shutil.copytree(adapter, work / name))

    def lineage(folder: Path) -> Any:
        line = Lineage.read(folder)
        assert line is not None
        return (
            Price.of(line).words,
            original_training(line, folder),
            otherwise_trained(line, [line]),
        )

    one = copied("lineage")
    seed = (one / "lineage.json").read_bytes()
    yield _target(one / "lineage.json", seed, lambda: lineage(one), mutations.of_json)

    two = copied("config")
    file = two / "adapter_config.json"

    def opened() -> Any:
        read_adapter_config(two)
        return open_model(model, two)

    yield _target(file, file.read_bytes(), opened, mutations.of_json)

    three = copied("weights")
    file = three / "adapter_model.safetensors"

    def weights() -> Any:
        unreadable(file)
        weights_digest(three)
        with file.open("rb") as handle:
            _parameters_in(file, handle.read(8), handle)
        return check_finite(three)

    yield _target(file, file.read_bytes(), weights, mutations.of_bytes)

    four = Path(shutil.copytree(model, work / "index"))
    shard = four / "model-00001-of-00001.safetensors"
    (four / "model.safetensors").rename(shard)
    index = {"metadata": {"total_size": 1}, "weight_map": {"a": shard.name, "b": shard.name}}
    yield _target(
        four / "model.safetensors.index.json",
        json.dumps(index).encode(),
        lambda: folder_digest(four),
        mutations.of_json,
    )
    five = Path(shutil.copytree(model, work / "model"))
    for name in (
        "config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "generation_config.json",
    ):
        if (five / name).is_file():
            seed = (five / name).read_bytes()
            yield _target(five / name, seed, lambda: open_model(five), mutations.of_json)
    state = {
        "epoch": 3.0,
        "max_steps": 30,
        "train_batch_size": 4,
        "log_history": [{"learning_rate": 1e-4, "epoch": 1.0, "loss": 2.0, "step": 10}],
    }
    others = {
        "trainer_state.json": json.dumps(state),
        "trainer_log.jsonl": json.dumps({"lr": 1e-4, "epoch": 1.0}),
        "all_results.json": json.dumps({"epoch": 3.0}),
        "README.md": "---\nlearning_rate: 1e-4\n---\n- num_epochs: 3\n```yaml\nepochs: 3\n```\n",
        "train.yaml": "learning_rate: 1.0e-4\nnum_train_epochs: 3\nlr_scheduler_type: cosine\n",
    }
    for name, text in others.items():
        folder = work / f"elsewhere-{name}"
        mutate = mutations.of_json if name.endswith(".json") else mutations.of_bytes
        yield _target(
            folder / name,
            text.encode(),
            lambda folder=folder: (
                original_training(None, folder).found and trained_elsewhere(folder)
            ),
            mutate,
        )


def _audits(work: Path, model: Path, adapter: Path, data: Path, holdout: Path) -> Iterator[Target]:
    """Audits, their scores, verdicts, replays, twins and canaries."""
    from unlearn.canaries.pairs import Canaries
    from unlearn.data.records import Records
    from unlearn.provenance.keys import Key
    from unlearn_eval import run_audit
    from unlearn_eval.comparison.records import read_records
    from unlearn_eval.results.scores_file import read_scores
    from unlearn_eval.scores.token_scores import TokenScores
    from unlearn_eval.verdict.load import load_audit
    from unlearn_eval.verdict.verify import verify

    first = work / "audit"
    run_audit(
        model,
        data,
        "rows:0-3",
        first,
        adapter=adapter,
        holdout=holdout,
        generate=0,
        show_ids=True,
        progress=False,
    )

    def judged(folder: Path) -> Any:
        return load_audit(folder), verify(folder)

    yield _target(
        first / "audit.json",
        (first / "audit.json").read_bytes(),
        lambda: judged(first),
        mutations.of_json,
    )
    second = Path(shutil.copytree(first, work / "scores"))
    file = second / "scores.parquet"

    def scored() -> Any:
        read_records(file)
        read_scores(file)
        return verify(second)

    yield _target(file, file.read_bytes(), scored, mutations.of_table)

    twins = work / "twins" / "twins.json"
    ids = Records.load(holdout).ids
    content = {"twins": {f"r{i}": [ids[i]] for i in range(4)}, "randomised": True}
    yield _target(
        twins, json.dumps(content).encode(), lambda: verify(first, twins=twins), mutations.of_json
    )
    canaries = work / "canaries" / "a.canaries.json"
    text = Canaries.draw(Records.load(data), 4, Key.load()).text
    yield _target(canaries, text.encode(), lambda: Canaries.read(canaries), mutations.of_json)

    replay = work / "replay" / "replay.json"
    yield _target(
        replay, json.dumps(_REPLAY).encode(), lambda: _by_replay(replay), mutations.of_json
    )
    table = work / "token" / "token-scores.parquet"
    matrix = load_audit(first).scores["after"]["forget"]
    table.parent.mkdir(parents=True)
    matrix.save(table)
    yield _target(table, table.read_bytes(), lambda: TokenScores.load(table), mutations.of_table)


_REPLAY: dict[str, Any] = {
    "schema": 1,
    "created": "2026-03-01T12:00:00+00:00",
    "outcome": "PASS",
    "kind": "exact",
    "findings": [{"what": "weights", "passed": True, "words": "same", "damning": False}],
    "not_looked_at": ["nothing"],
    "adapter": {"weights": "sha256:" + "a" * 64, "lineage": "b" * 64, "files": {}},
    "base": {"weights": "sha256:" + "c" * 64},
    "records": {"key_id": "0" * 12, "trained": 4, "forgotten": ["d" * 64]},
    "environment": {"there": {}, "here": {}, "differ": []},
    "distance": None,
    "cost": {"there": 1.0, "here": 1.0},
    "words": "exact",
}


def _by_replay(file: Path) -> Any:
    from unlearn_eval.verdict.replayed import decided_by_replay

    return decided_by_replay(file, "2026-03-01T12:00:00+00:00").as_dict()


def _certificates(work: Path) -> Iterator[Target]:
    """Certificates, signed and not, their pages, and keys."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from unlearn_eval.certificate import check_certificate, sign
    from unlearn_eval.certificate.keys import load_public_key, load_signing_key, new_signing_key
    from unlearn_eval.report.certificate import certificate_page

    work.mkdir(parents=True)
    key = Ed25519PrivateKey.generate()
    statement = json.loads((Path(__file__).parent / "certificate.json").read_text())

    def signed(rng: Any, data: bytes) -> bytes:
        changed = mutations.of_json(rng, data)
        try:
            return json.dumps(sign(json.loads(changed), key)).encode()
        except (ValueError, RecursionError):
            return changed

    def checked(file: Path) -> Any:
        check = check_certificate(file, key.public_key())
        return check.words, check.statement and certificate_page(check.statement)

    one, two = work / "statement.json", work / "envelope.json"
    envelope = json.dumps(sign(statement, key)).encode()
    seed = json.dumps(statement).encode()
    yield _target(one, seed, lambda: checked(one), signed)
    yield _target(two, envelope, lambda: checked(two), mutations.of_json)
    private = new_signing_key(work / "signing")
    yield _target(
        private, private.read_bytes(), lambda: load_signing_key(private), mutations.of_bytes
    )
    public = private.with_suffix(".pub")
    yield _target(public, public.read_bytes(), lambda: load_public_key(public), mutations.of_bytes)


_CHAT = {
    "id": "c",
    "subject": "ann",
    "messages": [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"type": "function", "id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}
            ],
        },
        {"role": "tool", "content": "2", "tool_call_id": "1"},
        {"role": "assistant", "content": "ho 555", "weight": 1},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "secrets": [{"field": "messages.3.content", "start": 3, "end": 6, "kind": "phone"}],
}


def _records(work: Path, data: Path) -> Iterator[Target]:
    """Records of all kinds, selectors, and rows beside them."""
    from unlearn.apps.requests.sweep.data_files import held
    from unlearn.apps.requests.sweep.matching import Matcher
    from unlearn.data.records import Records
    from unlearn.provenance.keys import Key
    from unlearn_eval.passes.inputs import read_paraphrases, read_perturbed

    known = Records.load(data)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    secret = {"field": "completion", "start": 0, "end": 2, "kind": "phone"}
    rows[0]["secrets"] = [secret]
    lines = "".join(json.dumps(row) + "\n" for row in [*rows[:4], _CHAT, {"id": "t", "text": "b"}])
    sharegpt = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    flat = [{k: v for k, v in row.items() if isinstance(v, str)} for row in rows]
    table = work / "seed.parquet"
    work.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([{**flat[0], "secrets": [secret]}, *flat[1:]]), table)
    text = ",".join(flat[0]) + "\n" + "".join(",".join(map(repr, r.values())) + "\n" for r in flat)
    seeds: list[tuple[str, bytes, Mutation]] = [
        ("rows.jsonl", lines.encode(), mutations.of_lines),
        ("rows.json", json.dumps([*rows[:3], _CHAT]).encode(), mutations.of_json),
        ("chat.jsonl", json.dumps(_CHAT).encode() + b"\n", mutations.of_lines),
        ("share.jsonl", json.dumps(sharegpt).encode() + b"\n", mutations.of_lines),
        ("rows.csv", text.encode(), mutations.of_bytes),
        ("rows.tsv", text.replace(",", "\t").encode(), mutations.of_bytes),
        ("rows.parquet", table.read_bytes(), mutations.of_table),
    ]
    matcher = Matcher([Key.load().digest(r) for r in known], Key.load(), known)
    for name, seed, mutate in seeds:
        one, two = work / "load" / name, work / "sweep" / name
        yield _target(one, seed, lambda one=one: _loaded(one), mutate)
        # what a sweep cannot read is unclear, whatever it ends in
        yield _target(two, seed, lambda two=two: held(two, matcher), mutate, refuses=(Exception,))
    chosen = work / "select" / "chosen.jsonl"
    yield _target(chosen, data.read_bytes(), lambda: known.select(f"@{chosen}"), mutations.of_lines)
    falsely = work / "select" / "false.jsonl"
    seed = json.dumps({"id": "r0", "perturbed_answer": ["It is 1."]}).encode() + b"\n"
    yield _target(
        falsely, seed, lambda: read_perturbed(falsely, {"forget": known}), mutations.of_lines
    )
    other = work / "select" / "other.jsonl"
    seed = json.dumps({"id": "r0", "prompt": "Say?"}).encode() + b"\n"
    yield _target(other, seed, lambda: read_paraphrases(other, known), mutations.of_lines)


def _loaded(file: Path) -> Any:
    """Load records as everything does that trains on them or names them."""
    from unlearn.data.near_duplicates import near_duplicates
    from unlearn.data.records import Records
    from unlearn.provenance.keys import Key

    records = Records.load(file)
    key = Key.load()
    return [key.digest(record) for record in records], near_duplicates(records, records)


_RECIPE = b"kind: forget\nmethod: npo\noptions:\n  epochs: 3\n  learning_rate: 1e-4\n  beta: 0.1\n"


def _settings(work: Path) -> Iterator[Target]:
    """Recipes, policies, memories of comparisons."""
    from unlearn.apps.compare.recipe import CompareRecipe
    from unlearn.apps.compare.tuning.memo import MEMORY, Memo
    from unlearn.recipe import ForgetRecipe, load_recipe, recipe_path
    from unlearn_eval.verdict.decision import load_policy

    compared = recipe_path("compare/demo").read_bytes()
    seeds = {"forget": (ForgetRecipe, _RECIPE), "compare": (CompareRecipe, compared)}
    for name, (kind, seed) in seeds.items():
        file = work / f"{name}.yaml"
        yield _target(
            file,
            seed,
            lambda file=file, kind=kind: load_recipe(str(file), kind),
            mutations.of_bytes,
        )
    policy = work / "policy.yaml"
    seed = recipe_path("policies/standard").read_bytes()
    yield _target(policy, seed, lambda: load_policy(str(policy)), mutations.of_bytes)
    memory = work / MEMORY
    yield _target(
        memory,
        json.dumps({"a" * 64: {"learning_rate": 1e-4}}).encode(),
        lambda: Memo(work).of("x", lambda: 1),
        mutations.of_json,
    )


def _home(work: Path, data: Path) -> Iterator[Target]:
    """What lies in the toolkit's home."""
    from unlearn.data.records import Records
    from unlearn.provenance.keys import Key
    from unlearn.provenance.suppression import check_suppressed, suppress

    key, records = Key.load(), Records.load(data)
    listed = suppress(records.take([0]), "asked for", key)
    seed = listed.read_bytes()

    def suppressed() -> Any:
        try:
            return check_suppressed(records.take([1]), key)
        finally:
            listed.unlink()  # nothing else is to meet it

    listed.unlink()
    yield Target("home/suppressed.jsonl", listed, seed, suppressed, mutations.of_lines)
    secret = work / "key"

    def own_key() -> Any:
        import os

        held = os.environ.pop("UNLEARN_KEY")
        home = os.environ["UNLEARN_HOME"]
        os.environ["UNLEARN_HOME"] = str(work)
        try:
            return Key.load()
        finally:
            os.environ |= {"UNLEARN_KEY": held, "UNLEARN_HOME": home}

    target = _target(secret, b"0123456789abcdef" * 4 + b"\n", own_key, mutations.of_bytes)
    secret.chmod(0o600)
    yield target


def _ledgers(work: Path) -> Iterator[Target]:
    """Rows of a ledger, in whatever table they stand."""
    from unlearn.apps.requests.check import check
    from unlearn.apps.requests.ledger.ledger import Ledger
    from unlearn.provenance.keys import Key

    work.mkdir(parents=True)
    file = work / "ledger.db"
    ledger = Ledger.open(str(file), Key.load())
    with ledger.writing() as writer:
        (name,) = writer.add([{"line": "sha256:" + "0" * 64, "label": "ann"}])
        deposit = ledger.escrow.put(name, {"records": []})
        writer.change(name, "located", escrow=vars(deposit), elsewhere=0)
    seed = file.read_bytes()

    def rows(rng: Any, data: bytes) -> bytes:
        other = work / "other.db"
        other.write_bytes(data)
        with sqlite3.connect(other) as opened:
            _tamper(rng, opened)
        opened.close()
        return other.read_bytes()

    def read() -> Any:
        opened = Ledger.open(str(file), Key.load())
        for request in opened.requests():
            opened.history(request.id)
        return check(opened)

    yield Target("ledger rows", file, seed, read, rows)


def _tamper(rng: Any, opened: sqlite3.Connection) -> None:
    """Put something else into one cell of a database."""
    names = [row[0] for row in opened.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    filled = [n for n in names if opened.execute(f'SELECT count(*) FROM "{n}"').fetchone()[0]]
    table = rng.choice(filled)
    columns = [row[1] for row in opened.execute(f'PRAGMA table_info("{table}")')]
    column = rng.choice(columns)
    rowid, value = rng.choice(opened.execute(f'SELECT rowid, "{column}" FROM "{table}"').fetchall())
    if isinstance(value, str) and rng.random() < 0.7:
        mutate = mutations.of_json if value.startswith(("{", "[")) else mutations.of_bytes
        value = mutate(rng, value.encode()).decode(errors="replace")
    else:
        value = rng.choice((None, 0, -1, 2**62, 1.5, "", "x\u202e", b"\xff", "9" * 5_000))
    try:
        opened.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', (value, rowid))
    except sqlite3.Error:  # a value that the table itself refuses
        opened.rollback()
