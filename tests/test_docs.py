"""Every command, Python block and link of the README and of the pages under docs/ holds."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unlearn.apps.cli import run
from unlearn.apps.cli.app import command
from unlearn.apps.demo import base_path, records

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# commands stand in `shell` blocks only; what a block in another language holds is not run
LANGUAGES = {"shell", "python", "json", "text", "{toctree}", "{eval-rst}"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in a language."""
    return [text for name, text in FENCE.findall(page.read_text("utf-8")) if name == language]


def commands(page: Path) -> list[str]:
    """Return the commands of a page, each on one line, without comments."""
    joined = "".join(blocks(page, "shell")).replace("\\\n", " ")
    lines = (shlex.join(shlex.split(line, comments=True)) for line in joined.splitlines())
    return [line for line in lines if line]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def inline_commands(page: Path) -> list[str]:
    """Return what a page quotes within a sentence and that begins with `unlearn`."""
    quotes = re.findall(r"(?<!`)`(unlearn [^`]+)`(?!`)", prose(page))
    return [" ".join(text.split()) for text in quotes]


def cases(select: Callable[[Path], list[str]]) -> list[Any]:
    pairs = [(page, text) for page in PAGES for text in select(page)]
    return [pytest.param(text, id=f"{name_of(page)}: {text[:60]}") for page, text in pairs]


def verb_of(words: list[str]) -> tuple[Any, list[str], list[str]]:
    """Find a verb in the real command line.

    Returns:
        (the verb's command, the words that name it, the words that it is given).
    """
    verb, path, rest = command(), words[:1], words[1:]
    assert path == ["unlearn"]
    while hasattr(verb, "commands"):
        assert rest, f"`{' '.join(path)}` takes a verb"
        assert rest[0] in verb.commands, f"`{' '.join(path)}` has no verb {rest[0]}"
        verb, path, rest = verb.commands[rest[0]], [*path, rest[0]], rest[1:]
    return verb, path, rest


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_say_their_language(page: Path) -> None:
    assert {language for language, _ in FENCE.findall(page.read_text("utf-8"))} <= LANGUAGES


@pytest.mark.parametrize("text", cases(commands))
def test_commands_are_right(text: str) -> None:
    words = shlex.split(text)
    if words[:2] == ["accelerate", "launch"]:
        from accelerate.commands.launch import launch_command_parser

        given = launch_command_parser().parse_args(words[2:])
        assert given.module
        words = [given.training_script, *given.training_script_args]
    if words[0] == "unlearn":
        verb, path, rest = verb_of(words)
        # parses the words, and fails on an unknown flag or one that is missing; calls nothing
        verb.make_context(" ".join(path), rest, resilient_parsing=False)
    elif words[0] == "make" or words[0].startswith("PYTHON="):
        target = words[words.index("make") + 1]
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    elif words[0].startswith(".venv/bin/"):
        program = Path(words[0]).name
        assert program in (ROOT / "pyproject.toml").read_text()
    else:
        assert os.access(ROOT / words[0], os.X_OK)


@pytest.mark.parametrize("text", cases(inline_commands))
def test_commands_within_sentences_name_verbs_and_flags_that_exist(text: str) -> None:
    verb, words = command(), text.split()[1:]
    while words and hasattr(verb, "commands"):
        assert words[0] in verb.commands
        verb, words = verb.commands[words[0]], words[1:]
    known = {flag for parameter in verb.params for flag in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("-")} <= known


