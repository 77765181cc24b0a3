"""What becomes of forgetting when a model is changed further: trained, rounded, merged, scaled.

Every treatment is applied to the unlearned model and to the references that never saw the records,
and read as a difference between the two: further training teaches any model something.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from unlearn.errors import OptionError, did_you_mean

__all__ = ["TREATMENTS", "Treatment", "chosen", "resemblance"]


@dataclass(frozen=True, slots=True)
class Treatment:
    """A way in which a model may be changed after records were taken out of it.

    Attributes:
        name: what the user types.
        summary: what it does, in one line.
        paper: where it comes from.
        cost: what it takes, in words.
        needs: what it needs, in words; empty for nothing.
        passes: about how many passes over the records each treated state takes, for progress bars.
        run: the function that applies it, as `module:name`; it takes `(state, examples, setting)`
            and what can be set of it (`treatments/options.py`), and yields `TreatedState` states
            (`treatments/treated.py`).
    """

    name: str
    summary: str
    paper: str
    cost: str
    needs: str
    passes: int
    run: str

    @property
    def probe(self) -> str:
        """The `package.file` of the treatment, as rows of an audit name it."""
        return "robustness." + self.run.partition(":")[0].rpartition(".")[2]

    def function(self) -> Callable[..., Any]:
        """Import what applies it; torch comes with it."""
        module, _, name = self.run.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function


_HERE = "unlearn_eval.robustness.treatments"

TREATMENTS: dict[str, Treatment] = {
    t.name: t
    for t in (
        Treatment(
            "relearn",
            "fine-tunes on a few of the forgotten records, and looks whether the others come back",
            "Do Unlearning Methods Remove Information from Language Model Weights? (2410.08827)",
            "10 training steps and one pass a seed",
            "two forget records",
            2,
            f"{_HERE}.relearn:relearn",
        ),
        Treatment(
            "benign",
            "fine-tunes on a few unrelated records, and looks whether the forgotten ones come back",
            "Jogging the Memory of Unlearned LLMs via Benign Relearning (2406.13356)",
            "10 training steps and one pass a seed",
            "two records of the holdout, or to keep",
            2,
            f"{_HERE}.benign:benign",
        ),
        Treatment(
            "int8",
            "merges the adapter and rounds weights to 8 bits, a scale for each output channel",
            "Catastrophic Failure of LLM Unlearning via Quantization (2410.16454)",
            "one pass",
            "",
            1,
            f"{_HERE}.quantize:int8",
        ),
        Treatment(
            "int4",
            "merges the adapter and rounds weights to 4 bits, a scale for 32, 64 or 128 of them",
            "Catastrophic Failure of LLM Unlearning via Quantization (2410.16454)",
            "a pass a group size: three",
            "",
            1,
            f"{_HERE}.quantize:int4",
        ),
        Treatment(
            "nf4",
            "merges the adapter and rounds weights to NormalFloat's 16 levels, by blocks of 64",
            "QLoRA (2305.14314), section 3 and appendix E",
            "one pass",
            "",
            1,
            f"{_HERE}.quantize:nf4",
        ),
        Treatment(
            "scale",
            "scales the adapter's change by 0 (adapter dropped), ¼, ½, ¾ and 1½",
            "Editing Models with Task Arithmetic (2212.04089), whose scaling coefficient it moves",
            "a pass a factor: five",
            "a plain LoRA adapter",
            1,
            f"{_HERE}.scale:scale",
        ),
        Treatment(
            "merge_bf16",
            "merges the adapter and casts all weights to bfloat16, as models are shipped",
            "Catastrophic Failure of LLM Unlearning via Quantization (2410.16454)",
            "one pass",
            "",
            1,
            f"{_HERE}.merge:merge_bf16",
        ),
        Treatment(
            "logit_lens",
            "reads predictions off the blocks a quarter, half and three quarters of the way up",
            "Can Sensitive Information Be Deleted From LLMs? (2309.17410), head projection",
            "a pass a block: three",
            "",
            1,
            f"{_HERE}.logit_lens:logit_lens",
        ),
    )
}


def chosen(names: Iterable[str]) -> list[Treatment]:
    """Look treatments up by name; `all` stands for every one.

    Args:
        names: what the user wrote.

    Returns:
        The treatments in the order of the table, each once.

    Raises:
        OptionError: for a name that does not exist.
    """
    wanted = set(names)
    for name in sorted(wanted - {"all"} - set(TREATMENTS)):
        raise OptionError(
            f"--robustness: no treatment {name!r}{did_you_mean(name, TREATMENTS)}; "
            f"there are all, {', '.join(TREATMENTS)}"
        )
    return [t for t in TREATMENTS.values() if wanted & {t.name, "all"}]


def resemblance(unlearned: float, reference: float) -> float:
    """Return R, how alike two models respond to the same treatment: 1 the same, 0 as far apart.

    Formula: R = 1 − |Δ_u − Δ_r| / (|Δ_u| + |Δ_r|), Δ the metric after a treatment minus before it;
    1 where both are 0. It is 0 where only one of them moves, or they move in opposite directions.
    R knows no scale: where both Δ are within the noise of the metric it says nothing, so read it
    beside them.

    Args:
        unlearned: Δ_u, of the unlearned model.
        reference: Δ_r, of the retrained one.

    Returns:
        R in [0, 1]; NaN where a Δ is NaN or infinite.

    Source: 2605.24614, symmetric relearning robustness.
    """
    if not (math.isfinite(unlearned) and math.isfinite(reference)):
        return math.nan
    moved = abs(unlearned) + abs(reference)
    return 1.0 if moved == 0 else 1.0 - abs(unlearned - reference) / moved
