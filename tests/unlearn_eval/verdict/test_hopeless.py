"""A verdict that could only be INCONCLUSIVE: known from its power, and never certified."""

from __future__ import annotations

import pytest

from unlearn.errors import CertificateError
from unlearn_eval.certify import refuse_hopeless
from unlearn_eval.verdict.policy import load_policy
from unlearn_eval.verdict.power import hopeless, power_statement


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((1, 1, 0, 1), True),
        ((3, 1, 3, 1), True),
        ((3, 1, 1000, 1), False),
        ((6, 2, 6, 0), True),
        ((20, None, 0, 0), True),
        ((600, None, 600, 0), False),
        ((1, 1, 0, 64), False),
    ],
)
def test_the_power_says_whether_there_is_a_chance(
    sizes: tuple[int, int | None, int, int], expected: bool
) -> None:
    _, policy = load_policy("standard")
    power = power_statement(policy, *sizes)
    assert hopeless(power) == expected
    verdict = {"outcome": "INCONCLUSIVE", "tier": "C", "power": power}
    if expected:
        with pytest.raises(CertificateError, match="could only be INCONCLUSIVE.*references would"):
            refuse_hopeless(verdict)
    else:
        refuse_hopeless(verdict)
    refuse_hopeless(verdict | {"outcome": "FAIL"})  # records came out
    refuse_hopeless(verdict | {"tier": "B"})
