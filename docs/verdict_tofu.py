"""Verdicts on real models whose state is known: TOFU's last author, forgotten in several ways.

    python docs/verdict_tofu.py MODEL full.json FOLDER

prints a table. It trains some thirty adapters and goes on where it was killed.
200 records are learned by heart, and 12 adapters are trained without the last author's 20: eight of
them are the references, and each of the 12 is judged by the 11 others. One record alone is judged
by five adapters that saw all but it.
"""

from __future__ import annotations

from collections.abc import Iterator

from real_verdicts import Case, Setting, each_by_the_others, far, places

from unlearn import Records
from unlearn_eval.verdict.verify import verify

TRAINED, UNSEEN = "rows:3800-3999", "rows:3600-3699"
AUTHOR, ONE = "rows:180-199", "rows:199-199"
LORA = {"r": 32, "lora_alpha": 64}
TRAINING = {"learning_rate": 1e-2, "batch_size": 16, "epochs": 60}
REFERENCES, JUDGES, FEWEST = 12, 8, 5

PUSHED = {"learning_rate": 5e-4, "epochs": 20, "stop": "none"}
CASES = [
    Case("as it was"),
    Case("gradient ascent, far above unseen records", "grad_ascent", PUSHED),
    Case("collapsed", "grad_ascent", PUSHED | {"learning_rate": 5e-3}),
    Case("half far above, half left", "grad_diff", PUSHED, treated="rows:180-189"),
    Case("npo", "npo"),
    Case("grad_diff", "grad_diff"),
    *(Case(f"pilot, seed {seed}", "pilot", seed=seed) for seed in range(5)),
    *(Case(f"retrained, seed {seed}", "retrain", seed=seed) for seed in range(1, 4)),
]
ONE_CASES = [
    Case("one record: as it was"),
    Case("one record: pilot", "pilot"),
    Case("one record: retrained", "retrain", seed=1),
]


def rows(setting: Setting) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| model | verdict | furthest probe, in the references' SDs |\n|---|---|---|"
    for asked, judges, cases in ((AUTHOR, JUDGES, CASES), (ONE, FEWEST, ONE_CASES)):
        for case in cases:
            verdict = verify(setting.audited(case, asked, judges))
            yield f"| {case.name} | {verdict.outcome} | {far(verdict)} |"
    retrained = next(case for case in CASES if case.name == "retrained, seed 1")
    judged = setting.audited(retrained, AUTHOR, REFERENCES)
    yield each_by_the_others(judged, REFERENCES)
    yield f"\nSaid beforehand, with {REFERENCES} references: {verify(judged).power}"


if __name__ == "__main__":
    model, full, folder = places(__doc__)
    everything = Records.load(full)
    trained, unseen = everything.select(TRAINED), everything.select(UNSEEN)
    for line in rows(Setting(model, folder, trained, unseen, LORA, TRAINING)):
        print(line, flush=True)
