"""How a model reads text: its tokenizer and chat template, the base's or an adapter's own.

Trainers save a tokenizer, or only a chat template, beside an adapter. It is part of the model then:
an adapter answers to the words and markers that it was trained with.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearn.errors import ModelError
from unlearn.model.folders import one_line
from unlearn.provenance.digests import file_digest, reading_files
from unlearn.strict_json import read_json_file

__all__ = ["Reading", "check_vocabulary", "fitted", "open_tokenizer", "reading_of"]

# Of the files of a tokenizer, those that hold settings and templates; the others hold a vocabulary.
_SETTINGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.",
    "additional_chat_templates/",
)


@dataclass(frozen=True)
class Reading:
    """How a model reads text.

    Attributes:
        tokenizer: the tokenizer, with its chat template.
        adapter: the adapter whose tokenizer or template it is; None where it is the base's.
        notes: in what it differs from the base's.
        rows: of the embedding that its tokens fit, once that is known.
    """

    tokenizer: Any
    adapter: Path | None = None
    notes: tuple[str, ...] = ()
    rows: int | None = None

    def differs(self, other: Reading) -> str | None:
        """Say in what two ways to read differ that matters to scores; None where in nothing."""
        mine, others = self.tokenizer, other.tokenizer
        if mine is others:
            return None
        if self.rows is not None:
            others = _readable(others, self.rows) or others
        if mine.get_vocab() != others.get_vocab():
            return "vocabulary"
        if mine.chat_template != others.chat_template:
            return "chat template"
        return "setting of the tokenizer" if _machinery(mine) != _machinery(others) else None


def open_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """Open the tokenizer of a folder; errors are those of transformers."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        folder, trust_remote_code=trust_remote_code, local_files_only=True
    )


def reading_of(
    base: Reading, folder: Path, adapters: Sequence[Path], *, trust_remote_code: bool = False
) -> Reading:
    """Return how a base with adapters reads text: as the last adapter that says so, else as it.

    An adapter that ships settings or a template only has the base's vocabulary; one that ships a
    tokenizer without a chat template has the base's template.

    Args:
        base: how the base reads.
        folder: the base's folder.
        adapters: folders of the adapters, the frozen ones first.
        trust_remote_code: run code of a tokenizer.

    Returns:
        The way to read; the very `base` where the adapter's own is no other.

    Raises:
        ModelError: if an adapter's tokenizer cannot be opened.
    """
    owner = next((path for path in reversed(adapters) if _own_files(path, folder)), None)
    if owner is None:
        return base
    try:
        own = _opened(owner, folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises whatever a file that it cannot read leads to
        raise ModelError(
            f"cannot open the tokenizer of the adapter {owner}: {one_line(error)}; delete its "
            "tokenizer files to use the base's"
        ) from error
    # how much a trainer cut its records to says nothing of what the model can read
    own.model_max_length = base.tokenizer.model_max_length
    own.name_or_path = str(owner)
    templateless = not own.chat_template and base.tokenizer.chat_template
    if templateless:
        own.chat_template = base.tokenizer.chat_template
    reading = Reading(own, owner)
    notes = _notes(base, reading, owner)
    if not notes:
        return base
    if templateless:
        notes += (f"the adapter {owner} ships no chat template: the base's is used",)
    return Reading(own, owner, notes)


def fitted(reading: Reading, rows: int, where: str) -> Reading:
    """Return a way to read that gives no token for which an embedding has no row.

    Trainers add a padding token without resizing the embedding: no model reads it. It is taken out
    of the tokenizer, so that its name in a text is text, and the end of a sequence pads instead.

    Args:
        reading: how the model reads.
        rows: of the embedding.
        where: whose tokenizer it is, for the message.

    Returns:
        The way to read, with a note where a token was taken out.

    Raises:
        ModelError: if there are such tokens beside an unused padding token, naming what to do.
    """
    pad = reading.tokenizer.pad_token
    readable = _readable(reading.tokenizer, rows)
    if readable is None:
        check_vocabulary(reading.tokenizer, rows, where)
        return replace(reading, rows=rows)
    note = f"the padding token {pad!r} of {where} has no embedding, and is left out"
    return replace(reading, tokenizer=readable, notes=(*reading.notes, note), rows=rows)


def _readable(tokenizer: Any, rows: int) -> Any | None:
    """Return a tokenizer without a padding token that lies beyond an embedding.

    None where no token lies there, others do, or the token is more than padding.
    """
    from tokenizers import Tokenizer

    pad = tokenizer.pad_token
    beyond = {token for token, number in tokenizer.get_vocab().items() if number >= rows}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or beyond != {pad}:
        return None
    content = json.loads(backend.to_str())
    roles = {k: v for k, v in tokenizer.special_tokens_map.items() if k != "pad_token"}
    if pad in str([roles, tokenizer.chat_template, content["post_processor"]]):
        return None
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != pad]
    content["padding"] = None
    smaller = Tokenizer.from_str(json.dumps(content))
    if smaller.token_to_id(pad) is not None:  # it is a word of the model's own
        return None
    result = copy.deepcopy(tokenizer)
    result._tokenizer = smaller
    result.pad_token = tokenizer.eos_token
    return result


