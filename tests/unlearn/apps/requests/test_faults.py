"""The road of requests with a fault at every write: nothing is lost, and a rerun finishes it.

Training and measuring are stood in for by what writes the same files in the same way; everything
else is real, from the command line to the disk.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from unlearn.apps.requests import certificate as certificates
from unlearn.apps.requests import run as runs
from unlearn.apps.requests import verify as verifying
from unlearn.apps.requests.canaries import write_verdict
from unlearn.apps.requests.check import check
from unlearn.apps.requests.intake import escrowed
from unlearn.apps.requests.ledger.book import Request
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.files import staged_file, staged_folder
from unlearn.provenance.lineage import Lineage, weights_digest

from .faults import KILLED, NOTHING, Ended, Fault, attempt

pytestmark = pytest.mark.skipif(os.name != "posix", reason="fork")

OUTCOMES = {"PASS": "verified", "FAIL": "failed", "INCONCLUSIVE": "inconclusive"}
WEIGHTS = "adapter_model.safetensors"


def cheap_forget(
    ledger: Ledger, line: str, setup: Any, folder: str, records: Any, plan: Any, calls: Any
) -> Any:
    """Make an adapter of other weights that says of itself what a run would have made."""
    before = Lineage.read(folder)
    assert before is not None
    for partial in plan.leftovers():
        shutil.rmtree(partial)
    with staged_folder(plan.folder) as stage:
        for file in Path(folder).iterdir():
            (stage / file.name).write_bytes(file.read_bytes())
        content = bytearray((stage / WEIGHTS).read_bytes())
        content[-1] ^= len(before.records.forgotten) + 1
        (stage / WEIGHTS).write_bytes(bytes(content))
        out = {ledger.key.digest(record) for record in records} | set(before.records.forgotten)
        made = before.model_copy(
            update={
                "digest": weights_digest(stage),
                "parent": plan.parent,
                "method": plan.settings.method,
                "seed": plan.settings.seed,
                "records": before.records.model_copy(update={"forgotten": sorted(out)}),
            }
        )
        made.write(stage)
    return SimpleNamespace(lineage=made, notes=())


def cheap_audit(ledger: Ledger, subject: Any, audit: Any, *_: Any) -> Any:
    """Write an audit's files, and the verdict that the environment says."""
    output = verifying._new_folder(ledger, subject, audit)
    with staged_folder(output) as stage:
        (stage / "audit.json").write_text("{}")
        (stage / "scores.parquet").write_bytes(b"scores")
    told = {"outcome": os.environ["VERDICT"], "tier": "A", "reasons": ["so it is"]}
    verdict = write_verdict(output, told)
    return verifying._Result(verdict, output, [output], [])


def cheap_certify(_: Any, output: Path, *__: Any, **___: Any) -> Path:
    with staged_file(output) as stage:
        stage.write_text("certified")
    return output


@pytest.fixture(scope="module")
def _cheap() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "new_adapter", cheap_forget)
        patch.setattr(verifying, "_audited", cheap_audit)
        patch.setattr(verifying, "secrets_given_out", lambda *_: None)
        patch.setattr(certificates, "certify", cheap_certify)
        yield


