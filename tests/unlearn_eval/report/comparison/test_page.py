"""The page of a comparison, as text and in a real browser."""

from __future__ import annotations

import csv
import io
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unlearn.data.records import Record
from unlearn_eval.comparison import About, Outcome, Run, Tuned
from unlearn_eval.comparison.contests import standings
from unlearn_eval.comparison.records import CellRecords
from unlearn_eval.report.comparison.page import as_csv, comparison_page

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>&lt;b&gt;{{ 7*7 }}"


def page_of(comparison, **more):
    return comparison_page(comparison, standings(comparison), **more)


def about(comparison):
    """What the rows are, with runs whose loss falls from 2 to 1."""
    return [
        About(
            name,
            "npo",
            f"does what {name} does",
            "2404.05868",
            "always",
            "1 forward",
            {"note": HOSTILE},
            [
                Run(
                    o.seed,
                    o.forget,
                    curve=[(1, 2.0), (2, 1.5), (3, 1.0)],
                    forget_curve=[(1, 0.1), (2, 1.0), (3, 2.0)],
                    retain_curve=[(1, 0.1), (2, 0.2), (3, 0.1)],
                    steps=3,
                    planned=9,
                    notes=[HOSTILE],
                    options={"a": "1"},
                )
                for o in comparison.of(name)
            ],
        )
        for name in comparison.methods
    ]


@pytest.fixture(scope="module")
def shown(comparison):
    """The comparison, with a cell that failed for a hostile reason."""
    broken = Outcome("harsh", 9, 0, error=HOSTILE)
    return replace(comparison, outcomes=[*comparison.outcomes, broken])


@pytest.fixture(scope="module")
def page(shown):
    return page_of(shown, about=about(shown))


def test_the_page_is_one_file_that_quotes_nothing_as_markup(page, shown):
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert len(page) < 3_000_000
    assert "not legal proof of erasure" in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "#0102" not in page  # every stand-in colour became one of the theme
    assert re.sub(r"\d{4}-\d\d-\d\d", "", page) == re.sub(
        r"\d{4}-\d\d-\d\d", "", page_of(shown, about=about(shown))
    )


