from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from unlearn.data.records import Records
from unlearn_eval.report import Attempt, audit_page, outcome, shown_records, story_page, uncertain
from unlearn_eval.report.audit.reading import Reading

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>&lt;b&gt;{{ 7*7 }}"


@pytest.fixture(scope="module")
def texts():
    rows = [
        {
            "id": HOSTILE,
            "prompt": f"Who? {HOSTILE}",
            "completion": f"It is {HOSTILE}, 555-0199.",
            "secrets": [
                {
                    "field": "completion",
                    "start": 8 + len(HOSTILE),
                    "end": 16 + len(HOSTILE),
                    "kind": HOSTILE,
                }
            ],
        },
        {"id": "b", "text": "A text without a question. " * 9},
        {
            "id": "c",
            "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}],
        },
    ]
    said = {"before": {0: HOSTILE, 1: "x" * 400}, "after": {0: "", 2: "other"}}
    return shown_records(Records.from_rows(rows), said)


@pytest.fixture(scope="module")
def page(good):
    """The page of the good audit: drawing it takes longer than all that is looked at."""
    return audit_page(good)


@pytest.fixture(scope="module")
def page_with_texts(good, texts):
    return audit_page(good, texts)


def test_shown_records_are_cut_at_their_secrets(texts):
    assert [t.asked for t in texts] == [f"Who? {HOSTILE}", None, "user: hi"]
    assert texts[0].parts[1] == ("555-0199", HOSTILE)
    assert "".join(text for text, _ in texts[0].parts) == f"It is {HOSTILE}, 555-0199."
    assert texts[2].parts == (("ho", None),)
    assert texts[2].said == {"after": "other"}


def test_no_text_and_no_id_unless_asked_for(page, page_with_texts):
    assert "owned" not in page
    assert "onerror" not in page
    assert "555-0199" not in page
    assert "The records</h2>" not in page
    shown = page_with_texts
    assert "555-0199" in shown
    assert "<img" not in shown  # only escaped
    # how to read the numbers comes before the records, of which there may be many
    assert shown.index("How to read this</h2>") < shown.index("The records</h2>")
    assert shown.count("<script>") == 1
    assert "&lt;script&gt;" in shown


def test_limits_stand_above_the_results(page, good):
    for shown in (page, story_page("t", [], [Attempt("a", "b", good, "c")], (), [])):
        assert "not legal proof of erasure" in shown
        assert shown.index("does not show</h2>") < shown.index("<figure>")


def test_the_story_says_how_far_off_a_figure_may_be(make_audit):
    states = ("before", "after", "reference:0", "reference:1", "reference:2")
    unseen, kept = dict.fromkeys(states, 3.0), dict.fromkeys(states, 0.0)

    def tried(name: str, after: float, rest: float) -> Attempt:
        losses = dict(zip(states, (0.0, after, 3.0, 3.1, 3.0), strict=True))
        return Attempt(name, "", make_audit(losses, kept | {"after": rest}, unseen), "")

    attempts = [tried("fine", 3.0, 0.0), tried("told", 12.0, 0.0), tried("wreck", 3.0, 9.0)]
    lines = {line.name: line for line in outcome(attempts)}
    said = uncertain(attempts)
    wins = lines["fine"].wins.split()[0]
    low, high = map(int, lines["fine"].range.split(" to "))
    assert low <= int(wins) <= high
    assert f"Of these figures, fine's {wins} cannot be told from" in said
    assert f"20 records show no more than that the true figure is {low} to {high};" in said
    assert "so oddly" in lines["told"].verdict  # known far worse than by the retrained
    assert "0 of 60" in lines["wreck"].verdict or "much worse" in lines["wreck"].verdict
    assert "wreck's" in said
    assert "says nothing, as its model is damaged" in said
    assert "told's" not in said  # that figure speaks for itself
    assert lines["before"].time == "–"
    assert lines["retrained without"].kept == "60 of 60"
    assert uncertain(attempts[1:2]) == ""


