"""Flower, which an extra of its own brings: is it there, and it tells nobody."""

from __future__ import annotations

import logging
import os

from unlearn.errors import OptionError

__all__ = ["QUIET", "check_flower"]

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Environment variables with which Flower reports to nobody, and installs nothing."""


def check_flower() -> None:
    """Refuse to go on without Flower, and keep it from talking.

    Raises OptionError if it is not installed.
    """
    os.environ.update(QUIET)  # it looks at them when it is imported
    try:
        import flwr.app  # noqa: F401
    except ImportError as error:
        raise OptionError(
            "federated training needs Flower, which is not installed: in a clone of unlearn, "
            "pip install --constraint constraints-federated.txt '.[federated]'"
        ) from error
    logging.getLogger("flwr").setLevel(logging.ERROR)
