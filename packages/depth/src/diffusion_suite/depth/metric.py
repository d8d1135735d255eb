r"""From normalised log-depth to metres: a line fitted in log space, and completion from known depths.

The network gives y with :math:`\ln d = a\,y + b`, where a and b differ from picture to picture. Known depths
(a map, a few points, or the nearest and the farthest depth) tell them.

    >>> import numpy as np
    >>> y = np.linspace(-1, 1, 50)
    >>> known = np.exp(1.5 * y + 0.5)
    >>> known[:10] *= 4
    >>> found = fit(y, known)
    >>> round(found.slope, 3), round(found.shift, 3)
    (1.5, 0.5)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.depth.io.maps import Map, slabs

Values = NDArray[np.float64]
Numbers = NDArray[np.integer] | NDArray[np.floating]

USUAL_SLOPE = 1.0
"""The slope of the published method, exp(y); what one known depth cannot tell is taken from it."""

SLOPE_SPREAD = 0.5
NOISE = 0.02
"""Least error in log-depth that known depths are taken to have."""

WRONG = 0.2
"""Difference in log-depth from its neighbours up to which a completion always believes a known depth."""

SLOPES = (0.05, 20.0)
_PAIRS = 4096
_ROUNDS = 30
_TUKEY = 4.685
_MAD = 1.4826
_FINEST = 512
_AGREED = 8
_AGREE = 3
_LAYERS = 12


@dataclass(frozen=True)
class LogLine:
    """ln depth = slope * y + shift.

    Attributes:
        slope, shift: of the line, depth in metres.
        points: known depths that it was fitted to; 0 for a line that was given.
        error: median of ``|ln known - (slope * y + shift)|`` over them.
    """

    slope: float
    shift: float
    points: int = 0
    error: float = 0.0

    def depth(self, y: Map) -> Map:
        """Metres, of y's shape."""
        metres: Map = np.exp(np.clip(np.float32(self.slope) * y + np.float32(self.shift), -80, 80))
        return metres


def between(near: float, far: float) -> LogLine:
    """The line that puts y = -1 (the nearest parts) at `near` and y = 1 (the farthest) at `far` metres."""
    low, high = math.log(near), math.log(far)
    return LogLine((high - low) / 2, (high + low) / 2)


def fit(y: NDArray[np.floating], depth: NDArray[np.floating]) -> LogLine:
    """The robust line through known depths.

    Theil and Sen's slope begins, Tukey's biweight ends: up to about three in ten may be wrong. One depth, or
    several at one y, leave the slope open; it then stays near 1 (a normal prior of deviation 0.5).

    Args:
        y: (n,) log-depth that the network gives where depths are known.
        depth: (n,) metres, above 0.

    Raises:
        InputError: no known depth, or they fall where the prediction rises.
    """
    x, target = y.astype(np.float64).ravel(), np.log(depth.astype(np.float64).ravel())
    if not len(x):
        raise InputError("no known depth lies in the picture", "check its size and its unit")
    slope = _first_slope(x, target)
    shift = float(np.median(target - slope * x))
    for _ in range(_ROUNDS):
        residual = target - slope * x - shift
        noise = max(NOISE, _MAD * float(np.median(np.abs(residual))))
        weight = (1 - np.minimum(1, np.abs(residual) / (_TUKEY * noise)) ** 2) ** 2 / noise**2
        slope, shift = _weighted_line(x, target, weight)
    if not SLOPES[0] <= slope <= SLOPES[1]:
        raise InputError(
            f"the known depths do not go with the prediction (slope {slope:.2g} in log-depth, usual is 1)",
            "check that they belong to this picture, larger is farther, and known_unit",
        )
    error = float(np.median(np.abs(target - slope * x - shift)))
    return LogLine(slope, shift, len(x), error)


def _first_slope(x: Values, target: Values) -> float:
    """Median slope over pairs of points far apart in y; the usual one where there is no such pair."""
    rng = numpy_generator("known depths", len(x))
    one, other = rng.integers(len(x), size=(2, _PAIRS))
    if len(x) <= math.isqrt(2 * _PAIRS):
        one, other = np.triu_indices(len(x), 1)
    run = x[other] - x[one]
    far = np.abs(run) > max(0.02, 0.25 * float(np.ptp(x)))
    if not far.any():
        return USUAL_SLOPE
    return float(np.median((target[other] - target[one])[far] / run[far]))


def _weighted_line(x: Values, target: Values, weight: Values) -> tuple[float, float]:
    total = max(float(weight.sum()), 1e-12)
    x_mean, t_mean = float(weight @ x) / total, float(weight @ target) / total
    prior = 1 / SLOPE_SPREAD**2
    above = float(weight @ ((x - x_mean) * (target - t_mean))) + prior * USUAL_SLOPE
    slope = above / (float(weight @ (x - x_mean) ** 2) + prior)
    return slope, t_mean - slope * x_mean


