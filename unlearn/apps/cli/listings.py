"""`unlearn methods` and `unlearn attacks`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

__all__ = ["attacks", "methods"]

# Options that a run decides from the adapter and the records, unless they are given.
_OPEN = ("learning_rate", "epochs")

# (name, summary, needs, cost, paper) of what is looked at beside attacks and extraction
_UTILITY = (
    ("loss", "mean loss of the tokens of a record", "", "", ""),
    (
        "calibration",
        "whether the model is right as often as it is sure, on records to keep and unseen ones",
        "",
        "",
        "https://arxiv.org/abs/1706.04599",
    ),
    ("drift", "how far predictions moved from those before (KL)", "--before", "", ""),
    (
        "rouge",
        "overlap of the record with what the model writes by itself",
        "",
        "generation of 64 records a split (--generate)",
        "https://aclanthology.org/W04-1013",
    ),
    (
        "repetition",
        "share of what it writes that it wrote just before",
        "",
        "the same generation",
        "https://arxiv.org/abs/1908.04319",
    ),
    (
        "distinct",
        "share of word pairs that are new in what it writes",
        "",
        "the same generation",
        "https://arxiv.org/abs/1510.03055",
    ),
)


def methods(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="One method, with all its options and their defaults."),
    ] = None,
) -> None:
    """List the unlearning methods: what they do, need and cost, and when to use them."""
    from unlearn.apps.cli.screen import console
    from unlearn.methods.registry import METHODS, get_method
    from unlearn.training.options import TrainingOptions

    chosen = get_method(name) if name else None
    for method in [chosen] if chosen else METHODS.values():
        console.print(f"[bold]{method.name}[/bold]  {method.summary}")
        console.print(f"    when   {method.when}")
        console.print(f"    needs  {method.needs}")
        console.print(f"    cost   {method.cost}")
        if method.kind != "exact":
            console.print(f"    rate   {method.rate:g} of the original training's learning rate")
        console.print(f"    paper  https://arxiv.org/abs/{method.paper}")
        if method.own:
            own = ", ".join(f"{key}={value}" for key, value in method.own.items())
            console.print(f"    own    {own}")
        console.print()
    if chosen:
        console.print("[bold]Options[/bold] for -o, with this method's defaults, beside its own:")
    else:
        console.print(
            "[bold]Options[/bold] for -o, beside a method's own. Some methods have other defaults: "
            "see `unlearn methods NAME`."
        )
    for key, option in TrainingOptions.model_fields.items():
        default = "auto" if key in _OPEN else option.default
        value = chosen.defaults.get(key, default) if chosen else default
        console.print(f"    {key} = {value}  {option.description}")


def attacks() -> None:
    """List the attacks, probes and treatments of an audit: what they do, need and cost."""
    from unlearn.apps.cli.screen import console
    from unlearn_eval.benchmarks import BENCHMARKS
    from unlearn_eval.extraction import PROBES
    from unlearn_eval.membership import ATTACKS, CALIBRATED
    from unlearn_eval.passes import PASSES
    from unlearn_eval.robustness import TREATMENTS
    from unlearn_eval.robustness.treatments.options import OPTIONS

    def show(name: str, summary: str, needs: str, cost: str, paper: str) -> None:
        console.print(f"[bold]{name}[/bold]  {escape(summary)}")
        for label, text in (("needs", needs), ("cost", cost), ("paper", paper)):
            if text:
                console.print(f"    {label:5}  {escape(text)}")

    console.print("[bold]In every audit[/bold], all from one pass over each record and state:\n")
    for attack in ATTACKS.values():
        needs = "--holdout" + (", and the base's scores" if attack.needs_base else "")
        cost = "a pass of the base, made anyway" if attack.needs_base else ""
        show(f"membership.{attack.name}", attack.summary, needs, cost, attack.paper)
    for calibrated in CALIBRATED.values():
        name = f"membership.{calibrated.name}"
        show(name, calibrated.summary, calibrated.needs, "", calibrated.paper)
    for probe in PROBES.values():
        show(f"extraction.{probe.name}", probe.summary, "", "", probe.paper)
    for name, summary, needs, cost, paper in _UTILITY:
        show(f"utility.{name}", summary, needs, cost, paper)
    console.print("\n[bold]Passes[/bold] for --also, which cost more than the usual one:\n")
    for more in PASSES.values():
        cost, _, needs = more.cost.partition("; needs ")
        show(more.name, f"{more.summary} ({more.probe})", needs, cost, more.paper)
    console.print(
        "\n[bold]Treatments[/bold] for --robustness, of the model and its references; what can be "
        "set of them\nwith --robustness-option stands below each:\n"
    )
    for treatment in TREATMENTS.values():
        cost = f"{treatment.cost}, for each state"
        show(treatment.name, treatment.summary, treatment.needs, cost, treatment.paper)
        for key, field in OPTIONS[treatment.name].model_fields.items():
            default = field.default
            shown = ",".join(f"{x:g}" for x in default) if isinstance(default, tuple) else default
            value = "auto" if shown is None else shown
            console.print(f"    set    {treatment.name}.{key}={value}  {field.description}")
    console.print("\n[bold]Published protocols[/bold], which `unlearn benchmark NAME` runs:\n")
    for benchmark in BENCHMARKS.values():
        needs = f"for {benchmark.compares}: --retrained" if benchmark.compares else ""
        show(benchmark.name, benchmark.summary, needs, benchmark.cost, benchmark.paper)
