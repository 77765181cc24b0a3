"""What an audit refuses, and what it only notes."""

from __future__ import annotations

import json
import shutil

import pytest

from unlearn.apps.cli import run
from unlearn.errors import DataError, OptionError
from unlearn.provenance.keys import Key
from unlearn_eval import audit_rows, run_audit
from unlearn_eval.results.record_names import keyed_text
from unlearn_eval.scores.token_scores import SAMPLER

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def near(data_file, tmp_path):
    """A holdout with one record that is nearly one to keep, and one that is not."""
    row = json.loads(data_file.read_text().splitlines()[7])
    close = row | {"id": "close", "completion": row["completion"].replace("It is", "it was")}
    far = {"id": "far", "prompt": "Where does the river end?", "completion": "Behind the town."}
    path = tmp_path / "near.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (far, close)))
    return path


def notes_in(folder):
    return json.loads((folder / "audit.json").read_text())["notes"]


def test_a_holdout_that_nearly_repeats_other_records_is_noted(
    tiny_model, data_file, near, tmp_path
):
    given = (tiny_model, data_file, "r0,r1", tmp_path / "out")
    found = run_audit(*given, holdout=near, generate=0)
    (note,) = [n for n in found.notes if "nearly repeats" in n]
    assert "in 1 of its 2 records: 'close' and 'r7' (0." in note
    assert "'far'" not in note
    # in files ids stand under the key, unless they are asked for
    (kept,) = [n for n in notes_in(tmp_path / "out") if "nearly repeats" in n]
    assert kept == keyed_text(note, ["close", "r7"], Key.load())
    assert "'r7'" not in kept
    run_audit(*given, holdout=near, generate=0, show_ids=True, overwrite=True)
    assert note in notes_in(tmp_path / "out")


def test_strict_refuses_it(tiny_model, data_file, holdout_file, near, tmp_path, capfd):
    words = ["audit", "-m", str(tiny_model), "-d", str(data_file), "--forget", "r0,r1", "--strict"]
    words += ["--generate", "0", "--output", str(tmp_path / "out")]
    assert run([*words, "--holdout", str(near)]) == 2
    shown = capfd.readouterr().err
    assert "unlearn: --holdout: the holdout nearly repeats" in shown
    assert "'close' and 'r7'" in shown
    assert not (tmp_path / "out").exists()
    assert run([*words, "--holdout", str(holdout_file)]) == 0


def test_exact_copies_are_refused_either_way(tiny_model, data_file):
    with pytest.raises(DataError, match="12 record.* also in the forget or retain data"):
        run_audit(tiny_model, data_file, "r0", holdout=data_file, generate=0)


def test_another_tokenizer_is_refused(tiny_model, data_file, tmp_path):
    """A full model with other words for the same ids."""
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    table = json.loads((other / "tokenizer.json").read_text())
    words = table["model"]["vocab"]
    first, second = list(words)[5:7]
    words[first], words[second] = words[second], words[first]
    (other / "tokenizer.json").write_text(json.dumps(table))
    for how in ({"before": other}, {"references": [other]}):
        with pytest.raises(DataError, match="another tokenizer.*cannot be compared"):
            run_audit(tiny_model, data_file, "r0", generate=0, **how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"also": ["grad_nrom"]}, "no such pass .did you mean 'grad_norm'"),
        ({"robustness": ["int44"]}, "no treatment 'int44' .did you mean 'int4'"),
        ({"template": "qaa"}, "did you mean 'qa'"),
    ],
)
def test_the_nearest_name_is_suggested(tiny_model, data_file, how, message):
    with pytest.raises(OptionError, match=message):
        run_audit(tiny_model, data_file, "r0", generate=0, **how)


def test_an_unknown_option_is_suggested_too(capfd):
    assert run(["audit", "--robustnes", "all"]) == 2
    assert "--robustness" in capfd.readouterr().err


def test_states_scored_on_different_records_are_refused(make_scores):
    sampled = {SAMPLER: [-1.0, -2.0, -1.0]}
    good = make_scores([[-1.0], [-2.0, -1.0]], ids=("a", "b"), sampled=sampled, text_bytes=[9, 9])
    others = {
        "other ids": (make_scores([[-1.0], [-2.0, -1.0]], ids=("a", "c")), "differs is 'c'"),
        "other tokens": (make_scores([[-1.0], [-2.0]], ids=("a", "b")), "differs is 'b'"),
        "fewer": (good.take([0]), "2 and 1 records"),
    }
    for other, message in others.values():
        with pytest.raises(DataError, match=f"'after' and 'reference:0'.*forget.*{message}"):
            audit_rows({"after": {"forget": good}, "reference:0": {"forget": other}}, {})
    with pytest.raises(DataError, match="different splits .forget; forget, holdout."):
        audit_rows({"after": {"forget": good}, "base": {"forget": good, "holdout": good}}, {})
    assert audit_rows({"after": {"forget": good}, "base": {"forget": good}}, {})
    assert audit_rows({}, {}) == []