# Pages whose commands are run, in order, each list in a folder of its own. What the other pages
# hold is only parsed: the comparisons take from minutes to hours, `make` and docs/*.py as well.
RUN = {
    "README": [ROOT / "README.md"],
    "own adapter, then deletion request": [DOCS / "own-adapter.md", DOCS / "deletion-requests.md"],
}
# What is added to a command: two steps of training instead of hundreds, and a yes to questions.
ADDED = {
    "finetune": ["-o", "max_steps=2"],
    "forget": ["-o", "max_steps=2"],
    "request run": ["-o", "max_steps=2"],
    "request locate": ["--yes"],
    "request close": ["--yes", "--reason", "what lies beside the page's own files is not examined"],
    "request sweep": ["--yes"],
}
# Any verdict will do after two steps, and a sweep says by its exit code that it found something.
ENDS = {"verify": {0, 3, 4}, "request verify": {0, 3, 4}, "request sweep": {0, 1}}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages take for granted: base, records.jsonl and unseen.jsonl."""
    folder = tmp_path / "scene"
    shutil.copytree(base_path(), folder / "base")
    rows = records(12, seed=0)
    for row, subject in zip(rows, ["ann"] * 5 + ["bob"] * 5, strict=False):
        row["subject"] = subject
    for name, part in {"records.jsonl": rows[:40], "unseen.jsonl": rows[40:]}.items():
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / name).write_text(text, "utf-8")
    monkeypatch.chdir(folder)
    return folder


def run_from_a_page(text: str) -> None:
    """Run a command of a page, and look whether it ended well and made what it said."""
    # ~ is the shell's to expand, and the keys of a test are in a home of its own
    words = shlex.split(text.replace("~/.unlearn", os.environ["UNLEARN_HOME"]))
    _, path, rest = verb_of(words)
    verb = " ".join(path[1:])
    code = run([*words[1:], *ADDED.get(verb, [])])
    assert code in ENDS.get(verb, {0}), f"exit code {code}: {text}"
    if "--output" in rest:
        assert Path(rest[rest.index("--output") + 1]).exists(), text


@pytest.mark.slow
@pytest.mark.parametrize("pages", RUN.values(), ids=RUN)
def test_the_commands_of_a_page_work_one_after_the_other(pages: list[Path], scene: Path) -> None:
    for page in pages:
        for text in commands(page):
            if text.startswith("unlearn "):
                run_from_a_page(text)
    if DOCS / "deletion-requests.md" in pages:
        # the purge took Ann out of the data, and the half-splits that had learned her records; the
        # adapter stays while a verification must still compare with it
        assert '"ann"' not in (scene / "records.jsonl").read_text("utf-8")
        assert len(list((scene / "halves").glob("*/adapter_model.safetensors"))) < 8


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_compile(page: Path) -> None:
    for text in blocks(page, "python"):
        compile(text, name_of(page), "exec")


@pytest.mark.slow
def test_the_python_of_own_adapter_runs(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = blocks(DOCS / "own-adapter.md", "python")
    exec(compile(text, "own-adapter.md", "exec"), {})
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("AuditRow(")
    assert "membership.loss" in row


def test_json_blocks_are_records(tmp_path: Path) -> None:
    from unlearn import Records

    texts = [text for page in PAGES for text in blocks(page, "json")]
    assert texts
    for text in texts:
        (tmp_path / "records.jsonl").write_text(json.dumps(json.loads(text)), "utf-8")
        for record in Records.load(tmp_path / "records.jsonl"):
            secrets = [record.completion[s.start : s.end] for s in record.secrets]
            assert secrets == re.findall(r"[\d-]+", record.completion)


def slug(title: str) -> str:
    """Return the anchor that GitHub and MyST make of a heading."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def links(page: Path) -> Iterator[tuple[str, str]]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), path
        assert target.is_relative_to(ROOT)
        if anchor:
            titles = re.findall(r"^#+ (.*)$", prose(target), re.MULTILINE)
            assert anchor in {slug(title) for title in titles}, anchor


def test_every_page_is_linked_from_the_index_and_the_readme() -> None:
    for start, folder in ((ROOT / "README.md", "docs/"), (DOCS / "index.md", "")):
        named = {path for path, _ in links(start)}
        pages = {page.name for page in DOCS.glob("*.md")} - {"index.md", "reference.md"}
        assert {f"{folder}{name}" for name in pages} <= named


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    for module in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(module, reason="no Sphinx: pip install '.[docs]'")
    site = tmp_path / "site"
    words = ["-W", "-q", "-b", "html", "-d", str(tmp_path / "trees"), str(DOCS), str(site)]
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    built = {path.stem for path in site.glob("*.html")}
    assert {page.stem for page in DOCS.glob("*.md")} <= built
    assert not built & {path.stem for path in DOCS.glob("*.py")}
    for path in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*>", path.read_text("utf-8"))
        assert not [tag for tag in loaded if re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag)]
