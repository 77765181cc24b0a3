"""Small requests, made from seeds, that reach every branch of a verdict: evidence and policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from unlearn_eval.verdict.decision import Evidence, Policy, ProvenanceFact, Twins, View
from unlearn_eval.verdict.evidence import Looks
from unlearn_eval.verdict.policy import policy_of

from .conftest import CONTENT, matrix, state

Case = tuple[Evidence, Policy]

KEPT, AWAY = 12, math.log(0.9)


def policy(**changed: Any) -> Policy:
    return policy_of(CONTENT | changed, "test")


def answers(n: int, *out: int) -> np.ndarray:
    """Log-probabilities of whole answers, of which the named ones come out."""
    return np.where(np.isin(np.arange(n), out), AWAY, -50.0)


class Models:
    """Models of records that are as hard for all of them, and differ by noise."""

    def __init__(self, seed: int, n: int = 8, unseen: int = 24) -> None:
        self.rng = np.random.default_rng(seed)
        self.n = n
        self.hard = -6 + 0.5 * self.rng.normal(size=n + unseen)
        self.kept = -1 - 0.05 * (1 + np.arange(KEPT) % 3)

    def __call__(
        self, shift: Any = 0.0, kept: float = 0.0, noise: float = 0.1, own: float = 0.0
    ) -> dict[str, Any]:
        """Return a model that knows forgotten records better by `shift`, kept ones by `kept`."""
        values = self.hard + noise * self.rng.normal(size=len(self.hard))
        forget = np.minimum(values[: self.n] + own * self.rng.normal() + shift, 0)
        level = self.kept + kept + 0.01 * self.rng.normal()
        return state(forget, values[self.n :], level)

    def request(self, shift: Any = 0.0, k: int = 5, own: float = 0.2, **after: Any) -> dict:
        """Return the model before, after, its base and k references."""
        states = {
            "before": self(5.0),
            "after": self(shift, **after),
            "base": self(noise=0.3),
        }
        return states | {f"reference:{i}": self(own=own) for i in range(k)}


def without(states: Mapping[str, Any], *names: str, split: str = "") -> dict[str, Any]:
    """Return the states but for some, and but for a split."""
    return {
        name: {k: v for k, v in splits.items() if k != split}
        for name, splits in states.items()
        if name not in names
    }


def giving_away(states: Mapping[str, Any], split: str, **out: tuple[int, ...]) -> dict[str, Any]:
    """Let some models give records of a split away; `reference_0` is `reference:0`."""
    changed = dict(states)
    for name, which in out.items():
        name = name.replace("_", ":")
        part = states[name][split]
        prefix = split[0] if split != "retain" else "k"
        own = matrix(part.log_prob, prefix, answers(part.records, *which))
        changed[name] = {**changed[name], split: own}
    return changed


def seen(states: Mapping[str, Any], **others: Any) -> Evidence:
    return Evidence({View(): states}, **others)


WORDS = [
    ProvenanceFact("the weights are those", True),
    ProvenanceFact("the records are those", True),
    ProvenanceFact("the tries are known", None),
]
PEOPLE = {"forget": ["me"] * 8, "holdout": [f"p{i // 4}" for i in range(24)]}


def by_references() -> Case:
    return seen(Models(1).request(), facts=WORDS), policy(epsilon=1.0)


def by_references_and_people() -> Case:
    looks = [{"references": 4, "alpha": 0.03}, {"references": 6, "alpha": 0.02}]
    rules = policy(floor=0.05, looks=looks, probes=["loss", "min_k", "reference"])
    models = Models(2)
    states = models.request(0.15)
    return seen(states, subjects=PEOPLE, looks=Looks("request", 1, 1, 0, 1, (), 0, "holds")), rules


def left_in() -> Case:
    return seen(Models(3).request(4.0)), policy(deployments=["as-is", "int8"])


def pushed_below() -> Case:
    return seen(Models(4).request(-2.5)), policy()


def between_the_limits() -> Case:
    return seen(Models(5).request(0.2, k=4)), policy(margin=3.0, min_references=4)


def one_record_left() -> Case:
    return seen(Models(6).request(np.array([4.0] + [0.0] * 7))), policy(floor=0.01)


def half_up_half_down() -> Case:
    return seen(Models(7).request(np.array([3.0, -3.0] * 4))), policy()


def in_several_forms() -> Case:
    models = Models(8)
    states, rounded = models.request(), models.request(0.1)
    forms = {
        View(): states,
        View("int8"): without(rounded, "base", "before"),
        View("int4 group=32"): without(models.request(3.5), "base", "before"),
        View("nf4"): without(rounded, "base", "before", "reference:2"),
        View("as-is", "few_shot"): without(states, split="holdout"),
        View("as-is", "affirmative"): without(states, "reference:4", split="holdout"),
    }
    rules = policy(
        deployments=["int8", "int4", "nf4", "merge_bf16"],
        prompt_states=["few_shot", "affirmative", "paraphrase:2", "chat_on"],
        probes=["loss", "reference"],
    )
    return Evidence(forms, unmeasured={"chat_on": "not measured: no template"}), rules


def forms_without_some_references() -> Case:
    """The audited model was scored in all of them, and one reference not."""
    states = Models(48).request()
    few = View("as-is", "few_shot")
    forms = {View(): states, View("int8"): without(states, "reference:2"),
             few: without(states, "reference:4", split="holdout")}  # fmt: skip
    return Evidence(forms), policy(deployments=["int8"], prompt_states=["few_shot"])


def of_another_recipe() -> Case:
    return seen(Models(9).request(-4.0), recipe=("learning_rate", "epochs")), policy()


def copies_of_one_model() -> Case:
    states = Models(10).request()
    states["reference:3"] = {**states["reference:1"]}
    silent = {"reference:1": "without a lineage", "reference:3": "without a lineage",
              "reference:4": "with another base"}  # fmt: skip
    return seen(states, unproven=silent), policy()


def unproven_references() -> Case:
    states = giving_away(
        Models(11).request(), "forget", after=(1, 2), reference_3=(1,), reference_4=(1, 2)
    )
    silent = {"reference:3": "without a lineage", "reference:4": "with another base"}
    return seen(states, unproven=silent), policy()


def trained_on_part() -> Case:
    states = without(Models(12).request(), "before")
    return seen(states, partial=frozenset({"reference:1", "reference:2"})), policy()


def some_given_away() -> Case:
    states = giving_away(
        Models(13).request(), "forget", after=(0, 1, 2), reference_0=(0,), reference_1=(0, 5)
    )
    return seen(states), policy()


def one_given_away() -> Case:
    states = giving_away(Models(14).request(), "forget", after=(4,), reference_1=(3,))
    states = giving_away(states, "retain", after=(1, 2), reference_2=(1, 2, 7))
    return seen(states), policy()


def others_exposed() -> Case:
    states = giving_away(
        Models(15).request(), "retain", after=(0, 1, 2, 3, 4, 5), reference_0=(0, 6)
    )
    return seen(states), policy()


def kept_records_known_better() -> Case:
    return seen(Models(16).request(kept=0.4)), policy(utility_margin=0.02)


def kept_records_lost() -> Case:
    return seen(Models(17).request(kept=-0.4)), policy(utility_margin=0.02)


def kept_records_between() -> Case:
    return seen(Models(18).request(kept=-0.035)), policy(utility_margin=0.01)


def without_a_holdout() -> Case:
    return seen(without(Models(19).request(), "before", split="holdout")), policy()


def references_that_agree() -> Case:
    models = Models(20)
    states = models.request()
    for i in range(5):
        states[f"reference:{i}"] = states["reference:0"]
    return seen(states), policy()


def a_record_ruled_out() -> Case:
    models = Models(21)
    states = models.request()
    forget = states["after"]["forget"].log_prob.copy()
    forget[3] = -math.inf
    states["after"] = {**states["after"], "forget": matrix(forget, "f")}
    broken = states["reference:2"]["holdout"].log_prob.copy()
    broken[1] = -math.inf
    rounded = {**states, "reference:2": {**states["reference:2"], "holdout": matrix(broken, "h")}}
    views = {View(): states, View("int8"): rounded}
    return Evidence(views), policy(deployments=["int8"], probes=["loss", "min_k"])


def not_told_apart_before() -> Case:
    models = Models(22)
    states = models.request()
    return seen({**states, "before": models(0.1)}), policy()


def one_record_by_references() -> Case:
    """Every unseen record stands for it."""
    return seen(Models(46, n=1).request()), policy(floor=0.02)


def facts_that_do_not_hold() -> Case:
    wrong = [ProvenanceFact("the losses agree", False), ProvenanceFact("the states agree", False)]
    return seen(Models(23).request(4.0), facts=[*WORDS, *wrong]), policy()


def no_fact_checked() -> Case:
    return seen(Models(24).request(), facts=WORDS[2:]), policy()


def ladder(n: int, low: float = -8.0, high: float = -4.0, at: float = 0.5) -> np.ndarray:
    """Values that cover a range evenly."""
    return low + (high - low) * (np.arange(n) + at) / n


def beside(after: Any, holdout: Any, kept: float = 0.0, **others: Any) -> Evidence:
    """A request without references."""
    n, m = len(after), len(holdout)
    known = np.linspace(-0.02, -0.01, n)
    retain = -0.05 * (1 + np.arange(KEPT) % 3)
    states = {
        "before": state(known, holdout, retain),
        "after": state(after, holdout, retain + kept * (1 + 0.1 * np.cos(np.arange(KEPT)))),
        "base": state(ladder(n), ladder(m), retain),
    }
    return seen(states, **others)


def beside_twins() -> Case:
    return beside(ladder(160), ladder(320)), policy(probes=["loss", "reference"], delta=0.12)


def beside_few_twins() -> Case:
    given = beside(ladder(12), ladder(24), kept=-0.3)
    return given, policy(extraction={"n": 1000, "p": 0.25}, prompt_states=["paraphrase:1"])


def above_twins() -> Case:
    return beside(ladder(160, -6, -2), ladder(320)), policy(delta=0.05, epsilon=2.0)


def below_twins() -> Case:
    return beside(ladder(160, -12, -7), ladder(320)), policy()


def twins_that_differ() -> Case:
    given = beside(ladder(80), ladder(160))
    base = state(ladder(80, -6.5, -2.5), ladder(160))
    return replace(given, views={View(): {**given.plain, "base": base}}), policy()


def people_beside_people() -> Case:
    rng = np.random.default_rng(25)
    labels = {"forget": [f"a{i // 4}" for i in range(80)],
              "holdout": [f"b{i // 4}" for i in range(80)],
              "retain": [f"c{i // 4}" for i in range(KEPT)]}  # fmt: skip
    given = beside(rng.permutation(ladder(80)), rng.permutation(ladder(80)), subjects=labels)
    return given, policy(delta=0.2)


def too_few_people() -> Case:
    labels = {"forget": ["a", "b", "c"] * 5, "holdout": ["x", "y", "z"] * 10}
    return beside(ladder(15), ladder(30), kept=0.04, subjects=labels), policy(utility_margin=0.01)


def beside_two_references() -> Case:
    """Too few to decide: what they give away of the kept records alone counts for nothing."""
    given, models = beside(ladder(20), ladder(20)), Models(47, n=20, unseen=20)
    states = {**given.plain, "reference:0": models(), "reference:1": models()}
    states = giving_away(states, "forget", after=(2, 4), reference_0=(2,), base=(4,))
    return seen(giving_away(states, "retain", reference_1=(3,))), policy(delta=0.15)


def matched_twins() -> Case:
    after, rng = ladder(60), np.random.default_rng(26)
    positions = rng.permutation(120).reshape(60, 2)
    return beside(after, rng.permutation(ladder(120)), twins=Twins(positions)), policy(delta=0.15)


def without_base_or_before() -> Case:
    given = beside(ladder(20), ladder(20))
    states = without(given.plain, "base", "before")
    return seen(giving_away(states, "forget", after=(3,))), policy(probes=["loss", "reference"])


def without_kept_records() -> Case:
    given = beside(ladder(40), ladder(60))
    return seen(without(given.plain, split="retain")), policy(utility_margin=0.2)


def a_person_among(n: int, value: float, base: float, twins: int) -> Evidence:
    """One person of n records among unseen people of two records each."""
    rng = np.random.default_rng(27)
    holdout = -6 + rng.normal(size=2 * twins)
    labels = {"forget": ["me"] * n, "holdout": [f"p{i // 2}" for i in range(2 * twins)]}
    spread = 0.1 * np.arange(n)
    retain = -0.05 * (1 + np.arange(KEPT) % 3)
    states = {
        "before": state(-0.01 - spread / 100, holdout, retain),
        "after": state(value - spread, holdout, retain),
        "base": state(base + np.linspace(-0.8, 0.8, n), holdout, retain),
    }
    return seen(states, subjects=labels)


def a_person_who_stands_out() -> Case:
    return a_person_among(3, -1.0, -6.0, 59), policy()


def a_person_like_others() -> Case:
    return a_person_among(1, -6.1, -5.9, 25), policy(deployments=["int8"])


def a_person_never_comparable() -> Case:
    return a_person_among(2, -6.1, -1.0, 39), policy()


def a_person_among_few() -> Case:
    return a_person_among(2, -1.0, -6.0, 10), policy(probes=["loss", "reference"])


def a_person_without_twins() -> Case:
    given = a_person_among(2, -1.0, -6.0, 25)
    return seen(without(given.plain, "before", "base", split="holdout")), policy()


def planted(n: int, by: Any, **others: Any) -> Evidence:
    """Canaries of which a coin included one of each pair, better known by some nats."""
    rng = np.random.default_rng(28)
    pairs = ladder(2 * n).reshape(n, 2)
    order = rng.permutation(n)
    coin = rng.integers(0, 2, n)
    included, left_out = pairs[np.arange(n), coin] + by, pairs[np.arange(n), 1 - coin]
    holdout = np.empty(n)
    holdout[order] = left_out
    return beside(included, holdout, twins=Twins(order[:, None], randomised=True), **others)


def canaries_without_trace() -> Case:
    return planted(40, 0.0), policy(epsilon=2.0, delta=0.25, probes=["loss", "min_k"])


def canaries_left_in() -> Case:
    return planted(30, 2.0), policy(epsilon=0.5)


def few_canaries() -> Case:
    return planted(12, 0.02), policy(epsilon=0.0, alpha=0.1)


def canaries_ruled_out() -> Case:
    by = np.where(np.arange(24) < 13, -math.inf, 0.0)
    given = planted(24, by)
    states = {**without(given.plain, "before"), "base": {}}
    return replace(given, views={View(): states}), policy(probes=["loss", "reference"])


CASES: dict[str, Callable[[], Case]] = {
    case.__name__: case
    for case in (
        by_references,
        by_references_and_people,
        left_in,
        pushed_below,
        between_the_limits,
        one_record_left,
        half_up_half_down,
        in_several_forms,
        forms_without_some_references,
        of_another_recipe,
        copies_of_one_model,
        unproven_references,
        trained_on_part,
        some_given_away,
        one_given_away,
        others_exposed,
        kept_records_known_better,
        kept_records_lost,
        kept_records_between,
        without_a_holdout,
        references_that_agree,
        a_record_ruled_out,
        not_told_apart_before,
        one_record_by_references,
        facts_that_do_not_hold,
        no_fact_checked,
        beside_twins,
        beside_few_twins,
        above_twins,
        below_twins,
        twins_that_differ,
        people_beside_people,
        too_few_people,
        beside_two_references,
        matched_twins,
        without_base_or_before,
        without_kept_records,
        a_person_who_stands_out,
        a_person_like_others,
        a_person_never_comparable,
        a_person_among_few,
        a_person_without_twins,
        canaries_without_trace,
        canaries_left_in,
        few_canaries,
        canaries_ruled_out,
    )
}