def complete(y: Map, known: Values, line: LogLine) -> Map:
    """Metric depth that follows the known depths, and the network's shapes between them.

    What the line leaves (in log-depth) is spread over a grid of place and y, from coarse cells to fine ones:
    each level takes the mean of what the coarser ones left, so that a known depth speaks for the surface that
    it lies on rather than for its surroundings on the picture. A known depth far from what its neighbours say
    has no say in the fine levels.

    Args:
        y: (height, width) log-depth of the network.
        known: (n, 3) x, y in pixels and depth in metres, inside the picture.
        line: fitted to them.

    Returns:
        (height, width) metres.
    """
    height, width = y.shape
    columns, rows = known[:, 0], known[:, 1]
    at = _sample(y, rows, columns)
    left = np.log(known[:, 2]) - line.slope * at - line.shift
    low, high = float(y.min()), float(y.max())
    log_depth: Map = np.float32(line.slope) * y + np.float32(line.shift)
    cells, layers = 2, 3
    weight = np.ones_like(left)
    while True:
        grid = _Grid.over(height, width, low, high, cells, layers)
        values = grid.mean(rows, columns, at, left, weight)
        for _ in range(_AGREE if cells <= _AGREED else 0):
            weight = _belief(left - grid.slice(values, rows, columns, at))
            values = grid.mean(rows, columns, at, left, weight)
        left = left - grid.slice(values, rows, columns, at)
        for part in slabs(height):
            r, c = np.mgrid[part, :width]
            log_depth[part] += grid.slice(values, r, c, y[part])
        if cells == _AGREED:
            weight = (_belief(left) > 0).astype(np.float64)
        if cells >= min(_FINEST, max(height, width)):
            return np.exp(np.clip(log_depth, -80, 80))
        cells, layers = 2 * cells, min(_LAYERS, 2 * layers)


def _belief(left: Values) -> Values:
    """Tukey's weights of what is left of known depths."""
    reach = max(WRONG, _TUKEY * _MAD * float(np.median(np.abs(left))))
    weight: Values = (1 - np.minimum(1, np.abs(left) / reach) ** 2) ** 2
    return weight


@dataclass(frozen=True)
class _Grid:
    """Cells over rows, columns and y; coordinates of a cell's centre are whole numbers."""

    shape: tuple[int, int, int]
    origin: tuple[float, float, float]
    pitch: tuple[float, float, float]

    @classmethod
    def over(cls, height: int, width: int, low: float, high: float, cells: int, layers: int) -> _Grid:
        side = max(1.0, (max(height, width) - 1) / cells)
        step = max(1e-6, (high - low) / max(1, layers - 1))
        shape = (math.ceil((height - 1) / side) + 1, math.ceil((width - 1) / side) + 1, layers)
        return cls(shape, (0.0, 0.0, low), (side, side, step))

    def places(self, rows: Numbers, columns: Numbers, y: Numbers) -> list[Values]:
        """Coordinates on the grid."""
        named = zip((rows, columns, y), self.origin, self.pitch, strict=True)
        return [(value.astype(np.float64) - origin) / pitch for value, origin, pitch in named]

    def mean(self, rows: Values, columns: Values, y: Values, values: Values, weight: Values) -> Map:
        """Smoothed weighted mean of values by cell; 0 far from any."""
        cell = [
            np.clip(np.rint(place).astype(np.intp), 0, n - 1)
            for place, n in zip(self.places(rows, columns, y), self.shape, strict=True)
        ]
        flat = np.ravel_multi_index(cell, self.shape)
        count = math.prod(self.shape)
        sums = [
            np.bincount(flat, weights, count).reshape(self.shape) for weights in (weight * values, weight)
        ]
        above, below = (gaussian_filter(total.astype(np.float32), 0.7, truncate=3.0) for total in sums)
        found: Map = above / np.maximum(below, 1e-3)
        return found

    def slice(self, values: Map, rows: Numbers, columns: Numbers, y: Numbers) -> Map:
        """The grid's values at places, trilinear."""
        places = np.stack(self.places(rows, columns, y)).astype(np.float32)
        found: Map = map_coordinates(values, places, order=1, mode="nearest")
        return found


def _sample(values: Map, rows: Values, columns: Values) -> Values:
    """A map between its pixels, bilinear."""
    found: Values = map_coordinates(values, [rows, columns], order=1, mode="nearest").astype(np.float64)
    return found


def known_at(y: Map, known: Values) -> Values:
    """The network's y at known points (n, 3)."""
    return _sample(y, known[:, 1], known[:, 0])
