"""`unlearn benchmark` on local files and the embedded base model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from unlearn.apps.cli import run
from unlearn.apps.demo import base_path, facts
from unlearn_eval.benchmarks import BENCHMARKS
from unlearn_eval.benchmarks.muse import HUB as MUSE
from unlearn_eval.benchmarks.tofu import HUB as TOFU
from unlearn_eval.benchmarks.wmdp import HUB as WMDP
from unlearn_eval.benchmarks.wmdp import SUBJECTS

FACTS = [(f["prompt"], f["completion"]) for f in facts()[:4]]


def write(file: Path, rows: list[dict[str, object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tables of the three benchmarks, two to four rows each."""
    folder = tmp_path_factory.mktemp("tables")
    tofu = [
        {
            "question": q,
            "answer": a,
            "paraphrased_answer": f"Well: {a}",
            "perturbed_answer": ["Nobody knows.", "It is not known."],
        }
        for q, a in FACTS
    ]
    for name in ("forget10", "retain", "real_authors", "world_facts"):
        write(folder / f"{name}_perturbed.json", tofu)
    whole = [{"text": f"Question: {q}\nAnswer: {a}"} for q, a in FACTS]
    qa = [{"question": q, "answer": a} for q, a in FACTS[:2]]
    write(
        folder / "verbmem" / "forget.json",
        [{"prompt": f"Question: {q}\nAnswer:", "gt": f" {a}"} for q, a in FACTS],
    )
    for name in ("forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl"):
        write(folder / "knowmem" / f"{name}.json", qa)
    write(folder / "privleak" / "forget.json", whole)
    write(folder / "privleak" / "holdout.json", [{"text": w["text"][::-1]} for w in whole])
    write(
        folder / "wmdp-chem.json",
        [{"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": i} for i in range(4)],
    )
    return folder


@pytest.mark.parametrize(
    ("name", "more", "wanted"),
    [
        ("tofu", [], {"model_utility", "forget.truth_ratio", "world_facts.rouge"}),
        ("muse", ["--retrained"], {"verbatim_memorisation", "member_auc", "privacy_leakage"}),
        ("wmdp", ["--subset", "wmdp-chem"], {"accuracy"}),
    ],
)
def test_a_protocol_runs_and_is_written(
    name: str,
    more: list[str],
    wanted: set[str],
    tables: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / f"{name}.json"
    words = ["benchmark", name, "--model", str(base_path()), "--data", str(tables)]
    words += ["--output", str(file), *more]
    words += [str(base_path())] if more == ["--retrained"] else []
    assert run(words) == 0
    out = capfd.readouterr().out
    content = json.loads(file.read_text())
    assert wanted <= set(content["metrics"])
    assert all(metric in out for metric in content["metrics"])
    assert (content["schema"], content["benchmark"], content["limit"]) == (1, name, None)
    assert content["states"]["model"].startswith("sha256:")
    numbers = content["metrics"]
    if name == "tofu":
        # it knows these facts, and half of what it is asked is not made up
        assert numbers["retain.rouge"]["value"] > 0.9
        assert numbers["retain.probability"]["value"] > numbers["retain.probability"]["low"]
        assert "forget_quality" not in numbers
    elif name == "muse":
        assert numbers["verbatim_memorisation"]["value"] == 1
        assert numbers["member_auc"]["value"] == 1
        # the same model on both sides: AUC 1, against which nothing can be compared
        assert numbers["privacy_leakage"]["value"] is None
        assert content["states"]["retrained"] == content["states"]["model"]
    else:
        # whatever letter it prefers is right once in four
        assert numbers["accuracy"]["value"] == 0.25
        assert numbers["accuracy"]["n"] == 4


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """A copy of the model with a chat template of its own."""
    shutil.copytree(base_path(), tmp_path / "other")
    (tmp_path / "other" / "chat_template.jinja").write_text(
        "{% for m in messages %}<{{ m.role }}> {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant> {% endif %}"
    )
    return tmp_path / "other"


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [("tofu", [], True), ("tofu", ["--template", "qa"], False), ("muse", [], False)],
)
def test_models_that_are_asked_with_other_templates_are_told(
    name: str,
    more: list[str],
    told: bool,
    other_model: Path,
    tables: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "numbers.json"
    words = ["benchmark", name, "--model", str(base_path()), "--data", str(tables)]
    words += ["--output", str(file), "--retrained", str(other_model), "--limit", "2", *more]
    assert run(words) == 0
    metric = BENCHMARKS[name].compares
    note = json.loads(file.read_text())["metrics"][metric]["note"]
    assert (f"{other_model} with its own chat template; --template qa" in note) == told
    assert ("the models are asked otherwise" in capfd.readouterr().out) == told


def test_a_retrained_model_with_another_vocabulary_is_refused(
    other_model: Path, tables: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from unlearn.model.reading import open_tokenizer

    tokenizer = open_tokenizer(other_model, trust_remote_code=False)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(other_model)
    words = ["benchmark", "tofu", "--model", str(base_path()), "--data", str(tables)]
    words += ["--output", str(tmp_path / "x.json"), "--retrained", str(other_model)]
    assert run(words) == 2
    assert "another tokenizer" in capfd.readouterr().err


def test_a_limit_is_told_and_files_are_not_overwritten(
    tables: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["benchmark", "wmdp", "-m", str(base_path()), "-d", str(tables / "wmdp-chem.json")]
    words += ["--output", str(tmp_path / "out.json"), "--limit", "2"]
    assert run(words) == 0
    assert "not the published figure" in capfd.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["metrics"]["accuracy"]["n"] == 2
    assert run(words) == 2
    assert "--overwrite" in capfd.readouterr().err
    assert run([*words, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["tofo"], "did you mean 'tofu'"),
        (["tofu", "--subset", "forget15"], "did you mean 'forget10'"),
        (["wmdp", "--retrained", "x"], "compares with no retrained model"),
        (["muse", "--template", "qa"], "--template: muse says itself"),
        (["tofu", "--data", "./nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_opened(
    words: list[str], problem: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["benchmark", *words, "-m", "no-such-model", "--output", str(tmp_path / "x.json")]
    assert run(given) == 2
    assert problem in capfd.readouterr().err
    assert not (tmp_path / "x.json").exists()


def test_the_list_agrees_with_the_protocols() -> None:
    assert set(BENCHMARKS["tofu"].data.values()) == {TOFU}
    assert BENCHMARKS["muse"].data["news"] == MUSE
    assert set(BENCHMARKS["wmdp"].data.values()) == {WMDP}
    assert set(BENCHMARKS["wmdp"].data) == set(SUBJECTS)
