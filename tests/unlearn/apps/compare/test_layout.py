"""What depends on what: a changed recipe does again only what it changed."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from unlearn.apps.compare.layout import lay_out
from unlearn.errors import OptionError


def digests(layout):
    """By kind, the digests of all steps."""
    found: dict[str, set[str]] = {}
    for step in layout.steps:
        found.setdefault(step.kind, set()).add(step.digest)
    return found


def changed(study, **changes):
    """Return the kinds of the steps that a change asks for, and how many of each."""
    before = {step.folder for step in lay_out(study()).steps}
    return Counter(s.kind for s in lay_out(study(**changes)).steps if s.folder not in before)


def test_every_step_once_and_after_what_it_needs(study):
    layout = lay_out(study(robustness=["int8"]))
    found = Counter(step.kind for step in layout.steps)
    # 2 methods × 2 seeds × 2 sets; an audit and a trial each; audits before; references tried
    assert found == {"target": 1, "reference": 4, "audit": 2 + 8, "unlearn": 8, "trial": 4 + 8}
    folders = [step.folder for step in layout.steps]
    assert len(set(folders)) == len(folders)
    for i, step in enumerate(layout.steps):
        assert set(step.needs) <= set(folders[:i])
    assert lay_out(study(robustness=["int8"])).digest == layout.digest


def test_only_what_changed_is_done_again(study):
    few = {"max_steps": 2, "batch_size": 2}
    npo, dpo = {"method": "npo", "options": few}, {"name": "none to give", "method": "dpo"}
    dpo["options"] = few
    assert changed(study, description="other words", expect={"tokens": 3}) == {}
    assert changed(study, seeds=(0, 1, 2)) == {"unlearn": 4, "audit": 4}
    assert changed(study, seeds=(1,)) == {}
    assert changed(study, methods=[npo, dpo, {"method": "wga"}]) == {"unlearn": 4, "audit": 4}
    more = {"method": "npo", "options": few | {"beta": 0.2}}
    assert changed(study, methods=[more, dpo]) == {"unlearn": 4, "audit": 4}
    renamed = npo | {"name": "other"}
    assert changed(study, methods=[renamed, dpo]) == {}
    # nor does anything depend on what else there is, or in which order
    assert changed(study, forget=["r2,r3", "r0,r1"], methods=[dpo, npo]) == {}
    assert changed(study, forget="r2,r3") == {}
    # what methods look at changes what they do, and nothing else
    assert changed(study, holdout="rows:8-9", validation="rows:10-11") == {
        "unlearn": 8,
        "audit": 10,
    }
    assert changed(study, validation="rows:8-11") == {}
    assert changed(study, references=3) == {"reference": 2, "audit": 10}
    assert changed(study, generate=4) == {"audit": 10}
    assert changed(study, robustness=["int8"]) == {"trial": 12}
    # judging asks for audits again, and for no training or trial
    assert changed(study, policy="strict") == {"audit": 10}
    assert changed(study, policy=None) == {"audit": 10}
    longer = {"lora": {"r": 2}, "options": few | {"max_steps": 3}}
    everything = {"target": 1, "reference": 4, "audit": 10, "unlearn": 8}
    assert changed(study, finetune=longer) == everything
    assert changed(study, template="space") == everything


def test_rows_that_do_the_same_share_their_steps(study):
    few = {"max_steps": 2, "batch_size": 2}
    rows = [{"name": name, "method": "npo", "options": few} for name in ("one", "two")]
    layout = lay_out(study(methods=rows, robustness=["int8"]))
    assert len(layout.cells) == 8
    assert Counter(s.kind for s in layout.steps) == Counter(
        target=1, reference=4, audit=2 + 4, unlearn=4, trial=4 + 4
    )


def test_the_source_of_a_method_of_one_s_own_is_an_input(study, tmp_path, monkeypatch):
    source = tmp_path / "my_methods.py"
    text = (
        "from dataclasses import replace\n"
        "from unlearn.methods.registry import get_method\n"
        "MINE = replace(get_method('npo'), name='mine')\n"
    )
    source.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [{"method": "my_methods:MINE"}, {"method": "npo"}]
    before = lay_out(study(methods=rows))
    source.write_text(text + "# changed\n")
    after = lay_out(study(methods=rows))
    same = [
        a.unlearn.digest == b.unlearn.digest
        for a, b in zip(before.cells, after.cells, strict=True)
        if a.name == "npo"
    ]
    other = [
        a.unlearn.digest != b.unlearn.digest
        for a, b in zip(before.cells, after.cells, strict=True)
        if a.name != "npo"
    ]
    assert len(same) == len(other) == 4
    assert all(same + other)


def test_what_files_hold_counts_and_not_when_they_were_written(study, data, tmp_path):
    (tmp_path / "out").mkdir()
    before = digests(lay_out(study()))
    os.utime(data, (1, 1))
    assert digests(lay_out(study())) == before
    data.write_text(data.read_text().replace("It is 13.", "It is 14."))
    after = digests(lay_out(study()))
    assert not any(before[kind] & after[kind] for kind in before)


def test_a_selector_s_file_counts(study, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("r0\nr1\n")
    before = lay_out(study(forget=f"@{ids}"))
    ids.write_text("r0\nr2\n")
    after = lay_out(study(forget=f"@{ids}"))
    assert before.target.digest == after.target.digest
    assert before.cells[0].unlearn.digest != after.cells[0].unlearn.digest


def test_the_folder_of_the_output_is_no_part_of_a_digest(recipe, tmp_path):
    from unlearn.apps.compare.study import Study

    here, there = (
        lay_out(Study.of(recipe(), tmp_path / name, {"dtype": "float32"})) for name in "ab"
    )
    assert here.digest == there.digest
    assert here.target.folder != there.target.folder


def test_rows_need_names_of_their_own(study):
    with pytest.raises(OptionError, match="two rows are named 'npo'"):
        lay_out(study(methods=[{"method": "npo"}, {"method": "npo"}]))
    with pytest.raises(OptionError, match="did you mean 'npo'"):
        lay_out(study(methods=[{"method": "nppo"}]))
