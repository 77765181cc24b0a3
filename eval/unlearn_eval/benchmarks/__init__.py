"""Published evaluation protocols, composed from this package's own probes: one a file.

Listing them imports no torch; `unlearn_eval.benchmarks.run` runs one.
"""

from __future__ import annotations

from dataclasses import dataclass

from unlearn.errors import OptionError, did_you_mean

__all__ = ["BENCHMARKS", "Benchmark", "get_benchmark"]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published protocol.

    Attributes:
        name: as on the command line.
        summary: what it measures, in a line.
        paper: where it comes from.
        cost: what it takes.
        data: the hub dataset that holds it, by subset; the first subset is the default.
        tables: the files that a folder of one's own needs, in words.
        compares: what a retrained model adds; empty where nothing.
    """

    name: str
    summary: str
    paper: str
    cost: str
    data: dict[str, str]
    tables: str
    compares: str = ""


BENCHMARKS: dict[str, Benchmark] = {
    b.name: b
    for b in (
        Benchmark(
            "tofu",
            "model utility, and probability, ROUGE-L and truth ratio of questions on made-up "
            "authors",
            "https://arxiv.org/abs/2401.06121",
            "a pass over each question with each answer, and an answer written to each",
            dict.fromkeys(("forget10", "forget05", "forget01"), "locuslab/TOFU"),
            "forget10_perturbed, retain_perturbed, real_authors_perturbed, world_facts_perturbed",
            "forget_quality",
        ),
        Benchmark(
            "muse",
            "verbatim and knowledge memorisation, utility, and privacy leakage of news or books",
            "https://arxiv.org/abs/2407.06460",
            "128 tokens written for each text, 32 for each question, a pass over the texts",
            {"news": "muse-bench/MUSE-News", "books": "muse-bench/MUSE-Books"},
            "verbmem/forget, knowmem/forget_qa, knowmem/forget_qa_icl, knowmem/retain_qa, "
            "knowmem/retain_qa_icl, privleak/forget, privleak/holdout",
            "privacy_leakage",
        ),
        Benchmark(
            "wmdp",
            "accuracy on multiple-choice questions that stand for hazardous knowledge",
            "https://arxiv.org/abs/2403.03218",
            "a pass over each question",
            dict.fromkeys(("wmdp-bio", "wmdp-chem", "wmdp-cyber"), "cais/wmdp"),
            "wmdp-bio (or the subset's name)",
        ),
    )
}


def get_benchmark(name: str) -> Benchmark:
    """Return a protocol by name.

    Raises OptionError if there is none, with the nearest name.
    """
    if name not in BENCHMARKS:
        raise OptionError(
            f"no benchmark {name!r}{did_you_mean(name, BENCHMARKS)}; "
            f"there are {', '.join(BENCHMARKS)}"
        )
    return BENCHMARKS[name]
