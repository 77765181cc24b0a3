"""Each module through `evaluate` itself, offline and with caches of the test's own."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unlearn.errors import DataError, OptionError
from unlearn_eval.evaluate_modules import MODULES, module_path


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The library, which reads its caches' places when it is imported, with other places."""
    import evaluate
    from evaluate import config

    folder = tmp_path_factory.mktemp("hf")
    patch = pytest.MonkeyPatch()
    patch.setattr(config, "HF_EVALUATE_OFFLINE", True)
    patch.setattr(config, "HF_MODULES_CACHE", folder / "modules")
    patch.setattr(config, "HF_METRICS_CACHE", folder / "metrics")
    path = list(sys.path)
    yield evaluate
    assert any(folder.glob("modules/evaluate_modules/metrics/*"))
    sys.path[:] = path
    for name in [x for x in sys.modules if x.split(".")[0] == "evaluate_modules"]:
        del sys.modules[name]
    patch.undo()


def test_every_folder_is_listed_and_loads(evaluate):
    folder = Path(module_path(MODULES[0])).parent
    assert {p.parent.name for p in folder.glob("*/*.py")} == set(MODULES)
    for name in MODULES:
        assert "Returns:" in evaluate.load(module_path(name)).inputs_description
    with pytest.raises(OptionError, match="did you mean 'rouge_l'"):
        module_path("rougel")


def test_rouge_l(evaluate):
    metric = evaluate.load(module_path("rouge_l"))
    texts = {
        "predictions": ["the cat on a mat", "running"],
        "references": ["the cat on mats", "run"],
    }
    # stemmed: 4 of 4 and 5 words, and a whole match
    found = metric.compute(**texts)
    assert found == {"rouge_l_recall": 1.0, "rouge_l_f1": pytest.approx((8 / 9 + 1) / 2)}
    # not stemmed: 3 of 4 and 5, and nothing
    assert metric.compute(**texts, stem=False) == {
        "rouge_l_recall": pytest.approx(3 / 8),
        "rouge_l_f1": pytest.approx(2 / 3 / 2),
    }


def test_verbatim(evaluate):
    found = evaluate.load(module_path("verbatim")).compute(
        predictions=[" Rome.\n", "rome.", "Rome"], references=["Rome.", "Rome.", "Rome."]
    )
    assert found["verbatim_rate"] == pytest.approx(1 / 3)
    assert found["verbatim_rate_low"] < 1 / 3 < found["verbatim_rate_high"]


def test_extraction_strength(evaluate):
    metric = evaluate.load(module_path("extraction_strength"))
    # all right: 1; right from position 2 of 4: ½; last one wrong: 0
    found = metric.compute(
        predictions=[[5, 6], [1, 9, 3, 4], [1, 2, 9]], references=[[5, 6], [1, 2, 3, 4], [1, 2, 3]]
    )
    assert found == {"extraction_strength": pytest.approx((1 + 1 / 2 + 0) / 3)}
    with pytest.raises(DataError, match="record 1: 1 predicted tokens for 2"):
        metric.compute(predictions=[[1], [1]], references=[[1], [1, 2]])


def test_membership_auc(evaluate):
    metric = evaluate.load(module_path("membership_auc"))
    found = metric.compute(predictions=[3.0, 1.0, 2.0, 0.0, 1.0], references=[1, 1, 0, 0, 0])
    assert found["membership_auc"] == pytest.approx((3 + 1 + 0.5) / 6)
    assert found["membership_auc_low"] < found["membership_auc"] < found["membership_auc_high"]
    wider = metric.compute(
        predictions=[3.0, 1.0, 2.0, 0.0, 1.0], references=[1, 1, 0, 0, 0], level=0.99
    )
    assert wider["membership_auc_low"] < found["membership_auc_low"]
    with pytest.raises(DataError, match="1 for members"):
        metric.compute(predictions=[1.0, 2.0], references=[1, 2])


def test_truth_ratio(evaluate):
    metric = evaluate.load(module_path("truth_ratio"))
    losses = {
        "predictions": [[math.log(4), math.log(16)], [0.5]],
        "references": [math.log(2), 0.5],
    }
    # R = ¼ and 1
    assert metric.compute(**losses) == {
        "truth_ratio_forget": pytest.approx((1 / 4 + 1) / 2),
        "truth_ratio_utility": pytest.approx((3 / 4 + 0) / 2),
    }
    assert metric.compute(**losses, mean="arithmetic") == {
        "truth_ratio_forget": pytest.approx((5 / 16 + 1) / 2),
        "truth_ratio_utility": pytest.approx((11 / 16) / 2),
    }


def test_combined_and_in_batches(evaluate):
    both = evaluate.combine([module_path("rouge_l"), module_path("verbatim")])
    for said, true in (("one two", "one two"), ("one", "one two")):
        both.add_batch(predictions=[said], references=[true])
    found = both.compute()
    assert found["verbatim_rate"] == 0.5
    assert found["rouge_l_recall"] == 0.75
    assert len(found) == 5


def test_nothing_to_compare(evaluate):
    for name in ("rouge_l", "verbatim", "extraction_strength"):
        with pytest.raises(DataError):
            evaluate.load(module_path(name)).compute(predictions=[], references=[])
