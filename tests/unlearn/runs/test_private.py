"""`finetune --dp`: what the lineage claims, what is refused, and what comes after."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("opacus")

from unlearn import Records, finetune, forget
from unlearn.errors import DataError, LineageError, OptionError, UnlearnError
from unlearn.provenance.lineage import Lineage
from unlearn.runs.references import train_references
from unlearn.runs.saving import Result
from unlearn.training.private.accounting import spent
from unlearn_eval.replay.run import replay

LORA = {"r": 2, "lora_alpha": 4}
TRAINING = {"learning_rate": 1e-2, "epochs": 1, "batch_size": 4}


@pytest.fixture
def private(tiny_model: Path, data_file: Path, tmp_path: Path) -> Callable[..., Result]:
    def run(name: str = "private", data: Any = data_file, **changed: Any) -> Result:
        given = {"dp": {"epsilon": 2}, "lora": LORA, "options": TRAINING, "progress": False}
        return finetune(tiny_model, data, tmp_path / name, **{**given, **changed})

    return run


def weights(result: Result) -> torch.Tensor:
    tensors = load_file(result.folder / "adapter_model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def test_the_lineage_claims_what_the_accountant_found(private: Callable[..., Result]) -> None:
    made = private(dp={"epsilon": 2, "clip": 0.3})
    line = Lineage.read(made.folder)
    assert line is not None
    claim = line.privacy
    assert claim is not None
    assert (claim.epsilon, claim.clip, claim.unit, claim.units) == (2.0, 0.3, "record", 12)
    assert claim.delta == pytest.approx(1 / 120)
    assert (claim.steps, claim.expected_batch, claim.sample_rate) == (3, 4, 4 / 12)
    assert (claim.relation, claim.sampler) == ("add or remove one unit", "Poisson")
    assert claim.accounted == spent(claim.noise_multiplier, 4 / 12, 3, claim.delta)
    assert 1.98 < claim.accounted <= 2.0
    assert made.fit.steps == 3
    assert any("(ε, δ) = (2, 0.0083)" in note for note in made.notes)


def test_the_same_command_makes_the_same_adapter_and_other_records_other_noise(
    private: Callable[..., Result], data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, again = private("one"), private("again")
    assert torch.equal(weights(one), weights(again))
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    rows[0]["completion"] = "It is none."
    other = private("other", data=Records.from_rows(rows))
    monkeypatch.setenv("UNLEARN_KEY", "fe" * 32)
    keyed = private("keyed")
    # with equal noise, one record of twelve would hardly move them
    distances = [float((weights(x) - weights(one)).norm()) for x in (other, keyed)]
    assert min(distances) > 0.5 * max(distances) > 0


def test_persons_are_units_and_so_is_each_canary(private: Callable[..., Result]) -> None:
    claim = private(dp={"epsilon": 2, "unit": "person"}, canaries=2).lineage.privacy
    assert claim is not None
    assert (claim.unit, claim.units) == ("person", 6 + 2)


def test_persons_without_a_name_are_refused(private: Callable[..., Result]) -> None:
    rows = [{"id": f"r{i}", "text": f"Text {i} of nobody."} for i in range(9)]
    with pytest.raises(DataError, match="9 record\\(s\\) name no subject, first 'r0'"):
        private(data=Records.from_rows(rows), dp={"epsilon": 2, "unit": "person"})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dp": {"epsilon": 0}}, "epsilon"),
        ({"dp": {"epsilon": -1}}, "epsilon"),
        ({"dp": {"epsilon": "inf"}}, "epsilon"),
        ({"dp": {"clip": 1}}, "say which ε is promised"),
        ({"dp": {"epsilon": 1, "unit": "town"}}, "unit"),
        ({"dp": {"epsilon": 1, "sigma": 1}}, "sigma"),
        ({"dp": {"epsilon": 1, "delta": 1 / 12}}, "with 12 units it must be below 1/12"),
        ({"full": True}, "--full: it trains adapters only"),
        ({"options": TRAINING | {"max_grad_norm": 1.0}}, "max_grad_norm: each unit's gradient"),
        ({"options": TRAINING | {"optimizer": "muon"}}, "optimizer=muon"),
        ({"options": TRAINING | {"stop": "holdout"}}, "stop: stop rules look at private records"),
        ({"options": TRAINING | {"gradient_checkpointing": True}}, "gradient_checkpointing"),
        ({"options": TRAINING | {"batch_size": 12}}, "batch_size 12 is the number of units"),
        ({"lora": LORA | {"use_dora": True}}, "use_dora"),
        ({"report_to": "tensorboard"}, "--report-to"),
    ],
)
def test_what_breaks_the_promise_is_refused(
    private: Callable[..., Result], tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        private(**changed)
    assert not (tmp_path / "private").exists()


def test_without_opacus_it_says_what_to_install(
    private: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opacus.accountants", None)
    with pytest.raises(OptionError, match=r"in a clone of unlearn, pip install '\.\[dp\]'"):
        private()


def test_embeddings_as_targets_are_refused(private: Callable[..., Result]) -> None:
    with pytest.raises(UnlearnError, match="no gradient of each record"):
        private(lora=LORA | {"target_modules": ["embed_tokens"]})


def test_retraining_references_and_replay_are_refused_and_say_what_to_do(
    private: Callable[..., Result], tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    made = private()
    with pytest.raises(LineageError, match="finetune --dp … --exclude IDS"):
        forget(tiny_model, data_file, "r0", tmp_path / "out", adapter=made.folder)
    with pytest.raises(LineageError, match="trained with differential privacy"):
        train_references(
            tiny_model, data_file, tmp_path / "refs", forget="r0", like=made.folder, count=1
        )
    with pytest.raises(LineageError, match="a replay would need its noise"):
        replay(made.folder, model=tiny_model, data=data_file)


def test_what_is_made_of_a_private_adapter_claims_nothing(
    private: Callable[..., Result], tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    made = private()
    options = {"learning_rate": 1e-4, "max_steps": 1, "stop": "none"}
    changed = forget(
        tiny_model, data_file, "r0", tmp_path / "out", adapter=made.folder, method="grad_ascent",
        options=options,
    )  # fmt: skip
    assert changed.lineage.privacy is None
    assert changed.lineage.finetuned_with["privacy"]["epsilon"] == 2


def test_as_a_row_of_comparisons_it_trains_anew_on_all_records(
    adapter: Path, tiny_model: Path, data_file: Path, tmp_path: Path
) -> None:
    options = {"learning_rate": 1e-2, "epochs": 1, "batch_size": 4, "epsilon": 2}
    made = forget(
        tiny_model, data_file, "r0", tmp_path / "out", adapter=adapter,
        method="unlearn.methods.private:PRIVATE", options=options,
    )  # fmt: skip
    assert made.fit.steps == 3
    assert len(made.lineage.records.trained) == 12
    assert len(made.lineage.records.forgotten) == 1
    # it forgets nothing, and claims nothing of what is called forgotten
    assert made.lineage.privacy is None
