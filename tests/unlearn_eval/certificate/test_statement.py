from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from unlearn.errors import CertificateError, LineageError
from unlearn.provenance.lineage import Lineage
from unlearn_eval.certificate.files import deciding_files
from unlearn_eval.certificate.looks import tries
from unlearn_eval.certificate.policies import content_hash
from unlearn_eval.certificate.schema import STATEMENT
from unlearn_eval.certificate.shape import MisfitError, fit


def test_a_statement_says_where_each_thing_comes_from(case) -> None:
    found = case.statement()
    assert found["created"] == "2026-03-01T12:00:00+00:00"
    assert found["expires"] == "2027-03-01T12:00:00+00:00"
    assert found["records"]["digests"] == sorted(case.after["records"]["forgotten"])
    assert found["records"]["key_id"] == "a1b2c3d4e5f6"
    assert found["models"]["before"]["weights"] == case.before["digest"]
    assert found["models"]["after"]["weights"] == case.after["digest"]
    assert set(found["models"]["after"]["files"]) == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert found["method"] == {
        "name": "pilot",
        "options": {"learning_rate": 1e-4},
        "seed": 7,
        "versions": case.after["versions"],
        "run": case.after["created"],
        "stopped": None,
    }
    assert found["policy"] == case.verdict["policy"]
    assert found["controls"] == case.verdict["gates"]
    assert found["probes"] == case.verdict["probes"]
    assert found["audit"]["sha256"] == case.verdict["audit_sha256"]
    assert found["verdict"]["outcome"] == "PASS"
    assert [entry["cleaned"] for entry in found["scope"]] == [True] * 5 + [False, None]
    assert found["request"]["id"] == "R-2026-017"
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_lineage_as_read_is_as_good_as_its_json(case) -> None:
    after = Lineage.model_validate(case.after)
    before = Lineage.model_validate(case.before)
    assert case.statement(lineage_after=after, lineage_before=before) == case.statement()


def test_nothing_but_named_fields_is_taken_over(case) -> None:
    plain = case.statement()
    case.verdict["scores"] = {"r1": -3.2}
    case.verdict["probes"][0]["per_record"] = [-3.2, -1.0]
    case.verdict["extraction"]["ids"] = ["r1"]
    case.audit["rows"] = [{"state": "after"}]
    case.after["records"]["ids"] = ["r1"]
    assert case.statement() == plain
    # of the records it names the forgotten ones only, not what the rest of the training was
    assert not set(case.after["records"]["trained"]) & set(plain["records"]["digests"])


def test_who_asked_is_not_passed_on(case) -> None:
    with pytest.raises(CertificateError, match=r"'subject' has no place"):
        case.statement(request={"id": "R-1", "subject": "ann"})
    with pytest.raises(CertificateError, match="did you mean 'received'"):
        case.statement(request={"id": "R-1", "recieved": "2026-01-01"})
    assert case.statement(request=None)["request"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.pop("policy"), "'policy' is missing"),
        (lambda v: v.update(outcome="MAYBE"), r"verdict\.outcome: one of 'PASS'"),
        (lambda v: v.update(schema=True), r"verdict\.schema"),
        (lambda v: v["probes"][1].update(value=float("nan")), r"probes\[1\]\.value: a finite"),
        (lambda v: v["probes"][0].update(passed=1), r"probes\[0\]\.passed: true or false"),
        (lambda v: v["extraction"].update(records=["r1"]), r"extraction\.records: a whole"),
        (lambda v: v["counts"].update(forget=-1), r"counts\.forget"),
        (lambda v: v.update(reasons="because"), r"reasons: a list"),
        (lambda v: v.update(gates=[3]), r"gates\[0\]: an object"),
        (lambda v: v.update(audit_sha256="0" * 63), r"audit_sha256: 64 hex"),
        (lambda v: v.update(created="2026-02-28"), "offset from UTC"),
    ],
)
def test_a_verdict_that_is_not_one_is_refused(case, change, words: str) -> None:
    change(case.verdict)
    with pytest.raises(CertificateError, match=words):
        case.statement()


def test_what_may_be_missing_may(case) -> None:
    case.verdict |= {"tier": None, "extraction": None, "utility": None, "outcome": "INCONCLUSIVE"}
    case.verdict["counts"] = {"forget": 20}
    found = case.statement(lineage_before=None, artifacts=(), adapter=None)
    assert found["counts"] == {"forget": 20, "holdout": None, "subjects": None, "references": None}
    assert found["models"]["before"]["weights"] == case.audit["states"]["before"]
    assert found["models"]["after"]["files"] is None
    assert found["scope"] == []


