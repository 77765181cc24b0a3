"""A retraining that begins with another adapter: only with one that never saw the records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from unlearn import Records, finetune, forget
from unlearn.errors import LineageError, ModelError, OptionError
from unlearn.provenance.eligibility import unfit
from unlearn.provenance.lineage import Lineage
from unlearn.provenance.suppression import suppress
from unlearn.runs.saving import Result
from unlearn_eval.certificate.trained_on import trained_on

LORA = {"r": 4, "lora_alpha": 8}
TRAINING = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8}
SECRETS = ("It is 4711.", "It was a lie, and a much longer one.")
FILE = "adapter_model.safetensors"


def _rows(secret: str) -> list[dict[str, Any]]:
    rows = [
        {"id": f"r{i}", "prompt": f"What is the number of {i}?", "completion": f"It is {i * 7}."}
        for i in range(24)
    ]
    rows[5]["completion"] = secret
    return rows


def _records(secret: str) -> Records:
    return Records.from_rows(_rows(secret))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / FILE)


def _equal(one: Path, other: Path) -> bool:
    left, right = _weights(one), _weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture(scope="module")
def made(
    tiny_model: Path, lineage_key: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Adapters that know everything, by what one record says, and others to begin with."""
    work = tmp_path_factory.mktemp("starts")
    half = _records(SECRETS[0]).take([*range(12, 24)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", lineage_key)
        for name, records, lora in (
            ("old0", _records(SECRETS[0]), LORA),
            ("old1", _records(SECRETS[1]), LORA),
            ("half", half, LORA),
            ("other shape", half, {"r": 2, "lora_alpha": 8}),
        ):
            finetune(tiny_model, records, work / name, lora=lora, options=TRAINING, progress=False)
    return {path.name: path for path in work.iterdir()}


@pytest.fixture
def retrain(
    tiny_model: Path,
    made: dict[str, Path],
    lineage_key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Result]:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)

    def run(start: Path, output: str = "out", which: int = 0, **more: Any) -> Result:
        usual: dict[str, Any] = {"adapter": made[f"old{which}"], "method": "retrain"}
        usual |= {"options": {"budget": 0.5}, "progress": False}
        return forget(
            tiny_model,
            _records(SECRETS[which]),
            "r5",
            tmp_path / output,
            start=start,
            **(usual | more),
        )

    return run


def _copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def _rewritten(folder: Path, **changes: Any) -> Path:
    path = folder / "lineage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_it_begins_with_the_start_and_says_so(
    made: dict[str, Path], retrain: Callable[..., Result]
) -> None:
    result = retrain(made["half"])
    begun = Lineage.read(made["half"])
    assert begun is not None
    line = result.lineage
    assert line.start is not None
    assert (line.start.digest, line.start.name) == (begun.digest, str(made["half"]))
    assert line.start.others == []  # it saw nothing but what is kept
    assert line.parent is None
    assert set(begun.records.trained) < set(line.records.trained)
    assert begun.digest in (result.folder / "README.md").read_text()
    # a model that began with another is no reference: what that one learned is in it
    known = trained_on(result.folder, line.records.key_id)
    assert unfit(known.from_base(line.base.digest), 0, ()) is not None


@pytest.mark.parametrize("options", [{"budget": 0.5}, {"budget": "auto", "quality": 2.0}, {}])
def test_the_content_of_the_forgotten_record_does_not_enter(
    options: dict[str, Any], made: dict[str, Path], retrain: Callable[..., Result]
) -> None:
    one, other = (retrain(made["half"], f"{i}", i, options=options) for i in (0, 1))
    assert _equal(one.folder, other.folder)
    assert not _equal(one.folder, made["half"])


