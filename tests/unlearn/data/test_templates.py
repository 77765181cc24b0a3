"""Templates and tokenising: what is a target, what is not, and where the secrets are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn.data.batching import collate, token_budget_batches
from unlearn.data.records import Records
from unlearn.data.templates import PRESETS, Template, choose_template
from unlearn.data.tokenization import Example, encode
from unlearn.errors import DataError, OptionError

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TRIMMING = CHATML.replace("m['content']", "m['content'] | trim")
# keeps what the model thought only in the last turn, as Qwen3 does
REWRITING = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Hi there."},
    {"role": "user", "content": "Number?"},
    {"role": "assistant", "content": "It is 42."},
]


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def one(row: dict[str, Any]) -> Records:
    return Records.from_rows([row])


def targets(example: Example, tokenizer: Any) -> str:
    return str(tokenizer.decode(example.ids[example.target]))


@pytest.mark.parametrize("name", [*PRESETS, "Q {prompt} => {completion}"])
def test_only_the_completion_and_the_end_are_targets(name: str, tokenizer: Any) -> None:
    records = one({"prompt": "Who is {completion}?", "completion": "It is Ann."})
    rendered = Template(name).render(records[0])
    ((start, end),) = rendered.targets
    assert rendered.text[start:end] == "It is Ann."
    (example,) = encode(records, tokenizer, Template(name), 128)
    assert targets(example, tokenizer).strip() == "It is Ann.</s>"
    assert example.ids[0] == tokenizer.bos_token_id
    assert list(example.ids).count(tokenizer.eos_token_id) == 1
    assert example.target[-1]


def test_a_text_is_all_target_but_its_first_token(tokenizer: Any) -> None:
    (example,) = encode(one({"text": "Ann was here."}), tokenizer, Template("qa"), 128)
    assert not example.target[0]
    assert example.target[1:].all()


@pytest.mark.parametrize("template", [CHATML, TRIMMING])
def test_every_assistant_turn_is_a_target(template: str, tokenizer: Any) -> None:
    tokenizer.chat_template = template
    records = one({"messages": TALK})
    rendered = Template("chat", tokenizer).render(records[0])
    assert [rendered.text[a:b] for a, b in rendered.targets] == ["Hi there.</s>", "It is 42.</s>"]
    (example,) = encode(records, tokenizer, Template("chat", tokenizer), 256)
    assert targets(example, tokenizer) == "Hi there.</s>It is 42.</s>"
    # the template ends its turns: no second end is appended, none is added in front
    assert list(example.ids).count(tokenizer.eos_token_id) == len(TALK)


def test_a_template_that_rewrites_earlier_turns(tokenizer: Any) -> None:
    tokenizer.chat_template = REWRITING
    rendered = Template("chat", tokenizer).render(one({"messages": TALK})[0])
    first, last = (rendered.text[a:b] for a, b in rendered.targets)
    assert first == "Hi there.</s>"
    assert last.endswith("It is 42.</s>")
    assert "Number?" not in last


def test_prompt_and_completion_through_a_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = TRIMMING
    row = {
        "prompt": "  Number?  ",
        "completion": " It is 42. ",
        "secrets": [{"field": "completion", "start": 7, "end": 9, "kind": "number"}],
    }
    (example,) = encode(one(row), tokenizer, Template("chat", tokenizer), 128)
    assert targets(example, tokenizer) == "It is 42.</s>"
    ((span),) = example.secrets
    assert "42" in tokenizer.decode(example.ids[span.start : span.end])
    assert span.end - span.start <= 3


@pytest.mark.parametrize("name", ["qa", "chat", "roles"])
def test_secrets_are_found_again_as_tokens(name: str, tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    field = "completion" if name == "qa" else "messages.4.content"
    secrets = [{"field": field, "start": 6, "end": 8, "kind": "number"}]
    row: dict[str, Any] = {"prompt": "Number?", "completion": "It is 42."}
    if name != "qa":
        row = {"messages": TALK}
    (example,) = encode(one(row | {"secrets": secrets}), tokenizer, Template(name, tokenizer), 256)
    ((span),) = example.secrets
    assert tokenizer.decode(example.ids[span.start : span.end]).strip() == "42"
    assert span.kind == "number"
    assert example.target[span.start : span.end].all()


def test_roles_mark_every_assistant_line(tokenizer: Any) -> None:
    rendered = Template("roles").render(one({"messages": TALK})[0])
    assert rendered.text.startswith("System: Be kind.\nUser: Hello?\nAssistant: Hi there.\n")
    assert [rendered.text[a:b] for a, b in rendered.targets] == ["Hi there.\n", "It is 42."]


def test_the_template_is_chosen_for_the_records(tokenizer: Any) -> None:
    asked = one({"prompt": "p", "completion": "c"})
    talk = one({"messages": TALK})
    assert choose_template(None, tokenizer, asked).name == "qa"
    with pytest.raises(DataError, match="--template roles"):
        choose_template(None, tokenizer, talk)
    with pytest.raises(OptionError, match="no chat template"):
        choose_template("chat", tokenizer, asked)
    with pytest.raises(OptionError, match="did you mean 'qa'"):
        choose_template("qaa", tokenizer, asked)
    with pytest.raises(OptionError, match="for conversations"):
        choose_template("roles", tokenizer, asked)
    tokenizer.chat_template = CHATML
    assert choose_template(None, tokenizer, talk).name == "chat"


def test_a_target_cut_away_is_an_error_and_a_shorter_one_is_counted(tokenizer: Any) -> None:
    records = one({"id": "long", "prompt": "word " * 20, "completion": "It is Ann, of course."})
    with pytest.raises(DataError, match="'long'.*limit of 10"):
        encode(records, tokenizer, Template("qa"), 10)
    (whole,) = encode(records, tokenizer, Template("qa"), 256)
    (cut,) = encode(records, tokenizer, Template("qa"), len(whole.ids) - 3)
    assert cut.cut == 3
    assert cut.targets == whole.targets - 3


def test_a_record_without_anything_to_predict_is_an_error(tokenizer: Any) -> None:
    class NoMarks:
        is_fast = True
        eos_token_id = None

        def __call__(self, *_: Any, **__: Any) -> dict[str, Any]:
            return {"input_ids": [5], "offset_mapping": [(0, 1)]}

    with pytest.raises(DataError, match="no token that the model could predict"):
        encode(one({"text": "x"}), NoMarks(), Template("qa"), 10)


def test_the_end_marker_stays_visible_when_it_is_also_the_padding(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    examples = encode(
        Records.from_rows([{"messages": TALK}, {"messages": TALK[1:3]}]),
        tokenizer,
        Template("chat", tokenizer),
        256,
    )
    batch = collate(examples, pad=tokenizer.eos_token_id)
    lengths = [len(e.ids) for e in examples]
    assert batch["attention_mask"].sum(-1).tolist() == lengths
    left = collate(examples, pad=tokenizer.eos_token_id, side="left")
    assert left["attention_mask"][1].tolist() == sorted(left["attention_mask"][1].tolist())
    assert left["position_ids"][1, -1].item() == lengths[1] - 1


@given(
    st.lists(st.integers(1, 50), max_size=30),
    st.integers(1, 200),
)
def test_token_budget_batches(lengths: list[int], budget: int) -> None:
    batches = token_budget_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        widest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or widest * len(batch) <= budget
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)
    assert np.all(np.diff(flat) <= 0)


@pytest.mark.parametrize(
    "name",
    ["A {prompt} B {prompt} C {completion}", "{completion} {prompt} {completion}", "{prompt}"],
)
def test_a_placeholder_stands_once(name: str, tokenizer: Any) -> None:
    with pytest.raises(OptionError, match="holds {prompt} once"):
        choose_template(name, tokenizer, one({"prompt": "Who?", "completion": "Ann."}))


def test_a_question_in_roles_is_two_turns(tokenizer: Any) -> None:
    record = one({"id": "r7", "prompt": "Who?", "completion": "Ann."})[0]
    rendered = Template("roles", tokenizer).render(record)
    assert rendered.text == "User: Who?\nAssistant: Ann."
    assert [rendered.text[a:b] for a, b in rendered.targets] == ["Ann."]
    assert rendered.text[rendered.fields["completion"] :] == "Ann."


@pytest.mark.parametrize("name", [*PRESETS, "{prompt} -> {completion}"])
def test_a_conversation_is_written_by_templates_for_conversations_only(
    name: str, tokenizer: Any
) -> None:
    for turns in (TALK, TALK[1:3]):
        (record,) = one({"id": "c7", "messages": turns})
        with pytest.raises(DataError, match="record 'c7' is a conversation.*--template roles"):
            Template(name, tokenizer).render(record)


def test_every_part_of_the_records_counts_for_the_template(tokenizer: Any) -> None:
    asked = one({"prompt": "p", "completion": "c"})
    talk = one({"id": "c7", "messages": TALK})
    with pytest.raises(DataError, match="record 'c7' is a conversation"):
        choose_template(None, tokenizer, asked, talk)
    assert choose_template("roles", tokenizer, asked, talk).name == "roles"