def test_a_certificate_is_about_one_adapter(case) -> None:
    case.audit["states"]["after"] = case.before["digest"]
    with pytest.raises(LineageError, match="weights of 'after'"):
        case.statement()
    case.audit["states"]["after"] = case.after["digest"]
    with pytest.raises(LineageError, match="weights of 'after"):
        case.statement(adapter=case.folder / "adapter")
    other = copy.deepcopy(case.before)
    other["base"]["digest"] = "sha256:" + "5" * 64
    with pytest.raises(LineageError, match="weights of 'base'"):
        case.statement(lineage_before=other)
    case.audit["states"]["before"] = "sha256:" + "5" * 64
    with pytest.raises(LineageError, match="weights of 'before'"):
        case.statement()


def test_the_configuration_is_the_audited_one(case) -> None:
    case.audit["files"] = deciding_files(case.adapter)
    assert case.statement()["models"]["after"]["files"] == case.audit["files"]
    config = case.adapter / "adapter_config.json"
    config.write_text('{"lora_alpha": 1}')
    with pytest.raises(LineageError, match=r"adapter_config\.json is not what was audited"):
        case.statement()
    (case.adapter / "modeling_own.py").write_text("import os")
    config.unlink()
    with pytest.raises(LineageError, match="is not what was audited"):
        case.statement()


def test_every_deleted_record_must_have_been_measured(case) -> None:
    case.verdict["counts"]["forget"] = 5
    with pytest.raises(LineageError, match="20 records were deleted and 5 measured"):
        case.statement()
    five = case.after["records"]["forgotten"][:5]
    assert case.statement(records=five)["records"]["digests"] == sorted(five)
    with pytest.raises(LineageError, match="1 of the request's records"):
        case.statement(records=[*five[:4], "e" * 64])
    # earlier requests' records are not this one's
    case.before["records"]["forgotten"] = case.after["records"]["forgotten"][5:]
    assert case.statement()["records"]["digests"] == sorted(five)
    # run again on an adapter that had forgotten them all
    case.before["records"]["forgotten"] = case.after["records"]["forgotten"]
    case.verdict["counts"]["forget"] = 20
    assert len(case.statement()["records"]["digests"]) == 20
    case.after["records"]["forgotten"] = []
    with pytest.raises(LineageError, match="no forgotten record"):
        case.statement()


def test_unknown_kinds_and_times_are_refused(case) -> None:
    case.artifacts[0]["kind"] = "tape"
    with pytest.raises(CertificateError, match=r"artifacts\[0\]\.kind: one of 'dataset'"):
        case.statement()
    with pytest.raises(CertificateError, match="at least one day"):
        case.statement(artifacts=(), valid_days=0)


def _claims(case, **changes: Any) -> str:
    return "\n".join(case.statement(**changes)["not_claimed"])


def test_what_is_not_claimed_follows_from_what_is(case) -> None:
    usual = _claims(case)
    assert "whoever controls data, models and signing key could state anything" in usual
    assert "listed under scope (7), 2 are not" in usual
    assert "pilot approximates" in usual
    for words in ("in advance", "outcome is", "destroyed", "configuration", "no scope was given"):
        assert words not in usual
    assert "Mine." in case.statement(not_claimed=["Mine."])["not_claimed"]
    assert "configuration" in _claims(case, adapter=None)
    assert "no scope was given" in _claims(case, artifacts=())
    assert "listed under scope (" not in _claims(case, artifacts=case.artifacts[:5])
    closed = case.request | {"escrow_destroyed": True}
    assert "was destroyed when the request was closed" in _claims(case, request=closed)
    case.verdict["policy"]["chosen"] = "after"
    case.verdict["outcome"] = "FAIL"
    case.after["method"] = "retrain"
    changed = _claims(case)
    assert "chosen after the audit" in changed
    assert "outcome is FAIL" in changed
    assert "approximates" not in changed


LATER = ("looks", "remains", "exposure", "replay")


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(part, (*path, key))


def test_the_shape_is_exact(case) -> None:
    statement = case.statement()
    assert fit(statement, STATEMENT, "s", exact=True) == statement
    free = {"options", "versions", "content", "files"}
    checked = 0
    for path in _places(statement):
        if free & set(map(str, path)):
            continue
        for change in ("remove", "add", "replace"):
            changed = copy.deepcopy(statement)
            place = changed
            for key in path[:-1]:
                place = place[key]
            target = place[path[-1]] if path else changed
            if change == "add" and isinstance(target, dict):
                target["surplus"] = 1
            elif change == "remove" and path and isinstance(place, dict):
                del place[path[-1]]
                if path in {(name,) for name in LATER}:  # which older ones have not
                    fitted = fit(changed, STATEMENT, "s", exact=True)
                    assert fitted == statement | {path[0]: None}
                    continue
            elif change == "replace" and path:
                place[path[-1]] = {"a": {}}
            else:
                continue
            with pytest.raises(MisfitError):
                fit(changed, STATEMENT, "s", exact=True)
            checked += 1
    assert checked > 200


