"""The noise of a scene without a clean one to compare with: levels, dead lines, stripes, impulses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Flags = NDArray[np.bool_]

GAUSSIAN = 1.4826
"""Standard deviation of a Gaussian over its median absolute deviation."""

GAUSSIAN_TAIL = 1 / 1.6449
"""Standard deviation of a Gaussian over the 90th percentile of its absolute deviation."""

SPREAD_OF_NOISE = 1.3
"""Of a pixel's step from its neighbours less that of nearby bands: unit noise alone gives 1.16."""

ENOUGH = 200
"""Differences that a level is estimated from; with fewer the next coarser estimate is taken."""


def band_noise(cube: Values, observed: Flags) -> Values:
    """Noise standard deviation of each band from second differences across rows and columns.

    sigma = 1.4826 median |y[i+1,j+1] - y[i+1,j] - y[i,j+1] + y[i,j]| / 2, free of any plane and of row and
    column offsets; where too few squares of four are observed, from first differences of neighbours / sqrt 2.

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
    """Standard deviation of what the other bands do not explain of a band, an upper bound of its noise.

    It is 1 / sqrt((C^-1)_bb) for a covariance C (bands, bands).
    """
    ridge = 1e-9 * np.trace(covariance) / len(covariance)
    inverse = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
    return np.asarray(1 / np.sqrt(np.maximum(np.diag(inverse), 1e-30)), np.float32)


def dead_lines(cube: Values, observed: Flags) -> Flags:
    """Samples of dead columns and rows: nine in ten of the line hold one value while the band varies.

    A band of which more than three lines in ten are like that (saturated, or of few values) has none.

    Args:
        cube: (rows, columns, bands).
        observed: same shape.

    Returns:
        True where a sample belongs to a dead line.
    """
    low, high = np.where(observed, cube, np.inf).min((0, 1)), np.where(observed, cube, -np.inf).max((0, 1))
    tolerance = 1e-6 * np.where(high > low, high - low, 0)
    dead = np.zeros(cube.shape, bool)
    for axis in (0, 1):
        if cube.shape[axis] < 4:
            continue
        count = observed.sum(axis, keepdims=True)
        order = np.sort(np.where(observed, cube, np.inf), axis=axis)
        middle = np.take_along_axis(order, np.maximum(count - 1, 0) // 2, axis)
        middle = np.where(count > 0, middle, 0)
        same = (observed & (np.abs(np.where(observed, cube, 0) - middle) <= tolerance)).sum(
            axis, keepdims=True
        )
        lines = (same >= 0.9 * count) & (count >= 4) & (tolerance > 0)
        lines &= lines.mean((0, 1), keepdims=True) <= 0.3
        dead |= lines
    return dead & observed


def imputed(whitened: Values, observed: Flags, loadings: Values, iterations: int = 10) -> Values:
    """Missing samples replaced by what the pixel's other bands say of them within the subspace."""
    values = whitened
    for _ in range(iterations if not observed.all() else 0):
        values = np.where(observed, whitened, (values @ loadings) @ loadings.T)
    return values


