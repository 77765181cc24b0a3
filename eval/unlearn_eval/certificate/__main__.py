"""`python -m unlearn_eval.certificate check`: the check by itself, without the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from unlearn.errors import UnlearnError
from unlearn.printable import printable
from unlearn_eval.certificate.check import check_certificate

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: the words after the module's name; by default those of the process.

    Returns:
        The exit code: 0 the certificate verifies, 1 it does not, 2 wrong input.
    """
    parser = argparse.ArgumentParser(
        prog="python -m unlearn_eval.certificate",
        description="Certificates of deletions, checked offline.",
    )
    check = parser.add_subparsers(dest="verb", required=True).add_parser(
        "check", help="Check signature, dates and what a certificate is about."
    )
    check.add_argument("certificate", metavar="FILE", help="certificate.json")
    check.add_argument(
        "--key", required=True, metavar="PUB", help="the signer's public key, got from the signer"
    )
    check.add_argument("--adapter", metavar="DIR", help="the adapter in use: is it the certified?")
    check.add_argument("--base", metavar="DIR", help="the base model in use: is it the certified?")
    check.add_argument(
        "--audit", metavar="DIR", help="the audit, or the replay, that the verdict rests on"
    )
    check.add_argument(
        "--reference",
        "--references",
        action="append",
        default=[],
        metavar="DIR",
        help="a model that the verdict compares with, or a folder of them (may be repeated)",
    )
    given = parser.parse_args(arguments)
    try:
        result = check_certificate(
            given.certificate,
            given.key,
            adapter=given.adapter,
            base=given.base,
            audit=given.audit,
            references=given.reference,
        )
    except UnlearnError as error:
        sys.stderr.write(f"unlearn: {printable(' '.join(str(error).split()))}\n")
        return 2
    sys.stdout.write("\n".join(result.lines()) + "\n")
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
