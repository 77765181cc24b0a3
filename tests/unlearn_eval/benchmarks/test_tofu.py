from __future__ import annotations

import json
import math

import numpy as np
import pytest

from unlearn.apps.demo import base_path
from unlearn.errors import DataError
from unlearn.model.state import open_model
from unlearn_eval.benchmarks.muse import privacy_leakage
from unlearn_eval.benchmarks.tofu import (
    SPLITS,
    TofuQuestion,
    TofuSplit,
    evaluate_tofu,
    forget_quality,
    harmonic_mean,
    load_tofu,
    model_utility,
    probability,
    tofu_metrics,
)
from unlearn_eval.statistics import auc
from unlearn_eval.utility import rouge

LN2 = math.log(2)


def split(answer, perturbed, paraphrase=None, rouge=0.5) -> TofuSplit:
    n = len(answer)
    return TofuSplit(
        answer=np.array(answer, dtype=np.float64),
        paraphrase=np.array(paraphrase or answer, dtype=np.float64),
        perturbed=tuple(np.array(x, dtype=np.float64) for x in perturbed),
        rouge=np.full(n, rouge),
    )


def test_probability_worked_by_hand():
    part = split([LN2, 2 * LN2], [[2 * LN2, 2 * LN2], [math.inf, math.inf]])
    assert probability(part, options=False) == pytest.approx([1 / 2, 1 / 4])
    assert probability(part, options=True) == pytest.approx([1 / 2, 1])
    impossible = split([math.inf], [[math.inf]])
    assert probability(impossible, options=True).tolist() == [0]


def test_model_utility_worked_by_hand():
    # retain: p ½, R of ¼ ÷ ½; the others: p ½ of ½ + ¼ + ¼, the same R
    part = split([LN2], [[2 * LN2, 2 * LN2]])
    scores = dict.fromkeys(SPLITS, part)
    assert model_utility(scores) == pytest.approx(0.5)  # nine times ½
    better = scores | {"retain": split([0.0], [[math.inf]], rouge=1.0)}
    assert model_utility(better) == pytest.approx(9 / (3 / 1 + 6 / 0.5))
    assert model_utility(scores | {"forget": split([9.0], [[1.0]])}) == pytest.approx(0.5)
    # one of nine is 0
    assert model_utility(scores | {"retain": split([LN2], [[0.0]])}) == 0


def test_harmonic_mean_limits():
    assert harmonic_mean([1.0, 0.5]) == pytest.approx(2 / 3)
    assert harmonic_mean([1.0, 0.0]) == 0


def test_forget_quality_is_the_exact_test_on_truth_ratios():
    low, high = split([0.0] * 4, [[1.0], [2.0], [3.0], [4.0]]), split([0.0] * 4, [[9.0]] * 4)
    assert forget_quality(low, low).p_value == 1
    # four values all below four others: 2 of the 70 orders are as extreme
    assert forget_quality(low, high).p_value == pytest.approx(2 / 70)


def test_metrics_name_what_they_rest_on():
    part = split([LN2] * 40, [[1.0, 2.0]] * 40)
    scores = dict.fromkeys(SPLITS, part)
    found = tofu_metrics(scores)
    assert "forget_quality" not in found
    assert len(found) == 13
    assert found["forget.probability"].method == "conditional"  # two authors are too few clusters
    assert found["forget.probability"].clusters == 2
    assert found["real_authors.probability"].method == "t"
    assert math.isnan(found["model_utility"].low)
    assert "does not show" in tofu_metrics(scores, scores)["forget_quality"].note


def question(k: int, paraphrase: bool) -> TofuQuestion:
    return TofuQuestion(
        f"Which day comes after number {k}?",
        f"Day {k} it is.",
        f"It is day {k}." if paraphrase else None,
        tuple(f"It is day {k + j}." for j in range(1, 3 + k)),
    )


@pytest.fixture(scope="module")
def state():
    return open_model(base_path())


def test_a_live_model_is_scored_row_by_row_in_one_pass(state, monkeypatch):
    from unlearn.data.records import Record
    from unlearn.data.templates import Template
    from unlearn.data.tokenization import encode
    from unlearn.model.scoring import score_examples
    from unlearn_eval.benchmarks import tofu

    seen = []

    def watched(model, head, examples, **options):
        seen.append(len(examples))
        return score_examples(model, head, examples, **options)

    monkeypatch.setattr(tofu, "score_examples", watched)
    data = {
        name: [question(k, name in SPLITS[:2]) for k in range(1 + i)]
        for i, name in enumerate(SPLITS)
    }
    progress = []
    scores = evaluate_tofu(
        state,
        data,
        template="qa",
        new_tokens=5,
        progress=lambda done, of: progress.append((done, of)),
    )
    rows = sum(
        1 + (q.paraphrase is not None) + len(q.perturbed) for part in data.values() for q in part
    )
    assert seen == [rows]  # every row once
    assert progress[-1] == (rows + 10, rows + 10)

    def alone(q: TofuQuestion, answer: str) -> float:
        example = encode(
            [Record("x", prompt=q.question, completion=answer)],
            state.tokenizer,
            Template("qa"),
            512,
        )
        return -float(score_examples(state.model, state.head, example)[0].log_prob.mean())

    for name, part in data.items():
        found = scores[name]
        assert len(found.answer) == len(found.rouge) == len(found.written) == len(part)
        for i, q in enumerate(part):
            assert found.answer[i] == pytest.approx(alone(q, q.answer), abs=1e-4)
            truth = q.answer if q.paraphrase is None else q.paraphrase
            assert found.paraphrase[i] == pytest.approx(alone(q, truth), abs=1e-4)
            np.testing.assert_allclose(
                found.perturbed[i], [alone(q, x) for x in q.perturbed], atol=1e-4
            )


