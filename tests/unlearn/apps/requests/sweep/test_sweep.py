"""What descends from records is found wherever it lies, and purged without touching the rest."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from unlearn.apps.requests.sweep.data_files import held, rewrite
from unlearn.apps.requests.sweep.deletion import marks_of
from unlearn.apps.requests.sweep.descent import Family, Node, descendants, node
from unlearn.apps.requests.sweep.findings import Artifact
from unlearn.apps.requests.sweep.matching import Matcher
from unlearn.apps.requests.sweep.merged_weights import likeness
from unlearn.apps.requests.sweep.purge import purge
from unlearn.apps.requests.sweep.sweep import _data, _SweepLog, _walk
from unlearn.data.records import Records
from unlearn.errors import DataError, OutputError
from unlearn.provenance.keys import Key
from unlearn.provenance.lineage import Lineage, weights_digest

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Who is Ann?", "completion": "Ann, of Málaga", "extra": 1},
    {"id": "b", "prompt": "Who is Bob?", "completion": "Bob\u2028of Rome", "extra": 2},
    {"id": "c", "prompt": "Who is Cy?", "completion": 'Cy says "hi",\nand leaves', "extra": 3},
]


@pytest.fixture
def matcher(key: Key) -> Matcher:
    """Recognises record a."""
    gone = Records.from_rows([{k: v for k, v in ROWS[0].items() if k != "extra"}])
    return Matcher([key.digest(gone[0])], key, gone)


def write_csv(path: Path) -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        separator = "\t" if path.suffix == ".tsv" else ","
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS).replace_schema_metadata({"made": "here"})
    pq.write_table(table, path)


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "lines.jsonl": lambda p: p.write_bytes(lines(ROWS).encode()),
    "lines.ndjson": lambda p: p.write_bytes(lines(ROWS).encode()),
    "lines.json": lambda p: p.write_bytes(lines(ROWS).encode()),
    "array.json": lambda p: p.write_text(json.dumps(ROWS, indent=2, ensure_ascii=False)),
    "one_line.json": lambda p: p.write_text(json.dumps(ROWS)),
    "inside.json": lambda p: p.write_text(json.dumps({"data": ROWS, "version": 1})),
    "table.csv": write_csv,
    "table.tsv": write_csv,
    "table.parquet": write_parquet,
    "saved": lambda p: datasets.Dataset.from_list(ROWS).save_to_disk(str(p)),
    "dict": lambda p: datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[1:])}
    ).save_to_disk(str(p)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_data_file_loses_the_record_and_keeps_the_rest(
    name: str, matcher: Matcher, tmp_path: Path
) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    if path.is_file():
        path.chmod(0o640)
    assert held(path, matcher) == 1
    kept = 4 if name == "dict" else 2
    assert rewrite(path, matcher) == (1, kept)
    assert held(path, matcher) == 0
    assert list(tmp_path.iterdir()) == [path]
    if path.is_file():
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    if name.startswith("lines"):
        assert path.read_bytes() == lines(ROWS[1:]).encode()
    elif name in {"array.json", "one_line.json"}:
        assert json.loads(path.read_text()) == ROWS[1:]
    elif name == "inside.json":
        assert json.loads(path.read_text()) == {"data": ROWS[1:], "version": 1}
    elif name.startswith("table.") and name != "table.parquet":
        whole = tmp_path / f"whole{path.suffix}"
        write_csv(whole)
        first, second = whole.read_bytes().split(b"\r\n", 2)[:2]
        assert path.read_bytes() == whole.read_bytes().replace(second + b"\r\n", b"")
        assert path.read_bytes().startswith(first)
    elif name == "table.parquet":
        assert pq.read_table(path).to_pylist() == ROWS[1:]
        assert pq.read_schema(path).metadata[b"made"] == b"here"
    elif name == "saved":
        assert datasets.load_from_disk(str(path)).to_list() == ROWS[1:]
    else:
        found = datasets.load_from_disk(str(path))
        assert {split: part.to_list() for split, part in found.items()} == {
            "train": ROWS[1:],
            "test": ROWS[1:],
        }


def test_a_record_is_recognised_by_digest_and_by_text(matcher: Matcher, key: Key) -> None:
    assert matcher.row({"question": "Who is Ann?", "answer": "Ann, of Málaga"})  # other columns
    assert matcher.row({"a": ["x", {"b": "Q: Who is Ann? A: Ann, of Ma\u0301laga."}]})
    assert not matcher.row({"prompt": "Who is Ann?", "completion": "nobody"})
    assert matcher.text("… Who is Ann? …\nAnn, of Málaga")
    for told in (
        json.dumps(ROWS[0]),
        json.dumps(json.dumps(ROWS[0])),
        "<p>Who is Ann?</p><p>Ann, of M&aacute;laga</p>",
        "<p>Who is Ann?</p><p>Ann, of M&#225;laga</p>",
        r"prompt: Who is Ann?" + "\n" + r'completion: "Ann, of M\xe1laga"',
    ):
        assert matcher.text(told)
        assert matcher.row({"log": told})
        assert not matcher.text(told.replace("Ann", "Bob"))
    cy = Matcher([], key, Records.from_rows([{"prompt": 'Is "it"?', "completion": "it's 🙂"}]))
    for told in (
        json.dumps({"prompt": 'Is "it"?', "completion": "it's 🙂"}),
        "Is &quot;it&quot;? it&#x27;s 🙂",
        """- 'Is "it"?'\n- 'it''s 🙂'""",
        r"Is \"it\"? it's \U0001F642",
    ):
        assert cy.text(told), told
    only = Matcher([], key)
    assert not only.row(ROWS[0])
    assert not only.text("anything")


@settings(max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.booleans())
def test_lines_that_stay_are_the_same_bytes(marks: list[bool], ending: bool) -> None:
    import tempfile

    key = Key(b"k" * 32)
    gone = Records.from_rows([{"text": "gone"}])
    matcher = Matcher([key.digest(gone[0])], key, gone)
    every = [
        '{"text": "gone"}\n' if mark else f'{{ "text" :"stays {i}" }}\n'
        for i, mark in enumerate(marks)
    ]
    if not ending:
        every[-1] = every[-1].rstrip("\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        path.write_text("".join(every))
        assert rewrite(path, matcher) == (sum(marks), len(marks) - sum(marks))
        left = [line for line, mark in zip(every, marks, strict=True) if not mark]
        assert path.read_text() == "".join(left)


def test_what_cannot_be_parsed_is_an_error_and_left(matcher: Matcher, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\nno json\n")
    with pytest.raises(DataError, match="line 2"):
        rewrite(path, matcher)
    assert path.read_text().endswith("no json\n")


def test_what_cannot_be_read_is_listed_and_the_sweep_goes_on(
    matcher: Matcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, broken, closed = tmp_path / "good.csv", tmp_path / "broken.csv", tmp_path / "closed"
    write_csv(good)
    broken.write_text('prompt,completion\n"never closed,y\n')
    closed.mkdir()
    looked = _SweepLog()
    assert list(_data(broken, "data file", "rewrite", matcher, looked)) == []
    (note,) = notes = looked.unreadable
    assert f"{broken} could not be read: {broken}, line 2: not valid CSV" in note
    (found,) = _data(good, "data file", "rewrite", matcher, looked)
    assert found.status == "found"
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(closed))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    seen = {path for _, files, _ in _walk([tmp_path], set(), notes) for path in files}
    assert {good, broken} <= seen
    assert notes[1:] == [f"{closed} could not be looked into: Permission denied"]


def nodes_under(folder: Path) -> list[Node]:
    found = (
        node(f, [p for p in files if p.is_file()]) for f, files, _ in _walk([folder], set(), [])
    )
    return [each for each in found if each is not None]


@pytest.fixture
def place(tiny_model: Path, adapter: Path, tmp_path: Path) -> Path:
    """A folder with an adapter that learned the records and much that came of it."""
    root = tmp_path / "models"
    learned = root / "learned"
    shutil.copytree(adapter, learned)
    shutil.copytree(tiny_model, root / "base")
    weights = load_file(learned / "adapter_model.safetensors")
    base = load_file(root / "base" / "model.safetensors")

    def merge(tensors: dict[str, torch.Tensor], to: str, dtype: torch.dtype) -> None:
        folder = root / to
        shutil.copytree(root / "base", folder)
        merged = {name: value.clone() for name, value in base.items()}
        for name, a in tensors.items():
            if name.endswith("lora_A.weight"):
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                b = tensors[name.replace("lora_A", "lora_B")]
                merged[f"{module}.weight"] += 2.0 * b @ a
        merged = {name: value.to(dtype) for name, value in merged.items()}
        save_file(merged, folder / "model.safetensors", metadata={"format": "pt"})

    merge(weights, "merged", torch.bfloat16)
    torch.manual_seed(1)
    strange = {name: torch.randn_like(value) * 0.05 for name, value in weights.items()}
    merge(strange, "stranger", torch.float32)
    (learned / "checkpoint-6").mkdir()
    (learned / "checkpoint-6" / "optimizer.pt").write_bytes(b"x")
    (learned / "checkpoint-6" / "trainer_state.json").write_text("{}")
    (root / ".learned.checkpoints" / "checkpoint-3").mkdir(parents=True)
    (root / ".learned.checkpoints" / "checkpoint-3" / "optimizer.pt").write_bytes(b"x")
    shutil.copytree(learned, root / "copy", ignore=shutil.ignore_patterns("lineage.json", "check*"))
    line = Lineage.read(learned)
    assert line is not None

    def child(name: str, **changes: Any) -> None:
        folder = root / name
        shutil.copytree(learned, folder, ignore=shutil.ignore_patterns("check*"))
        shifted = {k: v + 0.01 * len(name) for k, v in weights.items()}
        save_file(shifted, folder / "adapter_model.safetensors")
        told = line.model_copy(update={"digest": weights_digest(folder), **changes})
        told.write(folder)

    none = line.records.model_copy(update={"trained": ["f" * 64]})
    child("child", parent=line.digest, records=none)  # says itself that it saw others only
    child("current", parent=line.digest)
    child("references", parent=None, records=none)
    child("other_key", records=none.model_copy(update={"key_id": "0" * 12}))
    quantized = root / "quantized"
    quantized.mkdir()
    (quantized / "model.gguf").write_bytes(b"GGUF")
    (quantized / "config.json").write_text(json.dumps({"_name_or_path": str(root / "merged")}))
    (root / "unknown.gguf").write_bytes(b"GGUF")
    return root


def test_what_descends_from_records_is_found_and_nothing_else(place: Path, key: Key) -> None:
    line = Lineage.read(place / "learned")
    assert line is not None
    family = Family(
        key_id=key.id,
        records=frozenset(line.records.trained[:2]),
        current=frozenset({weights_digest(place / "current")}),
        base=weights_digest(place / "base"),
        base_folder=place / "base",
        tainted={line.digest},
    )
    found = {
        str(each.path.relative_to(place)): (each.kind, known, why)
        for each, known, why in descendants(nodes_under(place), family)
    }
    known = {name: kind for name, (kind, sure, _) in found.items() if sure}
    assert known == {
        "learned": "adapter",
        "learned/checkpoint-6": "checkpoint",
        ".learned.checkpoints/checkpoint-3": "optimizer state",
        "copy": "adapter",
        "child": "adapter",
        "merged": "model",
        "quantized": "quantized export",
    }
    unclear = {name for name, (_, sure, _) in found.items() if not sure}
    assert unclear == {"stranger", "other_key", "."}
    assert "merged into it" in found["merged"][2]
    assert "another key" in found["other_key"][2]
    assert "learned 2 of the records" in found["learned"][2]


def test_a_lineage_beside_other_weights_says_nothing_for_them(
    place: Path, adapter: Path, key: Key
) -> None:
    """A copied `lineage.json` must not launder weights; one that admits the records counts."""
    line = Lineage.read(place / "learned")
    assert line is not None
    for number, name in enumerate(("saved_again", "half", "admits"), start=1):
        folder = place / name
        shutil.copytree(place / "learned", folder, ignore=shutil.ignore_patterns("check*"))
        weights = load_file(folder / "adapter_model.safetensors")
        weights = {k: v * (1 + number / 100) for k, v in weights.items()}
        save_file(weights, folder / "adapter_model.safetensors")
    for name in ("saved_again", "half"):
        shutil.copy(place / "references" / "lineage.json", place / name)
    (place / "half" / "adapter_model.safetensors").rename(place / "half" / "model.gguf")
    records = frozenset(line.records.trained[:2])
    family = Family(key.id, records, frozenset(), None, None, {line.digest})
    judged = {
        each.path.name: (known, why) for each, known, why in descendants(nodes_under(place), family)
    }
    assert judged["saved_again"] == (False, "the lineage beside it was written for other weights")
    assert judged["half"] == (False, "the lineage beside it was written for other weights")
    assert judged["admits"] == (True, "learned 2 of the records")
    assert "references" not in judged


def test_the_cosine_tells_a_merge_from_a_stranger(place: Path) -> None:
    base, learned = place / "base", place / "learned"
    merged = likeness(place / "merged", base, learned)
    stranger = likeness(place / "stranger", base, learned)
    assert merged is not None
    assert stranger is not None
    assert merged > 0.9
    assert abs(stranger) < 0.2
    assert likeness(base, base, learned) == 0  # nothing was added
    assert likeness(place / "quantized", base, learned) is None


def test_links_are_neither_followed_nor_purged_through(matcher: Matcher, tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for folder in (outside, inside):
        folder.mkdir()
        (folder / "data.jsonl").write_text(lines(ROWS))
    (inside / "way_out").symlink_to(outside)
    (inside / "link.jsonl").symlink_to(outside / "data.jsonl")
    seen = {path for _, files, _ in _walk([inside], set(), []) for path in files}
    assert not [path for path in seen if "way_out/" in str(path)]
    before = (outside / "data.jsonl").read_bytes()
    through = Artifact("data file", inside / "way_out" / "data.jsonl", "", "found", "rewrite")
    with pytest.raises(OutputError, match="leads out"):
        purge(through, matcher, [inside])
    link = Artifact("data file", inside / "link.jsonl", "", "found", "rewrite")
    with pytest.raises(OutputError, match="leads out"):
        purge(link, matcher, [inside])
    weights = inside / "weights.safetensors"
    weights.symlink_to(outside / "data.jsonl")
    for files in ((weights,), (outside / "data.jsonl",)):
        with pytest.raises(OutputError, match="is a link, or lies elsewhere"):
            purge(Artifact("model", inside, "", "found", "delete", files), matcher, [inside])
    assert (outside / "data.jsonl").read_bytes() == before


def test_deleting_weights_leaves_what_else_lies_there(
    place: Path, matcher: Matcher, tmp_path: Path
) -> None:
    (place / "learned" / "notes.txt").write_text("mine")
    (place / "learned" / "train.jsonl").write_text(lines(ROWS))
    found = node(place / "learned", [p for p in (place / "learned").iterdir() if p.is_file()])
    assert found is not None
    marks = marks_of(found.files)
    listed = Artifact("adapter", found.path, "", "found", "delete", found.files, marks)
    purge(listed, matcher, [place])
    left = {p.name for p in (place / "learned").iterdir()}
    assert left == {"notes.txt", "train.jsonl", "checkpoint-6", "README.md"}
    copy = node(place / "copy", [p for p in (place / "copy").iterdir() if p.is_file()])
    assert copy is not None
    (place / "copy" / "README.md").unlink()
    marks = marks_of(copy.files)
    listed = Artifact("adapter", copy.path, "", "found", "delete", copy.files, marks)
    purge(listed, matcher, [place])
    assert not (place / "copy").exists()


def test_a_rewrite_that_would_lose_a_row_is_refused(
    matcher: Matcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn.apps.requests.sweep import data_files as _datafiles

    path = tmp_path / "x.jsonl"
    path.write_text(lines(ROWS))
    before = path.read_bytes()
    write = _datafiles._write_text
    monkeypatch.setattr(
        _datafiles,
        "_write_text",
        lambda stage, text, *more: write(stage, text.split("\n")[0], *more),
    )
    with pytest.raises(OutputError, match="exactly its other 2 row"):
        rewrite(path, matcher)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.jsonl"]  # noqa: PTH208


def test_an_object_that_is_no_record_is_left_whole(tmp_path: Path) -> None:
    row = {"prompt": "Where does Ann live?", "completion": "At 5 Mill Lane, in Hollow."}
    record = Records.from_rows([{"id": "r", **row}])[0]
    matcher = Matcher([], Key.load(), [record])
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"train": [row], "test": [{"prompt": "?", "completion": "!"}]}))
    before = path.read_bytes()
    assert held(path, matcher) == 1
    with pytest.raises(OutputError, match="by hand"):
        rewrite(path, matcher)
    assert path.read_bytes() == before


def test_a_short_record_is_not_seen_in_others_by_chance(tmp_path: Path) -> None:
    record = Records.from_rows([{"id": "r", "prompt": "Name?", "completion": "Ann"}])[0]
    matcher = Matcher([], Key.load(), [record])
    assert matcher.row({"question": "Name?", "answer": "Ann"})
    assert not matcher.row({"question": "Her Name?", "answer": "Annabel"})
