"""What tests of changing a model share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _key_of_the_adapter(
    _own_home: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes the session's adapter has the key under which its lineage names records."""
    if "adapter" in request.fixturenames:
        monkeypatch.setenv("UNLEARN_KEY", request.getfixturevalue("lineage_key"))
