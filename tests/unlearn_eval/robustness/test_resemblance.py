from __future__ import annotations

import math

import pytest

from unlearn.errors import OptionError
from unlearn_eval.robustness import TREATMENTS, chosen, resemblance


@pytest.mark.parametrize(
    ("unlearned", "reference", "wanted"),
    [
        (0.0, 0.0, 1.0),
        (0.3, 0.3, 1.0),
        (-0.3, -0.3, 1.0),
        (0.3, 0.1, 0.5),  # 1 − 0.2/0.4
        (0.1, 0.3, 0.5),
        (0.4, 0.0, 0.0),
        (0.0, -0.4, 0.0),
        (0.2, -0.2, 0.0),
        (math.inf, 1.0, math.nan),
        (math.nan, 0.0, math.nan),
    ],
)
def test_resemblance_by_hand(unlearned, reference, wanted):
    assert resemblance(unlearned, reference) == pytest.approx(wanted, nan_ok=True)


def test_every_treatment_leads_somewhere():
    for name, treatment in TREATMENTS.items():
        assert treatment.name == name
        assert callable(treatment.function())
        assert treatment.probe.startswith("robustness.")


def test_treatments_are_chosen_by_name_in_the_order_of_the_table():
    assert [t.name for t in chosen(["scale", "relearn", "scale"])] == ["relearn", "scale"]
    assert [t.name for t in chosen(["all"])] == list(TREATMENTS)
    assert chosen([]) == []
    with pytest.raises(OptionError, match="no treatment 'int16'.*did you mean.*int8"):
        chosen(["int16"])
