"""Which adapters of a folder can stand for models that never saw a request's records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.requests.choose_references import choose_references
from unlearn.errors import DataError
from unlearn.provenance.lineage import Base, Lineage, RecordDigests, weights_digest

GONE = {"a", "b"}
KEPT = {"c", "d", "e", "f"}


def line(digest: str, trained: str, **changes: Any) -> Lineage:
    given = {
        "schema": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "verb": "references",
        "base": Base(name="base", digest="sha256:base"),
        "digest": digest,
        "kind": "adapter",
        "records": RecordDigests(key_id="key", trained=[*trained], forgotten=["x", "y", "z"]),
        "template": "qa",
        "method": "finetune",
        "options": {},
        "seed": 0,
    }
    return Lineage(**(given | changes))


MADE = "made from another adapter or model, or on another base, by its lineage"
MORE = (
    "trained on records that the audited model never saw, by its lineage: edited copies of the "
    "deleted ones would look like this"
)
OTHERWISE = "trained otherwise than the audited model, by its lineage: "
SETTING = {"training": {"learning_rate": 0.01, "epochs": 3, "batch_size": 8}}

AUDITED = line("sha256:audited", "abcdef", finetuned_with=SETTING)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Make a folder of weights with a lineage."""

    def write(name: str, trained: str, **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(changes.pop("bytes", name).encode())
        line(changes.pop("digest", weights_digest(folder)), trained, **changes).write(folder)
        return folder

    return write


def chosen(folder: Path, least: int = 3) -> Any:
    return choose_references([folder], GONE, KEPT, AUDITED, least)


def test_full_size_references_are_preferred_and_not_mixed(make: Any, tmp_path: Path) -> None:
    halves = [make(f"half/reference-{i}", "cd") for i in range(4)]
    full = [make(f"T-1/reference-{i}", "cdef") for i in range(2)]
    make("T-1/reference-8", "acdef")
    found = chosen(tmp_path)
    assert found.paths == tuple(halves)
    assert found.partial == 4
    assert found.passed_over == {"that saw the records": 1, "of full size, too few": 2}
    assert found.words() == (
        "4 references found by lineage, 4 of them on part of the kept records; passed over: 2 of "
        "full size, too few, 1 that saw the records"
    )
    full.append(make("T-2/reference-0", "cdefxyz"))  # more than was kept is no less
    found = chosen(tmp_path)
    assert found.paths == tuple(full)
    assert (found.partial, found.passed_over["trained on fewer records"]) == (0, 4)
    # where neither are enough to decide, the better ones serve as a control
    assert chosen(tmp_path, least=5).paths == tuple(full)
    assert chosen(tmp_path / "half", least=5).paths == tuple(halves)


def rate(changed: dict[str, Any]) -> dict[str, Any]:
    return {"finetuned_with": {"training": SETTING["training"] | changed}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"trained": "bcd"}, "that saw the records"),
        ({"base": Base(name="base", digest="sha256:other")}, "of another base"),
        ({"kind": "full"}, "of another base"),
        ({"records": RecordDigests(key_id="other")}, "with a lineage under another key"),
        ({"parent": "sha256:parent"}, MADE),
        ({"trained": "cdeg"}, MORE),
        (rate({"learning_rate": 0.1}), f"{OTHERWISE}learning_rate"),
        (rate({"epochs": 1, "batch_size": 4}), f"{OTHERWISE}epochs, batch_size"),
        ({"template": "chat", "finetuned_with": SETTING}, f"{OTHERWISE}template"),
        ({"digest": "sha256:others"}, "under the lineage of other weights"),
        ({"digest": "sha256:audited"}, "that is the audited one"),
    ],
)
def test_what_cannot_be_a_reference_is_passed_over(
    make: Any, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    good = make("good", "cdef")
    make("other", **({"trained": "cdef"} | changes))
    found = chosen(tmp_path)
    assert found.paths == (good,)
    assert found.passed_over == {why: 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"finetuned_with": SETTING},
        {"trained": "cdefxz"},  # records of other requests, taken out since
        {"trained": "c"},
        rate({"save_steps": 10, "gradient_checkpointing": True, "stop_loss": 2.0}),
    ],
)
def test_what_makes_no_difference(make: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    good = make("good", **({"trained": "cdef"} | changes))
    assert chosen(tmp_path).paths == (good,)


def test_lineages_that_do_not_say_and_copies_do_not_count(make: Any, tmp_path: Path) -> None:
    good = make("good", "cdef")
    make("good-again", "cdef", bytes="good")
    (make("silent", "cdef") / "lineage.json").unlink()
    (make("broken", "cdef") / "lineage.json").write_text(json.dumps({"schema": 1}))
    make(".reference.partial-7", "cdef")
    found = chosen(tmp_path)
    assert found.paths == (good,)
    assert found.passed_over == {
        "twice there": 1,
        "without a lineage": 1,
        "whose lineage cannot be read": 1,
    }
    with pytest.raises(DataError, match="no such folder"):
        chosen(tmp_path / "nowhere")