def test_references_are_stated_with_what_their_lineages_say(case) -> None:
    found = case.statement()["references"]
    assert found == list(case.audit["references"].values())
    assert "the references" not in _claims(case)
    # an audit from before lineages were noted, and one whose references came from elsewhere
    told = case.audit.pop("references")
    assert [each["saw"] for each in case.statement()["references"]] == [None] * 8
    case.audit["references"] = told
    told["reference:3"] |= {"saw": None, "trained": None, "kept": None}
    assert "never saw the records: 1 of 8 have no lineage" in _claims(case)


def test_references_that_saw_the_records_certify_nothing(case) -> None:
    told = case.audit["references"]["reference:5"]
    told["saw"] = 2
    with pytest.raises(LineageError, match="reference:5 was trained on 2 of the records"):
        case.statement()
    # nor does the lineage of another model
    told |= {"saw": 0, "weights": case.before["digest"]}
    with pytest.raises(LineageError, match="weights of 'reference:5'"):
        case.statement()


def test_an_audit_of_other_records_is_not_about_the_request(case) -> None:
    measured = case.audit["records"]["forget"]
    measured[4] = "e" * 64
    with pytest.raises(LineageError, match="1 of 20 records are not among those that the audit"):
        case.statement()
    assert case.statement(records=[measured[0]])["records"]["digests"] == [measured[0]]
    # digests under another key cannot be compared, which is said, and counts still are
    assert "only their number" not in _claims(case, records=[measured[0]])
    case.audit["records"]["key_id"] = "0" * 12
    assert len(case.statement()["records"]["digests"]) == 20
    assert "the audit knows them under another key" in _claims(case)
    case.audit["records"] = None
    assert "the audit holds no digests of them" in _claims(case)


def test_without_ledger_and_lineage_the_model_before_is_the_parent(case) -> None:
    stranger = "sha256:" + "5" * 64
    case.audit["states"]["before"] = stranger
    with pytest.raises(LineageError, match="by its lineage the one after was made from"):
        case.statement(request=None, lineage_before=None)
    # a ledger knows what the line of adapters began with
    assert case.statement(lineage_before=None)["models"]["before"]["weights"] == stranger
    case.audit["states"]["before"] = case.after["parent"]
    assert case.statement(request=None, lineage_before=None)
    # a state before that is named by its folder may lie further back, which is said
    assert "nothing here shows what lies between" not in _claims(case, request=None)
    case.before["digest"] = case.audit["states"]["before"] = stranger
    assert "nothing here shows what lies between" in _claims(case, request=None)
    assert "nothing here shows what lies between" not in _claims(case)
    # what was retrained has no parent
    case.audit["states"]["before"] = stranger
    case.after["parent"] = None
    assert case.statement(request=None, lineage_before=None)


@pytest.mark.parametrize(
    ("looks", "said", "unsaid"),
    [
        ({}, "where this log does not see it", "the only try"),
        (
            {"models": 5, "nth": 5, "reference_sets": 2},
            "the only try. 5 models were audited for this request (this is the 5th), with 2 sets "
            "of references. With 5 tries a model at the policy's margin passes at least once with "
            "probability up to 0.25 (a bound: 5 times 0.05, at most 1).",
            "comparisons",
        ),
        (
            {"models_elsewhere": 39},
            "on the same records 39 more models were audited in comparisons of methods. With 40 "
            "tries a model at the policy's margin passes at least once with probability up to 1 (",
            "39 sets",
        ),
        (
            {"models": 2, "nth": 2, "purged_references": 3},
            "with 1 set of references, of which 3 were deleted since, as they held records of",
            "purged",
        ),
        ({"models": 22, "nth": 11, "log": "broken"}, "At least 22 models", "this log does not see"),
        ({"log": "broken"}, "does not hold: tries are not known", "With 1"),
        ({"log": "none"}, "how many models were audited is not known", "1st"),
        (None, "the audit did not count", "1st"),
    ],
)
def test_tries_are_said_with_what_they_are_worth(case, looks, said, unsaid) -> None:
    case.audit["looks"] = looks if looks is None else case.audit["looks"] | looks
    claims = _claims(case)
    assert said in claims
    assert unsaid not in claims
    case.verdict["policy"] |= {"content": {}, "sha256": content_hash({})}
    assert "0.25" not in _claims(case)


def test_an_ordinal_reads_as_one_says_it() -> None:
    looks = {"scope": "comparison", "models": 112, "reference_sets": 0, "models_elsewhere": 1}
    looks |= {"log": "holds", "purged_references": 0}
    ends = {
        1: "1st",
        2: "2nd",
        3: "3rd",
        4: "4th",
        11: "11th",
        12: "12th",
        21: "21st",
        112: "112th",
    }
    for nth, word in ends.items():
        assert f"in comparisons of methods (this is the {word})" in tries(looks | {"nth": nth})
    assert "1 more model was audited for a request" in tries(looks | {"nth": 1})
