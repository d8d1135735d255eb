"""Does the spread of an ensemble tell where it is wrong? Sparsification curve and rank correlation.

Ilg et al. 2018: pixels are taken away from the most uncertain on, and the mean error of the rest is drawn
over the share taken away, beside the curve of an oracle that takes away the most wrong first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_suite.depth.alignment import Map

POINTS = 20


@dataclass(frozen=True)
class Sparsification:
    """Curves over the share of pixels taken away, both divided by the mean error of all.

    Attributes:
        removed: (points,) shares, from 0 to below 1.
        error: (points,) mean error of the rest, most uncertain taken first.
        oracle: (points,) the same, most wrong taken first.
        rank_correlation: Spearman's, between spread and error, in [-1, 1]; 0 where either is flat.
    """

    removed: Map
    error: Map
    oracle: Map
    rank_correlation: float

    @property
    def ause(self) -> float:
        """Area between the two curves; 0 is best, that of an uncertainty at random is `random_ause`."""
        return float(np.trapezoid(self.error - self.oracle, self.removed))

    @property
    def random_ause(self) -> float:
        """The area for an uncertainty that knows nothing: its curve stays at 1."""
        return float(np.trapezoid(1 - self.oracle, self.removed))


def sparsification(
    spread: NDArray[np.floating], error: NDArray[np.floating], points: int = POINTS
) -> Sparsification:
    """Curve and rank correlation of one picture.

    Args:
        spread: (pixels,) of the ensemble, larger is less certain.
        error: (pixels,) at least 0, e.g. |p - g| / g.
        points: of the curve.
    """
    errors: Map = error.astype(np.float64)
    removed = np.arange(points) / points
    total = float(errors.mean())
    if total == 0:
        return Sparsification(removed, np.ones(points), np.ones(points), 0.0)
    least_certain_last = np.argsort(spread, kind="stable")
    return Sparsification(
        removed,
        _curve(errors[least_certain_last], removed) / total,
        _curve(np.sort(errors), removed) / total,
        rank_correlation(spread, errors),
    )


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Spearman's rank correlation; 0 where one of them is flat."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (first, second)]
    a, b = (values - values.mean() for values in ranks)
    energy = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / energy if energy > 0 else 0.0


def _curve(ordered: Map, removed: Map) -> Map:
    """Means of the first 1 - r of the values."""
    kept = np.maximum(np.ceil((1 - removed) * len(ordered)).astype(int), 1)
    means: Map = np.cumsum(ordered)[kept - 1] / kept
    return means
