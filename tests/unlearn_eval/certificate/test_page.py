from __future__ import annotations

import base64
import html
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from unlearn.errors import CertificateError
from unlearn_eval.certificate import check_certificate, sign
from unlearn_eval.report.certificate import certificate_page

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>&lt;b&gt;{{ 7*7 }}"


def text(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page)))


def spoiled(value: Any, path: tuple[str, ...] = ()) -> Any:
    """Put hostile text wherever text may stand."""
    if isinstance(value, dict):
        return {key: spoiled(part, (*path, key)) for key, part in value.items()}
    if isinstance(value, list):
        return [spoiled(part, path) for part in value]
    fixed = {"outcome", "tier", "chosen", "kind", "cleaned", "algorithm", "scope", "log"}
    times = re.compile(r"\d{4}-\d\d-\d\dT.*|(sha256:)?[0-9a-f]{64}")
    if not isinstance(value, str) or path[-1] in fixed or times.fullmatch(value):
        return value
    return f"{HOSTILE}\n{'x' * 200}\u202e"


def test_the_verdict_comes_first_and_in_plain_words(case, private_key) -> None:
    whole = certificate_page(sign(case.statement(), private_key))
    assert 'class="headline good"' in whole
    page = text(whole)
    order = [
        "Certificate of deletion",
        "✓ PASS In every test",
        "Compared with 8 models trained in the same way without the records.",
        "Of what is listed under scope (7), 2 are not cleaned",
        "What was deleted",
        "What was measured",
        "Scope",
        "What this does not claim",
        "how to check it",
    ]
    places = [page.index(part) for part in order]
    assert places == sorted(places)
    assert "draft" not in page


@pytest.mark.parametrize(
    ("outcome", "title", "words"),
    [
        ("FAIL", "A deletion that is not confirmed", "does not meet the policy"),
        ("INCONCLUSIVE", "A deletion that is not confirmed", "can neither confirm"),
    ],
)
def test_other_verdicts_are_not_called_a_deletion(case, outcome, title, words) -> None:
    case.verdict |= {"outcome": outcome, "would_decide": ["Eight more references."], "tier": "C"}
    case.verdict["policy"]["chosen"] = "after"
    whole = certificate_page(case.statement())
    assert f'class="headline {"bad" if outcome == "FAIL" else "open"}"' in whole
    page = text(whole)
    assert title in page
    assert words in page
    assert "Eight more references." in page
    assert "Certificate of deletion" not in page
    assert "records of the same source that the model was never trained on" in page
    assert "The rules were chosen when the numbers could be seen." in page
    assert "This is a draft: nobody has signed it." in page
    assert "Save certificate.json" not in page


def test_every_number_and_every_sentence_is_there(case) -> None:
    probes = case.verdict["probes"]
    probes[0] |= {"value": -0.004, "passed": False}
    probes[1] |= {"passed": False, "failed": True}
    probes[2] |= {"k": 0, "reference_mean": None, "reference_sd": None}
    statement = case.statement()
    page = certificate_page(statement)
    rows = [text(row) for row in page.split("<tr")]

    def row(words: str) -> str:
        return next(row for row in rows if words in row)

    first, second, third, fourth = rows[2:6]  # after the head
    assert "An attacker who picks the record that the model finds likelier" in first
    assert "−0.004" in first
    assert "not decided" in first
    assert "fails" in second
    assert "membership.loss, auc; of 2 forms of the model the worst: as-is" in first
    # with references the range is that of passing; without, that of the number itself
    assert probes[2]["words"].removeprefix("membership.min_k: ") in third
    assert re.search(r"0\.60 0\.54 to 0\.66 – passes", third)
    assert re.search(r"−0\.21 −0\.20 ± 0\.03 8 models; passes: −0\.27 to −0\.15 passes", fourth)
    assert "0 of 20" in row(case.verdict["extraction"]["words"])
    assert "margin −0.05" in row(case.verdict["utility"]["words"])
    assert "not applicable" in row("Not needed")
    assert "not known" in row("support-q4")
    assert " no " in row("support-merged")
    plain = text(page)
    for line in [*statement["not_claimed"], *case.verdict["reasons"], case.verdict["power"]]:
        assert line in plain
    for digest in (case.after["digest"], case.before["digest"], case.verdict["policy"]["sha256"]):
        assert digest.rpartition(":")[2][:12] in plain
    assert "and 17 more" in plain


