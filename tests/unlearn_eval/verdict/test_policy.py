from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from unlearn.errors import OptionError
from unlearn.recipe import recipe_path
from unlearn_eval.certificate.policies import SHIPPED
from unlearn_eval.robustness import TREATMENTS
from unlearn_eval.statistics import prediction_limits, records_for_equivalence
from unlearn_eval.verdict.decision import load_policy, power_statement
from unlearn_eval.verdict.policy import FORMS, is_form, policy_of
from unlearn_eval.verdict.power import detectable_theta, pass_power, references_needed

from .conftest import CONTENT


@pytest.mark.parametrize("name", ["quick", "standard", "strict"])
def test_the_policies_that_come_with_the_package(name):
    found, policy = load_policy(name)
    assert found == name
    assert "deviation" in policy.tested
    assert policy.deployments[0] == "as-is"
    assert set(policy.treatments) <= set(TREATMENTS)
    assert policy_of(policy.content, "again") == policy
    # with the fewest references that decide, a test is more likely to pass a deleted model than not
    assert prediction_limits(policy.min_references, policy.margin, policy.alpha).power >= 0.8


def test_stricter_policies_ask_for_more():
    policies = [load_policy(name)[1] for name in ("quick", "standard", "strict")]
    for ask in (
        lambda p: set(p.tested),
        lambda p: set(p.deployments),
        lambda p: set(p.prompt_states),
        lambda p: p.min_references,
        lambda p: p.extraction.n,
        lambda p: -p.delta,
        lambda p: -p.margin,
        lambda p: -p.utility_margin,
    ):
        values = [ask(policy) for policy in policies]
        assert values[0] <= values[1] <= values[2]


