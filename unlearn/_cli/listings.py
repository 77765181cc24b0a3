"""`unlearn methods` and `unlearn attacks`."""

from __future__ import annotations

__all__ = ["attacks", "methods"]

# Options that a run decides from the adapter and the records, unless they are given.
_OPEN = ("learning_rate", "epochs")


def methods() -> None:
    """List the unlearning methods: what they do, need and cost, and when to use them."""
    from unlearn._cli.screen import console
    from unlearn.methods import METHODS
    from unlearn.options import TrainingOptions

    for method in METHODS.values():
        console.print(f"[bold]{method.name}[/bold]  {method.summary}")
        console.print(f"    when   {method.when}")
        console.print(f"    needs  {method.needs}")
        console.print(f"    cost   {method.cost}")
        if method.kind != "exact":
            console.print(f"    rate   {method.rate:g} of the original training's learning rate")
        console.print(f"    paper  https://arxiv.org/abs/{method.paper}\n")
    console.print("[bold]Options[/bold] for -o, whatever the method:")
    for name, option in TrainingOptions.model_fields.items():
        default = "auto" if name in _OPEN else option.default
        console.print(f"    {name} = {default}  {option.description}")


def attacks() -> None:
    """List the attacks and probes of an audit, with what they need."""
    from unlearn._cli.screen import console
    from unlearn_eval.extraction import PROBES
    from unlearn_eval.membership import ATTACKS, CALIBRATED
    from unlearn_eval.passes import PASSES
    from unlearn_eval.robustness import TREATMENTS

    for attack in ATTACKS.values():
        extra = "; needs a pass of the base" if attack.needs_base else ""
        console.print(f"[bold]membership.{attack.name}[/bold]  {attack.summary}{extra}")
        console.print(f"    {attack.paper}")
    for calibrated in CALIBRATED.values():
        name = f"[bold]membership.{calibrated.name}[/bold]"
        console.print(f"{name}  {calibrated.summary}; needs {calibrated.needs}")
        console.print(f"    {calibrated.paper}")
    for probe in PROBES.values():
        console.print(f"[bold]extraction.{probe.name}[/bold]  {probe.summary}")
        console.print(f"    {probe.paper}")
    console.print("\n[bold]Passes[/bold] for --also, which cost more than the usual one:")
    for more in PASSES.values():
        console.print(f"[bold]{more.name}[/bold]  {more.summary}; {more.cost}")
        console.print(f"    {more.paper}")
    console.print("\n[bold]Treatments[/bold] for --robustness, of the model and its references:")
    for treatment in TREATMENTS.values():
        line = f"[bold]{treatment.name}[/bold]  {treatment.summary}"
        console.print(f"{line}; costs {treatment.cost} a state")
        console.print(f"    {treatment.paper}")
