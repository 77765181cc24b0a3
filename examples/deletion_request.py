"""Walk one deletion request from its arrival to a signed certificate that a stranger can check.

Every step is a command of `unlearn`, printed before it runs; offline, on the model that comes with
the package, in two minutes. For a request of your own, put your base, adapter and records in the
place of those that the first two steps make.

    python examples/deletion_request.py [FOLDER]
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from unlearn.apps.demo import base_path, records

PEOPLE, PER_PERSON = 16, 5


def main(folder: Path) -> None:
    """Run the story into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    # keys, ledger and cache of this example only; left out, they are in ~/.unlearn
    os.environ["UNLEARN_HOME"] = str(folder / "home")
    rows = records(PEOPLE + PEOPLE // 2, seed=0)
    known = PEOPLE * PER_PERSON
    write("records.jsonl", rows[:known])
    write("unseen.jsonl", rows[known:])
    person = rows[0]["subject"]
    base = str(base_path())

    step("An adapter that was trained on personal records, and knows them by heart")
    run(
        f"finetune --model {base} --data records.jsonl --output adapter --template qa "
        "-o learning_rate=3e-3 -o batch_size=16 -o epochs=40"
    )
    step(f"A request arrives: {person} asks to be forgotten. Which records is that?")
    added = run(
        f"request add --model {base} --adapter adapter --data records.jsonl --holdout unseen.jsonl "
        f"--forget {shlex.quote('subject:' + person)} --label T-1 --json",
        quiet=True,
    )
    request = json.loads(added.text)["id"]
    run(f"request locate {request} --yes")
    step("A new adapter without them, for a part of what training again takes")
    run("request run")
    step("Did it work? It is trained again from its lineage alone: the weights must come out equal")
    run(f"request verify {request}", may_end=(0, 4))
    step("What else descends from the records?")
    run(f"request sweep {request} .", may_end=(0, 1))
    step("The signed certificate, and a check of it that needs no model and no ledger")
    run(f"request certificate {request} --output certificate.json")
    run("certificate check certificate.json --key home/signing.pub")
    step("Nobody changed the history")
    run("request check")
    print(f"\nLook at {folder / 'certificate.html'} in a browser.")


def step(title: str) -> None:
    """Print what comes next."""
    print(f"\n# {title}", flush=True)


class Done(NamedTuple):
    """What a command printed, and its exit code."""

    text: str
    code: int


def run(words: str, *, may_end: tuple[int, ...] = (0,), quiet: bool = False) -> Done:
    """Run a command of `unlearn`."""
    print(f"$ unlearn {words}", flush=True)
    command = [sys.executable, "-m", "unlearn", *shlex.split(words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not quiet:
        print(done.stdout, end="", flush=True)
    if done.returncode not in may_end:
        sys.exit(done.returncode)
    return Done(done.stdout, done.returncode)


def write(name: str, rows: list[dict]) -> None:
    """Write records as JSONL."""
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="unlearn-")
    main(Path(chosen).absolute())