def test_the_hash_is_of_the_canonical_json():
    policy = policy_of(CONTENT, "test")
    text = json.dumps(policy.content, sort_keys=True, separators=(",", ":"))
    assert policy.sha256 == hashlib.sha256(text.encode()).hexdigest()
    reordered = dict(reversed(CONTENT.items()))
    assert policy_of(reordered, "test").sha256 == policy.sha256
    # defaults that are written out change nothing
    assert policy_of(policy.content, "test").sha256 == policy.sha256
    assert policy_of(CONTENT | {"delta": 0.11}, "test").sha256 != policy.sha256


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"deltta": 0.1}, "unknown option 'deltta' (did you mean 'delta'"),
        ({"extraction": {"n": 1, "p": 0.5, "top": 3}}, "did you mean 'top_k'"),
        ({"probes": ["los"]}, "no probe 'los' (did you mean 'loss'"),
        ({"probes": ["loss", "loss"]}, "named twice"),
        ({"probes": []}, "probes"),
        ({"deployments": ["int9"]}, "no deployment 'int9' (did you mean 'int8'"),
        ({"deployments": ["relearn"]}, "no deployment 'relearn'"),
        ({"prompt_states": ["few_shots"]}, "did you mean 'few_shot'"),
        ({"prompt_states": ["paraphrase:x"]}, "no prompt state"),
        ({"alpha": 0.2}, "alpha"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 0.3}, "delta"),
        ({"margin": -1}, "margin"),
        ({"margin": 11}, "margin"),
        ({"min_references": 2}, "min_references"),
        ({"extraction": {"n": 100, "p": 1.0}}, "extraction.p"),
        ({"extraction": {"n": 100, "p": 0.5, "top_k": 7}}, "they hold temperature 1, top_k 40"),
        ({"extraction": {"n": 100, "p": 0.99}}, "extraction.p"),
        ({"utility_margin": 0}, "utility_margin"),
        ({"utility_margin": 5}, "utility_margin"),
        ({"kind": "forget"}, "kind"),
    ],
)
def test_what_cannot_be_is_refused(changed, message):
    with pytest.raises(OptionError) as caught:
        policy_of(CONTENT | changed, "mine.yaml")
    assert message in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_a_policy_is_found_by_name_or_file(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(json.dumps(CONTENT))
    assert load_policy(str(own)) == ("own", policy_of(CONTENT, "test"))
    with pytest.raises(OptionError, match="did you mean 'standard'"):
        load_policy("standart")
    with pytest.raises(OptionError, match="does not exist"):
        load_policy(str(tmp_path / "none.yaml"))
    with pytest.raises(OptionError, match="of kind 'compare'"):
        own.write_text("kind: compare\n")
        load_policy(str(own))


@pytest.mark.parametrize("name", ["quick", "standard", "strict"])
def test_no_other_policy_goes_by_the_name_of_one_that_comes_along(name, tmp_path):
    assert SHIPPED[load_policy(name)[1].sha256] == name
    copy = tmp_path / f"{name}.yaml"
    shutil.copy(recipe_path(f"policies/{name}"), copy)
    assert load_policy(copy) == load_policy(name)  # the same in a file is the same
    copy.write_text(copy.read_text() + "epsilon: 8\n")
    for path in (copy, tmp_path / f"{name.upper()}.yml"):
        path.write_text(copy.read_text())
        with pytest.raises(OptionError, match="rename the file"):
            load_policy(path)
    other = tmp_path / "mine.yaml"
    other.write_text(copy.read_text())
    assert load_policy(other)[0] == "mine"


def test_what_is_always_meant_and_what_must_be_run():
    policy = policy_of(
        CONTENT | {"deployments": ["int8"], "prompt_states": ["few_shot", "paraphrase:2"]}, "test"
    )
    assert policy.deployments == ["as-is", "int8"]
    assert policy.treatments == ["int8"]
    assert policy.prompt_states == ["verbatim", "few_shot", "paraphrase:2"]
    assert policy.passes == ["prompt_states"]
    assert policy_of(CONTENT | {"probes": ["deviation"]}, "test").tested == ["deviation"]


@pytest.mark.parametrize(
    ("deployment", "declared"),
    [
        ("as-is", "as-is"),
        ("merged bf16", "merge_bf16"),
        ("int8", "int8"),
        ("int4 group=32", "int4"),
        ("nf4", "nf4"),
        ("scale=0.5", "scale"),
    ],
)
def test_each_deployment_is_of_one_form(deployment, declared):
    assert [form for form in FORMS if is_form(deployment, form)] == [declared]


def test_attacks_with_more_access_are_no_deployment():
    for deployment in ("relearned k=2 steps=10", "logit lens block=3", "int80"):
        assert not any(is_form(deployment, form) for form in FORMS)


def test_power_with_twins():
    policy = policy_of(CONTENT | {"min_references": 5}, "test")
    text = power_statement(policy, 7, None, 70, 0)
    assert text.startswith("7 records, 70 twins: can detect θ ≥ 0.9")
    assert "cannot PASS at δ = 0.10" in text
    assert text.endswith("5 references would")
    assert "there are 2" in power_statement(policy, 7, None, 70, 2)
    assert "cannot detect any θ" in power_statement(policy, 3, None, 30, 0)
    assert "without twins" in power_statement(policy, 3, None, 0, 0)
    with pytest.raises(OptionError):
        power_statement(policy, 0, None, 70, 0)


@pytest.mark.parametrize(("twins", "n"), [(1, 143), (10, 79)])
def test_power_at_the_published_sample_sizes(twins, n):
    policy = policy_of(CONTENT, "test")
    assert records_for_equivalence(0.10, twins) == n
    assert pass_power(policy, n, n * twins) >= 0.8
    assert pass_power(policy, n - 2, (n - 2) * twins) < 0.8
    assert f"{n} records would in 4 cases of 5" in power_statement(
        policy, n // 2, None, n // 2 * twins, 0
    )
    assert "would in 4 cases" not in power_statement(policy, n, None, n * twins, 0)


def test_what_can_be_detected_by_hand():
    policy = policy_of(CONTENT | {"delta": 0.15}, "test")
    # 2 tests: z at α/4 one-sided is 2.2414, z at .8 is 0.8416; se = √((1/100 + 1/300)/12)
    expected = 0.65 + (2.2414 + 0.8416) * (4 / 300 / 12) ** 0.5
    assert detectable_theta(policy, 100, 300) == pytest.approx(expected, abs=1e-4)
    assert pass_power(policy, 10, 10) == 0.0


def test_power_counts_people_where_records_come_in_clusters():
    policy = policy_of(CONTENT, "test")
    assert "each of 12 subjects counted as one" in power_statement(policy, 120, 12, 40, 0)
    assert "9 subjects are too few" in power_statement(policy, 120, 9, 40, 0)
    one = power_statement(policy, 120, 1, 38, 0)
    assert "cannot FAIL (39 twins would), cannot PASS" in one
    assert "can FAIL by rank" in power_statement(policy, 1, None, 39, 0)
    # everybody is someone else: records are independent
    assert "counted as one" not in power_statement(policy, 120, 120, 40, 0)


def test_power_with_references():
    policy = policy_of(CONTENT | {"min_references": 5}, "test")
    text = power_statement(policy, 1, 1, 10, 8)
    assert "1 record, 8 references" in text
    assert "with probability 0.91 (all of them with 0.73 or more), within 2.10" in text
    assert references_needed(policy) == 5
    assert references_needed(policy_of(CONTENT | {"margin": 3.0}, "test")) > 19
