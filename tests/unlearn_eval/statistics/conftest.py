from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

Clustered = Callable[..., tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]


@pytest.fixture(scope="session")
def clustered() -> Clustered:
    """Draw standard normal values with intra-class correlation .3, and their clusters."""

    def draw(rng, clusters, size, *, unequal=False, effects=None, icc=0.3):
        sizes = 1 + rng.geometric(1 / size, clusters) if unequal else np.full(clusters, size)
        labels = np.repeat(np.arange(clusters), sizes)
        effects = rng.normal(size=clusters) if effects is None else effects
        noise = rng.normal(size=len(labels))
        return np.sqrt(icc) * effects[labels] + np.sqrt(1 - icc) * noise, labels

    return draw
