"""The table of routes: units and names under the key, and nothing of who is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from unlearn.errors import LineageError
from unlearn.provenance.keys import Key
from unlearn.shards.router import ROUTER_FILE, Router, words_of

KEY, OTHER = Key(b"k" * 32), Key(b"o" * 32)
MEMBERS = [{"Ann Lee": ["a1", "a2"], "Ann": ["b1"]}, {"José Núñez": ["c1"], "O'Hara-Smith": ["d1"]}]


@pytest.fixture
def router() -> Router:
    return Router.of(MEMBERS, KEY, named=True)


def test_a_unit_that_is_given_leads_to_its_shard(router: Router) -> None:
    assert [router.given(u, KEY) for u in ("Ann Lee", "José Núñez", "Bob")] == [0, 1, None]
    assert router.given("Ann Lee", OTHER) is None


@pytest.mark.parametrize(
    ("prompt", "shard"),
    [
        ("Where does Ann Lee live?", 0),
        ("what is ANN  LEE's number", 0),
        ("Reach jose\u0301 nu\u0301n\u0303ez please", 1),  # accents as characters of their own
        ("Call o'hara-smith.", 1),
        ("Where does Annabel live?", None),
        ("Who is Bob Lee?", None),
        ("", None),
    ],
)
def test_names_are_found_by_their_words(router: Router, prompt: str, shard: int | None) -> None:
    assert router.named(prompt, KEY) == shard


def test_the_longest_name_counts_and_of_equal_ones_the_first() -> None:
    router = Router.of([{"Ann": ["a"]}, {"Ann Lee": ["b"]}, {"Bob": ["c"]}], KEY, named=True)
    assert router.named("Bob knows Ann Lee", KEY) == 1
    assert router.named("Bob knows Ann", KEY) == 2


def test_the_table_holds_no_word_of_anybody(router: Router, tmp_path: Path) -> None:
    router.write(tmp_path)
    text = (tmp_path / ROUTER_FILE).read_text("utf-8").casefold()
    assert not any(word in text for word in ("ann", "lee", "josé", "hara"))
    assert Router.read(tmp_path) == router


def test_a_unit_goes_with_its_last_record(router: Router) -> None:
    less = router.without({"a1"})
    assert less.given("Ann Lee", KEY) == 0
    none = less.without({"a2"})
    assert (none.given("Ann Lee", KEY), none.named("Ann Lee", KEY)) == (None, 0)  # Ann is left
    assert len(none.units) == 3
    assert none.units_in(0) == 1


def test_records_have_no_names() -> None:
    router = Router.of([{"0" * 64: ["0" * 64]}], KEY, named=False)
    assert router.named("0" * 64, KEY) is None
    assert router.given("0" * 64, KEY) == 0


@pytest.mark.parametrize("text", ["", "[]", '{"schema":2,"key_id":"a"}', '{"schema":1,"other":1}'])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / ROUTER_FILE).write_text(text)
    with pytest.raises(LineageError, match=r"router\.json is no table of routes"):
        Router.read(tmp_path)


def test_words_are_compared_whatever_their_case() -> None:
    assert words_of("ANN-Lee, 3rd") == ["ann", "lee", "3rd"]