def test_what_a_model_writes_is_compared_with_the_answer(state):
    """The embedded model knows its own facts; what it says is not cut to the answer's length."""
    from unlearn.apps.demo import facts

    known = facts()[0]
    true = TofuQuestion(known["prompt"], known["completion"], None, ("nothing of the kind",))
    short = TofuQuestion(known["prompt"], known["completion"].split()[0], None, ("nothing",))
    found = evaluate_tofu(state, {"world_facts": [true, short]}, template="qa")["world_facts"]
    assert [text.strip() for text in found.written] == [known["completion"]] * 2
    assert found.rouge.tolist() == [1, 1]
    assert found.perturbed[0][0] > found.answer[0]


def test_nothing_to_evaluate(state):
    with pytest.raises(DataError, match="no questions"):
        evaluate_tofu(state, {"forget": []})


def test_loading_names_the_row_that_is_wrong(tmp_path):
    good = {"question": "q", "answer": "a", "paraphrased_answer": "b", "perturbed_answer": ["c"]}
    for name in ("forget05", "retain", "real_authors", "world_facts"):
        (tmp_path / f"{name}_perturbed.json").write_text(f"{json.dumps(good)}\n" * 2)
    found = load_tofu(tmp_path, "forget05")
    assert list(found) == list(SPLITS)
    assert found["forget"][1] == ("q", "a", "b", ("c",))
    assert found["world_facts"][0].paraphrase is None
    assert [len(part) for part in load_tofu(tmp_path, "forget05", limit=1).values()] == [1] * 4
    with pytest.raises(DataError, match="forget01_perturbed"):
        load_tofu(tmp_path, "forget01")
    (tmp_path / "retain_perturbed.json").write_text(json.dumps(good | {"perturbed_answer": []}))
    with pytest.raises(DataError, match=r"retain_perturbed\.json, line 1: 'perturbed_answer'"):
        load_tofu(tmp_path, "forget05")
    with pytest.raises(DataError, match="limit of 0"):
        load_tofu(tmp_path, "forget05", limit=0)


