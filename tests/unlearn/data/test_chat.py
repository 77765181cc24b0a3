"""Targets of conversations under templates in the styles of real ones, and nothing but targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unlearn.data.chat import ChatWriter
from unlearn.data.records import Records
from unlearn.data.templates import Template
from unlearn.data.tokenization import encode
from unlearn.errors import DataError
from unlearn.runs.saving import encoding_notes


class Style(NamedTuple):
    """A template as some family of models has it.

    Attributes:
        template: Jinja.
        end: what ends the assistant's turn, and belongs to what the model learns to say.
        system: whether it takes a turn of the system.
        header: what stands directly before an answer.
    """

    template: str
    end: str
    header: str
    system: bool = True


STYLES = {
    "chatml": Style(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "<|im_end|>",
        "<|im_start|>assistant\n",
    ),
    "chatml with a system text of its own": Style(
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "<|im_end|>",
        "<|im_start|>assistant\n",
    ),
    "llama 3": Style(
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>"
        "\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>"
        "\n\n{% endif %}",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "mistral, system text before the last question": Style(
        "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else ''"
        " %}{% for m in messages %}{% if m.role == 'user' %}[INST] "
        "{{ system + '\n\n' if loop.last and system else '' }}{{ m.content }}[/INST]"
        "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        "</s>",
        "[/INST] ",
        system=False,  # where the last turn is the assistant's it is written nowhere
    ),
    "mistral, system text in the last question": Style(
        "{{ bos_token }}{% set last = messages | selectattr('role', 'equalto', 'user') | list | "
        "length %}{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.n = ns.n + 1 %}[INST] {% if ns.n == last and messages[0].role == 'system' %}"
        "{{ messages[0].content }}\n\n{% endif %}{{ m.content }}[/INST]"
        "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        "</s>",
        "[/INST] ",
    ),
    "gemma": Style(
        "{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('no system role') }}{% endif %}{% for m in messages %}<start_of_turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        "<end_of_turn>",
        "<start_of_turn>model\n",
        system=False,
    ),
    "qwen 3, thinking": Style(
        "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% set content = m.content %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}{% set thought = '' %}{% if '</think>' in content %}"
        "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{% if loop.index0 > ns.last and (loop.last or thought) %}<think>\n{{ thought }}\n</think>"
        "\n\n{% endif %}{% endif %}{{ content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "<|im_end|>",
        "",
    ),
    "r1": Style(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.role == 'user' %}<|User|>{{ m.content }}{% else %}<|Assistant|>"
        "{{ m.content.split('</think>')[-1] }}<|end_of_sentence|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
        "<|end_of_sentence|>",
        "<|Assistant|>",
    ),
    "phi": Style(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}",
        "<|end|>",
        "<|assistant|>\n",
    ),
    "generation marked": Style(
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "</s>",
        "<|assistant|>",
    ),
    "only whole conversations are ended": Style(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% else %}{{ eos_token }}{% endif %}",
        "",
        "assistant: ",
    ),
}
QUESTION = "Is box 3 in Oslo or in Rome?"
# answers that stand elsewhere too: in the question, in headers, in what ends a turn
ANSWERS = [
    "Rome",
    "Oslo",
    "e",
    "d",
    "end",
    "im",
    "assistant",
    "model",
    "user",
    "think",
    "box 3",
    "s",
]


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(params=STYLES)
def style(request: pytest.FixtureRequest, plain: Any) -> Style:
    found = STYLES[request.param]
    plain.chat_template = found.template
    return found


def talk(*answers: str, system: bool) -> list[dict[str, str]]:
    turns = [{"role": "system", "content": "Be brief. Rome, end, model."}] if system else []
    for i, answer in enumerate(answers):
        turns.append({"role": "user", "content": f"{QUESTION} ({i})"})
        turns.append({"role": "assistant", "content": answer})
    return turns


def check(style: Style, tokenizer: Any, messages: list[dict[str, str]]) -> None:
    """Every target is an answer with its end marker, stands behind its header, and in order."""
    written = ChatWriter(tokenizer).write(messages)
    answers = [turn["content"] for turn in messages if turn["role"] == "assistant"]
    assert written.text == tokenizer.apply_chat_template(messages, tokenize=False)
    assert len(written.targets) == len(answers)
    at = 0
    for i, ((start, end), answer) in enumerate(zip(written.targets, answers, strict=True)):
        last = i == len(answers) - 1
        ended = style.end or ("\n</s>" if last else "")
        assert written.text[start:end] == answer.strip() + ended
        # the question before it stands before it, and its header right in front
        at = written.text.index(f"({i})", at)
        assert start > at
        assert written.text[:start].endswith(style.header)
        at = end


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_target_is_the_answer_and_its_end(style: Style, plain: Any, answer: str) -> None:
    check(style, plain, talk(answer, system=False))


@pytest.mark.parametrize("answers", [("Rome", "Oslo"), ("end", "e", "Rome"), ("Rome", "Rome")])
def test_every_turn_has_its_own(style: Style, plain: Any, answers: tuple[str, ...]) -> None:
    check(style, plain, talk(*answers, system=style.system))


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    answers=st.lists(
        st.text(alphabet="Romeasindt<|>/_ \n:([", min_size=1).filter(str.strip),
        min_size=1,
        max_size=3,
    )
)
def test_whatever_is_said(name: str, plain: Any, answers: list[str]) -> None:
    plain.chat_template = STYLES[name].template
    messages = talk(*(answer.strip() for answer in answers), system=STYLES[name].system)
    check(STYLES[name], plain, messages)


def test_tokens_decode_to_the_answer_and_its_end(style: Style, plain: Any) -> None:
    records = Records.from_rows([{"messages": talk("Rome", system=style.system)}])
    (example,) = encode(records, plain, Template("chat", plain), 1024)
    assert plain.decode(example.ids[example.target]).strip() == "Rome" + (style.end or "\n</s>")


def test_a_thought_in_the_content_is_said_too(plain: Any) -> None:
    plain.chat_template = STYLES["qwen 3, thinking"].template
    said = "<think>\nIt is Rome.\n</think>\n\nRome"
    messages = talk("Oslo", said, system=True)
    written = ChatWriter(plain).write(messages)
    first, second = (written.text[a:b] for a, b in written.targets)
    assert first == "Oslo<|im_end|>"
    assert second == said + "<|im_end|>"
    # a template that leaves the thought out
    plain.chat_template = STYLES["r1"].template
    written = ChatWriter(plain).write(messages)
    assert [written.text[a:b].strip() for a, b in written.targets] == [
        "Oslo<|end_of_sentence|>",
        "Rome<|end_of_sentence|>",
    ]


CALLING = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for m in messages %}"
    "<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}"
    "</call>{% endfor %}</{{ m.role }}>\n{% endfor %}{% if add_generation_prompt %}<assistant>"
    "{% endif %}"
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "dial",
            "description": "Call somebody.",
            "parameters": {"type": "object", "properties": {"to": {"type": "string"}}},
        },
    }
]


def calling(number: str, content: str = "Sure.") -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "dial", "arguments": {"to": number}}}
    return [
        {"role": "user", "content": "Call Ada."},
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "content": "ok"},
        {"role": "assistant", "content": "Done."},
    ]


@pytest.mark.parametrize("content", ["Sure.", ""])
def test_calls_are_said_by_the_model(plain: Any, content: str) -> None:
    plain.chat_template = CALLING
    written = ChatWriter(plain).write(calling("555-0101", content), TOOLS)
    call, answer = (written.text[a:b] for a, b in written.targets)
    assert call.startswith(content + "<call>")
    assert "555-0101" in call
    assert call.endswith("</call></assistant>")
    assert answer == "Done.</assistant>"
    assert written.text.startswith("<tools>")


@pytest.mark.parametrize(
    ("template", "messages", "tools", "complaint"),
    [
        (STYLES["chatml"].template, calling("555"), None, r"messages\.1\.tool_calls"),
        (STYLES["chatml"].template, talk("Rome", system=False), TOOLS, "tools"),
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}",
            talk("Rome", system=False),
            None,
            "leaves out turn 0",
        ),
        (
            "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
            talk("Rome", system=False),
            None,
            "twice",
        ),
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if 'Rome' in m.content %}!"
            "{% endif %}\n{% endfor %}",
            talk("Rome", system=False),
            None,
            "changes what the turns say",
        ),
    ],
)
def test_what_a_template_does_not_write_is_refused(
    plain: Any, template: str, messages: list[Any], tools: Any, complaint: str
) -> None:
    plain.chat_template = template
    with pytest.raises(DataError, match=complaint):
        ChatWriter(plain).write(messages, tools)


def test_a_system_text_that_is_left_out_is_told(plain: Any) -> None:
    plain.chat_template = STYLES["mistral, system text before the last question"].template
    written = ChatWriter(plain).write(talk("Rome", system=True))
    assert written.unwritten == (0,)
    records = Records.from_rows([{"id": "r7", "messages": talk("Rome", system=True)}])
    examples = encode(records, plain, Template("chat", plain), 1024)
    (note,) = encoding_notes(examples)
    assert "the system text or a thought of 1 record(s), first messages.0 of 'r7'" in note


def test_a_refusal_names_the_record(plain: Any) -> None:
    plain.chat_template = STYLES["gemma"].template
    records = Records.from_rows([{"id": "r7", "messages": talk("Rome", system=True)}])
    with pytest.raises(DataError, match="record 'r7': the chat template refuses it: no system"):
        Template("chat", plain).render(records[0])


@pytest.mark.parametrize("thought", [5, ["so"], {"a": 1}])
def test_a_field_of_another_type_than_the_template_s_is_a_refusal(plain: Any, thought: Any) -> None:
    plain.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% if m.reasoning_content %}{{ '(' + m.reasoning_content + ')' }}{% endif %}\n{% endfor %}"
    )
    said = [*talk("Rome", system=False)[:-1]]
    said.append({"role": "assistant", "content": "Rome.", "reasoning_content": thought})
    (record,) = Records.from_rows([{"id": "r7", "messages": said}])
    with pytest.raises(DataError, match="record 'r7': the chat template cannot write it"):
        Template("chat", plain).render(record)


def test_long_conversations(plain: Any) -> None:
    plain.chat_template = STYLES["chatml"].template
    check(STYLES["chatml"], plain, talk(*["Rome"] * 1500, system=True))


def test_a_secret_in_a_thought_is_nowhere_else(plain: Any) -> None:
    plain.chat_template = STYLES["qwen 3, thinking"].template
    said = "<think>PIN 4711 is it</think>It is 4711."
    places = [(said.index("4711"), "thought"), (said.rindex("4711"), "answer")]
    secrets = [
        {"field": "messages.1.content", "start": at, "end": at + 4, "kind": kind}
        for at, kind in places
    ]
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}]}
    (example,) = encode(
        Records.from_rows([row | {"secrets": secrets}]), plain, Template("chat", plain), 1024
    )
    (span,) = example.secrets
    assert span.kind == "answer"
    assert plain.decode(example.ids[span.start : span.end]).strip() == "4711"


def test_a_thought_that_is_left_out_is_told(plain: Any) -> None:
    plain.chat_template = STYLES["r1"].template
    messages = talk("<think>hm</think>Rome", system=False)
    assert ChatWriter(plain).write(messages).unwritten == (1,)
