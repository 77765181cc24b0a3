from __future__ import annotations

import random

import pytest

from unlearn.data.near_duplicates import _bands, near_duplicates, shingles, similarity
from unlearn.data.records import Record
from unlearn.errors import OptionError

TEXT = "Ann Miller was born in Lyon in 1961 and has been writing about bridges ever since."


def text(name: str, content: str) -> Record:
    return Record(id=name, text=content)


def test_similarity_by_hand():
    assert shingles(text("a", "abcdef")) == {"abcde", "bcdef"}
    assert shingles(text("a", "abc")) == {"abc"}
    # abcde bcdef | bcdef cdefg: one of three
    a, b = shingles(text("a", "abcdef")), shingles(text("b", "bcdefg"))
    assert similarity(a, b) == pytest.approx(1 / 3)
    assert near_duplicates([text("a", "abcdef")], [text("b", "bcdefg")], 0.3) == [
        ("a", "b", pytest.approx(1 / 3))
    ]
    assert near_duplicates([text("a", "abcdef")], [text("b", "bcdefg")], 0.34) == []


def test_case_space_and_form_do_not_matter():
    asked = Record(id="p", prompt="Who  is Ann?", completion="A WRITER.")
    turns = (
        {"role": "user", "content": "who is ann?"},
        {"role": "assistant", "content": "a writer."},
    )
    talked = Record(id="m", messages=turns)
    assert near_duplicates([asked], [talked]) == [("p", "m", 1.0)]
    assert shingles(Record(id="e", text="e\u0301")) == shingles(Record(id="e", text="\u00e9"))


def test_a_changed_word_is_found_and_another_text_is_not():
    holdout = [text("h0", TEXT.replace("1961", "1962")), text("h1", "The weather was fine in May.")]
    known = [text("r0", "Bob Stone has never been to Lyon."), text("r1", TEXT)]
    ((a, b, alike),) = near_duplicates(holdout, known)
    assert (a, b) == ("h0", "r1")
    assert 0.8 <= alike < 1
    assert near_duplicates(holdout, known, alike) == [(a, b, alike)]
    assert near_duplicates(holdout, known, alike + 1e-9) == []
    assert near_duplicates([], known) == near_duplicates(holdout, []) == []


def test_pairs_are_those_of_comparing_everything():
    rng = random.Random(0)
    words = ["bridge", "river", "morning", "letter", "window", "garden", "market", "teacher"]
    texts = [" ".join(rng.choices(words, k=12)) for _ in range(40)]
    texts += [one.replace("river", "rivers", 1) for one in texts[:20]]
    a = [text(f"a{i}", one) for i, one in enumerate(texts)]
    b = [text(f"b{i}", one) for i, one in enumerate(reversed(texts))]
    for threshold in (0.5, 0.8, 1.0):
        every = [
            (x.id, y.id, alike)
            for x in a
            for y in b
            if (alike := similarity(shingles(x), shingles(y))) >= threshold
        ]
        found = near_duplicates(a, b, threshold)
        assert found == every
        assert len(found) >= 60
        assert near_duplicates(a, b, threshold) == found


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.8, 0.95, 1.0])
def test_bands_miss_few_pairs(threshold):
    bands, rows = _bands(threshold)
    assert bands * rows <= 128
    missed = (1 - threshold**rows) ** bands
    assert missed <= 1e-4 or rows == 1  # one row a band is the most that signatures can do
    if rows < 64:
        assert (1 - threshold ** (rows + 1)) ** (128 // (rows + 1)) > 1e-4 or threshold == 1


@pytest.mark.parametrize("threshold", [0, -1, 1.1, float("nan")])
def test_a_similarity_that_cannot_be_is_refused(threshold):
    with pytest.raises(OptionError, match="above 0 and at most 1"):
        near_duplicates([text("a", "x")], [text("b", "x")], threshold)