def test_the_story_excuses_no_figure_where_the_verdict_fails(make_audit, monkeypatch):
    """An attacker who cannot tell does not speak for a model that another probe tells."""
    states = ("before", "after", "reference:0", "reference:1", "reference:2")
    losses = dict(zip(states, (0.0, 3.0, 3.0, 3.1, 3.0), strict=True))
    flat = dict.fromkeys(states, 3.0)
    attempt = Attempt("fine", "", make_audit(losses, dict.fromkeys(states, 0.0), flat), "")
    assert "fine's" in uncertain([attempt])
    told = replace(Reading(attempt.audit).tones, membership="not forgotten")
    monkeypatch.setattr(Reading, "tones", told)
    assert uncertain([attempt]) == ""


def test_every_number_is_on_the_page_with_its_interval_and_meaning(page, good):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for row in good.rows:
        if row.state == "after" and row.value is not None:
            assert f"{row.probe} {row.metric}" in text, row
            assert f"{row.value:.2f} " in text
            if row.low is not None:
                low, high = row.low, row.high
                if not row.probe.startswith(("utility.loss", "utility.drift")):
                    low, high = max(low, 0.0), min(high, 1.0)  # a share
                assert f"{low:.2f} to {high:.2f}" in text, row
    assert not re.search(r"-0\.\d\d to", text)
    assert "299" in text  # the refused rate says what it would take
    assert "assumed &#39;qa&#39;" in page
    # five pictures, each with its words
    assert page.count("<figure>") == page.count("<figcaption>") == 5


def test_the_page_is_one_file_and_the_same_each_time(page, good):
    assert re.sub(r"\d{4}-\d\d-\d\d", "", page) == re.sub(r"\d{4}-\d\d-\d\d", "", audit_page(good))
    assert not re.findall(r'(?:src|href)="(?!#|scores-|roc-)[^"]*"', page.replace('href="#', ""))
    assert "http://www.w3.org" in page  # the name of SVG's namespace, nothing to fetch
    assert not re.findall(r"url\((?!#)", page)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for used in set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', page)):
        assert used in ids
    assert "#0102" not in page  # every stand-in colour became one of the theme


@pytest.fixture(scope="module", params=["audit", "story", "least"])
def file_of_page(request, good, make_audit, texts, tmp_path_factory):
    """Each kind of page as a file, written once for all windows."""
    if request.param == "story":
        attempts = [Attempt(f"way-{i}", "a way to forget", good, f"{i}.html") for i in range(3)]
        page = story_page("A title", ["Told. " * 40], attempts, texts, [("Run", "unlearn x " * 30)])
    elif request.param == "audit":
        page = request.getfixturevalue("page_with_texts")
    else:
        page = audit_page(make_audit({"after": 2.0}, n=1, secret=False))
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page, encoding="utf-8")
    return file


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_real_browser(browser, file_of_page, width, dark):
    file = file_of_page
    opened = browser.open(file, width, dark=dark)
    assert opened.console == []
    assert [
        url for url in opened.requests if not url.startswith(("file://", "chrome://", "data:"))
    ] == []
    assert [url for url in opened.requests if url.endswith("report.html")] == [file.as_uri()]
    assert opened.overflow() == []
    assert opened.run("return document.title") != "owned"
    assert opened.run("return document.querySelectorAll('img').length") == 0
    colour = "return getComputedStyle(document.body).backgroundColor"
    ink = "return getComputedStyle(document.querySelector('svg text')).fill"
    seen = opened.run(colour), opened.run(ink)
    assert (seen[0] == "rgb(20, 23, 27)") is dark
    opened.run("document.getElementById('theme').click()")
    assert (opened.run(colour) == "rgb(20, 23, 27)") is not dark
    assert opened.run(ink) != seen[1]  # drawings follow the theme
    # text of drawings stays readable on a phone
    smallest = opened.run(
        """
        const svg = document.querySelector("figure svg");
        const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
        const texts = [...svg.querySelectorAll("text")];
        const sizes = texts.map(t => parseFloat(getComputedStyle(t).fontSize));
        return Math.min(...sizes) * scale;
        """
    )
    assert smallest >= 10.5


def test_prints_on_paper(browser, page, tmp_path: Path):
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    browser.open(file, 1440, dark=True)
    paper = browser.pdf()
    assert paper.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", paper))
    assert 2 <= pages <= 12
