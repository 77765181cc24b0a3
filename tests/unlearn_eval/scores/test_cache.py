from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaForCausalLM

from unlearn.data.tokenization import Example, Span
from unlearn.errors import DataError
from unlearn.model.lm_head import Head
from unlearn.provenance.keys import Key, home
from unlearn.provenance.lineage import FILE_NAME
from unlearn_eval import Audit, run_audit
from unlearn_eval.scores.cache import Cache, examples_digest, folder_digest, pack, unpack
from unlearn_eval.scores.token_scores import TokenScores

KEY = Key(b"0123456789abcdef")


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the rows of each forward pass, but for the one that checks a head on opening."""
    rows: list[int] = []
    inner = LlamaForCausalLM.forward

    def watched(self, *args, **inputs):
        rows.append(len(inputs["input_ids"]))
        return inner(self, *args, **inputs)

    with monkeypatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "forward", watched)
        patch.setattr(Head, "_check", lambda *_: None)
        yield rows


@pytest.fixture
def audit(tiny_model, adapter, data_file, holdout_file, lineage_key, monkeypatch):
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)

    def run(**options) -> Audit:
        settings = {"adapter": adapter, "before": adapter, "holdout": holdout_file, "generate": 2}
        return run_audit(tiny_model, data_file, "r0,r1", **(settings | options))

    return run


def numbers(audit: Audit) -> list:
    return [dataclasses.astuple(row) for row in audit.rows]


def test_a_second_audit_of_the_same_states_runs_no_model(audit, monkeypatch):
    with counted(monkeypatch) as rows:
        first = audit(generate=0)
    # before, after and base: one pass over each of twelve records and of eight of the holdout
    assert sum(rows) == 3 * 20
    with counted(monkeypatch) as rows:
        audit()
    assert rows  # the continuations
    with counted(monkeypatch) as rows:
        steps = []
        second = audit(progress=lambda *done: steps.append(done))
    assert rows == []
    assert steps[-1] == (3 * (20 + 6), 3 * (20 + 6))
    assert {(r.state, r.probe) for r in second.rows} >= {("after", "utility.rouge")}
    assert numbers(audit(generate=0)) == numbers(first) == numbers(audit(generate=0, cache=False))
    for state, splits in first.scores.items():
        for split, scores in splits.items():
            assert second.scores[state][split].ids == scores.ids
            np.testing.assert_array_equal(second.scores[state][split].log_prob, scores.log_prob)


def test_text_is_had_by_running_the_forget_records_again(audit, monkeypatch):
    audit()
    with counted(monkeypatch) as rows:
        assert set(audit(show_text=True).said) == {"before", "after", "base"}
    assert max(rows) == 2
    assert audit().said == {}
    for path in (home() / "cache" / "scores").iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert re.fullmatch("[0-9a-f]{64}.npz", path.name)
        with np.load(io.BytesIO(path.read_bytes()[64:]), allow_pickle=False) as arrays:
            assert {values.dtype.kind for values in arrays.values()} <= set("biuf")


def test_a_new_state_is_compared_with_one_that_is_known(audit, adapter, tmp_path, monkeypatch):
    """The first state's hidden states are in no cache: some of its records are run again."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "other"
    shutil.copytree(adapter, folder)
    (folder / FILE_NAME).unlink()
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({k: 0.5 * v for k, v in weights.items()}, folder / "adapter_model.safetensors")
    audit(generate=0)
    with counted(monkeypatch) as rows:
        with_other = audit(generate=0, references=[folder])
    assert sum(rows) == 2 * 20  # the reference, and before for its hidden states
    fresh = audit(generate=0, references=[folder], cache=False)
    for split in ("forget", "retain", "holdout"):
        drift = [a.get("reference:0", split, "utility.drift", "mean") for a in (with_other, fresh)]
        assert drift[0].value == pytest.approx(drift[1].value, rel=1e-4)
        assert drift[0].value > 1e-4
    with counted(monkeypatch) as rows:
        assert numbers(audit(generate=0, references=[folder])) == numbers(with_other)
    assert rows == []
    with counted(monkeypatch) as rows:
        without = audit(generate=0, references=[folder], cache=False, drift=False)
    assert sum(rows) == 4 * 20  # each state once
    assert not [row for row in without.rows if row.probe == "utility.drift"]


class Killed(BaseException):
    """As a signal: nothing catches it."""


