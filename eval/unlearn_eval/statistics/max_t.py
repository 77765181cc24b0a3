"""The largest of several correlated t values: one test of several nearly equal ones."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats

from unlearn_eval.arrays import FloatArray

__all__ = ["MaxT"]

_DRAWS, _SEED = 40_000, 20_260_101


class MaxT:
    """The distribution of max_f |t_f| for t values of a given correlation.

    t = z/√(χ²_ν/ν) with z normal of that correlation and one χ² for all (Dunnett and Sobel 1954,
    doi 10.1093/biomet/41.1-2.153), by 40,000 draws with a fixed seed. p-values are held between
    that of one t alone, which perfectly correlated values have, and m times that (Bonferroni). For
    the draws, correlations are rounded to hundredths and ν down to a whole number.

    Args:
        correlation: [m, m]; entries that are not finite count as 0.
        freedom: ν ≥ 1.
    """

    def __init__(self, correlation: npt.ArrayLike, freedom: float) -> None:
        matrix = np.nan_to_num(np.asarray(correlation, dtype=np.float64), nan=0.0)
        self.size, self.freedom = len(matrix), float(freedom)
        rounded = matrix.round(2)
        alike = bool(np.all(rounded == 1))
        self._draws = None if alike else _draws(self.size, int(freedom), rounded.tobytes())

    def p_value(self, t: float) -> float:
        """Return P(max_f |t_f| ≥ |t|); NaN of NaN."""
        alone = 2 * float(stats.t.sf(abs(t), self.freedom))
        if self._draws is None or not alone > 0:
            return alone
        reached = 1 - float(np.searchsorted(self._draws, abs(t))) / _DRAWS
        return float(np.clip(reached, alone, min(1.0, self.size * alone)))

    def limit(self, error: float) -> float:
        """Return the t that the largest exceeds with probability `error`."""
        low, high = (float(stats.t.isf(error / 2 / m, self.freedom)) for m in (1, self.size))
        if self._draws is None:
            return low
        return float(np.clip(np.quantile(self._draws, 1 - error), low, high))


@lru_cache(maxsize=256)
def _draws(size: int, freedom: int, correlation: bytes) -> FloatArray:
    """Return draws of the largest |t|, in order."""
    matrix = np.frombuffer(correlation).reshape(size, size)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    rng = np.random.default_rng(_SEED)
    normal = np.abs(rng.standard_normal((_DRAWS, size)) @ root.T).max(axis=1)
    largest: FloatArray = np.sort(normal / np.sqrt(rng.chisquare(freedom, _DRAWS) / freedom))
    return largest
