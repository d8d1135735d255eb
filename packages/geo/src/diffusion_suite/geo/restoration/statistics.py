"""What all windows of a scene share, gathered in one streaming pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_suite.core.errors import InputError
from diffusion_suite.geo.restoration.noise import Flags, Values, band_noise, dead_lines, regression_noise

SMALLEST_SHARE = 0.3
"""Of the spatial noise estimate that regression on the other bands may go down to, as bands share noise."""


@dataclass(frozen=True)
class SceneStatistics:
    """Per band, in the scene's own units; NaN for a band without samples.

    Attributes:
        mean: (bands,).
        deviation: (bands,) standard deviation of the samples, noise included.
        low, high: (bands,) smallest and largest sample.
        noise: (bands,) estimated noise standard deviation.
        count: (bands,) number of observed samples.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    low: Values
    high: Values
    noise: Values
    count: NDArray[np.int64]

    @property
    def usable(self) -> Flags:
        """Bands that vary: those that are constant or without samples cannot be restored and need not be."""
        return np.asarray((self.count > 1) & (self.high > self.low))


def gather(blocks: Iterable[tuple[Values, Flags]]) -> SceneStatistics:
    """Statistics of a scene given block by block.

    Args:
        blocks: pairs of samples (rows, columns, bands) and flags of the same shape, True = observed.

    Raises:
        InputError: no sample is observed.
    """
    sums = _Sums()
    for cube, observed in blocks:
        observed = observed & ~dead_lines(cube, observed)
        if observed.any():
            sums.add(cube, observed)
    if sums.bands == 0:
        raise InputError("no sample of the scene is observed", "check nodata= and the mask")
    return sums.statistics()


class _Sums:
    """Running sums in float64 about the first block's mean, pairwise over the observed samples."""

    def __init__(self) -> None:
        self.bands = 0
        self.low: Values = np.zeros(0, np.float32)
        self.high: Values = np.zeros(0, np.float32)
        self.levels: list[Values] = []
        self.weights: list[NDArray[np.int64]] = []

    def add(self, cube: Values, observed: Flags) -> None:
        count = observed.sum((0, 1))
        if self.bands == 0:
            self._start(cube, observed, count)
        flags = observed.reshape(-1, self.bands)
        values = np.where(flags, cube.reshape(-1, self.bands) - self.origin, 0).astype(np.float32)
        single = flags.astype(np.float32)
        self.products += values.T @ values
        self.pairs += single.T @ single
        self.sums += values.sum(0, dtype=np.float64)
        self.count += count
        self.low = np.minimum(self.low, np.where(observed, cube, np.inf).min((0, 1)))
        self.high = np.maximum(self.high, np.where(observed, cube, -np.inf).max((0, 1)))
        self.levels.append(band_noise(cube, observed))
        self.weights.append(count)

    def _start(self, cube: Values, observed: Flags, count: NDArray[np.int64]) -> None:
        self.bands = cube.shape[-1]
        self.origin = np.where(observed, cube, 0).sum((0, 1), dtype=np.float64) / np.maximum(count, 1)
        self.products = np.zeros((self.bands, self.bands))
        self.pairs = np.zeros((self.bands, self.bands))
        self.sums = np.zeros(self.bands)
        self.count = np.zeros(self.bands, np.int64)
        self.low = np.full(self.bands, np.inf, np.float32)
        self.high = np.full(self.bands, -np.inf, np.float32)

    def statistics(self) -> SceneStatistics:
        with np.errstate(invalid="ignore", divide="ignore"):
            shift = self.sums / self.count
            variance = np.maximum(np.diag(self.products) / self.count - shift**2, 0)
        mean = np.where(self.count > 0, self.origin + shift, np.nan)
        deviation = np.where(self.count > 0, np.sqrt(variance), np.nan)
        low, high = (
            np.where(self.count > 0, limit, np.nan).astype(np.float32) for limit in (self.low, self.high)
        )
        return SceneStatistics(mean, deviation, low, high, self._noise(deviation, shift), self.count)

    def _noise(self, deviation: NDArray[np.float64], shift: NDArray[np.float64]) -> Values:
        levels, weights = np.stack(self.levels), np.stack(self.weights).astype(np.float64)
        weights = np.where(np.isfinite(levels), weights, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            spatial = (np.where(weights > 0, levels, 0) * weights).sum(0) / weights.sum(0)
            known = np.isfinite(spatial) & (deviation > 0)
            typical = np.median((spatial / deviation)[known]) if known.any() else 0.1
        spatial = np.where(known, spatial, typical * deviation)
        usable = (self.count > 1) & (deviation > 0)
        fully = usable & (np.diag(self.pairs) >= 0.5 * self.pairs.max())
        if fully.sum() >= 8 and self.pairs[np.ix_(fully, fully)].min() > 20 * fully.sum():
            pairs = self.pairs[np.ix_(fully, fully)]
            covariance = self.products[np.ix_(fully, fully)] / pairs - np.outer(shift[fully], shift[fully])
            floor = SMALLEST_SHARE * spatial[fully]
            if np.linalg.eigvalsh(covariance)[0] > 0:
                spatial[fully] = np.clip(regression_noise(covariance), floor, spatial[fully])
        return spatial.astype(np.float32)
