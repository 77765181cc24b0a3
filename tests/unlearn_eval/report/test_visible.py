"""What others wrote neither hides on a page nor turns what stands around it."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn.data.records import Records
from unlearn_eval.report import audit_page, shown_records
from unlearn_eval.report.page import _environment
from unlearn_eval.report.visible import visible

TURNING = "\u202a\u202b\u202c\u202d\u202e\u200e\u200f\u061c\u2066\u2067\u2068\u2069"
HEBREW = "\u05d0\u05d1\u05d2"
ARABIC = "\u0627\u0628"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, 7", "plain, 7"),
        ("a\tb\nc\u202ed\x1b[31m\u2066é👩‍👩‍👧", "a\tb\nc⟨U+202E⟩d⟨U+001B⟩[31m⟨U+2066⟩é👩‍👩‍👧"),
        ("soft\u00adhyphen\ufeff\u2028", "soft⟨U+00AD⟩hyphen⟨U+FEFF⟩⟨U+2028⟩"),
        (f"{HEBREW} 12", f"\u2068{HEBREW} 12\u2069"),
        # of a sentence from the left the number stays behind the name
        (f"'{HEBREW} {ARABIC}' (0.81)", f"\u2068'{HEBREW} {ARABIC}' (0.81)\u2069"),
        (
            f"first '{HEBREW} {ARABIC}' (0.81)",
            f"\u2068first '\u2068{HEBREW} {ARABIC}\u2069' (0.81)\u2069",
        ),
        (f"{HEBREW}\nann", f"\u2068{HEBREW}\u2069\nann"),
    ],
)
def test_what_is_seen_is_what_is_there(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_every_turn_is_taken_back_within_its_line(text: str) -> None:
    for line in visible(text).split("\n"):
        depth = 0
        for character in line:
            depth += {"\u2068": 1, "\u2069": -1}.get(character, 0)
            assert 0 <= depth <= 2
            assert character not in set(TURNING) - {"\u2068", "\u2069"}
        assert depth == 0


def test_nothing_that_a_template_puts_out_escapes_it() -> None:
    """In text, in attributes, through filters and macros; markup of the templates stays."""
    source = (
        "{% macro put(x) %}<b title=\"{{ x }}\">{{ x | replace('a', 'b') }}</b>{% endmacro %}"
        "{{ put(x) }}{{ [x, x] | join(', ') }}{{ '<hr>' | safe }}"
    )
    page = _environment().from_string(source).render(x="<a>\u202e")
    assert page == (
        '<b title="&lt;a&gt;⟨U+202E⟩">&lt;b&gt;⟨U+202E⟩</b>&lt;a&gt;⟨U+202E⟩, &lt;a&gt;⟨U+202E⟩<hr>'
    )


def test_the_page_of_an_audit_is_turned_by_nothing_in_it(good: Any) -> None:
    row = {"id": f"ann\u202e{HEBREW}", "prompt": f"Who?{TURNING}", "completion": f"{HEBREW} 1"}
    texts = shown_records(Records.from_rows([row]), {"after": {0: "no\u202eon"}})
    page = audit_page(replace(good, model="base\u202d"), texts)
    seen = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert not (set(TURNING) - {"\u2068", "\u2069"}) & set(page)
    assert f"ann⟨U+202E⟩\u2068{HEBREW}\u2069" in seen
    assert f"\u2068{HEBREW} 1\u2069" in seen
    assert "no⟨U+202E⟩on" in seen
