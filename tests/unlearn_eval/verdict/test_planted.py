"""Planted canaries from the audit to the verdict and the certificate."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from unlearn import Records, finetune, forget
from unlearn.apps.cli import run
from unlearn.canaries.pairs import Canaries, beside
from unlearn.errors import DataError, LineageError, OptionError, SelectionError
from unlearn.provenance.keys import Key
from unlearn_eval import run_audit
from unlearn_eval.certify import Models, certify
from unlearn_eval.statistics import sign_flip_test
from unlearn_eval.verdict import load as _load
from unlearn_eval.verdict.decision import Evidence, Twins, View, decide, load_policy
from unlearn_eval.verdict.load import ScoreFile, load_evidence
from unlearn_eval.verdict.pairs import twins_of
from unlearn_eval.verdict.tiers.canaries import decide_by_canaries
from unlearn_eval.verdict.verify import verify

from .conftest import matrix

QUICK: dict[str, Any] = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-2}
PAIRS = 12

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def planted(tiny_model, data_file, lineage_key, tmp_path_factory):
    """An adapter with canaries, and one from which two records and eight canaries were taken."""
    work = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", lineage_key)
        # the same canaries in every run of the suite
        patch.setattr("unlearn.canaries.pairs.secrets.token_bytes", lambda n: b"s" * n)
        patch.setenv("UNLEARN_HOME", str(work / "home"))
        finetune(tiny_model, data_file, work / "adapter", canaries=PAIRS, options=QUICK)
        forget(
            tiny_model,
            data_file,
            "r0,r1",
            work / "cleaned",
            adapter=work / "adapter",
            canaries=beside(work / "adapter"),
            with_canaries=8,
            method="npo",
            options=QUICK | {"learning_rate": 1e-5},  # which hurts nothing that is kept
        )
    return work


@pytest.fixture(autouse=True)
def _key(lineage_key, monkeypatch):
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)


def audited(planted, tiny_model, data_file, adapter="cleaned", **more):
    common = {"before": planted / "adapter", "generate": 0, "policy": "quick"} | more
    return run_audit(
        tiny_model,
        data_file,
        adapter=planted / adapter,
        canaries=beside(planted / "adapter"),
        **common,
    )


def test_an_audit_measures_those_taken_out_beside_their_partners(planted, tiny_model, data_file):
    canaries = Canaries.read(beside(planted / "adapter"))
    result = audited(planted, tiny_model, data_file)
    splits = result.scores["after"]
    assert list(splits["forget"].ids) == [pair.included.id for pair in canaries.pairs[:8]]
    assert list(splits["holdout"].ids) == [pair.left_out.id for pair in canaries.pairs[:8]]
    # without the two records that were taken out, with the four canaries that were not
    kept = [pair.included.id for pair in canaries.pairs[8:]]
    assert list(splits["retain"].ids) == [*(f"r{i}" for i in range(2, 12)), *kept]
    assert result.canaries["sha256"] == canaries.commitment.sha256
    assert any("8 of 12 planted ones, that were taken out" in note for note in result.notes)
    assert not any("nearly repeats" in note for note in result.notes)
    # where none was taken out, all that were planted are in question, and none is retained
    whole = audited(planted, tiny_model, data_file, "adapter")
    assert whole.scores["after"]["forget"].records == PAIRS
    assert whole.scores["after"]["retain"].records == 12
    assert any("of which none was taken out" in note for note in whole.notes)
    only = Records.load(data_file).take([2, 3])
    given = audited(planted, tiny_model, data_file, retain=only)
    assert list(given.scores["after"]["retain"].ids) == ["r2", "r3", *kept]


def test_what_an_audit_of_canaries_refuses(planted, tiny_model, data_file, adapter, tmp_path):
    def refused(error, match, **more):
        common = {"adapter": planted / "cleaned", "canaries": beside(planted / "adapter")} | more
        with pytest.raises(error, match=match):
            run_audit(tiny_model, data_file, **common)

    refused(OptionError, "drop --forget", forget="r0")
    refused(OptionError, "drop --holdout", holdout=data_file)
    refused(SelectionError, "with --canaries", canaries=None)
    refused(LineageError, "names no canaries", adapter=adapter)
    without = tmp_path / "without"
    forget(
        tiny_model,
        data_file,
        "r0",
        without,
        adapter=planted / "adapter",
        canaries=beside(planted / "adapter"),
        method="npo",
        options=QUICK,
    )
    refused(LineageError, "no canaries beside them", adapter=without)
    other = tmp_path / "other.canaries.json"
    Canaries.draw(Records.load(data_file), PAIRS, Key.load()).publish(other)
    refused(LineageError, f"{other} is not the file of canaries", canaries=other)
    with_them = {"references": [planted / "adapter"]}
    refused(LineageError, "trained on 8 of the records", **with_them)


def test_from_the_command_line_to_a_certificate(planted, tiny_model, data_file, tmp_path, capfd):
    file = beside(planted / "adapter")
    words = ["audit", "--model", str(tiny_model), "--adapter", str(planted / "cleaned")]
    words += ["--before", str(planted / "adapter"), "--data", str(data_file), "--policy", "quick"]
    words += ["--canaries", str(file), "--output", str(tmp_path / "audit"), "--generate", "0"]
    assert run(words) == 0
    words = ["verify", "--audit", str(tmp_path / "audit"), "--canaries", str(file)]
    words += ["--adapter", str(planted / "cleaned"), "--before", str(planted / "adapter")]
    capfd.readouterr()
    code = run(words)
    out = capfd.readouterr().out
    assert code == 4, out
    assert "tier B" in out
    verdict = json.loads((tmp_path / "audit" / "verdict.json").read_text())
    assert (verdict["tier"], verdict["policy"]["chosen"]) == ("B", "before")
    assert verdict["gates"][0]["passed"] is True
    assert "not checked" not in verdict["gates"][0]["words"]
    page = (tmp_path / "audit" / "certificate.html").read_text()
    assert "8 of 12 planted canaries stood for them" in page
    assert Canaries.read(file).commitment.sha256 in page
    # the verdict is the same without the file, and says that nobody looked at it
    alone = verify(tmp_path / "audit")
    assert "not checked: the file of canaries" in alone.gates[0].words
    assert [p.value for p in alone.probes] == [p["value"] for p in verdict["probes"]]


@pytest.fixture
def folder(planted, tiny_model, data_file, tmp_path):
    audited(planted, tiny_model, data_file, output=tmp_path / "audit")
    return tmp_path / "audit"


def change(folder, edit):
    content = json.loads((folder / "audit.json").read_text())
    edit(content)
    (folder / "audit.json").write_text(json.dumps(content))


def test_a_verdict_refuses_another_file_and_other_pairs(folder, planted, data_file, tmp_path):
    file = beside(planted / "adapter")
    other = tmp_path / "other.json"
    Canaries.draw(Records.load(data_file), PAIRS, Key.load()).publish(other)
    with pytest.raises(DataError, match=f"{other} is not the file"):
        verify(folder, canaries=other)
    with pytest.raises(DataError, match="drop --twins"):
        verify(folder, twins=other)
    pairs = json.loads((folder / "audit.json").read_text())["canaries"]["pairs"]
    shifted = dict(zip(pairs, [*list(pairs.values())[1:], next(iter(pairs.values()))], strict=True))
    change(folder, lambda content: content["canaries"].update(pairs=shifted))
    with pytest.raises(DataError, match=r"8 pair\(s\) of the audit are not as the coin fell"):
        verify(folder, canaries=file)
    change(folder, lambda content: content["canaries"].update(pairs={}))
    with pytest.raises(DataError, match="not the pairs that were measured"):
        verify(folder)
    change(folder, lambda content: content.pop("canaries"))
    with pytest.raises(DataError, match="no audit of canaries"):
        verify(folder, canaries=file)


def test_a_certificate_wants_the_commitment(folder, planted, tmp_path):
    change(folder, lambda content: content["canaries"].update(sha256="0" * 64))
    verdict = verify(folder).as_dict()
    with pytest.raises(LineageError, match="does not commit"):
        certify(folder, tmp_path / "c.json", Models(planted / "cleaned"), verdict=verdict)


def test_wherever_the_included_score_higher_theta_is_above_one_half(make_policy):
    rng = np.random.default_rng(0)
    left_out = rng.normal(-6, 1, 30)
    for shift, side in ((2.0, 1), (-2.0, -1)):
        views = {
            View(): {
                "after": {"forget": matrix(left_out + shift, "i"), "holdout": matrix(left_out, "o")}
            }
        }
        given = Evidence(views, twins=Twins(np.arange(30)[:, None], True))
        (found, _) = decide_by_canaries(given, make_policy()).probes
        assert found.failed
        assert (found.value - 0.5) * side > 0.2


def test_p_values_of_a_model_that_saw_none_are_uniform():
    """Scores of both sides are anything at all; only the coin decides which is called included."""
    data = Records.from_rows([{"id": "a", "text": "a"}])
    found = []
    for seed in range(200):
        canaries = Canaries.draw(data, 10, Key(b"k" * 32), (1000 + seed).to_bytes(32))
        score = {r.id: len(set(r.text)) + hash_of(r.text) for p in canaries.pairs for r in p}
        gap = [score[p.included.id] - score[p.left_out.id] for p in canaries.pairs]
        found.append(sign_flip_test(gap, "two-sided").p_value)
    assert stats.kstest(found, "uniform").pvalue > 1e-3
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.046)


def hash_of(text: str) -> float:
    """A number that depends on the whole text, as a model's score does."""
    return sum(ord(c) * (i + 1) ** 2 for i, c in enumerate(text)) % 1009 / 100


