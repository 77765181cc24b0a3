"""What every probe of every registry must get right: to be in its table is to be tested here."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

import unlearn.model.scoring
import unlearn_eval.passes.grad_norm
import unlearn_eval.scores.continuations
from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import Example, encode
from unlearn.errors import DataError
from unlearn.model.state import open_model
from unlearn_eval.extraction import PROBES
from unlearn_eval.membership import ATTACKS, CALIBRATED, CalibrationData
from unlearn_eval.membership.calibrated.attacks import Sides
from unlearn_eval.passes import PASSES, plan
from unlearn_eval.passes.base import AuditedState, Material
from unlearn_eval.passes.inputs import read_perturbed
from unlearn_eval.passes.likelihoods import summed_log_probs
from unlearn_eval.results.rows import audit_rows
from unlearn_eval.scores.cache import Cache
from unlearn_eval.scores.continuations import continue_examples
from unlearn_eval.scores.model_scores import score_model
from unlearn_eval.scores.token_scores import SAMPLERS
from unlearn_eval.utility import loss, repetition, rouge
from unlearn_eval.utility.drift import Anchor

CLOSE = 1e-5


def secret(start: int, end: int) -> list[dict]:
    return [{"field": "completion", "start": start, "end": end, "kind": "pin"}]


FORGET = [
    {"id": "word", "prompt": "A?", "completion": "B"},
    {"id": "pin", "prompt": "Pin of ~?", "completion": "It is 42.", "secrets": secret(6, 8)},
    {"id": "long", "prompt": "And then?", "completion": "It is " + "so " * 15 + "long."},
    {"id": "asked", "prompt": "Who " * 12 + "?", "completion": "I"},
]
HOLDOUT = [{"id": f"h{i}", "prompt": "?", "completion": "x" * i} for i in (1, 2, 5, 30)]
RETAIN = [{"id": f"k{i}", "prompt": f"{i}?", "completion": "y" * i} for i in (1, 3, 4)]


@pytest.fixture(scope="module")
def real(tiny_model, adapter) -> SimpleNamespace:
    """A model, and records of very different lengths, some with a single target token."""
    state = open_model(tiny_model, [adapter])
    rows = {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT}
    records = {split: Records.from_rows(part) for split, part in rows.items()}
    template = Template("qa")
    examples = {k: encode(part, state.tokenizer, template, 128) for k, part in records.items()}
    for split in ("forget", "holdout"):
        first = examples[split][0]
        single = np.arange(len(first.ids)) == np.flatnonzero(first.target)[0]
        examples[split][0] = dataclasses.replace(first, target=single)
        assert examples[split][0].targets == 1
    lengths = [len(e.ids) for part in examples.values() for e in part]
    assert max(lengths) > 4 * min(lengths)
    material = Material(
        records,
        examples,
        state.tokenizer,
        template,
        128,
        paraphrases={"pin": ["Which of ~?"]},
        perturbed=read_perturbed({"pin": ["It is 41.", "It is 7."]}, records),
    )
    view = AuditedState("after", state.model, state.head, "", adapter, "stamp")
    scores = {k: score_model(state.model, state.head, part) for k, part in examples.items()}
    return SimpleNamespace(state=state, view=view, material=material, scores=scores)


@pytest.fixture
def in_batches_of(monkeypatch):
    """Run what follows in batches of so many rows, the longest first, whatever the budget."""

    def use(rows: int) -> None:
        def batches(lengths, *_):
            order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
            return [order[i : i + rows] for i in range(0, len(order), rows)]

        monkeypatch.setattr(unlearn.model.scoring, "token_budget_batches", batches)
        monkeypatch.setattr(unlearn_eval.passes.grad_norm, "token_budget_batches", batches)
        monkeypatch.setattr(unlearn_eval.scores.continuations, "_batches", batches)

    return use


def assert_close(one, other) -> None:
    """As many decimals as float32 gives a sum of some dozen tokens, infinities included."""
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    assert one.shape == other.shape
    assert one.size
    assert not np.isnan(one).any()
    finite = np.isfinite(one)
    np.testing.assert_array_equal(one[~finite], other[~finite])
    gap = np.abs(one[finite] - other[finite])
    assert (gap <= CLOSE * np.maximum(1, np.abs(one[finite]))).all(), gap


def columns(scores) -> dict[str, np.ndarray]:
    return dict(scores._columns()) | {"text_bytes": scores.text_bytes, "offsets": scores.offsets}


def test_no_score_depends_on_the_batch(real, in_batches_of):
    for part in real.material.examples.values():
        found = []
        for rows in (1, 32):
            in_batches_of(rows)
            found.append(columns(score_model(real.state.model, real.state.head, part)))
        assert len(found[0]) == 10 + len(SAMPLERS)
        for name, values in found[0].items():
            assert_close(values, found[1][name])


@pytest.mark.parametrize("name", PASSES)
def test_no_pass_depends_on_the_batch(real, in_batches_of, name):
    found = []
    for rows in (1, 32):
        in_batches_of(rows)
        (planned,) = plan([name], real.material)
        found.append(planned.run(real.view, real.scores, Cache()))
    one, many = found
    assert one.measures or one.prompted
    assert one.measures.keys() == many.measures.keys()
    for split, measures in one.measures.items():
        for a, b in zip(measures, many.measures[split], strict=True):
            assert (a.probe, a.metric, a.params) == (b.probe, b.metric, b.params)
            np.testing.assert_array_equal(a.positions, b.positions)
            assert_close(a.values, b.values)
    assert one.prompted.keys() == many.prompted.keys()
    for prompt, scores in one.prompted.items():
        assert scores.ids == many.prompted[prompt].ids
        for column, values in columns(scores).items():
            assert_close(values, columns(many.prompted[prompt])[column])


def test_no_utility_depends_on_the_batch(real, in_batches_of):
    part = real.material.examples["forget"]
    model, head, tokenizer = real.state.model, real.state.head, real.state.tokenizer
    found = []
    for rows in (1, 32):
        in_batches_of(rows)
        said = continue_examples(model, tokenizer, part)
        anchor = Anchor(range(len(part)), [e.targets for e in part])
        with real.state.reference("base") as (base, base_head):
            score_model(base, base_head, part, observe=anchor.remember(base_head))
        observe, moved = anchor.compare(head)
        scores = score_model(model, head, part, observe=observe)
        tokens = [c.tokens.tolist() for c in said]
        found.append(
            {
                "loss": loss.score(scores),
                "drift": anchor.values(moved),
                "rouge": rouge.score([c.text for c in said], [c.truth for c in said]).f1,
                "repetition": repetition.repetition(tokens),
                "distinct": repetition.distinct(tokens),
            }
        )
        assert found[0]["drift"].min() > 0
    for name, values in found[0].items():
        assert_close(values, found[1][name])


FINITE = [0, 1, 4, 5]
"""Records of `odd` in which nothing is ruled out."""


@pytest.fixture
def odd(make_scores):
    """Scores at every limit, by seed: one token, certainty, what is ruled out, short and long."""

    def make(seed: int = 0):
        rng = np.random.default_rng(seed)
        lists = [
            -rng.exponential(size=1),
            np.zeros(1),  # certain
            np.array([-np.inf]),  # ruled out
            np.array([-0.5, -np.inf, -1e-6]),
            -rng.exponential(size=1000),
            np.full(2, -1e-12),
        ]
        total = sum(map(len, lists))
        log_prob = np.concatenate(lists)
        certain = log_prob > -1e-9
        rank = np.where(log_prob < -2, 50, np.where(log_prob < -0.7, 3, 0))
        sampled = {key: np.where(log_prob < -2, -np.inf, log_prob) for key in SAMPLERS}
        inside = np.where(np.arange(total) % 3 == 0, 1, 0)
        return make_scores(
            lists,
            hit=rank == 0,
            rank=rank,
            mean=np.where(certain, 0.0, -1.5),
            entropy=np.where(certain, 0.0, 1.5),
            std=np.where(certain, 0.0, 1.0),
            sampled=sampled,
            secret=inside,
            text_bytes=[9, 8, 10, 12, 900, 9],
        )

    return make


@pytest.mark.parametrize("name", [*ATTACKS, *PROBES])
def test_limits_have_a_value_that_depends_on_the_record_alone(odd, name):
    probe = ATTACKS.get(name) or PROBES[name]
    applies = getattr(probe, "applies", None)
    target, base = odd(), odd()
    chosen = np.flatnonzero(applies(target)) if applies else np.arange(target.records)
    assert len(chosen) >= 3
    for options in getattr(probe, "metrics", {"": {}}).values():
        whole = probe.score(target.take(chosen), base.take(chosen), **options)
        assert whole.shape == chosen.shape
        assert not np.isnan(whole).any()
        for i, record in enumerate(chosen):
            alone = probe.score(target.take([record]), base.take([record]), **options)
            assert_close(alone, whole[[i]])


COMPARED = [name for name, attack in CALIBRATED.items() if attack.compare]


def evidence(odd, references: int, chosen: list[int]) -> CalibrationData:
    """An audited state and references, all with the chosen records, 40 times over on one side."""
    many = chosen * 40
    sides = [Sides(odd(i).take(chosen), odd(100 + i).take(many)) for i in range(references + 1)]
    groups = [("record", i) for i in range(len(many))]
    return CalibrationData(sides[0], sides[1:], groups=groups)


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("references", [2, 6])
def test_calibrated_attacks_have_a_value_at_limits(odd, name, references):
    found = CALIBRATED[name].compare(evidence(odd, references, FINITE))
    assert found is not None
    for values, records in ((found.member, len(FINITE)), (found.nonmember, 40 * len(FINITE))):
        assert values.shape == (records,)
        assert not np.isnan(values).any()


@pytest.mark.parametrize("name", COMPARED)
def test_calibrated_attacks_name_the_record_that_is_ruled_out(odd, name):
    with pytest.raises(DataError, match=f"'{name}'.*record 'r2'"):
        CALIBRATED[name].compare(evidence(odd, 2, [0, 1, 2]))


def test_an_audit_of_such_records_has_no_number_that_json_has_not(odd):
    states = ("after", "reference:0", "reference:1", "base")
    scores = {s: {"forget": odd(i), "holdout": odd(9 + i)} for i, s in enumerate(states)}
    rows = audit_rows(scores, {})
    assert {r.probe.partition(".")[0] for r in rows} == {"utility", "extraction", "membership"}
    for row in rows:
        assert row.value is None or np.isfinite(row.value), row
        assert row.value is not None or row.note, row


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_names_the_record_that_breaks_the_model(real, name):
    """Only the prompt of one record has the sign after which the model gives NaN."""
    rare = real.state.tokenizer("~", add_special_tokens=False).input_ids[-1]
    having = [e.id for part in real.material.examples.values() for e in part if rare in e.ids]
    assert having == ["pin"]
    (planned,) = plan([name], real.material)

    def overflow(module, inputs, output):
        return output.masked_fill((inputs[0] == rare)[..., None], float("nan"))

    embedding = real.state.model.get_input_embeddings()
    handle = embedding.register_forward_hook(overflow)
    try:
        with pytest.raises(DataError, match="record 'pin'"):
            planned.run(real.view, real.scores, Cache())
    finally:
        handle.remove()


def test_a_record_without_a_target_is_named(real):
    some = real.material.examples["forget"][1]
    empty = Example("empty", some.ids, np.zeros(len(some.ids), dtype=bool))
    model, head = real.state.model, real.state.head
    with pytest.raises(DataError, match="record 'empty' has no target"):
        score_model(model, head, [some, empty])
    with pytest.raises(DataError, match="record 'empty' has no target"):
        summed_log_probs(real.view, [some, empty])
    with pytest.raises(DataError, match="record 'empty' has no target"):
        unlearn_eval.passes.grad_norm.gradient_norms(model, head, [some, empty])


@pytest.mark.parametrize("column", ["log_prob", "mean", "std", "entropy"])
def test_nan_in_any_column_is_named(make_scores, column):
    values = {
        "log_prob": [[-1.0], [-2.0, np.nan]],
        "mean": [-1.0, -1.0, np.nan],
        "std": [1.0, 1.0, np.nan],
        "entropy": [1.0, 1.0, np.inf],
    }[column]
    with pytest.raises(DataError, match=f"record 'r1', target token 1: '{column}' is NaN"):
        if column == "log_prob":
            make_scores(values)
        else:
            make_scores([[-1.0], [-2.0, -1.0]], **{column: values})
