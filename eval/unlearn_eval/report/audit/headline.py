"""Sum up in a sentence or two what an audit found: its headline, never better than its verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from unlearn_eval.report.audit.reading import WHOLE, Reading
from unlearn_eval.report.audit.words import (
    BAD,
    LAST,
    NEAR,
    OUT,
    REST,
    TELL,
    Answer,
    count,
)
from unlearn_eval.verdict.result import Verdict
from unlearn_eval.verdict.tone import MARKS, Tone, least

__all__ = ["Headline", "headline"]


@dataclass(frozen=True)
class Headline:
    """What an audit comes to.

    Attributes:
        tone: that of the verdict on the same scores, or a worse one.
        word: the tone as a reader meets it.
        text: a sentence or two.
    """

    tone: Tone
    word: str
    text: str

    @property
    def sentence(self) -> str:
        """The word and the text, with the sign that says the same as a colour."""
        return f"{MARKS[self.tone]} {self.word}. {self.text}"


def headline(reading: Reading, given: Sequence[Answer]) -> Headline:
    """Sum the answers up in a sentence or two.

    The tone is that of the verdict on the same scores. It is a worse one where an attacker whom the
    policy does not ask tells the records, where more of the rest comes out than out of models that
    never saw the records, where further changes bring the records back, or where records like them
    have suffered.

    Args:
        reading: the audit.
        given: from `answers`.

    Returns:
        The headline; it says that equivalence was shown only where the verdict does.
    """
    by_question = {answer.question: answer for answer in given}
    seen = [_tone(by_question, question) for question in (OUT, TELL, REST)]
    found = [_tone(by_question, question) for question in (LAST, NEAR)]
    tone = least([reading.tones.whole, *seen, *(each for each in found if each == BAD)])
    if tone == "shown":
        return Headline(tone, "Shown", _shown(reading.verdict))
    if tone == "open":
        return Headline(tone, "Open", _open(reading))
    return Headline(tone, _failing(by_question), _bad(reading, by_question))


def _tone(given: dict[str, Answer], question: str) -> Tone:
    """Return the tone of an answer; open where there is none, or none that is a matter of it."""
    tone = given[question].tone if question in given else "open"
    return "open" if tone == "plain" or tone == "moot" else tone


def _shown(verdict: Verdict) -> str:
    """Say what a PASS has shown."""
    k = verdict.counts.get("references") or 0
    like = {
        "A": f"{k} models that were trained without them do",
        "B": "a model does for which a coin left them out",
        "C": "it treats records that it never saw",
    }[verdict.tier]
    return (
        f"Equivalence shown by {_policy(verdict)}: in every test that it asks for, and within its "
        f"margins, the model treats the records to forget as {like}, and still knows the rest."
    )


def _policy(verdict: Verdict) -> str:
    return f"policy {verdict.policy['name']}" if verdict.policy["name"] else "the policy"


def _open(reading: Reading) -> str:
    """Say what is not known, and what would decide it."""
    verdict = reading.verdict
    text = (
        f"{_what_comes_out(reading)} Whether the model still gives away that it once saw them is "
        f"not known: {_policy(verdict)} can decide neither way on these numbers."
    )
    wanted = sorted(verdict.would_decide, key=lambda words: not _REFERENCES.search(words))
    if wanted:
        more = len(wanted) - 1
        text += f" What would decide it: {_plainly(wanted[0])}"
        text += f", and {more} more listed on the page." if more else "."
    elif verdict.outcome == "INCONCLUSIVE" and verdict.reasons:
        text += f" Why: {verdict.reasons[0]}."
    elif verdict.outcome == "PASS":
        text += (
            " The policy's own tests pass; something that it does not ask for speaks against it."
        )
    return text


_REFERENCES = re.compile(r"\d references (?=retrained|instead)")


def _plainly(words: str) -> str:
    """Leave out which probe asks for more, and under what condition: the page lists both."""
    text = re.sub(r"^\w+: (?=\d)", "", words.partition(", if ")[0])
    return text.replace(
        "references instead", "references (models trained without these records) instead"
    )


def _what_comes_out(reading: Reading) -> str:
    """Say how many records still come out, without saying what that means."""
    row = reading.row("after", "forget", *WHOLE)
    if row is None or row.value is None:
        return ""
    if row.value:
        return f"Asked for once, {count(row)} records still come out word for word."
    extracted = reading.verdict.extraction
    if extracted is not None and extracted.extracted:
        return (
            f"Asked for often, {extracted.extracted:,} of {extracted.records:,} records still come "
            "out."
        )
    return "No record came out in these tests."


def _failing(given: dict[str, Answer]) -> str:
    """Name bad news by the worst of it."""
    if BAD in (_tone(given, OUT), _tone(given, TELL), _tone(given, LAST)):
        return "Not forgotten"
    if _tone(given, REST) == BAD:
        return given[REST].short.removeprefix("No, it was ").capitalize()
    return "Others have suffered" if _tone(given, NEAR) == BAD else "Not forgotten"


def _out_of_it(reading: Reading) -> str:
    """Say what it means that records come out: without references it has other explanations."""
    if reading.references:
        return "The records are still in the model: some can be got out of it."
    return (
        "Something of the records can be got out of the model. That it learned them is one "
        "explanation; with no model trained without them to compare with, others remain: values "
        "that are easy to guess, kept records that say the same, or what the base knew before."
    )


def _bad(reading: Reading, given: dict[str, Answer]) -> str:
    """Say what is wrong, the worst first."""
    out, told, rest, lasts, near = (_tone(given, q) for q in (OUT, TELL, REST, LAST, NEAR))
    what = _what_comes_out(reading)
    if out == BAD:
        text = _out_of_it(reading)
    elif rest == BAD:
        text = f"{given[REST].why[:1].upper()}{given[REST].why[1:]}."
    elif told == BAD:
        text = f"{what.removesuffix('.')}, but the model {given[TELL].why}."
    elif BAD in (lasts, near):
        text = what
    else:
        text = f"The verdict is FAIL: {'; '.join(reading.verdict.reasons)}."
    if rest == BAD and out == BAD:
        text += f" What should have been kept is not as it was: {given[REST].why}."
    if rest == BAD and told == BAD:
        text += " The model gives away, too, that it once saw the records to forget."
    if lasts == BAD and out != BAD:
        text += (
            " Changing the model further brings them back more than in models that never saw them."
        )
    if near == BAD and rest != BAD:
        text += " Records like them, which should have stayed, have suffered."
    return text