def test_a_forged_coin_passes_nothing(monkeypatch, tmp_path):
    """Pairs that were sought until they agree, in an audit that an honest coin would not pass."""
    rng = np.random.default_rng(0)
    n = 200
    seen, unseen = np.sort(rng.normal(-4, 1, n)), np.sort(rng.normal(-6, 1, 100 * n))
    near = np.searchsorted(unseen, seen)
    for i in range(n - 1, -1, -1):  # the nearest that no larger one has
        near[i] = min(near[i], (near[i + 1] if i + 1 < n else len(unseen)) - 1)
    scores = {"after": {"forget": matrix(seen, "f"), "holdout": matrix(unseen, "h")}}
    path = tmp_path / "twins.json"
    named = {f"f{i}": [f"h{j}"] for i, j in enumerate(near)}
    path.write_text(json.dumps({"randomised": True, "twins": named}))
    twins, claimed = twins_of(path, scores["after"])
    assert claimed
    assert not twins.randomised
    content = {"states": {"after": "x"}, "rows": []}
    monkeypatch.setattr(_load, "read_audit", lambda folder: content)
    monkeypatch.setattr(_load, "load_scores", lambda folder: ScoreFile({View(): scores}, {}))
    found = load_evidence(tmp_path, path)
    verdict = decide(found, load_policy("quick")[1])
    assert (verdict.tier, verdict.outcome) == ("C", "INCONCLUSIVE")
