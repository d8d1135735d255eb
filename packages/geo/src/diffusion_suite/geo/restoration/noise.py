"""The noise of a scene without a clean one to compare with: levels, dead lines, stripes, impulses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

Values = NDArray[np.float32]
Flags = NDArray[np.bool_]

GAUSSIAN = 1.4826
"""Standard deviation of a Gaussian over its median absolute deviation."""

ENOUGH = 200
"""Differences that a level is estimated from; with fewer the next coarser estimate is taken."""


def band_noise(cube: Values, observed: Flags) -> Values:
    """Noise standard deviation of each band from second differences across rows and columns.

    sigma = 1.4826 median |y[i+1,j+1] - y[i+1,j] - y[i,j+1] + y[i,j]| / 2, free of any plane and of row and column
    offsets; where too few squares of four are observed, from first differences of neighbours / sqrt 2.

    Args:
        cube: (rows, columns, bands), any unit.
        observed: same shape.

    Returns:
        (bands,) in the cube's unit; NaN for a band with too few neighbouring samples.
    """
    values = np.where(observed, cube, np.nan).astype(np.float32)
    vertical = values[1:] - values[:-1]
    horizontal = values[:, 1:] - values[:, :-1]
    mixed = (vertical[:, 1:] - vertical[:, :-1]) / 2
    levels = np.full(cube.shape[-1], np.nan, np.float32)
    for band in range(len(levels)):
        first = np.concatenate([vertical[..., band].ravel(), horizontal[..., band].ravel()]) / np.sqrt(2)
        for differences in (mixed[..., band].ravel(), first):
            finite = differences[np.isfinite(differences)]
            if len(finite) >= min(ENOUGH, max(4, differences.size // 2)):
                levels[band] = GAUSSIAN * np.median(np.abs(finite))
                break
    return levels


def regression_noise(covariance: NDArray[np.float64]) -> Values:
    """Standard deviation of what the other bands do not explain of a band: 1 / sqrt((C^-1)_bb), an upper bound of its noise."""
    ridge = 1e-9 * np.trace(covariance) / len(covariance)
    inverse = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
    return np.asarray(1 / np.sqrt(np.maximum(np.diag(inverse), 1e-30)), np.float32)


def dead_lines(cube: Values, observed: Flags) -> Flags:
    """Samples of columns and rows that hold one value throughout while their band varies.

    Args:
        cube: (rows, columns, bands).
        observed: same shape.

    Returns:
        True where a sample belongs to a dead line.
    """
    low, high = np.where(observed, cube, np.inf), np.where(observed, cube, -np.inf)
    spread = high.max((0, 1)) - low.min((0, 1))
    dead = np.zeros(cube.shape, bool)
    for axis in (0, 1):
        if cube.shape[axis] < 4:
            continue
        counted = observed.sum(axis, keepdims=True) >= 4
        constant = high.max(axis, keepdims=True) - low.min(axis, keepdims=True) <= 1e-6 * spread
        dead |= constant & counted & (spread > 0)
    alive = observed & ~dead
    return dead & observed if alive.any((0, 1))[observed.any((0, 1))].all() else np.zeros(cube.shape, bool)


def stripe_offsets(whitened: Values, observed: Flags, loadings: Values) -> Values:
    """Offsets of whole columns that the low-rank spectra cannot explain (push-broom stripes).

    The part outside the subspace is the column's mean spectral residual; the part inside is what the column means
    of the eigen-images have above a running median of 9 columns. Both count only where significant.

    Args:
        whitened: (rows, columns, bands) with unit noise and zero mean, 0 where missing.
        observed: same shape.
        loadings: (bands, rank), orthonormal.

    Returns:
        (columns, bands) in units of the noise, 0 everywhere if the scene shows no stripes.
    """
    bands, rank = loadings.shape
    if bands <= rank:
        return np.zeros(whitened.shape[1:], np.float32)
    scores = whitened @ loadings
    residual = np.where(observed, np.clip(whitened - scores @ loadings.T, -6, 6), 0)
    count = np.maximum(observed.sum(0), 1)
    outside = residual.sum(0) / count
    error = 1 / np.sqrt(count)
    chance = 1 - rank / bands
    if np.mean((outside / error) ** 2) < 1.25 * chance:
        return np.zeros(outside.shape, np.float32)
    offsets = np.where(np.abs(outside) > 3 * error, outside, 0)
    profile = scores.mean(0)
    peaks = profile - median_filter(profile, (9, 1), mode="nearest")
    level = GAUSSIAN * np.median(np.abs(peaks), axis=0) + 1e-6
    inside = np.where(np.abs(peaks) > 3 * np.maximum(level, 1 / np.sqrt(len(whitened))), peaks, 0)
    return np.asarray(offsets + inside @ loadings.T, np.float32)


def impulses(whitened: Values, observed: Flags, loadings: Values, threshold: float = 6.0) -> Flags:
    """Samples whose spectral residual is more than `threshold` noise levels: hot and dead pixels."""
    residual = whitened - (whitened @ loadings) @ loadings.T
    return np.asarray(observed & (np.abs(residual) > threshold))