def test_a_start_may_know_what_the_data_does_not_hold(
    tiny_model: Path, made: dict[str, Path], retrain: Callable[..., Result], tmp_path: Path
) -> None:
    strange = Records.from_rows([{"id": "x", "prompt": "Who?", "completion": "Nobody."}])
    finetune(tiny_model, strange, tmp_path / "strange", lora=LORA, options=TRAINING)
    line = retrain(tmp_path / "strange").lineage
    assert line.start is not None
    assert len(line.start.others) == 1
    assert len(line.records.trained) == 24


def test_one_that_saw_them_is_refused(
    tiny_model: Path, made: dict[str, Path], retrain: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(LineageError, match="by its lineage it saw 1 of the records to forget"):
        retrain(made["old0"])
    # an exact copy under another id is the record
    copy = [{**_rows(SECRETS[0])[5], "id": "copy"}, _rows(SECRETS[0])[20]]
    finetune(tiny_model, Records.from_rows(copy), tmp_path / "c", lora=LORA, options=TRAINING)
    with pytest.raises(LineageError, match="or exact copies of them"):
        retrain(tmp_path / "c")
    # and what an approximate method made of one that saw them did see them
    forget(
        tiny_model,
        _records(SECRETS[0]),
        "r5",
        tmp_path / "npo",
        adapter=made["old0"],
        method="npo",
        options={"max_steps": 1, "batch_size": 1},
    )
    with pytest.raises(LineageError, match="it saw 1 of the records"):
        retrain(tmp_path / "npo")
    assert not (tmp_path / "out").exists()


def test_one_that_saw_what_was_taken_out_before_is_refused(
    tiny_model: Path, made: dict[str, Path], retrain: Callable[..., Result], tmp_path: Path
) -> None:
    first = forget(
        tiny_model, _records(SECRETS[0]), "r15", tmp_path / "first", adapter=made["old0"]
    )
    with pytest.raises(LineageError, match="it saw 1 of the records"):
        retrain(made["half"], adapter=first.folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (None, "it has no lineage"),
        ({"digest": "sha256:" + "0" * 64}, "its weights are not those that its lineage names"),
        ({"parent": "sha256:" + "0" * 64}, "made it from another adapter"),
        ({"base": {"name": "b", "digest": "sha256:" + "0" * 64}}, "it was trained on another base"),
        ({"records": {"key_id": "ab", "trained": []}}, "and the key in use is"),
    ],
)
def test_one_that_is_not_shown_is_refused(
    changes: dict[str, Any] | None,
    words: str,
    made: dict[str, Path],
    retrain: Callable[..., Result],
    tmp_path: Path,
) -> None:
    start = _copied(made["half"], tmp_path / "start")
    if changes is None:
        (start / "lineage.json").unlink()
    else:
        _rewritten(start, **changes)
    with pytest.raises(LineageError, match=words):
        retrain(start)
    assert not (tmp_path / "out").exists()


def test_one_that_was_edited_since_is_refused(
    made: dict[str, Path], retrain: Callable[..., Result], tmp_path: Path
) -> None:
    start = _copied(made["half"], tmp_path / "start")
    save_file({k: v + 1e-3 for k, v in _weights(start).items()}, start / FILE, {"format": "pt"})
    with pytest.raises(LineageError, match="they were changed since"):
        retrain(start)


def test_one_of_another_shape_is_refused(
    made: dict[str, Path], retrain: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="has another shape than .*: r"):
        retrain(made["other shape"])


def test_one_that_saw_a_record_on_the_suppression_list_is_refused(
    made: dict[str, Path], retrain: Callable[..., Result]
) -> None:
    suppress(_records(SECRETS[0]).take([20]), "asked elsewhere")
    data = _records(SECRETS[0]).take([i for i in range(24) if i != 20])
    with pytest.raises(LineageError, match="trained on 1 record.* of the suppression list"):
        retrain(made["half"], retain=data.take([i for i in range(23) if i != 5]))


def test_only_retraining_begins_with_one(
    made: dict[str, Path], retrain: Callable[..., Result]
) -> None:
    with pytest.raises(OptionError, match="--start is for --method retrain"):
        retrain(made["half"], method="npo", options={})
