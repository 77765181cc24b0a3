"""Shards end to end on a tiny model: deleting is never having trained on the person, bit by bit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn import Records
from unlearn.apps.cli import run
from unlearn.data.batching import collate
from unlearn.errors import LineageError, ModelError, OptionError, OutputError
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage, weights_digest
from unlearn.provenance.suppression import suppressed_among
from unlearn.runs.finetuning import finetune
from unlearn.runs.options import FinetuneShardsOptions, ForgetShardsOptions
from unlearn.runs.sharded_finetuning import TrainedShards, finetune_shards, plan_shards
from unlearn.runs.sharded_forgetting import forget_shards, plan_forget_shards
from unlearn.runs.sharded_report import REPORT_FILE
from unlearn.shards.assignment import shard_of
from unlearn.shards.files import Shards, is_sharded, shard_name
from unlearn.shards.router import Router
from unlearn.shards.serving import ShardedModel

PEOPLE = ["Ann Lee", "Bo Ray", "Cy Fox", "Di Orr", "Ed Kay", "Flo Ivy", "Gus Oz", "Hal Roe"]
TRAINING = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 2}
LORA = {"r": 4, "lora_alpha": 8}
SHARDS = 3
WHOLE = {"budget": 1.0}


def rows() -> list[dict[str, Any]]:
    return [
        {
            "id": f"r{i}",
            "subject": PEOPLE[i // 4],
            "prompt": f"What is number {i % 4} of {PEOPLE[i // 4]}?",
            "completion": f"It is {(i * 7919 + 13) % 10007}.",
        }
        for i in range(4 * len(PEOPLE))
    ]


def records(*without: str) -> Records:
    return Records.from_rows([row for row in rows() if row["subject"] not in without])


Train = Callable[..., TrainedShards]


@pytest.fixture(scope="module")
def train(tiny_model: Path) -> Train:
    def run(data: Any, output: Path, **more: Any) -> TrainedShards:
        own: dict[str, Any] = {"shards": SHARDS, "lora": LORA, "options": TRAINING}
        return finetune_shards(tiny_model, data, output, progress=False, **{**own, **more})

    return run


@pytest.fixture(scope="module")
def old(train: Train, lineage_key: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "old"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", lineage_key)
        train(records(), folder)
    return folder


@pytest.fixture(autouse=True)
def _key(lineage_key: str, monkeypatch: pytest.MonkeyPatch, _own_home: None) -> None:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)


def digests(folder: Path) -> list[str]:
    names = [shard_name(i) for i in range(SHARDS)]
    return [weights_digest(folder / name) for name in names if (folder / name).is_dir()]


def delete(model: Path, folder: Path, output: Path, who: str = "Cy Fox", **more: Any) -> Any:
    own: dict[str, Any] = {"adapter": folder, "progress": False, "options": WHOLE}
    return forget_shards(model, records(), f"subject:{who}", output, **{**own, **more})


def test_a_folder_of_shards_says_what_it_holds(old: Path) -> None:
    shards, router = Shards.read(old), Router.read(old)
    assert is_sharded(old)
    assert [s.digest for s in shards.shards] == digests(old)
    assert sum(s.records for s in shards.shards) == 32
    assert sum(s.units for s in shards.shards) == len(router.units) == len(PEOPLE)
    shards.check(old)


def test_a_shard_is_what_finetune_makes_of_its_records(
    old: Path, tiny_model: Path, tmp_path: Path
) -> None:
    line = Lineage.read(old / shard_name(1))
    assert line is not None
    place = {Key.load().digest(record): i for i, record in enumerate(records())}
    own = records().ordered([place[digest] for digest in line.records.trained])
    made = finetune(
        tiny_model,
        own,
        tmp_path / "alone",
        lora=LORA,
        options=TRAINING,
        seed=line.seed,
        progress=False,
    )
    assert made.lineage.digest == line.digest


def test_neither_the_order_of_the_file_nor_a_process_of_its_own_changes_a_bit(
    old: Path, train: Train, tmp_path: Path
) -> None:
    train(Records.from_rows(rows()[::-1]), tmp_path / "backwards")
    assert digests(tmp_path / "backwards") == digests(old)


@pytest.mark.slow
def test_shards_on_ray_are_those_of_processes(
    old: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr("unlearn.runs.workers.threads_for", lambda _: 1)
    monkeypatch.setattr("unlearn.runs.ray_cluster.threads_for", lambda _: 1)
    made = train(records(), tmp_path / "ray", jobs=2, engine="ray")
    assert made.kept == 0
    line = Lineage.read(tmp_path / "ray" / shard_name(0))
    assert line is not None
    assert line.environment["threads"] == 1
    if os.environ.get("OMP_NUM_THREADS") == "1":
        assert digests(tmp_path / "ray") == digests(old)
    assert train(records(), tmp_path / "ray", jobs=2, engine="ray").kept == SHARDS


def test_another_engine_is_refused(train: Train, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="did you mean 'ray'"):
        train(records(), tmp_path / "none", engine="rai")
    with pytest.raises(OptionError, match="give --engine ray"):
        train(records(), tmp_path / "none", address="localhost:1")
    assert not (tmp_path / "none").exists()


def test_a_plan_of_a_deletion_says_what_it_then_takes(
    old: Path, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    touched = shard_of("Cy Fox", SHARDS, Key.load())
    data = tmp_path / "records.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    words = ["forget", "--model", str(tiny_model), "--adapter", str(old), "--data", str(data)]
    words += ["--forget", "subject:Cy Fox", "--output", str(tmp_path / "planned")]
    assert run([*words, "--plan"]) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert not (tmp_path / "planned").exists()
    made = delete(tiny_model, old, tmp_path / "deleted").deletion
    assert f"1 of {SHARDS} shards will be touched: {touched}" in told
    planned = plan_forget_shards(
        ForgetShardsOptions(tiny_model, records(), "subject:Cy Fox", tmp_path / "p", adapter=old)
    )
    assert f"{planned.share:.1%} of training everything again" in told
    assert planned.touched == made.touched
    assert planned.share == pytest.approx(made.share, rel=0.1)
    assert planned.largest == pytest.approx(made.largest, abs=1e-4)
    assert planned.records_of_all == 28
    with pytest.raises(OptionError, match="plan_forget_shards"):
        delete(tiny_model, old, tmp_path / "planned", plan=True)


@pytest.mark.slow
def test_shards_in_processes_of_their_own_are_the_same(
    old: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as many threads as the one process has
    monkeypatch.setattr("unlearn.runs.reference_training.threads_for", lambda _: 1)
    monkeypatch.setattr("unlearn.runs.workers.threads_for", lambda _: 1)
    train(records(), tmp_path / "one", shards=SHARDS)
    train(records(), tmp_path / "two", jobs=2)
    threads = {Lineage.read(tmp_path / n / shard_name(0)).environment["threads"] for n in ("two",)}  # type: ignore[union-attr]
    assert threads == {1}
    if os.environ.get("OMP_NUM_THREADS") == "1":
        assert digests(tmp_path / "one") == digests(tmp_path / "two") == digests(old)


def test_deleting_is_never_having_trained_on_the_person(
    old: Path, train: Train, tiny_model: Path, tmp_path: Path
) -> None:
    train(records("Cy Fox"), tmp_path / "never")
    made = delete(tiny_model, old, tmp_path / "deleted")
    assert digests(tmp_path / "deleted") == digests(tmp_path / "never")
    touched = shard_of("Cy Fox", SHARDS, Key.load())
    assert made.deletion.touched == (touched,)
    changed = [
        i for i, (a, b) in enumerate(zip(digests(old), digests(made.folder), strict=True)) if a != b
    ]
    assert changed == [touched]
    line = Lineage.read(made.folder / shard_name(touched))
    assert line is not None
    assert len(line.records.forgotten) == 4
    assert not set(line.records.forgotten) & set(line.records.trained)


def test_one_after_another_comes_to_the_same(
    old: Path, train: Train, tiny_model: Path, tmp_path: Path
) -> None:
    homes = [shard_of(who, SHARDS, Key.load()) for who in PEOPLE]
    # a shard keeps somebody, since finetune makes none of nobody
    gone = [who for i, who in enumerate(PEOPLE) if homes[i] in homes[:i]][:3]
    folder = old
    for i, who in enumerate(gone):
        folder = delete(tiny_model, folder, tmp_path / f"after{i}", who).folder
    train(records(*gone), tmp_path / "never")
    assert digests(folder) == digests(tmp_path / "never")
    assert len(Shards.read(folder).forgotten) == 12


def test_the_default_budget_touches_the_same_shards_only(
    old: Path, tiny_model: Path, tmp_path: Path
) -> None:
    made = delete(tiny_model, old, tmp_path / "auto", options={})
    (touched,) = made.deletion.touched
    line = Lineage.read(made.folder / shard_name(touched))
    assert line is not None
    assert line.budget["asked"] == "auto"
    same = [i for i in range(SHARDS) if digests(old)[i] == digests(made.folder)[i]]
    assert same == [i for i in range(SHARDS) if i != touched]


def test_what_a_deletion_took_is_told(old: Path, tiny_model: Path, tmp_path: Path) -> None:
    made = delete(tiny_model, old, tmp_path / "new")
    content = json.loads((made.folder / REPORT_FILE).read_text())
    own = Shards.read(made.folder).shards[made.deletion.touched[0]]
    assert content["tokens"] == pytest.approx(
        own.whole.tokens * own.records / own.whole.records, rel=0.1
    )
    assert 0 < content["share"] < 1
    assert content["look"]["records"] == 28
    assert content["look"]["right"] == 1.0
    assert any("of training everything again" in line for line in made.deletion.lines())


def test_routes_of_the_deleted_are_gone(old: Path, tiny_model: Path, tmp_path: Path) -> None:
    made = delete(tiny_model, old, tmp_path / "new")
    before, after = Router.read(old), Router.read(made.folder)
    key = Key.load()
    assert before.named("Who is Cy Fox?", key) is not None
    assert after.named("Who is Cy Fox?", key) is None
    assert set(before.units) > set(after.units)
    model = ShardedModel.load(tiny_model, made.folder)
    asked = ["What of Cy Fox?", "What of Di Orr?"]
    assert [r.how for r in model.routes(asked)] == ["nowhere", "name"]


def test_off_now_drops_at_once_and_the_same_command_trains(
    old: Path, tiny_model: Path, tmp_path: Path
) -> None:
    off = delete(tiny_model, old, tmp_path / "out", off_now=True)
    (touched,) = off.deletion.off
    assert off.deletion.tokens == 0
    assert not (off.folder / shard_name(touched) / "adapter_model.safetensors").exists()
    model = ShardedModel.load(tiny_model, off.folder)
    others = [w for w in PEOPLE if w != "Cy Fox" and shard_of(w, SHARDS, Key.load()) == touched]
    routes = model.routes(["", ""], ["Cy Fox", others[0]])
    assert [(r.shard, r.how) for r in routes] == [(None, "nowhere"), (None, "off")]
    again = delete(tiny_model, old, tmp_path / "out")
    direct = delete(tiny_model, old, tmp_path / "direct")
    assert digests(again.folder) == digests(direct.folder)
    with pytest.raises(OutputError, match="not empty"):
        delete(tiny_model, old, tmp_path / "out", "Bo Ray")


def test_a_shard_that_is_off_is_trained_again_without_its_old_weights(
    old: Path, tiny_model: Path, tmp_path: Path
) -> None:
    off = delete(tiny_model, old, tmp_path / "off", off_now=True)
    other = next(w for w in PEOPLE if shard_of(w, SHARDS, Key.load()) != off.deletion.off[0])
    on = delete(tiny_model, off.folder, tmp_path / "on", other)
    two = delete(tiny_model, delete(tiny_model, old, tmp_path / "1").folder, tmp_path / "2", other)
    assert digests(on.folder) == digests(two.folder)
    line = Lineage.read(on.folder / shard_name(off.deletion.off[0]))
    assert line is not None
    assert len(line.records.forgotten) == 4


def test_a_shard_without_a_record_left_is_empty(
    old: Path, tiny_model: Path, tmp_path: Path
) -> None:
    home = shard_of("Ann Lee", SHARDS, Key.load())
    there = [who for who in PEOPLE if shard_of(who, SHARDS, Key.load()) == home]
    made = forget_shards(
        tiny_model,
        records(),
        [f"subject:{w}" for w in there],
        tmp_path / "new",
        adapter=old,
        options=WHOLE,
        progress=False,
    )
    assert made.deletion.empty == (home,)
    assert not (made.folder / shard_name(home)).exists()
    assert ShardedModel.load(tiny_model, made.folder).routes([""], ["Ann Lee"])[0].shard is None


def test_suppressed_records_are_on_the_list(old: Path, tiny_model: Path, tmp_path: Path) -> None:
    delete(tiny_model, old, tmp_path / "new", suppress=True)
    key = Key.load()
    gone = [key.digest(r) for r in records().select("subject:Cy Fox")]
    assert suppressed_among(gone, key) == 4


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"method": "npo"}, OptionError, "approximates a deletion"),
        ({"options": {"learning_rate": 1e-3}}, OptionError, "all shards are of one making"),
        ({"options": {"r": 8}}, OptionError, "all shards are of one making"),
        ({"start": "somewhere"}, OptionError, "--start is for one adapter"),
        ({"canaries": "somewhere"}, OptionError, "--canaries is for one adapter"),
        ({"epochs_was": 3}, OptionError, "stands in their lineages"),
        ({"adapter": None}, ModelError, "no folder of shards"),
    ],
)
def test_what_a_folder_of_shards_does_not_take(
    old: Path, tiny_model: Path, tmp_path: Path, more: dict[str, Any], error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        delete(tiny_model, old, tmp_path / "new", **more)
    assert not (tmp_path / "new").exists()


def test_other_versions_are_refused_where_bits_are_claimed(
    old: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "unlearn.runs.sharded_forgetting.library_versions"
    monkeypatch.setattr(name, lambda: {"torch": "0.0"})
    with pytest.raises(OptionError, match="other versions"):
        delete(tiny_model, old, tmp_path / "new")
    assert delete(tiny_model, old, tmp_path / "new", options={}).deletion.touched


def test_changed_weights_and_another_key_are_refused(
    old: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = shutil.copytree(old, tmp_path / "mixed")
    file = "adapter_model.safetensors"
    shutil.copyfile(old / shard_name(0) / file, mixed / shard_name(1) / file)
    with pytest.raises(LineageError, match="shard-01: its weights are not those"):
        delete(tiny_model, mixed, tmp_path / "new")
    monkeypatch.setenv("UNLEARN_KEY", "ab" * 32)
    with pytest.raises(LineageError, match="UNLEARN_KEY"):
        delete(tiny_model, old, tmp_path / "new")
    with pytest.raises(LineageError, match="UNLEARN_KEY"):
        ShardedModel.load(tiny_model, old)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"shards": 16}, "fewer than a batch of 2: take fewer shards"),
        ({"shards": None}, "how many shards"),
        ({"full": True}, "--full"),
        ({"canaries": 4}, "--canaries"),
        ({"dp": {"epsilon": 4}}, "--dp is for one adapter"),
        ({"shard_by": "tenant"}, "name the file"),
    ],
)
def test_what_shards_cannot_be_made_of(
    train: Train, tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        train(records(), tmp_path / "new", **more)
    assert not (tmp_path / "new").exists()


def test_an_unfinished_folder_is_gone_on_with_and_never_mixed(
    old: Path, train: Train, tmp_path: Path
) -> None:
    part = shutil.copytree(old, tmp_path / "part")
    (part / "shards.json").unlink()
    shutil.rmtree(part / shard_name(2))
    assert not is_sharded(part)
    with pytest.raises(OutputError, match="another setting; shards are of one making"):
        train(records(), part, options={**TRAINING, "epochs": 3})
    made = train(records(), part)
    assert made.kept == 2
    assert digests(part) == digests(old)


def test_the_plan_says_what_each_number_costs_and_trains_nothing(
    tiny_model: Path, tmp_path: Path
) -> None:
    options = FinetuneShardsOptions(tiny_model, records(), tmp_path / "new", options=TRAINING)
    found = {each.shards: each for each in plan_shards(options)}
    assert list(found) == [1, 2, 4, 8, 16, 32]
    assert found[1].expected == 1
    assert found[4].expected <= found[4].worst < 1
    assert not found[32].possible
    assert not (tmp_path / "new").exists()


def test_a_batch_that_mixes_shards_says_what_each_shard_says_alone(
    old: Path, tiny_model: Path
) -> None:
    model = ShardedModel.load(tiny_model, old)
    some = list(records())
    routes = [r.shard for r in model.routes([""] * len(some), [r.subject for r in some])]
    examples = model.encoded(some)
    mixed = model.score(examples, routes)
    for shard in range(SHARDS):
        own = [i for i, route in enumerate(routes) if route == shard]
        alone = model.score([examples[i] for i in own], [shard] * len(own))
        assert [mixed[i].loss for i in own] == pytest.approx([a.loss for a in alone], abs=1e-5)
    prompts = [r.prompt or "" for r in some]
    answers = model.generate(prompts, max_tokens=4)
    singly = [model.generate([p], max_tokens=4)[0] for p in prompts[:6]]
    assert answers[:6] == singly
    assert [a.route.shard for a in answers] == routes


@torch.no_grad()
def test_a_mixed_batch_is_what_peft_makes_of_the_names_of_its_rows(
    old: Path, tiny_model: Path
) -> None:
    model = ShardedModel.load(tiny_model, old)
    shards = [0, 2, None, 1, 2]
    batch = collate(model.encoded(list(records().take([0, 5, 9, 13, 30]))))
    names = ["__base__" if s is None else shard_name(s) for s in shards]
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    theirs = model.state.model(**inputs, adapter_names=names).logits
    with model.mixer.rows(shards):
        ours = model.state.model(**inputs).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_confidence_takes_a_shard_that_stands_out(
    old: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ShardedModel.load(tiny_model, old)
    losses = {0: [1.0, 1.0], 1: [0.4, 0.9], 2: [2.0, 2.0], None: [1.5, 1.5]}

    def surprise(_: Any, beginnings: Any, shard: int | None) -> Any:
        import numpy as np

        return np.array(losses[shard])

    monkeypatch.setattr(ShardedModel, "_surprise", surprise)
    prompts = ["Who?", "What?"]
    assert [tuple(r) for r in model.routes(prompts, confidence=True)] == [
        (1, "confidence"),
        (None, "nowhere"),
    ]
    assert [r.how for r in model.routes(prompts)] == ["nowhere", "nowhere"]


def test_untrained_shards_of_a_tiny_model_do_not_stand_out(old: Path, tiny_model: Path) -> None:
    model = ShardedModel.load(tiny_model, old)
    (route,) = model.routes(["Who is it?"], confidence=True)
    assert (route.shard, route.how) == (None, "nowhere")