def test_probes_of_others_are_shown_by_their_words(case) -> None:
    case.verdict["probes"][0] |= {"probe": "mine.own", "words": "what mine found"}
    assert "what mine found mine.own, auc" in text(certificate_page(case.statement()))


def test_the_least_certificate(case) -> None:
    case.verdict |= {"tier": None, "extraction": None, "utility": None, "power": "", "probes": []}
    case.verdict |= {"reasons": [], "gates": [], "counts": {"forget": 1}, "outcome": "INCONCLUSIVE"}
    page = certificate_page(
        case.statement(
            request=None,
            artifacts=(),
            adapter=None,
            lineage_before=None,
            records=case.after["records"]["forgotten"][:1],
        )
    )
    assert "None was given." in page
    assert "Nothing could stand for models" in page
    assert "1 record " in text(page)


def test_what_is_no_certificate_has_no_page(case, private_key) -> None:
    for wrong in ({}, {"payload": "!"}, sign({"schema": 1}, private_key)):
        with pytest.raises(CertificateError, match="cannot show"):
            certificate_page(wrong)


def test_text_from_elsewhere_is_only_text(case, private_key) -> None:
    envelope = sign(spoiled(case.statement()), private_key)
    envelope["signatures"][0]["keyid"] = HOSTILE
    page = certificate_page(envelope)
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert "49" not in re.findall(r"\b49\b", page)
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page
    assert "⟨U+202E⟩" in page


def test_the_page_carries_the_signed_file(case, private_key, tmp_path: Path) -> None:
    envelope = sign(case.statement(), private_key)
    found = re.search(r'href="data:application/json;base64,([^"]+)"', certificate_page(envelope))
    assert found
    file = tmp_path / "saved.json"
    file.write_bytes(base64.b64decode(found[1]))
    assert json.loads(file.read_text()) == envelope
    now = case.statement()["created"]
    from unlearn_eval.certificate.shape import parse_time

    assert check_certificate(file, private_key.public_key(), now=parse_time(now)).ok


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("hostile", [False, True])
def test_in_a_real_browser(browser, case, private_key, tmp_path, width, dark, hostile) -> None:
    statement = case.statement()
    envelope = sign(spoiled(statement) if hostile else statement, private_key)
    file = tmp_path / "certificate.html"
    file.write_text(certificate_page(envelope), encoding="utf-8")
    opened = browser.open(file, width, dark=dark)
    assert opened.console == []
    assert [url for url in opened.requests if not url.startswith(("file://", "data:"))] == []
    assert opened.overflow() == []
    assert opened.run("return document.title") == "Certificate of deletion"
    assert opened.run("return document.querySelectorAll('img').length") == 0
    colour = opened.run("return getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(20, 23, 27)") is dark
    if hostile or dark:
        return
    folder = tmp_path / "downloads"
    folder.mkdir()
    browser.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    opened.run("document.querySelector('a[download]').click()")
    saved = folder / "certificate.json"
    until = time.monotonic() + 10
    while not saved.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert json.loads(saved.read_text()) == envelope


def test_it_prints_on_two_pages(browser, case, private_key, tmp_path: Path) -> None:
    case.verdict["probes"] *= 2  # twelve tests, seven artifacts, twenty records
    file = tmp_path / "certificate.html"
    file.write_text(certificate_page(sign(case.statement(), private_key)), encoding="utf-8")
    browser.open(file, 1440, dark=True)
    paper = browser.pdf()
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) == 2
    boxes = set(re.findall(rb"/MediaBox\s*\[([^\]]+)\]", paper))
    assert all(
        [float(n) for n in box.split()[2:]] == pytest.approx([595, 842], abs=1) for box in boxes
    )
    assert boxes
