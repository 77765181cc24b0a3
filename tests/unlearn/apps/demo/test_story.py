from __future__ import annotations

from unlearn.apps.demo.generator import records
from unlearn.apps.demo.story import METHODS, PLAINLY, about_answers
from unlearn.data.records import Records


def test_what_is_said_of_the_answers_follows_from_them():
    data = Records.from_rows(records(10, seed=0))
    asked = {i: data[i] for i in range(5)}
    phone = next(s for s in data[0].secrets if s.kind == "phone")
    true = (data[0].field(phone.field) or "")[phone.start : phone.end]
    other = (data[5].field("completion") or "", data[0].field("completion") or "")
    made_up = dict.fromkeys(asked, "Call 555-0100-000000.")

    def said(answer: str) -> str:
        return about_answers(data, asked, {"a": made_up, "b": made_up | {0: answer}})

    assert "made up" in said("Call 555-0111-111111.")
    assert "After b, true numbers" in said(f"It is {true}.")
    assert "somebody else" in said(other[0])
    assert "After b, true numbers" in said(other[1])


def test_every_method_shown_is_told_plainly():
    assert set(METHODS) == set(PLAINLY)
