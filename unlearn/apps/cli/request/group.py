"""`unlearn request`: the group of its verbs."""

from __future__ import annotations

import typer

from unlearn.apps.cli.request import intake, work
from unlearn.apps.cli.verb import add
from unlearn.apps.requests import options

__all__ = ["request"]

request = typer.Typer(
    name="request",
    no_args_is_help=True,
    help="Deletion requests: what was asked, what was done about it, and the proof.",
    epilog="In order: add, locate, run, verify, sweep, certificate, close.",
)
add(request, options.AddOptions, intake.add, "add")
add(request, options.LocateOptions, intake.locate, "locate")
add(request, options.RunOptions, work.run, "run")
add(request, options.VerifyOptions, work.verify, "verify")
add(request, options.SweepOptions, work.sweep, "sweep")
add(request, options.CertificateOptions, work.certificate, "certificate")
add(request, options.CloseOptions, intake.close, "close")
add(request, options.ListOptions, intake.list_, "list")
add(request, options.ShowOptions, intake.show, "show")
add(request, options.CheckOptions, intake.check, "check")
