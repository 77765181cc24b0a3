"""`unlearn methods` and `unlearn attacks`."""

from __future__ import annotations

__all__ = ["attacks", "methods"]


def methods() -> None:
    """List the unlearning methods: what they do, need and cost, and when to use them."""
    from unlearn._cli.screen import console
    from unlearn.methods import METHODS

    for method in METHODS.values():
        console.print(f"[bold]{method.name}[/bold]  {method.summary}")
        console.print(f"    when   {method.when}")
        console.print(f"    needs  {method.needs}")
        console.print(f"    a step costs  {method.cost}")
        console.print(f"    paper  arXiv:{method.paper}\n")
    console.print("Options of all of them: -o key=value; see the README.")


def attacks() -> None:
    """List the attacks and probes of an audit, with what they need."""
    from unlearn._cli.screen import table
    from unlearn_eval.extraction import PROBES
    from unlearn_eval.membership import ATTACKS

    rows = [
        [
            f"membership.{a.name}",
            a.summary,
            "base pass" if a.needs_base else "",
            a.paper,
        ]
        for a in ATTACKS.values()
    ]
    rows += [[f"extraction.{p.name}", p.summary, "", p.paper] for p in PROBES.values()]
    table("", ["name", "what it tells", "needs beyond one pass", "arXiv"], rows)
