"""`unlearn certificate check`."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from unlearn.apps.cli.verb import add
from unlearn_eval.certificate.options import CertificateCheckOptions

__all__ = ["certificate", "check"]

certificate = typer.Typer(
    name="certificate", no_args_is_help=True, help="Check the certificate of a deletion."
)


@certificate.callback()
def _group() -> None:
    """Check the certificate of a deletion."""


def check(options: CertificateCheckOptions) -> None:
    """Check signature and dates, offline, and whether it is about this adapter and this audit.

    What is certified and was not given to compare is listed as not looked at.

    Exit codes: 0 it verifies; 1 it does not; 2 the input is wrong. A signed FAIL verifies too.
    """
    from unlearn_eval.certificate import check_certificate

    result = check_certificate(
        options.file,
        options.key,
        adapter=options.adapter,
        base=options.base,
        audit=options.audit,
        references=options.references,
    )
    if options.json:
        content = {
            "ok": result.ok,
            "key": result.key,
            "findings": [asdict(each) for each in result.findings],
            "words": result.words,
            "statement": result.statement,
        }
        typer.echo(json.dumps(content, indent=1))
    else:
        typer.echo("\n".join(result.lines()))
    raise typer.Exit(0 if result.ok else 1)


add(certificate, CertificateCheckOptions, check, "check")
