from __future__ import annotations

import inspect

import pytest

from unlearn.errors import OptionError
from unlearn_eval.robustness import TREATMENTS
from unlearn_eval.robustness.treatments.options import OPTIONS, options_of, parse_options


def test_words_become_typed_values():
    words = ["relearn.steps=20", "relearn.learning_rate=1e-5", "relearn.seeds=0,1,2"]
    words += [
        "benign.learning_rate=auto",
        "scale.factors=0.5",
        "int4.groups=[16, 64]",
        "logit_lens.blocks=1",
    ]
    found = options_of(parse_options(words), TREATMENTS)
    assert found["relearn"].model_dump() == {
        "k": 5,
        "steps": 20,
        "learning_rate": 1e-5,
        "seeds": (0, 1, 2),
    }
    assert found["benign"] == OPTIONS["benign"]()
    assert found["scale"].model_dump() == {"factors": (0.5,)}
    assert found["int4"].model_dump() == {"groups": (16, 64)}
    assert found["logit_lens"].model_dump() == {"blocks": (1,)}
    assert [found[name].runs for name in ("relearn", "scale", "int4", "logit_lens", "int8")] == [
        3,
        1,
        2,
        1,
        1,
    ]
    assert [OPTIONS[name]().runs for name in ("benign", "scale", "int4", "logit_lens")] == [
        1,
        5,
        3,
        3,
    ]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("relearn.stpes=3", "unknown option 'stpes'.*did you mean 'steps'"),
        ("relaern.steps=3", "no treatment 'relaern'.*did you mean 'relearn'"),
        ("nf4.bits=3", "nothing can be set of nf4"),
        ("relearn.steps=many", "steps"),
        ("relearn.steps=0", "steps"),
        ("relearn.learning_rate=-1", "learning_rate"),
        ("relearn.seeds=1,1", "twice"),
        ("int4.groups=0", "groups"),
        ("scale.factors=big", "factors"),
        ("steps=3", "write TREATMENT.OPTION=VALUE"),
        ("relearn.steps", "write TREATMENT.OPTION=VALUE"),
        ("relearn.steps=", "write TREATMENT.OPTION=VALUE"),
    ],
)
def test_what_does_not_fit_is_named(word, message):
    with pytest.raises(OptionError, match=message):
        options_of(parse_options([word]), TREATMENTS)


def test_what_is_not_run_cannot_be_set():
    with pytest.raises(OptionError, match=r"scale.factors: scale is not run; add it"):
        options_of(parse_options(["scale.factors=0"]), ["relearn"])


def test_options_are_those_of_the_functions():
    assert list(OPTIONS) == list(TREATMENTS)
    for name, options in OPTIONS.items():
        parameters = inspect.signature(TREATMENTS[name].function()).parameters
        ours = {k: p.default for k, p in list(parameters.items())[3:]}
        assert ours == {k: f.default for k, f in options.model_fields.items()}, name
        assert all(field.description for field in options.model_fields.values())