@pytest.mark.slow
def test_a_killed_audit_goes_on_where_it_was(audit, monkeypatch, tmp_path):
    options = {"before": None, "generate": 2, "also": ["grad_norm", "recall", "prompt_states"]}
    options["robustness"] = ["relearn", "int8"]
    rows: list[int] = []  # of each forward pass
    finished: list[int] = []  # rows until an entry was whole
    stop_at: list[int] = []
    forward, write = LlamaForCausalLM.forward, Cache.write

    def counting(self, *args, **inputs):
        if stop_at and len(rows) == stop_at[0]:
            raise Killed
        rows.append(len(inputs["input_ids"]))
        return forward(self, *args, **inputs)

    def noting(self, arrays, *facts):
        write(self, arrays, *facts)
        if facts[0] != "first look":  # a note of the policy, made before anything is run
            finished.append(sum(rows))

    monkeypatch.setattr(LlamaForCausalLM, "forward", counting)
    monkeypatch.setattr(Head, "_check", lambda *_: None)
    monkeypatch.setattr(Cache, "write", noting)
    first = audit(**options)
    total, passes = sum(rows), len(rows)
    assert len(set(finished)) == len(finished) > 15  # each entry is of work of its own
    assert finished[-1] == total  # and everything that runs a model ends in one
    for share in (0.3, 0.95):
        monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / f"home{share}"))
        rows.clear(), finished.clear()
        stop_at[:] = [int(share * passes)]
        with pytest.raises(Killed):
            audit(**options)
        done = finished[-1] if finished else 0
        stop_at.clear(), rows.clear()
        assert numbers(audit(**options)) == numbers(first)
        assert sum(rows) == total - done
        rows.clear()
        assert numbers(audit(**options)) == numbers(first)
        assert rows == []


def test_a_treatment_is_kept_by_all_that_decides_what_comes_of_it(audit, monkeypatch):
    options = {"before": None, "generate": 0, "robustness": ["relearn"]}
    audit(**options)
    with counted(monkeypatch) as rows:
        audit(**options)
    assert rows == []
    with counted(monkeypatch) as rows:
        audit(**options, seed=1)  # other records are taught
    assert rows
    with counted(monkeypatch) as rows:
        found = audit(**options, robustness_options={"relearn": {"steps": 3}})
    assert rows
    assert {r.params["steps"] for r in found.rows if "steps" in r.params} == {3}


def test_half_written_files_are_never_read(tmp_path: Path, monkeypatch):
    cache = Cache(tmp_path, KEY)

    def kill(*_):
        raise Killed

    for name in ("replace", "write_bytes"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, kill)
            with pytest.raises(Killed):
                cache.write({"x": np.arange(3)}, name)
        assert cache.read(name) is None
        assert not list(tmp_path.iterdir())
    # what `kill -9` leaves behind
    cache.write({"x": np.arange(3)}, "whole")
    (whole,) = tmp_path.iterdir()
    left = whole.with_name(f".{whole.name}.partial-1")
    whole.rename(left)
    assert cache.read("whole") is None
    cache.trim()
    assert left.exists()  # its writer may live
    os.utime(left, (1e9, 1e9))
    cache.trim()
    assert not left.exists()


@pytest.mark.parametrize("damage", [b"", pytest.param(b"junk", marks=pytest.mark.slow), None])
def test_damaged_files_are_computed_again(audit, monkeypatch, damage):
    first = audit(generate=0)
    for path in (home() / "cache" / "scores").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content) if damage is None else damage)
    with counted(monkeypatch) as rows:
        assert numbers(audit(generate=0)) == numbers(first)
    assert sum(rows) == 3 * 20
    with counted(monkeypatch) as rows:
        audit(generate=0)
    assert rows == []


def test_nothing_is_kept_where_it_is_not_wanted_or_cannot_be(audit, tmp_path, monkeypatch):
    audit(generate=0, cache=False)
    assert not (home() / "cache").exists()
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("UNLEARN_HOME", str(blocked))
    audit(generate=0)


