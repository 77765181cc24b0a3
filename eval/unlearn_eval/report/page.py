"""Render a page: one file with its style, its script and its drawings inside."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

from unlearn_eval.report.formats import duration, percent, state_name
from unlearn_eval.report.visible import visible
from unlearn_eval.verdict.tone import sign

__all__ = ["render", "short"]

_STYLES = {"shown": "good", "not forgotten": "bad"}
"""Names of the tones in the style sheet."""


def render(template: str, scripts: Sequence[str] = (), **values: Any) -> str:
    """Fill in a template of this package.

    Every text is made `visible` and escaped, in one place, but the script and the drawings of
    `plots`, which hold numbers and names of states only. The page forbids every connection and
    every script but its own, by the digest of its text, so that no text from a record could run.

    Args:
        template: file name under `templates`.
        scripts: files there that run after the page's own script, as part of it.
        **values: what the template names.

    Returns:
        HTML.
    """
    environment = _environment()
    files = ("page.js", *scripts)
    script = "".join(environment.loader.get_source(environment, file)[0] for file in files)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return str(environment.get_template(template).render(policy=policy, script=script, **values))


def short(digest: str) -> str:
    """Shorten a digest to what two people can compare by eye."""
    kind, _, digits = digest.rpartition(":")
    return f"{kind}:{digits[:12]}…" if kind else f"{digits[:12]}…"


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("unlearn_eval.report", "templates"),
        autoescape=True,
        finalize=_finished,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": duration,
        "percent": percent,
        "short": short,
        "state_name": state_name,
        "style": lambda tone: _STYLES.get(tone, tone),
        "sign": sign,
        "visible": visible,
    }
    return environment


def _finished(value: Any) -> Any:
    """Make each text that a template puts out visible, but markup of the templates' own."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
