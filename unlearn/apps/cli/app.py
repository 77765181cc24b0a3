"""The verbs of the command line."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import typer

from unlearn.apps.cli.listings import MethodsOptions, attacks, methods
from unlearn.apps.cli.request.group import request
from unlearn.apps.cli.verb import add, unwrapped
from unlearn.apps.cli.verbs.audit import AuditFlags, audit
from unlearn.apps.cli.verbs.benchmark import benchmark
from unlearn.apps.cli.verbs.certificate import certificate
from unlearn.apps.cli.verbs.compare import compare
from unlearn.apps.cli.verbs.demo import demo
from unlearn.apps.cli.verbs.federate import federate
from unlearn.apps.cli.verbs.finetune import finetune
from unlearn.apps.cli.verbs.forget import forget
from unlearn.apps.cli.verbs.key import key
from unlearn.apps.cli.verbs.poison import poison
from unlearn.apps.cli.verbs.recipes import recipes
from unlearn.apps.cli.verbs.references import references
from unlearn.apps.cli.verbs.replay import replay
from unlearn.apps.cli.verbs.scan import scan
from unlearn.apps.cli.verbs.verify import verify
from unlearn.apps.compare.options import CompareOptions
from unlearn.apps.demo.options import DemoOptions
from unlearn.federated.options import FederateOptions
from unlearn.runs.options import (
    FinetuneShardsOptions,
    ForgetShardsOptions,
    PoisonOptions,
    ReferencesOptions,
)
from unlearn_eval.backdoor.options import ScanOptions
from unlearn_eval.benchmarks.options import BenchmarkFileOptions
from unlearn_eval.replay.options import ReplayFileOptions
from unlearn_eval.verdict.options import VerifyFileOptions

__all__ = ["command"]

_TRAIN, _MEASURE, _PROVE, _LOOK = "Change a model", "Measure", "Deletion requests", "Look up"


def _version(show: bool) -> None:
    if show:
        from unlearn import __version__

        typer.echo(f"unlearn {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take records out of a fine-tuned language model, and measure whether they are gone.

    Start with `unlearn demo`, or with an adapter of your own:

    unlearn forget --model BASE --adapter ADAPTER --data records.jsonl --forget id17,id42
    --output cleaned

    Exit codes: 0 done; 2 the input is wrong (one line says what); 1 some cells of a comparison
    failed, a run of requests broke off, a sweep leaves something that is known to descend from the
    records, a check of a ledger found something, or a certificate does not verify; 3 FAIL and 4
    INCONCLUSIVE of `verify` and `replay`; 130 or 143 interrupted.
    """


@functools.cache
def command() -> Any:
    """Return the command that parses the words and calls a verb."""
    app = typer.Typer(
        name="unlearn",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=unwrapped(_root))(_root)
    add(app, FinetuneShardsOptions, finetune, "finetune", _TRAIN)
    add(app, FederateOptions, federate, "federate", _TRAIN)
    add(app, ForgetShardsOptions, forget, "forget", _TRAIN)
    add(app, PoisonOptions, poison, "poison", _TRAIN)
    add(app, ReferencesOptions, references, "references", _MEASURE)
    add(app, AuditFlags, audit, "audit", _MEASURE)
    add(app, ScanOptions, scan, "scan", _MEASURE)
    add(app, VerifyFileOptions, verify, "verify", _MEASURE)
    add(app, ReplayFileOptions, replay, "replay", _MEASURE)
    add(app, CompareOptions, compare, "compare", _MEASURE)
    add(app, BenchmarkFileOptions, benchmark, "benchmark", _MEASURE)
    add(app, DemoOptions, demo, "demo", _MEASURE)
    app.add_typer(request, rich_help_panel=_PROVE)
    app.add_typer(certificate, rich_help_panel=_PROVE)
    app.add_typer(key, rich_help_panel=_PROVE)
    add(app, MethodsOptions, methods, "methods", _LOOK)
    add(app, None, attacks, "attacks", _LOOK)
    app.add_typer(recipes, rich_help_panel=_LOOK)
    return typer.main.get_command(app)
