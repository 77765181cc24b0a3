"""An adapter's own tokenizer and chat template are part of the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from unlearn import forget
from unlearn.errors import DataError, ModelError
from unlearn.model.state import open_model
from unlearn.runs.references import train_references
from unlearn_eval import run_audit
from unlearn_eval.certificate.files import deciding_files
from unlearn_eval.scores.cache import folder_digest

QUICK = {"max_steps": 2, "batch_size": 2, "learning_rate": 1e-3, "epochs": 1}
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def with_template(adapter: Path, folder: Path, how: str, model: Path) -> Path:
    """A copy of an adapter, with a chat template beside it as trainers leave one."""
    shutil.copytree(adapter, folder)
    (folder / "lineage.json").unlink(missing_ok=True)
    if how == "jinja":
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    elif how == "settings":
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    else:
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.chat_template = TEMPLATE
        tokenizer.model_max_length = 7  # what a trainer cut its records to
        tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("how", ["jinja", "settings", "tokenizer"])
def test_the_template_of_an_adapter_is_used_and_told_and_saved(
    how: str, tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    chat = with_template(adapter, tmp_path / "chat", how, tiny_model)
    state = open_model(tiny_model, chat)
    assert state.tokenizer.chat_template == TEMPLATE
    assert state.max_length == open_model(tiny_model).max_length
    (note,) = state.notes
    assert "own chat template is used, the base has none" in note
    for method in ("npo", "retrain", "task_vector"):
        result = forget(
            tiny_model,
            data_file,
            "r1",
            tmp_path / method,
            adapter=chat,
            method=method,
            options=QUICK,
        )
        assert note in result.notes
        assert result.lineage.template == "chat"
        # it is served in the same way
        plain = AutoTokenizer.from_pretrained(result.folder)
        messages = [{"role": "user", "content": "Who?"}]
        asked = {"tokenize": False, "add_generation_prompt": True}
        assert plain.apply_chat_template(messages, **asked) == "[user] Who?</s>\n[assistant] "
        assert plain("It is 7.").input_ids == state.tokenizer("It is 7.").input_ids
        again = open_model(tiny_model, result.folder)
        assert again.tokenizer.chat_template == TEMPLATE
    done = train_references(
        tiny_model, data_file, tmp_path / "r", forget="r1", like=chat, count=1, options=QUICK
    )
    assert note in done.notes
    assert (done.folders[0] / "chat_template.jinja").is_file()


def test_an_adapter_that_reads_as_its_base_ships_nothing(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(adapter, copy)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(copy)
    state = open_model(tiny_model, copy)
    assert state.notes == ()
    result = forget(
        tiny_model, data_file, "r1", tmp_path / "o", adapter=copy, method="npo", options=QUICK
    )
    assert not (result.folder / "tokenizer.json").exists()


def test_the_template_of_the_base_is_used_where_an_adapter_ships_none(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    model, bare = tmp_path / "model", tmp_path / "bare"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    shutil.copytree(adapter, bare)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(bare)
    state = open_model(model, bare)
    assert state.tokenizer.chat_template == TEMPLATE
    (bare / "chat_template.jinja").write_text("other" + TEMPLATE)
    state = open_model(model, bare)
    assert state.tokenizer.chat_template == "other" + TEMPLATE
    assert "not the base's" in state.notes[0]


def test_a_tokenizer_that_cannot_be_opened_is_refused(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(adapter, copy)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="tokenizer of the adapter"):
        open_model(tiny_model, copy)


def test_an_audit_asks_all_states_with_one_template_and_says_so(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    chat = with_template(adapter, tmp_path / "chat", "jinja", tiny_model)
    shutil.copytree(adapter, before := tmp_path / "before")
    audit = run_audit(tiny_model, data_file, "r1", adapter=chat, before=before, generate=0)
    assert any("own chat template" in note for note in audit.notes)
    (note,) = [n for n in audit.notes if "another chat template" in n]
    assert note.startswith("before, base:")


def test_an_audit_of_states_with_unlike_vocabularies_is_refused(
    tiny_model: Path, adapter: Path, data_file: Path, tmp_path: Path
) -> None:
    model, other = tmp_path / "padded", tmp_path / "other"
    padded(tiny_model, model)
    shutil.copytree(adapter, other)
    (other / "lineage.json").unlink()
    shutil.copytree(other, plain := tmp_path / "plain")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["Elm"])
    tokenizer.save_pretrained(other)
    assert "(1 tokens more)" in open_model(model, other).notes[0]
    with pytest.raises(DataError, match="another tokenizer"):
        run_audit(model, data_file, "r1", adapter=plain, before=other, template="qa")


def test_digests_cover_how_an_adapter_reads(
    tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    digests, files = [], []
    for how in ("jinja", "settings", "tokenizer"):
        folder = with_template(adapter, tmp_path / how, how, tiny_model)
        digests.append(folder_digest(folder))
        files.append(deciding_files(folder))
    assert len({folder_digest(adapter), *digests}) == 4
    assert "chat_template.jinja" in files[0]
    assert "tokenizer_config.json" in files[1]
    assert {"tokenizer.json", "chat_template.jinja"} <= set(files[2])
    before = digests[0]
    (tmp_path / "jinja" / "chat_template.jinja").write_text("x" + TEMPLATE)
    assert folder_digest(tmp_path / "jinja") != before


def padded(model: Path, folder: Path, rows: int = 384) -> Any:
    """The same model with embeddings for more tokens than its tokenizer has."""
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(model)
    net.resize_token_embeddings(rows, mean_resizing=False)
    net.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return net
