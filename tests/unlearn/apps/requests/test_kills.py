"""`unlearn request run`, `verify`, `sweep --purge` and `close` killed at random moments."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from unlearn.apps.requests import intake as desk
from unlearn.apps.requests.check import check
from unlearn.apps.requests.evidence import audit_of
from unlearn.apps.requests.ledger.ledger import Ledger
from unlearn.apps.requests.locate import locate
from unlearn.provenance.keys import home
from unlearn.provenance.lineage import Lineage, weights_digest
from unlearn_eval.certificate import check_certificate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals"),
]

DECIDED = {0: "verified", 3: "failed", 4: "inconclusive"}
"""States of a request by the exit code of a verification that was not killed."""

# A server that has imported everything forks each process: seconds of imports are paid once.
SERVER = multiprocessing.get_context("forkserver") if os.name == "posix" else None
CHILD = """
import os, sys
os.environ.update(environment)
nowhere = os.open(os.devnull, os.O_WRONLY)
os.dup2(nowhere, 1)
os.dup2(nowhere, 2)
from unlearn.apps.cli import run
sys.exit(run(words))
"""


class Site:
    """A ledger with requests that wait, and the command that carries them out."""

    def __init__(self, url: str, model: Path, adapter: Path, data: Path) -> None:
        self.url = url
        self.setup = desk.Setup(str(model), (str(adapter),), str(data))
        self.ledger = Ledger.open(self.url)
        self.words = ["request", "run", "--ledger", self.url, "--method", "npo", "-o", "stop=none"]
        self.words += ["-o", "max_steps=8", "-o", "batch_size=2", "-o", "save_steps=3"]
        self.verify = ["request", "verify", "--ledger", self.url, "--policy", "quick"]
        self.verify += ["--generate", "2"]

    def start(self, words: list[str] | None = None) -> BaseProcess:
        """Start `unlearn request run`, or another command."""
        assert SERVER is not None
        SERVER.set_forkserver_preload(
            [
                "unlearn.runs.forgetting",
                "unlearn.apps.requests.run",
                "unlearn_eval.audit.run",
                "unlearn_eval.verdict.verify",
                "peft",
                "transformers.trainer",
            ]
        )
        told = {"words": words or self.words, "environment": dict(os.environ)}
        process = SERVER.Process(target=exec, args=(CHILD, told))
        process.start()
        return process

    def wait_for(self, which: str) -> str:
        name = desk.add(self.ledger, self.setup, [which])
        found = locate(self.setup.data, [which], near=None)
        desk.settle(self.ledger, self.ledger.get(name), found, threshold=None)
        return name

    def run(self) -> None:
        """Carry out what waits, undisturbed."""
        process = self.start()
        process.join(300)
        assert process.exitcode == 0

    def decide(self, name: str) -> None:
        """Verify a request, undisturbed."""
        process = self.start([*self.verify, name])
        process.join(300)
        assert DECIDED[process.exitcode or 0] == self.ledger.get(name).state

    def consistent(self) -> None:
        """Whatever was interrupted: the ledger checks, and every finished folder is whole."""
        found = check(self.ledger)
        # said until it is finished: the ledger holds what happened, and not what is to come
        wrong = [p for p in found.problems if "its records still lie in escrow" not in p]
        assert not wrong, wrong
        audits = self.ledger.folder("audits")
        for made in audits.iterdir() if audits.exists() else ():
            if not made.name.startswith("."):
                json.loads((made / "audit.json").read_text())
                assert pq.ParquetFile(made / "scores.parquet").metadata.num_rows > 0
                assert (made / "report.html").read_text().rstrip().endswith("</html>")
        folder = self.ledger.folder("adapters")
        for made in folder.glob("run-*"):
            line = Lineage.read(made)
            assert line is not None
            assert line.digest == weights_digest(made)

    def events(self, name: str) -> list[str]:
        return [event.event for event in self.ledger.history(name)]


@pytest.fixture
def site(
    url: str,
    tmp_path: Path,
    tiny_model: Path,
    adapter: Path,
    data_file: Path,
    lineage_key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Site:
    monkeypatch.setenv("UNLEARN_KEY", lineage_key)
    copy = tmp_path / "adapter"
    shutil.copytree(adapter, copy)
    return Site(url, tiny_model, copy, data_file)


def kill_until_done(site: Site, kills: int, seed: int = 0) -> int:
    """Kill runs of one batch after the other; return how many kills hit a living process."""
    rng = random.Random(seed)
    site.wait_for("r0")
    site.run()  # the first also starts the server
    site.wait_for("r11")
    start = time.monotonic()
    site.run()
    whole = time.monotonic() - start
    hit, subject = 0, 0
    pending = ""
    for _ in range(kills):
        if not pending:
            subject = subject % 9 + 1  # r10 is kept: something must be left to retain
            pending = site.wait_for(f"r{subject}")
        process = site.start()
        wait = rng.uniform(0.1, 1.05) * whole
        time.sleep(wait)
        process.kill()
        process.join()
        if process.exitcode == 0:  # a run takes no longer than that: the first was a slow one
            whole = min(whole, wait)
        hit += process.exitcode == -signal.SIGKILL
        site.consistent()
        if site.ledger.get(pending).state == "unlearned":
            pending = ""
    return hit


def kill_verifications(site: Site, kills: int, seed: int = 1) -> tuple[int, str]:
    """Kill verifications of one request; return how many kills hit a living process, and its id."""
    rng = random.Random(seed)
    name, other = site.wait_for("r0"), site.wait_for("r11")
    site.run()  # also starts the server
    start = time.monotonic()
    site.decide(other)
    whole = time.monotonic() - start
    hit = 0
    for _ in range(kills):
        before = site.ledger.get(name)
        shutil.rmtree(home() / "cache", ignore_errors=True)  # else little is left to kill
        process = site.start([*site.verify, name])
        wait = rng.uniform(0.05, 1.05) * whole
        time.sleep(wait)
        process.kill()
        process.join()
        if process.exitcode in DECIDED:
            whole = min(whole, wait)
        hit += process.exitcode == -signal.SIGKILL
        site.consistent()
        request = site.ledger.get(name)
        if process.exitcode in DECIDED:
            assert request.facts["verdict"] != before.facts.get("verdict")
        if request.state == before.state == "unlearned":
            continue
        # the verdict is the one before or a new one, whole, and its audit is there unchanged
        assert request.state in DECIDED.values()
        folder, reasons = audit_of(site.ledger, request)
        assert reasons
        assert json.loads((folder / "verdict.json").read_text())["reasons"] == reasons
    return hit, name


def killed(site: Site, words: list[str], wait: float) -> bool:
    """Kill a command after a while; say whether that hit a living process."""
    process = site.start(words)
    time.sleep(wait)
    process.kill()
    process.join()
    site.consistent()
    return process.exitcode == -signal.SIGKILL


def done(site: Site, words: list[str], *codes: int) -> float:
    """Let a command do its work, undisturbed; return how long it took."""
    start = time.monotonic()
    process = site.start(words)
    process.join(300)
    assert process.exitcode in codes
    return time.monotonic() - start


def kill_closings(site: Site, kills: int, seed: int = 0) -> int:
    """Kill the closing of requests, each finished by closing again; return how many hit."""
    rng = random.Random(seed)
    words = ["request", "close", "--ledger", site.url, "--yes", "--outcome", "withdrawn"]
    done(site, [*words, site.wait_for("r0")], 0)  # also starts the server
    whole = done(site, [*words, site.wait_for("r0")], 0)
    hit = 0
    for i in range(kills):
        name = site.wait_for(f"r{i % 11}")
        hit += killed(site, [*words, name], rng.uniform(0.1, 1.0) * whole)
        whole = min(whole, done(site, [*words, name], 0))
        request = site.ledger.get(name)
        assert (request.state, request.facts["outcome"]) == ("closed", "withdrawn")
        assert request.facts["shredded"]
        assert not site.ledger.escrow.of(name)
        assert site.events(name) == ["added", "located", "closed", "shredded"]
    assert check(site.ledger).ok
    return hit


def kill_purges(site: Site, place: Path, kills: int, seed: int = 0) -> int:
    """Kill purges of copies of what a request is about, each finished by one more."""
    rng = random.Random(seed)
    name = site.wait_for("r0")
    site.run()  # also starts the server
    words = ["request", "sweep", "--ledger", site.url, name, str(place), "--purge", "--yes"]
    rows = Path(site.setup.data).read_text().splitlines()
    hit, whole = 0, 0.0
    for i in range(-1, kills):
        shutil.copytree(site.setup.adapters[0], place / "copy", dirs_exist_ok=True)
        (place / "notes.md").write_text("what stays")
        (place / "copy.jsonl").write_text("\n".join(rows) + "\n")
        if i >= 0:
            hit += killed(site, words, rng.uniform(0.1, 1.0) * whole)
        took = done(site, words, 0, 1)  # 1: the adapter is still to be compared with
        whole = took if i < 0 else min(whole, took)
        assert (place / "copy.jsonl").read_text().splitlines() == rows[1:]
        assert not (place / "copy" / "adapter_model.safetensors").exists()
        assert (place / "notes.md").read_text() == "what stays"
        assert {p.name for p in place.iterdir()} <= {"copy", "notes.md", "copy.jsonl"}
        site.consistent()
    return hit


def finish_verification(site: Site, name: str) -> None:
    """After the kills: one more verification decides, can be certified, and leaves nothing."""
    site.decide(name)
    site.consistent()
    decided = [e for e in site.ledger.history(name) if e.event in DECIDED.values()]
    folders = set()
    for event in decided:
        sealed = event.facts["verdict"]["sealed"]
        told = site.ledger.sealer.open(sealed, f"verdict on request {name}")
        folders.add(Path(told["folder"]))
    assert {p for p in site.ledger.folder("audits").iterdir() if name in p.name} == folders
    output = site.ledger.folder("audits").parent / "certificate.json"
    process = site.start(
        ["request", "certificate", "--ledger", site.url, name, "--output", str(output)]
    )
    process.join(300)
    assert process.exitcode == 0
    assert check_certificate(output, home() / "signing.pub").ok


def finish(site: Site) -> None:
    """After the kills: one more run completes all, each request once, and leaves nothing."""
    site.run()
    site.consistent()
    requests = site.ledger.requests()
    assert {request.state for request in requests} == {"unlearned"}
    for request in requests:
        assert site.events(request.id).count("unlearned") == 1
        assert site.events(request.id).count("planned") == 1
    made = list(site.ledger.folder("adapters").iterdir())
    runs = {
        event.facts["after"]["run"]
        for r in requests
        for event in site.ledger.history(r.id)
        if event.event == "unlearned"
    }
    assert {path.name for path in made} == {f"run-{run}" for run in runs}
    newest = max((r.facts["after"] for r in requests), key=lambda after: int(after["n"]))
    assert newest["n"] == len(runs)
    # each request's records are among the forgotten of the newest adapter, which all led to
    line = Lineage.read(site.ledger.sealer.open(newest["folder"], f"adapter {newest['digest']}"))
    assert line is not None
    assert {d for r in requests for d in r.facts["records"]} == set(line.records.forgotten)


@pytest.mark.parametrize("fresh_url", ["sqlite"], indirect=True)
def test_a_run_killed_six_times_completes(site: Site) -> None:
    assert kill_until_done(site, 6) >= 3
    finish(site)


@pytest.mark.parametrize("fresh_url", ["sqlite"], indirect=True)
def test_a_verification_killed_four_times_completes(site: Site) -> None:
    hit, name = kill_verifications(site, 4)
    assert hit >= 2
    finish_verification(site, name)


@pytest.mark.parametrize("fresh_url", ["sqlite"], indirect=True)
def test_a_closing_killed_five_times_completes(site: Site) -> None:
    assert kill_closings(site, 5) >= 2


@pytest.fixture
def place(tmp_path: Path, site: Site, data_file: Path) -> Path:
    """A folder to sweep; the site's data are its own, as a purge takes the records out of them."""
    own = tmp_path / "own.jsonl"
    shutil.copy(data_file, own)
    site.setup = replace(site.setup, data=str(own))
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.mark.parametrize("fresh_url", ["sqlite"], indirect=True)
def test_a_purge_killed_five_times_completes(site: Site, place: Path) -> None:
    assert kill_purges(site, place, 5) >= 2


