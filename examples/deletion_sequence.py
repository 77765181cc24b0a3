"""Ten people ask one after another to be forgotten: what each request costs, and the proof.

Every request gets a run of its own, as it would on the days on which they come; with `--batched`
all ten wait for one run. At the end the newest adapter is trained again from its lineage: one
replay verifies all ten. Offline, on the model that comes with the package, in a few minutes.

    python examples/deletion_sequence.py [FOLDER] [--requests N] [--batched]
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from unlearn.apps.cli import run as command
from unlearn.apps.demo import base_path, records

PEOPLE, PER_PERSON = 24, 5
TRAINING = ["-o", "learning_rate=3e-3", "-o", "batch_size=16", "-o", "epochs=40"]


def main() -> None:
    """Run the sequence, and print what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--requests", type=int, default=10)
    parser.add_argument("--batched", action="store_true")
    chosen = parser.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="unlearn-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    # keys and ledger of this example only; left out, they are in ~/.unlearn
    os.environ["UNLEARN_HOME"] = str(folder.absolute() / "home")
    people = prepared()[: chosen.requests]

    requests = []
    for person in people:
        requests.append(asked(person))
        if not chosen.batched:
            unlearn("request", "run")
    if chosen.batched:
        unlearn("request", "run")
    start = time.perf_counter()
    verified = unlearn("request", "verify", *requests, ends=(0, 3, 4))["requests"]
    seconds = time.perf_counter() - start
    table(verified)
    proven(verified, seconds)


def prepared() -> list[str]:
    """Train an adapter that knows the records of all people; return their names."""
    rows = records(PEOPLE, seed=0)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    Path("records.jsonl").write_text(text, encoding="utf-8")
    words = ["finetune", "--model", str(base_path()), "--data", "records.jsonl"]
    unlearn(*words, "--output", "adapter", "--template", "qa", *TRAINING, json_out=False)
    return [rows[i * PER_PERSON]["subject"] for i in range(PEOPLE)]


def asked(person: str) -> str:
    """Enter a person's request, and find the records that it is about."""
    words = ["--model", str(base_path()), "--adapter", "adapter", "--data", "records.jsonl"]
    name = unlearn("request", "add", *words, "--forget", f"subject:{person}")["id"]
    unlearn("request", "locate", name, "--yes")
    return str(name)


def table(requests: list[dict[str, Any]]) -> None:
    """Print what each request took."""
    print("| request | records | run | budget used | cost of retraining | kept loss | to be near |")
    print("|---|---|---|---|---|---|---|")
    for each in requests:
        price = each["price"]
        print(
            f"| {each['number']} | {each['records']} | {price['run'][:4]} | {price['budget']:.2f} "
            f"| {price['of_retraining']:.2f} | {price['kept_loss']:.2f} | {price['target']:.2f} |"
        )
    runs = {each["price"]["run"]: each["price"]["of_retraining"] for each in requests}
    print(f"\n{len(runs)} run(s), {sum(runs.values()):.2f} of one retraining in all")


def proven(requests: list[dict[str, Any]], seconds: float) -> None:
    """Print what the replay of the newest adapter showed of all of them."""
    outcomes = [each["verdict"]["outcome"] for each in requests]
    adapters = {each["adapter"] for each in requests}
    passed = outcomes.count("PASS")
    print(f"{passed} of {len(outcomes)} PASS by replay of {len(adapters)} adapter, {seconds:.0f} s")
    evidence = unlearn("request", "show", requests[-1]["id"])
    content = json.loads((Path(evidence["audit"]) / "replay.json").read_text(encoding="utf-8"))
    gone, weights = len(content["records"]["forgotten"]), content["findings"][-2]["words"]
    print(f"{gone} records of {len(requests)} people were not among those trained on; {weights}")
    checked = unlearn("request", "check")
    print("the ledger holds" if checked["ok"] else checked["problems"])


def unlearn(*words: str, json_out: bool = True, ends: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run a command of `unlearn`; return what it prints for programs."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()) as problems:
        code = command([*words, *(["--json"] if json_out else [])])
    if code not in ends:
        sys.exit(f"unlearn {' '.join(words)}: {problems.getvalue()}")
    return json.loads(said.getvalue()) if json_out else {}


if __name__ == "__main__":
    main()