def test_everything_that_changes_the_numbers_changes_the_name(tmp_path: Path, tiny_model):
    example = Example("a", np.arange(4), np.arange(4) > 1, (Span(2, 3, "pin"),), "text")
    others = [
        dataclasses.replace(example, ids=np.array([0, 1, 2, 4])),
        dataclasses.replace(example, target=np.arange(4) > 2),
        dataclasses.replace(example, secrets=()),
        dataclasses.replace(example, target_text="texts"),
    ]
    digests = [examples_digest([e]) for e in (example, *others)]
    digests += [examples_digest([example, example]), examples_digest([])]
    assert len(set(digests)) == len(digests)
    assert examples_digest([dataclasses.replace(example, id="b")]) == digests[0]

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    assert folder_digest(folder) == folder_digest(tiny_model)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert folder_digest(folder) != folder_digest(tiny_model)

    cache = Cache(tmp_path / "kept", KEY)
    cache.write({"x": np.arange(3)}, "fact", 1)
    assert cache.read("fact", 1)["x"].tolist() == [0, 1, 2]
    assert cache.read("fact", 2) is None
    assert Cache(tmp_path / "kept", Key(b"another key of 16")).read("fact", 1) is None
    calls = []
    for _ in range(2):
        cache.get(lambda: calls.append(1) or {"y": np.zeros(1)}, "once")
    assert calls == [1]


def test_a_forged_or_moved_entry_is_not_read(tmp_path: Path):
    cache = Cache(tmp_path, KEY)
    cache.write({"x": np.zeros(2)}, "a")
    (path,) = tmp_path.iterdir()
    cache.write({"x": np.ones(2)}, "b")
    (other,) = set(tmp_path.iterdir()) - {path}
    other.write_bytes(path.read_bytes())
    assert cache.read("b") is None
    assert cache.read("a")["x"].tolist() == [0, 0]


def test_the_oldest_entries_go_first(tmp_path: Path):
    cache = Cache(tmp_path, KEY)
    for i in range(3):
        cache.write({"x": np.zeros(2)}, i)
    size = next(tmp_path.iterdir()).stat().st_size
    for age, i in enumerate((1, 2, 0)):  # entry 1 is the newest
        os.utime(cache._path([i]), (1e9 - age, 1e9 - age))
    cache.trim(2 * size + 1)
    assert [cache.read(i) is None for i in range(3)] == [True, False, False]
    others = {tmp_path / "thesis.npz", tmp_path / ".notes.partial-1"}
    for path in others:
        path.write_text("mine")
        os.utime(path, (1e9, 1e9))
    cache.trim(0)
    assert set(tmp_path.iterdir()) == others


def test_scores_come_back_bit_for_bit_under_the_ids_of_the_caller(make_scores):
    scores = make_scores(
        [[-1.0, -np.inf], [-0.1]],
        text_bytes=[7, 8],
        secret=[0, 1, 0],
        top=[-0.5, -0.25, -0.1],
        sampled={(0.7, 40): [-1.0, -np.inf, -2.0], (1.0, 0): [-1.0, -3.0, -2.0]},
    )
    examples = [
        Example("x", np.arange(3), np.arange(3) > 0),
        Example("y", np.arange(2), np.arange(2) > 0),
    ]
    back = unpack(pack(scores), examples)
    assert isinstance(back, TokenScores)
    assert back.ids == ("x", "y")
    assert back.top is not None
    assert back.top.tolist() == [-0.5, -0.25, -0.1]
    assert dict(back.sampled).keys() == dict(scores.sampled).keys()
    for name, values in pack(scores).items():
        np.testing.assert_array_equal(pack(back)[name], values)
    assert unpack(pack(scores), examples[:1]) is None
    assert unpack(pack(scores), examples[::-1]) is None
    assert unpack({"log_prob": scores.log_prob}, examples) is None


def test_nan_scores_are_errors_that_name_the_record(tiny_model, data_file):
    from unlearn.data.records import Records
    from unlearn.data.templates import Template
    from unlearn.data.tokenization import encode
    from unlearn.model.state import open_model
    from unlearn_eval.scores.model_scores import score_model

    state = open_model(tiny_model)
    examples = encode(Records.load(data_file), state.tokenizer, Template("qa"), 128)
    rare = next(i for i in examples[3].ids if all(i not in e.ids for e in examples[:3]))

    def overflow(module, inputs, output):
        return output.masked_fill((inputs[0] == int(rare))[..., None], float("nan"))

    state.model.get_input_embeddings().register_forward_hook(overflow)
    with pytest.raises(DataError, match="record 'r3', target token"):
        score_model(state.model, state.head, examples[:4])


def test_a_model_whose_index_leads_below_is_never_taken_for_another(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name / "parts").mkdir(parents=True)
        (tmp_path / name / "parts" / "a.safetensors").write_text(name)
        (tmp_path / name / "left.safetensors").write_text("the same")
        (tmp_path / name / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "parts/a.safetensors"}}'
        )
    assert folder_digest(tmp_path / "one") != folder_digest(tmp_path / "other")