QUARTERS = pytest.mark.parametrize("seed", range(4))
"""A hundred kills are four runs of twenty-five, each with moments of its own."""


def told(hit: int, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{hit} of 25 kills hit a {what} at work; none lost, all finished")
    assert hit >= 8


@pytest.mark.stress
@QUARTERS
def test_a_run_killed_a_hundred_times_completes(
    site: Site, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    hit = kill_until_done(site, 25, seed)
    finish(site)
    told(hit, "run", capsys)


@pytest.mark.stress
@QUARTERS
def test_a_verification_killed_a_hundred_times_completes(
    site: Site, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    hit, name = kill_verifications(site, 25, seed)
    finish_verification(site, name)
    told(hit, "verification", capsys)


@pytest.mark.stress
@QUARTERS
def test_a_closing_killed_a_hundred_times_completes(
    site: Site, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    told(kill_closings(site, 25, seed), "closing", capsys)


@pytest.mark.stress
@QUARTERS
def test_a_purge_killed_a_hundred_times_completes(
    site: Site, place: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    told(kill_purges(site, place, 25, seed), "purge", capsys)


def test_two_processes_on_one_ledger_run_a_request_once(site: Site) -> None:
    names = [site.wait_for("r0"), site.wait_for("r1")]
    both = [site.start(), site.start()]
    for process in both:
        process.join(300)
        assert process.exitcode == 0
    (made,) = site.ledger.folder("adapters").iterdir()
    for name in names:
        assert site.events(name) == ["added", "located", "planned", "unlearned"]
        assert site.ledger.get(name).facts["after"]["digest"] == weights_digest(made)
    site.consistent()
