"""Fine-tune an adapter, take one person's records out of it, and measure what is left.

Runs offline in well under a minute on the model that comes with the package. For an adapter of
your own, put its base, its folder and its records in the place of `base`, `adapter` and `data`.

    python examples/own_adapter.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

from unlearn import Records, finetune, forget
from unlearn.apps.demo import base_path, records
from unlearn_eval import run_audit


def main(folder: Path) -> None:
    """Run the story into a folder."""
    base = base_path()
    rows = records(30, seed=7)
    data, unseen = Records.from_rows(rows[:100]), Records.from_rows(rows[100:])
    person = data.subjects[0]

    finetune(
        base,
        data,
        folder / "adapter",
        template="qa",
        options={"learning_rate": 5e-3, "batch_size": 16, "epochs": 25},
    )
    result = forget(
        base,
        data,
        f"subject:{person}",
        folder / "cleaned",
        adapter=folder / "adapter",
        method="retrain",
        holdout=unseen,
    )
    audit = run_audit(
        base,
        data,
        f"subject:{person}",
        folder / "audit",
        adapter=folder / "cleaned",
        before=folder / "adapter",
        holdout=unseen,
    )

    print(f"{result.lineage.method} took {result.fit.seconds:.1f} s")
    for state in ("before", "after"):
        for split in ("forget", "retain"):
            row = audit.get(state, split, "extraction.verbatim", "rate")
            print(
                f"{state}: {row.value:.0%} of {row.n} {split} records recalled word for word "
                f"[{row.low:.0%}, {row.high:.0%}]"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="unlearn-")))