@dataclass
class Desk:
    """A ledger, an adapter and data in a folder of their own, and what must be true of them."""

    folder: Path
    model: Path
    clock: float = 0
    outcome: str = "PASS"
    asked: dict[str, str] = field(default_factory=dict)  # id of a request → the record it is about
    purged: set[str] = field(default_factory=set)

    @classmethod
    def new(cls, folder: Path, model: Path, adapter: Path, data: Path) -> Desk:
        shutil.copytree(adapter, folder / "adapters" / "first")
        (folder / "data").mkdir()
        shutil.copy(data, folder / "data" / "records.jsonl")
        return cls(folder, model)

    @property
    def data(self) -> Path:
        return self.folder / "data" / "records.jsonl"

    @property
    def url(self) -> str:
        return str(self.folder / "ledger.db")

    @property
    def ledger(self) -> Ledger:
        return Ledger.open(self.url)

    def call(self, verb: str, *words: str | Path, fault: Fault = NOTHING) -> Ended:
        os.environ["VERDICT"] = self.outcome
        given = ["request", verb, *words, "--ledger", self.url]
        return attempt(given, self.folder, fault, self.clock)

    def words(self, verb: str, name: str = "") -> list[str | Path]:
        """Return the words with which a verb is called of a request."""
        match verb:
            case "locate":
                return [name, "--yes", "--near", "0"]
            case "run":
                return ["--method", "npo"]
            case "verify":
                return [name, "--no-replay", "--generate", "0"]
            case "sweep":
                return [name, self.folder / "adapters"]
            case "purge":
                return [name, self.folder / "adapters", "--purge", "--yes"]
            case "certificate":
                return [name, "--output", self.folder / f"{name}.json"]
            case "close":
                state = self.ledger.get(name)
                carried_out = "after" in state.facts
                ends = {"verified": "incomplete", "inconclusive": "inconclusive"}
                end = ends.get(state.state, "fail" if carried_out else "withdrawn")
                if state.state == "closed":
                    end = str(state.facts["outcome"])
                return [name, "--yes", "--outcome", end, "--reason", "so it is"]
        return []

    def may(self, verb: str, name: str = "") -> bool:
        """Say whether a verb can do its work now."""
        if verb in {"check", "run"}:
            return True
        request = self.ledger.get(name)
        state = request.state
        match verb:
            case "locate":
                return state in {"received", "located"} and "run" not in request.facts
            case "sweep":
                return state not in {"received", "closed"}
            case "purge":
                return state not in {"received", "located", "closed"}
            case "verify":
                return state in {"unlearned", *OUTCOMES.values()}
            case "certificate":
                decided = state in OUTCOMES.values() or state == "closed"
                verdict = request.facts.get("verdict")
                return decided and verdict is not None and self.newest(request, verdict["adapter"])
        return True  # close

    def newest(self, request: Request, adapter: str) -> bool:
        """Say whether an adapter is the newest of a request's line."""
        made = [r.facts["after"] for r in self.ledger.requests() if "after" in r.facts]
        return bool(max(made, key=lambda each: int(each["n"]))["digest"] == adapter)

    def add(self, record: str, fault: Fault = NOTHING) -> Ended:
        words: list[str | Path] = ["--model", self.model]
        words += ["--adapter", self.folder / "adapters" / "first", "--data", self.data]
        before = {r.id for r in self.ledger.requests()}
        ended = self.call("add", *words, "--forget", record, fault=fault)
        self.told_well(ended, fault)
        (*fresh,) = {r.id for r in self.ledger.requests()} - before
        assert len(fresh) <= 1
        assert len(fresh) == 1 or ended.code != 0
        self.asked |= dict.fromkeys(fresh, record)
        return ended

    def do(self, verb: str, name: str = "", fault: Fault = NOTHING) -> Ended:
        """Call a verb while something happens to it, then once more in peace: it is done.

        Returns how the first call ended.
        """
        may, words = self.may(verb, name), self.words(verb, name)
        before = self.state(name)
        real = "sweep" if verb == "purge" else verb
        ended = self.call(real, *words, fault=fault)
        self.told_well(ended, fault)
        if not may:
            assert ended.code != 0
            assert self.state(name) == before
            return ended
        last = ended
        if fault.kind != "none":
            self.holds()
            last = self.call(real, *words)
        self.finished(verb, name, last)
        return ended

    def state(self, name: str) -> Request | None:
        return self.ledger.get(name) if name else None

    def told_well(self, ended: Ended, fault: Fault) -> None:
        """A command that was not killed ends in a code of its own, and never in a traceback."""
        if ended.code == KILLED:
            assert fault.kind == "kill"
            return
        assert "Traceback" not in ended.said, ended.said
        assert ended.code in {0, 1, 2, 3, 4, 130}, ended
        if ended.code == 130:
            assert fault.kind == "interrupt"

    def finished(self, verb: str, name: str, ended: Ended) -> None:
        """Say that a verb that could do its work has done it."""
        wanted = {"sweep": {0, 1}, "purge": {0, 1}}.get(verb, {0})
        if verb == "verify":
            wanted = {{"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}[self.outcome]}
        assert ended.code in wanted, (verb, ended)
        ledger = self.ledger
        if verb == "run":
            assert not ledger.requests(["located"])
            places = {p.name for p in ledger.folder("adapters").glob("*")}
            made = {e.facts["after"]["run"] for r in ledger.requests() for e in self.made(r)}
            assert places == {f"run-{run}" for run in made}  # each whole, and nothing beside them
            return
        if verb == "check":
            return
        request = ledger.get(name)
        match verb:
            case "locate":
                assert request.state == "located"
            case "verify":
                assert request.state == OUTCOMES[self.outcome]
            case "certificate":
                assert (self.folder / f"{name}.json").read_text() == "certified"
                assert "certificate" in request.facts
            case "sweep":
                assert "swept" in request.facts
            case "purge":
                self.purged.add(self.asked[name])
                assert not self.lies(self.asked[name])
            case "close":
                assert request.state == "closed"
                assert request.facts["shredded"]
                assert not ledger.escrow.of(name)

    def made(self, request: Request) -> list[Any]:
        return [e for e in self.ledger.history(request.id) if e.event == "unlearned"]

    def lies(self, record: str) -> bool:
        rows = [json.loads(line) for line in self.data.read_text().splitlines()]
        return record in {row["id"] for row in rows}

    def holds(self) -> None:
        """Nothing is lost; what is left half done is said, and finished by the check."""
        ledger = self.ledger
        found = check(ledger)
        left = [p for p in found.problems if "its records still lie in escrow" not in p]
        assert not left, left
        requests = ledger.requests()
        assert [r.id for r in requests] == list(self.asked)
        assert [r.number for r in requests] == [*range(1, len(requests) + 1)]
        for request in requests:
            if request.state != "closed" and "records" in request.facts:
                (kept,) = escrowed(ledger, [request])
                assert kept.id == self.asked[request.id]
        stay = {f"r{i}" for i in range(12)} - set(self.asked.values())
        assert all(self.lies(record) for record in stay)
        made = [r.facts["after"] for r in requests if "after" in r.facts]
        for each in made:
            folder = ledger.sealer.open(each["folder"], f"adapter {each['digest']}")
            assert weights_digest(folder) == each["digest"]


@pytest.fixture(scope="module")
def key_set(lineage_key: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_KEY", lineage_key)
        patch.setenv("VERDICT", "PASS")
        yield


VERBS = ("locate", "run", "verify", "sweep", "purge", "certificate", "close", "check")
FAULTS = st.builds(
    Fault,
    st.sampled_from(["none", "kill", "kill", "kill", "interrupt", "full disk", "read-only"]),
    st.integers(1, 30),
)


def machine(model: Path, adapter: Path, data: Path) -> type[RuleBasedStateMachine]:
    """Random verbs on random requests, with faults at random writes."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.place = Path(os.path.realpath(tempfile.mkdtemp()))
            self.desk = Desk.new(self.place / "desk", model, adapter, data)
            self.fresh = iter([f"r{i}" for i in range(10)])

        def teardown(self) -> None:
            shutil.rmtree(self.place)

        @rule(fault=FAULTS)
        def add(self, fault: Fault) -> None:
            record = next(self.fresh, None)
            if record is not None:
                self.desk.add(record, fault)

        @rule(verb=st.sampled_from(VERBS), which=st.integers(0, 9), fault=FAULTS)
        def do(self, verb: str, which: int, fault: Fault) -> None:
            names = list(self.desk.asked)
            if verb in {"run", "check"}:
                self.desk.do(verb, fault=fault)
            elif names:
                self.desk.do(verb, names[which % len(names)], fault)

        @rule(which=st.integers(0, 9), fault=FAULTS)
        def walk_the_road(self, which: int, fault: Fault) -> None:
            """Verbs by chance seldom come in their order."""
            names = list(self.desk.asked)
            for verb in ("locate", "run", "verify") if names else ():
                name = names[which % len(names)]
                if self.desk.may(verb, name):
                    self.desk.do(verb, "" if verb == "run" else name, fault)

        @rule(outcome=st.sampled_from(sorted(OUTCOMES)))
        def decide(self, outcome: str) -> None:
            self.desk.outcome = outcome

        @rule(seconds=st.sampled_from([-3600.0 * 24 * 400, -5.0, 0.0]))
        def set_the_clock(self, seconds: float) -> None:
            self.desk.clock = seconds

        @invariant()
        def holds(self) -> None:
            self.desk.holds()

    return Machine


def walk(model: Path, adapter: Path, data: Path, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine(model, adapter, data),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=[Phase.generate],  # what fails is told as it is: a smaller one takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.usefixtures("_cheap", "key_set")
def test_any_verbs_with_faults_lose_nothing_and_can_be_finished(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    walk(tiny_model, adapter, data_file, 3, 8)


@pytest.mark.stress
@pytest.mark.slow
@pytest.mark.usefixtures("_cheap", "key_set")
def test_longer_roads_with_faults_lose_nothing_and_can_be_finished(
    tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    walk(tiny_model, adapter, data_file, 20, 20)


def prepared(desk: Desk, verb: str) -> str:
    """Bring two requests to where a verb comes next; return the first one's id."""
    for record in ("r0", "r1"):
        desk.add(record)
    (name, other) = desk.asked
    road = ("locate", "run", "verify", "sweep", "purge", "certificate", "close")
    if verb != "locate":
        desk.do("locate", other)
    for step in road[: road.index(verb)] if verb in road else road:
        desk.do(step, "" if step == "run" else name)
        if step == "verify":
            desk.do("verify", other)
    return "" if verb in {"run", "check"} else name


@pytest.mark.stress
@pytest.mark.slow
@pytest.mark.usefixtures("_cheap", "key_set")
@pytest.mark.parametrize("kind", ["kill", "interrupt", "full disk", "read-only"])
@pytest.mark.parametrize("verb", ["locate", "run", "verify", "sweep", "purge", "close", "add"])
def test_a_fault_at_each_write_of_a_verb_can_be_finished(
    verb: str, kind: Any, tmp_path: Path, tiny_model: Path, adapter: Path, data_file: Path
) -> None:
    ready = Desk.new(tmp_path / "desk", tiny_model, adapter, data_file)
    name = "" if verb == "add" else prepared(ready, verb)
    shutil.copytree(ready.folder, tmp_path / "ready")
    for at in range(1, 200):
        shutil.rmtree(ready.folder)
        shutil.copytree(tmp_path / "ready", ready.folder)
        desk = replace(ready, asked=dict(ready.asked), purged=set())
        fault = Fault(kind, at)
        ended = desk.add("r0", fault) if verb == "add" else desk.do(verb, name, fault)
        desk.holds()
        if ended.writes < at:  # nothing was left to happen to
            break
    assert 3 < at < 199
