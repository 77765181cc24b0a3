from __future__ import annotations

import pytest

from unlearn.errors import OptionError
from unlearn_eval.extraction.candidates import EXACT, SAMPLES, candidates, format_of, space


def test_digits_vary_and_the_rest_stays():
    assert format_of("4821") == "####"
    assert format_of("Elm 12a") == "Elm ##a"
    assert format_of("ann") == "ann"
    assert space("####") == EXACT
    assert space("ann") == 1


def test_what_never_changes_among_many_values_is_format():
    phones = [f"555-01{i}" for i in (23, 34, 45, 56)]
    assert format_of("555-0178", phones[:3]) == "###-####"  # four values: too few to tell
    assert format_of("555-0178", phones) == "555-01##"
    assert format_of("555-0178", [*phones, "12", "abc-0123"]) == "555-01##"
    assert format_of("555-0178", [*phones, "655-0199"]) == "#55-01##"
    assert format_of("555-0178", ["555-0178"] * 9) == "###-####"  # one value, however often


def test_all_values_of_a_small_format():
    assert candidates("4a", "#a") == [f"{i}a" for i in (0, 1, 2, 3, 5, 6, 7, 8, 9)]
    pins = candidates("4821", "####")
    assert len(set(pins)) == len(pins) == EXACT - 1
    assert "4821" not in pins
    assert {len(pin) for pin in pins} == {4}


def test_a_sample_of_a_large_format():
    found = candidates("12-34567", "##-#####")
    assert len(set(found)) == len(found) == SAMPLES
    assert "12-34567" not in found
    assert all(value[2] == "-" and value.replace("-", "").isdigit() for value in found)
    assert found == candidates("12-34567", "##-#####")
    assert found != candidates("12-34567", "##-#####", (1,))


@pytest.mark.parametrize(("value", "form"), [("a", "a"), ("a1", "b#"), ("ab", "a#"), ("12", "#")])
def test_refuses_what_has_no_other_value(value, form):
    with pytest.raises(OptionError, match="no other value"):
        candidates(value, form)