def stripe_offsets(whitened: Values, observed: Flags) -> Values:
    """Offsets of whole columns that the spectra of the scene do not explain (push-broom stripes).

    The spectra come from samples less their column's mean, which stripes do not touch. Of an offset o
    (bands,) the part outside their span is seen in the column means; o is the sparsest vector that has it, by
    l1 minimisation: min |P(o - r)|^2 / 2 + t |o|_1 with r the column mean, P the projection off the span and
    t its standard error.

    Args:
        whitened: (rows, columns, bands) with unit noise and zero mean, missing samples imputed.
        observed: same shape.

    Returns:
        (columns, bands) in units of the noise, 0 everywhere if the scene shows no stripes.
    """
    rows, columns, bands = whitened.shape
    none = np.zeros((columns, bands), np.float32)
    count = observed.sum(0)
    seen = count >= max(4, rows // 8)
    spectra = _spectra_within_columns(whitened)
    if spectra.shape[1] > bands // 2 or not seen.any():
        return none
    profile = np.where(observed, np.clip(whitened, *_limits(whitened)), 0).sum(0) / np.maximum(count, 1)
    profile = np.where(seen, profile, 0)
    outside = profile - (profile @ spectra) @ spectra.T
    error = 1 / np.sqrt(rows)
    alike = float((outside[1:] * outside[:-1]).sum() / max(float((outside**2).sum()), 1e-12))
    if alike > 0.25 or np.mean((outside / error) ** 2) < 1.25 * (1 - spectra.shape[1] / bands):
        return none
    offsets = _sparsest(outside, spectra, error)
    return np.where(seen, offsets, 0).astype(np.float32)


def _spectra_within_columns(whitened: Values) -> Values:
    """Principal spectra above the noise of samples less their column's mean, (bands, rank)."""
    centred = (whitened - whitened.mean(0)).reshape(-1, whitened.shape[-1])
    energy, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    edge = (1 + np.sqrt(centred.shape[1] / len(centred))) ** 2
    return np.asarray(vectors[:, energy > 1.02 * edge], np.float32)


def _limits(values: Values) -> tuple[float, float]:
    low, high = np.percentile(values, (0.1, 99.9))
    return float(low), float(high)


def _sparsest(outside: Values, spectra: Values, threshold: float, iterations: int = 200) -> Values:
    """Sparse vectors with given parts outside the span of the spectra (FISTA, Beck and Teboulle 2009)."""
    sparse = point = np.zeros_like(outside)
    momentum = 1.0
    for _ in range(iterations):
        step = point + outside - (point - (point @ spectra) @ spectra.T)
        fresh = np.sign(step) * np.maximum(np.abs(step) - threshold, 0)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        point = fresh + (momentum - 1) / following * (fresh - sparse)
        sparse, momentum = fresh, following
    return sparse


def impulses(whitened: Values, observed: Flags, loadings: Values, threshold: float = 5.0) -> Flags:
    """Samples far from what the spectra say of their pixel: hot and dead pixels.

    Args:
        whitened: (rows, columns, bands) with unit noise, missing samples imputed.
        observed: same shape.
        loadings: (bands, rank) spectra.
        threshold: in noise levels, or in levels of the band's own residual where those are larger.
    """
    residual = whitened - (whitened @ loadings) @ loadings.T
    level = np.maximum(1, _spread(residual, observed))
    return _few_bands(observed & (np.abs(residual) > threshold * level))


def explained(whitened: Values, trusted: Flags, loadings: Values, threshold: float = 5.0) -> Flags:
    """Samples that are not trusted but near what the trusted ones of their pixel say of them.

    Args:
        whitened: (rows, columns, bands) with unit noise.
        trusted: same shape.
        loadings: (bands, rank) spectra.
        threshold: in noise levels, or in levels of the band's residual where those are larger.
    """
    residual = whitened - imputed(whitened, trusted, loadings)
    fitted = whitened - (whitened @ loadings) @ loadings.T
    level = np.maximum(1, _spread(fitted, trusted))
    return np.asarray(~trusted & (np.abs(residual) <= threshold * level))


def isolated(whitened: Values, observed: Flags, threshold: float = 6.0) -> Flags:
    """Samples that stand out from their four neighbours by far more than the same pixel does in nearby bands.

    Args:
        whitened: (rows, columns, bands) with unit noise, 0 where missing.
        observed: same shape.
        threshold: in noise levels, or in those of the scene's own texture where it is rougher.
    """
    padded = np.pad(whitened, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    around = np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
    middle = (around.sum(0) - around.max(0) - around.min(0)) / 2
    step = whitened - middle
    bands = whitened.shape[-1]
    nearby = [np.clip(np.arange(bands) + shift, 0, bands - 1) for shift in (-3, -2, -1, 1, 2, 3)]
    alone = step - np.median(np.stack([step[..., index] for index in nearby]), axis=0)
    level = threshold * np.maximum(1, _spread(alone, observed) / SPREAD_OF_NOISE)
    return _few_bands(observed & (np.abs(step) > level) & (np.abs(alone) > level))


def _spread(values: NDArray[np.floating], observed: Flags) -> Values:
    """Robust standard deviation of each band, 0 where it has no sample.

    The greater of what the median and the 90th percentile of the sizes say: they agree for Gaussian noise,
    while the residual of a scene that no few spectra explain has longer tails.
    """
    sizes = np.where(observed, np.abs(values), np.inf)
    order, count = np.sort(sizes.reshape(-1, sizes.shape[-1]), axis=0), observed.sum((0, 1))
    last = np.maximum(count - 1, 0)[None]
    places = np.concatenate([last // 2, last * 9 // 10])
    found = np.take_along_axis(order, places, axis=0) * np.array([[GAUSSIAN], [GAUSSIAN_TAIL]])
    return np.asarray(np.where(count > 0, found.max(0), 0), np.float32)


def _few_bands(flags: Flags) -> Flags:
    """Flags of pixels that are struck in up to a quarter of their bands: what is in more is in the scene."""
    return np.asarray(flags & (flags.sum(-1, keepdims=True) <= max(1, flags.shape[-1] // 4)))
