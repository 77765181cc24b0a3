"""The references of audits: what they are trained on, and what a second run keeps."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from unlearn import Record, Records, finetune
from unlearn.apps.cli import run
from unlearn.errors import OptionError, OutputError, SelectionError, TrainingError, UnlearnError
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage
from unlearn.runs.references import reference_folders, train_references

QUICK = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2}
LORA = {"r": 4, "lora_alpha": 8}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def train(model: Path, data: Path, output: Path, **more: Any) -> list[Path]:
    usual: dict[str, Any] = {"options": QUICK, "lora": LORA, "count": 2}
    return list(train_references(model, data, output, **(usual | more)).folders)


def test_full_references_are_what_finetune_makes(
    tiny_model: Path, adapter: Path, data_file: Path, lineage_key: str, tmp_path: Path
) -> None:
    done = train_references(
        tiny_model, data_file, tmp_path / "refs", forget="r0,r1", like=adapter, count=2, seed=7
    )
    assert [f.name for f in done.folders] == ["reference-00", "reference-01"]
    parent = Lineage.read(adapter)
    assert parent is not None
    for i, folder in enumerate(done.folders):
        line = Lineage.read(folder)
        assert line is not None
        assert (line.seed, line.verb, line.kind) == (7 + i, "references", "adapter")
        assert line.finetuned_with["training"] == parent.finetuned_with["training"]
        assert line.template == parent.template
        assert line.cost["steps"] == 6
        assert len(line.records.trained) == 10
        alone = finetune(
            tiny_model,
            data_file,
            tmp_path / f"alone{i}",
            exclude="r0,r1",
            lora=LORA,
            options={"learning_rate": 1e-2, "max_steps": 6, "batch_size": 4},
            seed=7 + i,
        )
        assert line.records == alone.lineage.records
        ours, theirs = weights(folder), weights(alone.folder)
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name])
    first, second = map(weights, done.folders)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_halves_hold_every_record_in_half_of_them(
    tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    folders = train(tiny_model, data_file, tmp_path / "refs", kind="half", count=4)
    key, records = Key.load(), Records.load(data_file)
    seen = [set(Lineage.read(f).records.trained) for f in folders]  # type: ignore[union-attr]
    for record in records:
        assert sum(key.digest(record) in one for one in seen) == 2
    assert [len(one) for one in seen] == [6] * 4
    for one in seen:  # both records of a person or none
        inside = [key.digest(record) in one for record in records]
        assert inside[::2] == inside[1::2]


def test_a_second_run_keeps_what_is_there_and_trains_the_rest(
    tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "refs"
    one, two = train(tiny_model, data_file, output, forget="r0")
    before = (one / "lineage.json").read_text()
    first, second = weights(one), weights(two)
    for path in two.iterdir():  # as if it had been killed before the second was in place
        path.unlink()
    two.rmdir()
    told: list[Any] = []
    done = train_references(
        tiny_model, data_file, output, forget="r0", options=QUICK, lora=LORA, count=3,
        announce=told.append,
    )  # fmt: skip
    assert done.kept == 1
    assert told[0].steps == 6
    assert (one / "lineage.json").read_text() == before
    assert all(torch.equal(value, weights(one)[name]) for name, value in first.items())
    assert all(torch.equal(value, weights(two)[name]) for name, value in second.items())
    assert train_references(
        tiny_model, data_file, output, forget="r0", options=QUICK, lora=LORA, count=3
    ).kept == 3  # fmt: skip


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"options": QUICK | {"max_steps": 4}}, "another setting"),
        ({"lora": LORA | {"r": 2}}, "another setting"),
        ({"seed": 5}, "another seed"),
        ({"forget": "r1"}, "another records"),
        ({"count": 1}, "one more than --count 1"),
        ({"template": "space"}, "another template"),
    ],
)
def test_references_made_otherwise_are_not_taken_for_these(
    tiny_model: Path, data_file: Path, made: Path, change: dict[str, Any], problem: str
) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=problem):
        train(tiny_model, data_file, made, **({"forget": "r0"} | change))
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def made(tiny_model: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "refs"
    patch = pytest.MonkeyPatch()
    patch.setenv("UNLEARN_KEY", "ab" * 32)
    try:
        train(tiny_model, data_file, folder, forget="r0")
    finally:
        patch.undo()
    return folder


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_KEY", "ab" * 32)


def test_changed_weights_are_not_kept(
    tiny_model: Path, data_file: Path, made: Path, tmp_path: Path
) -> None:
    output = tmp_path / "refs"
    shutil.copytree(made, output)
    file = output / "reference-01" / "adapter_model.safetensors"
    good = file.read_bytes()
    file.write_bytes((output / "reference-00" / file.name).read_bytes())
    with pytest.raises(OutputError, match="weights"):
        train(tiny_model, data_file, output, forget="r0")
    train(tiny_model, data_file, output, forget="r0", overwrite=True)
    assert load_file(file).keys() == weights(made / "reference-01").keys()
    for name, value in weights(made / "reference-01").items():
        assert torch.equal(load_file(file)[name], value)
    assert good != b""


def test_the_seed_of_the_audited_adapter_is_passed_over(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    folders = train(
        tiny_model,
        data_file,
        tmp_path / "r",
        forget="r0",
        like=adapter,
        lora={},
        options={"max_steps": 1},
        seed=0,
    )
    lines = [Lineage.read(folder) for folder in folders]
    assert [line.seed for line in lines if line] == [1, 2]


@pytest.mark.parametrize(
    ("more", "error", "problem"),
    [
        ({}, SelectionError, "--forget"),
        ({"kind": "half", "forget": "r0"}, SelectionError, "no --forget"),
        ({"kind": "third"}, OptionError, "full or half"),
        ({"kind": "half", "count": 3}, OptionError, "odd"),
        ({"forget": "rows:0-11"}, SelectionError, "every record"),
        ({"forget": "r0", "options": {"learning_rat": 1}}, OptionError, "learning_rate"),
        ({"forget": "r0", "options": QUICK | {"sam_rho": 0.1}}, OptionError, "sam_rho"),
        ({"forget": "r0", "jobs": 0}, OptionError, "jobs: .* greater than or equal to 1"),
        ({"forget": "r0", "options": {"micro_batch_size": 3}}, OptionError, "cannot be split"),
    ],
)
def test_bad_input_writes_nothing(
    tiny_model: Path,
    data_file: Path,
    tmp_path: Path,
    more: dict[str, Any],
    error: type[UnlearnError],
    problem: str,
) -> None:
    with pytest.raises(error, match=problem):
        train(tiny_model, data_file, tmp_path / "refs", **more)
    assert not (tmp_path / "refs").exists()


def test_an_endless_loss_is_told_and_what_was_done_before_is_kept(
    tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    train(tiny_model, data_file, tmp_path / "refs", forget="r0", count=1)
    with pytest.raises(TrainingError, match="learning_rate"):
        train(
            tiny_model, data_file, tmp_path / "more", forget="r0",
            options=QUICK | {"learning_rate": 1e30},
        )  # fmt: skip
    assert not list((tmp_path / "more").glob("**/*"))
    assert train(tiny_model, data_file, tmp_path / "refs", forget="r0")


@pytest.mark.slow
def test_killed_in_two_processes_and_gone_on_with_they_are_those_of_one(
    tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "refs"
    words = ["references", "--model", str(tiny_model), "--data", str(data_file), "--forget", "r0"]
    words += ["--output", str(output), "--count", "3", "--jobs", "2"]
    for name, value in {**QUICK, **LORA}.items():
        words += ["-o", f"{name}={value}"]
    with subprocess.Popen([sys.executable, "-m", "unlearn", *words]) as command:
        deadline = time.monotonic() + 120
        while not list(output.glob("reference-*")):
            assert command.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        workers = _children(command.pid)
        command.kill()
    assert len(workers) >= 2
    while any(_alive(pid) for pid in workers):  # nobody waits for what they do: they end, too
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first = next(output.glob("reference-*"))
    before = (first / "lineage.json").read_text()
    told: list[tuple[int, int]] = []
    folders = train(
        tiny_model, data_file, output, forget="r0", count=4, jobs=2,
        progress=lambda *now: told.append(now),
    )  # fmt: skip
    assert (first / "lineage.json").read_text() == before
    assert told[-1][0] == told[-1][1] <= 9
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))
    assert not multiprocessing.active_children()
    alone = train(tiny_model, data_file, tmp_path / "alone", forget="r0", count=4)
    for ours, theirs in zip(folders, alone, strict=True):
        expected = weights(theirs)
        assert weights(ours).keys() == expected.keys()
        assert all(torch.equal(weights(ours)[name], value) for name, value in expected.items())


def _children(parent: int) -> list[int]:
    """Processes that a process started."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in text.split()]


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_worker_of_a_cluster_that_is_killed_costs_its_own_reference(
    tiny_model: Path, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from unlearn.runs import ray_cluster

    monkeypatch.setattr(ray_cluster, "threads_for", lambda _: torch.get_num_threads())
    do = ray_cluster._do

    def killed(work: Any, task: Any, threads: int) -> Any:
        if task.folder.name == "reference-02":
            os.kill(os.getpid(), signal.SIGKILL)
        return do(work, task, threads)

    usual: dict[str, Any] = {"forget": "r0,r1", "count": 3}
    cluster = {**usual, "engine": "ray", "jobs": 2}
    with monkeypatch.context() as patch:
        patch.setattr(ray_cluster, "_do", killed)
        with pytest.raises(TrainingError, match="reference-02: its worker ended unexpectedly"):
            train(tiny_model, data_file, tmp_path / "ray", **cluster)
    whole = reference_folders(tmp_path / "ray")
    assert tmp_path / "ray" / "reference-02" not in whole
    train(tiny_model, data_file, tmp_path / "ray", **cluster)
    train(tiny_model, data_file, tmp_path / "one", **usual)
    for name in ("reference-00", "reference-01", "reference-02"):
        ours, theirs = weights(tmp_path / "ray" / name), weights(tmp_path / "one" / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_another_engine_is_refused(tiny_model: Path, data_file: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="did you mean 'ray'"):
        train(tiny_model, data_file, tmp_path / "none", forget="r0", engine="rai")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_one_process_that_fails_ends_all_with_its_message(
    tiny_model: Path, data_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["references", "--model", str(tiny_model), "--data", str(data_file), "--forget", "r0"]
    words += ["--output", str(tmp_path / "refs"), "--count", "3", "--jobs", "2"]
    assert run([*words, "-o", "max_steps=3", "-o", "learning_rate=1e30"]) == 2
    lines = capfd.readouterr().err.splitlines()
    spared = ("Loading weights", "training: ")  # bars of transformers, and how far it was
    lines = [line for line in lines if line and not line.startswith(spared)]
    assert len(lines) == 1
    assert "lower learning_rate" in lines[0]
    assert not multiprocessing.active_children()
    assert not list((tmp_path / "refs").glob("**/*"))


def test_copies_of_a_forgotten_record_are_not_left_in(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "text": f"the text {i % 5}"} for i in range(6)]
    made = train_references(
        tiny_model,
        Records.from_rows(rows),
        tmp_path / "refs",
        forget="r0",
        count=1,
        options={"max_steps": 1},
    )
    assert "1 more record(s) have the same content" in made.notes[0]
    assert "'r5'" in made.notes[0]
    line = Lineage.read(made.folders[0])
    assert line is not None
    assert len(line.records.trained) == 4
    assert Key.load().digest(Record("", text="the text 0")) not in line.records.trained


def test_folders_of_references_stand_for_what_is_in_them(made: Path, tmp_path: Path) -> None:
    one = made / "reference-00"
    assert reference_folders(made) == [one, made / "reference-01"]
    assert reference_folders(one) == [one]
    assert reference_folders("owner/name") == ["owner/name"]
    assert reference_folders(tmp_path) == [tmp_path]


def test_the_verb(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["references", "--model", str(tiny_model), "--data", str(data_file)]
    words += ["--output", str(tmp_path / "refs"), "--count", "2", "-o", "max_steps=2"]
    assert run(words) == 2
    assert "--kind half" in capfd.readouterr().err
    assert run([*words, "--kind", "half", "--like", str(adapter)]) == 0
    out = capfd.readouterr().out
    assert "2 references are in" in out
    assert "4 steps" in out
    config = json.loads((tmp_path / "refs/reference-01/adapter_config.json").read_text())
    assert config["r"] == 4
    assert run([*words, "--kind", "half", "--like", str(adapter)]) == 0
    assert "2 of 2 are there already" in capfd.readouterr().out


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_what_is_said_of_frozen_blocks_is_said_once(
    tiny_model: Path,
    data_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    jobs: str,
) -> None:
    words = ["references", "--model", str(tiny_model), "--data", str(data_file), "--forget", "r0"]
    words += ["--output", str(tmp_path / "refs"), "--count", "2", "--jobs", jobs]
    words += ["-o", "layers_to_transform=1", "-o", "max_steps=4", "-o", "batch_size=4"]
    assert run(words) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert out.count("the lowest 1 of 2 blocks") == 1
    assert out.count("note: nothing says how the adapter") == 1


@pytest.mark.slow
def test_an_audit_takes_folders_of_references_and_of_shadow_models(
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    holdout_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more: dict[str, Any] = {"options": QUICK | {"max_steps": 2}}
    train(tiny_model, data_file, tmp_path / "full", forget="rows:0-3", **more)
    halves = tmp_path / "halves"
    train(tiny_model, data_file, halves, kind="half", count=4, **more)
    words = ["audit", "--model", str(tiny_model), "--adapter", str(adapter), "--generate", "0"]
    words += ["--data", str(data_file), "--forget", "rows:0-3", "--holdout", str(holdout_file)]
    words += ["--reference", str(tmp_path / "full")]
    out = tmp_path / "audit"
    assert run([*words, "--shadow", str(halves), "--output", str(out)]) == 0
    content = json.loads((out / "audit.json").read_text())
    assert set(content["states"]) == {"after", "reference:0", "reference:1", "base"}
    assert {row["state"] for row in content["rows"]} == set(content["states"])
    rows = {
        row["probe"]: row
        for row in content["rows"]
        if row["state"] == "after" and row["metric"] == "auc"
    }
    lira = rows["membership.lira"]
    assert lira["note"].startswith("from 2 references and 4 shadow models, offline")
    assert rows["membership.rmia"]["params"]["shadows"] == 4
    assert rows["membership.deviation"]["params"] == {"references": 2}
    # half-splits saw some of the records: they cannot pass as references
    capfd.readouterr()
    assert run([*words, "--reference", str(halves), "--output", str(tmp_path / "no")]) == 2
    assert "--shadow" in capfd.readouterr().err
    one = halves / "reference-00"
    told = (one / "lineage.json").read_text()
    shutil.copy(halves / "reference-01" / "lineage.json", one)
    assert run([*words, "--shadow", str(one), "--output", str(tmp_path / "no")]) == 2
    assert "its lineage is of other weights" in capfd.readouterr().err
    (one / "lineage.json").write_text(told)
    monkeypatch.setenv("UNLEARN_KEY", "cd" * 32)
    assert run([*words, "--shadow", str(one), "--output", str(tmp_path / "no")]) == 2
    assert "UNLEARN_KEY" in capfd.readouterr().err
    (one / "lineage.json").unlink()
    assert run([*words, "--shadow", str(one), "--output", str(tmp_path / "no")]) == 2
    assert "no lineage.json" in capfd.readouterr().err
    assert not (tmp_path / "no").exists()
