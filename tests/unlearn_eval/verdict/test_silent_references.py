"""References of which nothing shows that they never saw the records: they help no one to a PASS."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from unlearn.provenance.lineage import weights_digest
from unlearn_eval import run_audit
from unlearn_eval.verdict.decision import decide
from unlearn_eval.verdict.load import load_evidence
from unlearn_eval.verdict.verify import verify

from .conftest import CONTENT, evidence, matrix, reference

SILENT = "without a lineage"

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize("state", ["reference:0", "reference:4"])
def test_one_silent_reference_bars_a_pass(five, make_policy, state):
    assert decide(five(), make_policy()).outcome == "PASS"
    verdict = decide(five(unproven={state: SILENT}), make_policy())
    assert (verdict.outcome, verdict.tier) == ("INCONCLUSIVE", "A")
    (reason,) = verdict.reasons
    assert "nothing shows that 1 of 5 never saw the records: 1 without a lineage" in reason
    assert any("made by `unlearn references`" in text for text in verdict.would_decide)


def test_silent_references_still_let_a_model_fail(five, make_policy):
    silent = {f"reference:{i}": SILENT for i in range(5)}
    assert decide(five(at=20.0, unproven=silent), make_policy()).outcome == "FAIL"


def test_what_is_said_of_states_that_are_no_references_does_not_matter(five, make_policy):
    given = five(unproven={"reference:2": SILENT}).as_audited("reference:2")
    assert given.doubtful == []
    assert not any(SILENT in text for text in decide(given, make_policy()).reasons)


@pytest.mark.parametrize(
    ("silent", "outcome"),
    [((), "PASS"), ((2,), "INCONCLUSIVE"), ((1,), "PASS"), ((0, 1, 2, 3, 4), "INCONCLUSIVE")],
)
def test_a_silent_reference_excuses_no_extraction(five, make_policy, silent, outcome):
    out = np.array([-50, -50, math.log(0.9), math.log(0.9), -50, -50])
    states = dict(five().plain)
    for state in ("after", "reference:2"):
        states[state] = {
            **states[state],
            "forget": matrix(states[state]["forget"].log_prob, "f", out),
        }
    given = evidence(states, unproven={f"reference:{i}": SILENT for i in silent})
    found = decide(given, make_policy()).extraction
    assert found.outcome == outcome
    assert ("no lineage shows" in found.words) is (outcome == "INCONCLUSIVE")
    # what no reference gives away comes from the model, whatever they are
    states["reference:2"] = reference(0.0, 2)
    given = evidence(states, unproven={f"reference:{i}": SILENT for i in silent})
    assert decide(given, make_policy()).outcome == "FAIL"


@pytest.fixture(scope="module")
def noisy(tiny_model, adapter, data_file, holdout_file, lineage_key, tmp_path_factory):
    """An audit whose references are copies of the audited adapter with a little noise: the first
    three have no lineage, the others one that says that they were made of it."""
    place = tmp_path_factory.mktemp("noisy")
    own = place / "own.yaml"
    own.write_text(json.dumps(CONTENT))
    for i in range(6):
        copy = place / "copies" / f"reference-{i}"
        shutil.copytree(adapter, copy)
        file = copy / "adapter_model.safetensors"
        save_file(
            {name: value * (1 + 0.01 * i + 0.01) for name, value in load_file(file).items()}, file
        )
        line = json.loads((copy / "lineage.json").read_text())
        (copy / "lineage.json").unlink()
        if i >= 3:
            line |= {"digest": weights_digest(copy), "parent": line["digest"]}
            line["records"]["trained"] = line["records"]["trained"][:0]
            (copy / "lineage.json").write_text(json.dumps(line))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", lineage_key)
        patch.setenv("UNLEARN_HOME", str(place / "home"))
        run_audit(
            tiny_model,
            data_file,
            "rows:0-3",
            place / "audit",
            adapter=adapter,
            before=adapter,
            references=[place / "copies"],
            holdout=holdout_file,
            generate=0,
            policy=own,
        )
    return place / "audit", place / "copies"


def test_copies_of_the_audited_adapter_are_no_references(noisy):
    audit, copies = noisy
    told = json.loads((audit / "audit.json").read_text())["references"]
    assert [told[f"reference:{i}"]["from_base"] for i in range(6)] == [None] * 3 + [False] * 3
    found = load_evidence(audit)
    assert found.doubtful == found.references
    verdict = verify(audit)
    assert verdict.outcome != "PASS"
    assert any("different seeds" in text for text in verdict.reasons)
    reasons = sorted(found.unproven[state] for state in found.doubtful)
    assert all("another adapter" in text for text in reasons[:3])
    assert all("without a lineage" in text for text in reasons[3:])
    # nor does an audit that was made to say otherwise help, where the folders are looked at again
    content = json.loads((audit / "audit.json").read_text())
    for each in content["references"].values():
        each |= {"saw": 0, "trained": 1, "kept": 8, "from_base": True}
    edited = audit.with_name("edited")
    shutil.copytree(audit, edited)
    (edited / "audit.json").write_text(json.dumps(content))
    assert load_evidence(edited).doubtful == []
    assert len(load_evidence(edited, references=[copies]).doubtful) == 6


def test_references_trained_from_the_base_speak_for_themselves(
    tiny_model, adapter, data_file, lineage_key, tmp_path, monkeypatch
):
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    from unlearn import finetune, forget

    more = {"max_steps": 1, "batch_size": 4}
    finetune(tiny_model, data_file, tmp_path / "fine", exclude="r0", options=more)
    words = {"adapter": adapter, "method": "retrain", "options": more}
    forget(tiny_model, data_file, "r0", tmp_path / "again", **words)
    audit = run_audit(
        tiny_model,
        data_file,
        "r0",
        adapter=adapter,
        references=[tmp_path / "fine", tmp_path / "again"],
        generate=0,
    )
    assert [each["from_base"] for each in audit.references.values()] == [True, True]
    assert [each["unlike"] for each in audit.references.values()] == [[], []]
    # of an exact model, what sets it apart from references of another recipe may be the recipe
    words["options"] = more | {"learning_rate": 0.1}
    forget(tiny_model, data_file, "r0", tmp_path / "other", **words)
    run_audit(
        tiny_model,
        data_file,
        "r0",
        tmp_path / "audit",
        adapter=tmp_path / "other",
        before=adapter,
        references=[tmp_path / "fine", tmp_path / "again"],
        generate=0,
    )
    assert "learning_rate" in load_evidence(tmp_path / "audit").recipe
    line = json.loads((tmp_path / "fine" / "lineage.json").read_text())
    line["base"]["digest"] = "sha256:" + "1" * 64
    assert trained_from(tmp_path, line).from_base("sha256:" + "2" * 64) is False


def test_references_that_saw_an_edited_copy_or_were_trained_otherwise_bar_a_pass(
    tiny_model, adapter, data_file, lineage_key, tmp_path, monkeypatch
):
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    from unlearn import Records, forget
    from unlearn.runs.references import train_references

    rows = [json.loads(row) for row in data_file.read_text().splitlines()]
    copied = [row | {"id": "copy", "prompt": f"{row['prompt']} "} for row in rows[:1]]
    copied = Records.from_rows([*rows, *copied])
    after = tmp_path / "after"
    words = {"adapter": adapter, "method": "pilot"}
    words["options"] = {"max_steps": 1, "regime": "memorised"}
    forget(tiny_model, data_file, "r0", after, **words)
    more = {"forget": "r0", "like": adapter, "count": 1}
    train_references(tiny_model, data_file, tmp_path / "like", **more)
    train_references(tiny_model, copied, tmp_path / "copy", **more)
    options = {"learning_rate": 0.1}
    train_references(tiny_model, data_file, tmp_path / "rate", **more, options=options)

    def look(adapter, name):
        refs = [tmp_path / "like", tmp_path / "copy", tmp_path / "rate"]
        run_audit(
            tiny_model,
            data_file,
            "r0",
            tmp_path / name,
            adapter=adapter,
            references=refs,
            generate=0,
        )
        return load_evidence(tmp_path / name)

    found = look(after, "audit")
    assert found.doubtful == ["reference:1", "reference:2"]
    assert "edited copies" in found.unproven["reference:1"]
    assert found.unproven["reference:2"].endswith("by its lineage: learning_rate")
    assert not any("trained as the audited model was" in fact.words for fact in found.facts)
    # with nothing to compare with, it is only said that it was not
    (after / "lineage.json").unlink()
    found = look(after, "silent")
    assert found.doubtful == []
    told = [fact for fact in found.facts if "trained as the audited model was" in fact.words]
    assert [fact.agrees for fact in told] == [None]


def trained_from(tmp_path, line):
    from unlearn_eval.certificate.trained_on import trained_on

    (tmp_path / "fine" / "lineage.json").write_text(json.dumps(line))
    return trained_on(tmp_path / "fine", line["records"]["key_id"])


def test_an_audit_without_the_facts_proves_nothing(noisy):
    content = json.loads((noisy[0] / "audit.json").read_text())
    for each in content["references"].values():
        each |= {"saw": 0}
        each.pop("from_base")
    old = noisy[0].with_name("old")
    shutil.copytree(noisy[0], old)
    (old / "audit.json").write_text(json.dumps(content))
    why = set(load_evidence(old).unproven.values())
    assert why == {"with a lineage of which the audit does not say what base it names"}