def test_verdicts_are_shown_where_there_is_a_policy(browser, page, judged, tmp_path: Path):
    assert "verdict" not in page
    file = tmp_path / "report.html"
    file.write_text(page_of(judged), encoding="utf-8")
    opened = browser.open(file, 1440)
    opened.run(PRESS.format(1))
    opened.run(PRESS.format(1))  # most FAIL first, then as it was
    assert opened.run(NAMES) == ["before", "leaky", "harsh", "references", "good"]
    opened.run(PRESS.format(1))
    assert opened.run(NAMES) == ["good", "references", "before", "leaky", "harsh"]
    cell = "#cells tr[data-method=good] td"
    assert opened.run(f"return document.querySelector('{cell}').textContent") == "?"
    assert "would decide: 5 references (there are 3)" in opened.run(
        f"return document.querySelector('{cell}').title"
    )
    rows = list(csv.DictReader(io.StringIO(as_csv(judged))))
    assert [r["verdict"] for r in rows if r["method"] == "before"] == ["FAIL", "FAIL"]
    assert {r["reasons"] for r in rows if r["verdict"] == "PASS"} == {"loss is guessing"}


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the drawings, which take nearly all the time: what is looked at is words."""
    monkeypatch.setattr("unlearn_eval.report.comparison.plots.draw", lambda *_, **__: "<svg></svg>")


@pytest.mark.usefixtures("undrawn")
def test_the_page_says_what_was_compared_and_stands_alone(shown):
    setting = {"model": "small <b>", "judged by": "rows:8-11, never seen"}
    page = page_of(replace(shown, setting=setting), about=about(shown))
    assert "<dt>model</dt><dd>small &lt;b&gt;</dd>" in page
    assert "rows:8-11, never seen" in page


@pytest.mark.usefixtures("undrawn")
def test_the_page_says_where_methods_looked_at_their_judges(comparison):
    words = "looked at the very unseen records that they are judged by"
    assert words in page_of(comparison, own_judge=True)
    assert words not in page_of(comparison)


@pytest.mark.usefixtures("undrawn")
def test_the_page_names_who_was_not_tuned_and_who_is_not_ranked(comparison):
    again = [replace(o, method="again") for o in comparison.of("good")]
    whole = replace(comparison, outcomes=[*comparison.outcomes, *again])
    tuning = [Tuned(name, 4, "beta = 0.2") for name in ("good", "leaky", "harsh")]
    page = page_of(replace(whole, exact=frozenset({"again"})), tuning=tuning)
    assert page.count("Not tuned, with the options of the recipe: again.") == 2
    assert "Each method had" not in page
    assert "All were tuned" not in page
    assert "All methods but again (trained anew) start from the same adapter" in page
    assert page.count("Not ranked: again, what the others are measured against.") == 2
    assert "again −" not in page
    assert "− again" not in page
    assert "again −" in page_of(whole) or "− again" in page_of(whole)
    plain = page_of(comparison, tuning=tuning)
    assert plain.count("Each method had the same number of trials at most") == 2
    assert "All methods start from the same adapter" in plain
    only = replace(comparison, outcomes=again, exact=frozenset({"again"}))
    assert "Can they be told apart?" not in page_of(only)


def test_a_comparison_in_which_all_has_failed_has_a_page(comparison):
    broken = [Outcome(o.method, o.seed, o.forget, error="no memory") for o in comparison.outcomes]
    page = page_of(replace(comparison, outcomes=broken, before=(), references=()))
    assert "No method could be measured in every cell." in page
    assert "Cells that failed: good (6), leaky (6), harsh (6)." in page


def test_csv_holds_every_cell_and_no_formula(shown):
    rows = list(csv.DictReader(io.StringIO(as_csv(shown))))
    assert len(rows) == len(shown.before) + len(shown.references) + len(shown.outcomes)
    good = [row for row in rows if row["method"] == "good"]
    assert [float(row["gap"]) for row in good] == [o.numbers["gap"] for o in shown.of("good")]
    assert rows[-1]["error"] == HOSTILE
    assert rows[-1]["gap"] == ""
    formula = replace(shown, outcomes=[Outcome("=1+1", 0, 0)])
    assert "\n'=1+1," in as_csv(formula)


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_real_browser(browser, page, tmp_path: Path, width, dark):
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    opened = browser.open(file, width, dark=dark)
    assert opened.console == []
    assert [u for u in opened.requests if not u.startswith(("chrome://", "data:"))] == [
        file.as_uri()
    ]
    assert opened.overflow() == []
    assert opened.run("return document.title") != "owned"
    colour = "return getComputedStyle(document.body).backgroundColor"
    assert (opened.run(colour) == "rgb(20, 23, 27)") is dark
    opened.run("document.getElementById('theme').click()")
    assert (opened.run(colour) == "rgb(20, 23, 27)") is not dark
    smallest, seen = opened.run(
        """
        const svgs = [...document.querySelectorAll(".summary svg")];
        const seen = svgs.filter(svg => svg.getBoundingClientRect().width);
        const scale = seen[0].getBoundingClientRect().width / seen[0].viewBox.baseVal.width;
        const texts = [...seen[0].querySelectorAll("text")];
        return [Math.min(...texts.map(t => parseFloat(getComputedStyle(t).fontSize))) * scale,
                seen.length];
        """
    )
    assert seen == 1  # the drawing for this width, not both
    assert smallest >= 10.5


PAPER = Record("p0", prompt="Where?\u202e", completion=f"In {HOSTILE}", secrets=())


def known(ids):
    """Losses 1, 2, … before, twice that after, and 1 with the references."""
    n = np.arange(1.0, len(ids) + 1)
    splits = ["forget"] * (len(ids) // 2) + ["retain"] * (len(ids) - len(ids) // 2)
    return CellRecords(ids, splits, n, 2 * n, np.ones(len(ids)), n < 2)


def test_records_are_shown_one_by_one_when_asked(browser, shown, tmp_path: Path):
    cells = {(o.method, o.seed, o.forget): known(["p0", HOSTILE, "p2"]) for o in shown.of("good")}
    plain = page_of(shown, about=about(shown), records=cells)
    assert "Where?" not in plain
    assert HOSTILE not in plain
    file = tmp_path / "report.html"
    file.write_text(page_of(shown, about=about(shown), records=cells, texts={"p0": PAPER}))
    opened = browser.open(file, 390)
    opened.run("document.querySelectorAll('details.method').forEach(d => { d.open = true; })")
    first = opened.driver.find_element("css selector", "#method-good details.records summary")
    first.send_keys("\ue007")
    rows = """
        return [...document.querySelectorAll("details.records tbody tr")]
          .map(row => [...row.cells].map(cell => cell.textContent));
    """
    wanted = [
        [f"p0Where?⟨U+202E⟩In {HOSTILE}", "forget", "1.00", "2.00", "1.00", "1.00", "yes"],
        [HOSTILE, "retain", "2.00", "4.00", "1.00", "3.00", "no"],
        ["p2", "retain", "3.00", "6.00", "1.00", "5.00", "no"],
    ]
    assert opened.soon(rows, wanted) == wanted
    assert opened.overflow() == []
    heads = "document.querySelectorAll('details.records thead button')"
    opened.run(f"{heads}[5].click(); {heads}[5].click()")
    assert [row[0][:2] for row in opened.run(rows)] == ["p2", "<s", "p0"]
    assert opened.run("return document.title") != "owned"
    assert opened.driver.get_log("browser") == []


@pytest.mark.parametrize("width", [390, 1440])
def test_each_method_has_a_page_that_a_link_opens(browser, page, tmp_path: Path, width):
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    opened = browser.open(file, width)
    seen = "return [...document.querySelectorAll('details.method[open]')].map(d => d.id)"
    assert opened.run(seen) == []
    link = opened.driver.find_element("css selector", "a[href='#method-leaky']")
    link.send_keys("\ue007")  # the enter key
    assert opened.soon(seen, ["method-leaky"]) == ["method-leaky"]
    focused = "return document.activeElement.parentElement.id + document.activeElement.tagName"
    assert opened.soon(focused, "method-leakySUMMARY") == "method-leakySUMMARY"
    opened.driver.switch_to.active_element.send_keys("\ue007")
    assert opened.soon(seen, []) == []
    link.send_keys("\ue007")  # the same link again
    assert opened.soon(seen, ["method-leaky"]) == ["method-leaky"]
    opened.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert opened.overflow() == []
    small = "return [...document.querySelectorAll('#method-leaky tbody tr')].length"
    assert opened.run(small) == 6
    drawn = opened.driver.find_element("css selector", "#method-leaky svg")
    assert "Seed 2, set 1: 2 at step 1, 1 at step 3." in drawn.get_attribute("aria-label")
    scale = "return document.querySelector('#method-leaky svg').getScreenCTM().a"
    assert 12 * opened.run(scale) >= 10.5
    failed = "return document.querySelector('#method-harsh .failed').textContent"
    assert HOSTILE in opened.run(failed)
    assert opened.run("return document.title") != "owned"
    # and by its address
    opened.driver.get("about:blank")
    opened.driver.get(file.as_uri() + "#method-harsh")
    assert opened.soon(seen, ["method-harsh"]) == ["method-harsh"]


NAMES = """
    return [...document.querySelectorAll("#methods tbody tr")]
      .filter(row => row.getBoundingClientRect().height).map(row => row.dataset.method);