def test_the_hub_is_asked_for_the_table_and_its_refusal_is_told(monkeypatch):
    import datasets

    asked = []

    def load(name, table, split):
        asked.append((name, table, split))
        row = {"question": "q", "answer": "a", "paraphrased_answer": "b", "perturbed_answer": ["c"]}
        return [row] if "world" not in table else (_ for _ in ()).throw(ValueError("no such table"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"locuslab/TOFU: .*no such table"):
        load_tofu()
    assert asked[0] == ("locuslab/TOFU", "forget10_perturbed", "train")
    assert asked[3] == ("locuslab/TOFU", "world_facts_perturbed", "train")


# published values: Llama-2-7b-chat, fine-tuned on all of TOFU and retrained without a part of it
PUBLISHED = {  # forget set: (retained part, quality, truth ratio fine-tuned, retrained, utility)
    "forget01": ("retain99", 1.271e-3, 0.531, 0.678, 0.6268),
    "forget05": ("retain95", 5.867e-14, 0.511, 0.670, 0.6266),
    "forget10": ("retain90", 4.346e-25, 0.519, 0.681, 0.6130),
}


PREFIX = {"forget": "forget", "retain": "retain", "real_authors": "ra", "world_facts": "wf"}


def column(log: dict, metric: str, key: str) -> list:
    """Return one value a record of one metric of a log."""
    return [row[key] for row in log[metric]["value_by_index"].values()]


def split_of_log(log: dict, name: str) -> TofuSplit:
    """Return the per-record scores of a log; ROUGE-L recall is computed anew from the answers."""
    prefix = PREFIX[name]
    answer = column(log, f"{prefix}_Q_A_Prob", "avg_loss")
    paraphrased = name in {"forget", "retain"}
    written = column(log, f"{prefix}_Q_A_ROUGE", "generation")
    known = column(log, f"{prefix}_Q_A_ROUGE", "ground_truth")
    return TofuSplit(
        answer=np.array(answer),
        paraphrase=np.array(
            column(log, f"{prefix}_Q_A_PARA_Prob", "avg_loss") if paraphrased else answer
        ),
        perturbed=tuple(map(np.array, column(log, f"{prefix}_Q_A_PERT_Prob", "avg_loss"))),
        rouge=rouge.score(written, known).recall,
        written=tuple(written),
    )


def splits_of_log(log: dict) -> dict[str, TofuSplit]:
    return {name: split_of_log(log, name) for name in PREFIX}


def attack_auc(log: dict, name: str) -> float:
    """Return the AUC of an attack; in a log smaller scores are members'."""
    return auc(*(-np.array(column(log[name], side, "score")) for side in ("forget", "holdout")))


def recompute_log(log: dict, retrained: dict | None = None) -> dict[str, float]:
    """Compute all metrics of a log anew from its records, under the log's own names."""
    splits = splits_of_log(log)
    numbers = tofu_metrics(splits)
    found = {"model_utility": numbers["model_utility"].value}
    for name, prefix in PREFIX.items():
        options = "_normalised" if prefix in {"ra", "wf"} else ""
        found[f"{prefix}_Q_A_Prob{options}"] = numbers[f"{name}.probability"].value
        found[f"{prefix}_Q_A_ROUGE"] = numbers[f"{name}.rouge"].value
        ratio = "forget_truth_ratio" if name == "forget" else f"{prefix}_Truth_Ratio"
        found[ratio] = numbers[f"{name}.truth_ratio"].value
    for metric in ("exact_memorization", "extraction_strength"):
        if metric in log:
            found[metric] = float(np.mean(column(log, metric, "score")))
    found |= {name: attack_auc(log, name) for name in log if name.startswith("mia_")}
    if retrained is not None:
        found["forget_quality"] = forget_quality(
            splits["forget"], split_of_log(retrained, "forget")
        ).p_value
        if "mia_min_k" in log and "mia_min_k" in retrained:
            found["privleak"] = privacy_leakage(
                found["mia_min_k"], attack_auc(retrained, "mia_min_k")
            )
    return found


@pytest.fixture(scope="module")
def published(assets):
    """Read the logs and summaries of a fine-tuned and a retrained model."""

    def read(name: str) -> list[tuple[dict, dict]]:
        folder = assets / "tofu_eval_logs"
        paths = (
            folder / "tofu_Llama-2-7b-chat-hf_full" / f"evals_{name}",
            folder / f"tofu_Llama-2-7b-chat-hf_{PUBLISHED[name][0]}",
        )
        return [
            tuple(json.loads((p / f"TOFU_{n}.json").read_text()) for n in ("EVAL", "SUMMARY"))
            for p in paths
        ]

    return read


@pytest.mark.parametrize(
    "name",  # the larger sets take longer to read
    [n if n == "forget01" else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED],
)
def test_published_values_come_out_again(name, published):
    (full, full_summary), (retrained, retrained_summary) = published(name)
    _, quality, ratio_full, ratio_retrained, utility = PUBLISHED[name]
    found, other = recompute_log(full, retrained), recompute_log(retrained)
    assert found["forget_quality"] == pytest.approx(quality, rel=5e-4)
    assert found["model_utility"] == pytest.approx(0.6276, abs=5e-5)
    assert other["model_utility"] == pytest.approx(utility, abs=5e-5)
    assert found["forget_truth_ratio"] == pytest.approx(ratio_full, abs=5e-4)
    assert other["forget_truth_ratio"] == pytest.approx(ratio_retrained, abs=5e-4)
    # every other aggregate too, from its records; the logs add 1e-10 to what they divide by
    assert set(found) >= set(full_summary)
    assert set(other) >= set(retrained_summary) - {"privleak"}
    for log, numbers in ((full, found), (retrained, other)):
        for metric, value in numbers.items():
            assert value == pytest.approx(log[metric]["agg_value"], abs=5e-8), metric
    # where there was no retrained model, the logs put an AUC of a half in its place
    assert "privleak" not in other
    assert privacy_leakage(other["mia_min_k"], 0.5) == pytest.approx(
        retrained_summary["privleak"], abs=5e-8
    )


@pytest.fixture(scope="module")
def small(published):
    return [log for log, _ in published("forget01")]


def test_the_arithmetic_form_is_another_number(small):
    ours, theirs = map(splits_of_log, small)
    geometric = tofu_metrics(ours, theirs)
    arithmetic = tofu_metrics(ours, theirs, "arithmetic")
    assert arithmetic["retain.truth_ratio"].value < geometric["retain.truth_ratio"].value
    assert arithmetic["model_utility"].value < geometric["model_utility"].value
    assert arithmetic["retain.rouge"] == geometric["retain.rouge"]
    # still told apart, whatever the form
    assert arithmetic["forget_quality"].value < 0.01


def test_a_real_model_on_real_questions(assets):
    state = open_model(assets / "models" / "TinyStories-656K")
    data = load_tofu(assets / "tofu", "forget01", limit=3)
    scores = evaluate_tofu(state, data, new_tokens=16)
    assert sum(len(split.answer) for split in scores.values()) == 12
    found = tofu_metrics(scores, scores)
    assert found["forget_quality"].value == 1
    for name, value in found.items():
        assert 0 <= value.value <= 1, name
    # it knows children's English only: every answer is far from certain
    assert all((split.answer > 1).all() for split in scores.values())
