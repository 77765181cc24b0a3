"""`unlearn methods` and `unlearn attacks`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field
from rich.markup import escape

from unlearn.config import Flag, options

if TYPE_CHECKING:
    from unlearn.methods.method import Method

__all__ = ["MethodsOptions", "attacks", "methods"]


@options
class MethodsOptions:
    """Of `methods`."""

    name: Annotated[
        str | None,
        Field(
            description="One method, with all its options and their defaults; or finetune, for "
            "those of training an adapter."
        ),
        Flag(metavar="[NAME]", argument=True),
    ] = None


def methods(options: MethodsOptions) -> None:
    """List the unlearning methods: what they do, need and cost, and when to use them."""
    from unlearn.apps.cli.screen import console
    from unlearn.methods.registry import METHODS, get_method
    from unlearn.training.options import (
        FINETUNE_DEFAULTS,
        FORGET_ONLY,
        LoraOptions,
        TrainingOptions,
    )

    if options.name == "finetune":
        console.print("[bold]Options[/bold] for -o of `unlearn finetune`: training")
        _list_options(TrainingOptions, FINETUNE_DEFAULTS, FORGET_ONLY)
        console.print("and the adapter")
        _list_options(LoraOptions, {})
        return
    chosen = get_method(options.name) if options.name else None
    for method in [chosen] if chosen else METHODS.values():
        _describe(method)
    if chosen:
        console.print("[bold]Options[/bold] for -o, with this method's defaults, beside its own:")
    else:
        console.print(
            "[bold]Options[/bold] for -o, beside a method's own. Some methods have other defaults: "
            "see `unlearn methods NAME`; those of training an adapter: `unlearn methods finetune`."
        )
    # what a run decides from the adapter and the records, unless it is given
    decided = {"learning_rate": "auto", "epochs": "auto"}
    _list_options(TrainingOptions, decided | dict(chosen.defaults if chosen else {}))


def _describe(method: Method) -> None:
    from unlearn.apps.cli.screen import console

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


def _list_options(
    model: type[BaseModel], defaults: Mapping[str, Any], hidden: Collection[str] = ()
) -> None:
    """Print the fields of options, but those hidden, with defaults and what they mean."""
    from unlearn.apps.cli.screen import console

    for name, field in model.model_fields.items():
        if name in hidden:
            continue
        console.print(f"    {name} = {defaults.get(name, field.default)}  {field.description}")


def attacks() -> None:
    """List the attacks, probes and treatments of an audit: what they do, need and cost."""
    from unlearn.apps.cli.screen import console
    from unlearn_eval.backdoor import attack_success
    from unlearn_eval.benchmarks import BENCHMARKS
    from unlearn_eval.extraction import PROBES
    from unlearn_eval.membership import ATTACKS, CALIBRATED
    from unlearn_eval.passes import PASSES
    from unlearn_eval.robustness import TREATMENTS
    from unlearn_eval.robustness.treatments.options import OPTIONS
    from unlearn_eval.utility import UTILITY

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
    door = attack_success
    show(door.PROBE, door.SUMMARY, "--trigger, --holdout", "two more passes", door.PAPER)
    for name, summary, needs, cost, paper in UTILITY:
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