def check_vocabulary(tokenizer: Any, rows: int, where: str) -> None:
    """Refuse a tokenizer that gives tokens for which an embedding has no row.

    The other way round is usual: embeddings are padded to a round number of rows.

    Args:
        tokenizer: the tokenizer.
        rows: of the embedding.
        where: whose tokenizer it is, for the message.

    Raises:
        ModelError: naming such a token and what to do.
    """
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= rows:
        raise ModelError(
            f"the tokenizer of {where} has tokens up to number {largest} ({token!r}), and the "
            f"embedding has {rows} rows only: take the added tokens out of the tokenizer, or save "
            f"the model after model.resize_token_embeddings({largest + 1}); an adapter that was "
            "trained on such a model must ship its embeddings (save_embedding_layers=True)"
        )


def _own_files(adapter: Path, base: Path) -> dict[str, Path]:
    """Return the files by which an adapter reads, where they are not copies of the base's."""
    files = reading_files(adapter)
    bases = reading_files(base)
    same = all(
        name in bases and file_digest(path) == file_digest(bases[name])
        for name, path in files.items()
    )
    return {} if same else files


def _opened(adapter: Path, base: Path, *, trust_remote_code: bool) -> Any:
    """Open an adapter's tokenizer, with what it lacks from the base: never two vocabularies."""
    own = reading_files(adapter)
    whole = any(not name.startswith(_SETTINGS) for name in own)
    with tempfile.TemporaryDirectory(prefix="unlearn-") as temporary:
        stage = Path(temporary)
        # transformers finds the kind of a tokenizer in the model's configuration, where no other
        # file says it
        shared = {path.name: path for path in (base / "config.json", *base.glob("*.py"))}
        shared |= {path.name: path for path in adapter.glob("*.py")}
        inherited = {} if whole else reading_files(base)
        if not whole and _has_template(own):
            inherited = {k: v for k, v in inherited.items() if not k.startswith("chat_template.")}
        for name, path in (shared | inherited | own).items():
            (stage / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, stage / name)
        if not whole and "tokenizer_config.json" in own and "tokenizer_config.json" in inherited:
            _merge(stage / "tokenizer_config.json", inherited["tokenizer_config.json"])
        return open_tokenizer(stage, trust_remote_code=trust_remote_code)


def _merge(settings: Path, base: Path) -> None:
    """Complete an adapter's settings by those of the base: some folders hold a template only."""
    whole = _read(base) | _read(settings)
    settings.write_text(json.dumps(whole), encoding="utf-8")


def _has_template(files: dict[str, Path]) -> bool:
    settings = files.get("tokenizer_config.json")
    return any(name.startswith("chat_template.") for name in files) or bool(
        settings and _read(settings).get("chat_template")
    )


def _read(path: Path) -> dict[str, Any]:
    content = read_json_file(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} does not hold a JSON object")
    return content


def _notes(base: Reading, own: Reading, adapter: Path) -> tuple[str, ...]:
    """Say in what an adapter reads otherwise than its base."""
    mine, others = own.tokenizer, base.tokenizer
    notes = []
    if _machinery(mine) != _machinery(others):
        more = len(mine.get_vocab()) - len(others.get_vocab())
        size = f" ({abs(more)} tokens {'more' if more > 0 else 'fewer'})" if more else ""
        notes.append(f"the adapter's own tokenizer is used, not the base's{size}: {adapter}")
    if mine.chat_template != others.chat_template:
        other = "not the base's" if others.chat_template else "the base has none"
        notes.append(f"the adapter's own chat template is used, {other}: {adapter}")
    return tuple(notes)


def _machinery(tokenizer: Any) -> Any:
    """Return all that decides which tokens a text becomes, but for lengths and padding."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    padding = {"pad_token", "padding_side"}
    special = {name: token for name, token in special.items() if name not in padding}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer.get_vocab(), special
    whole = json.loads(backend.to_str())
    return {k: v for k, v in whole.items() if k not in {"padding", "truncation"}}, special