"""
PRESS = "document.querySelectorAll('#methods thead button')[{}].click()"


def test_sorts_filters_and_is_operable_by_keyboard(browser, page, tmp_path: Path):
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    opened = browser.open(file, 1440)
    assert opened.run(NAMES) == ["before", "references", "good", "leaky", "harsh"]
    opened.run(PRESS.format(1))  # by distance
    upwards = ["references", "good", "harsh", "leaky", "before"]
    assert opened.run(NAMES) == upwards
    sorts = "return [...document.querySelectorAll('#methods th')].map(h => h.ariaSort)"
    assert opened.run(sorts)[1] == "ascending"
    opened.run(PRESS.format(1))
    assert opened.run(NAMES) == upwards[::-1]
    assert opened.run(sorts)[1] == "descending"
    opened.run(PRESS.format(2))  # in SDs: before and references have no number, and stay last
    assert opened.run(NAMES) == ["good", "harsh", "leaky", "before", "references"]
    opened.run(PRESS.format(2))
    assert opened.run(NAMES) == ["leaky", "harsh", "good", "before", "references"]
    # the same without the heads, which a phone does not show
    choose = """
        const order = document.getElementById("order");
        order.value = arguments[0];
        order.dispatchEvent(new Event("change"));
    """
    opened.driver.execute_script(choose, "-1")
    assert opened.run(NAMES) == ["harsh", "leaky", "good", "references", "before"]
    opened.run("document.getElementById('turn').click()")
    assert opened.run(NAMES) == ["before", "references", "good", "leaky", "harsh"]
    find = opened.driver.find_element("id", "find")
    find.send_keys("LEAK")
    assert opened.soon(NAMES, ["leaky"]) == ["leaky"]
    assert opened.run("return document.getElementById('count').textContent") == "1 of 5 rows"
    cells = "return document.querySelectorAll('#cells tbody tr:not([hidden])').length"
    assert opened.run(cells) == 6
    pages = "return document.querySelectorAll('details.method:not([hidden])').length"
    assert opened.run(pages) == 1
    find.clear()
    find.send_keys(" ")
    everything = ["before", "references", "good", "leaky", "harsh"]
    assert opened.soon(NAMES, everything) == everything
    assert opened.run(pages) == 3
    # all that does something is reached by the tab key (U+E004), in the order of the page
    opened.run("document.getElementById('theme').focus()")
    reach = "return document.activeElement.id || document.activeElement.textContent.trim()"
    reached = []
    for _ in range(9):
        opened.driver.switch_to.active_element.send_keys("\ue004")
        reached.append(opened.run(reach))
    wanted = ["find", "front", "order", "turn", "Download every cell as CSV", "method"]
    assert [name for name in reached if name in wanted] == wanted
    opened.driver.find_element("id", "front").send_keys(" ")
    # not harsh: one of its cells has failed
    rest = ["before", "references", "good", "leaky"]
    assert opened.soon(NAMES, rest) == rest
    data = opened.run("return document.querySelector('a[download]').href")
    assert data.startswith("data:text/csv;base64,")


def test_fifty_cells_open_and_sort_at_once(browser, comparison, tmp_path: Path):
    many = [
        replace(o, method=f"{o.method} {i}", numbers={**o.numbers, "gap": 0.01 * i})
        for i in range(3)
        for o in comparison.outcomes
    ]
    file = tmp_path / "report.html"
    whole = replace(comparison, outcomes=many)
    ids = [f"record-{i}" for i in range(200)]
    texts = {name: Record(name, text=name + " says something" * 10) for name in ids}
    records = {(o.method, o.seed, o.forget): known(ids) for o in many}
    page = page_of(whole, about=about(whole), records=records, texts=texts)
    assert len(page.encode()) < 3_000_000
    file.write_text(page, encoding="utf-8")
    start = time.perf_counter()
    opened = browser.open(file, 1440)
    opened.run(PRESS.format(1))
    assert len(opened.run(NAMES)) == 11
    took = opened.run(
        """
        const start = performance.now();
        document.querySelectorAll("#cells thead button")[1].click();
        document.body.getBoundingClientRect();
        return performance.now() - start;
        """
    )
    assert took < 1000
    assert time.perf_counter() - start < 30  # the machine may be busy with other tests


def test_prints_on_paper(browser, page, tmp_path: Path):
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    browser.open(file, 1440, dark=True)
    paper = browser.pdf()
    pages = len(re.findall(rb"/Type\s*/Page\b", paper))
    assert 2 <= pages <= 6
