"""A measured cube in units of its noise, its spectral subspace, and the estimators that join the two."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from diffusion_suite.geo.restoration.eigen_prior import WEAKEST
from diffusion_suite.geo.restoration.noise import (
    Flags,
    Values,
    dead_lines,
    explained,
    impulses,
    imputed,
    isolated,
    stripe_offsets,
)

DENSE = 0.7
"""Share of observed samples from which a cube counts as noisy rather than as full of holes."""

SMALLEST_NOISE = 1e-3
"""Noise level, as a share of a band's standard deviation, below which it is not trusted."""


@dataclass(frozen=True)
class Whitened:
    """A cube with zero mean and unit noise: y' = (y - mean) / noise, 0 where missing.

    Attributes:
        values: (rows, columns, bands).
        observed: same shape.
        mean, noise: (bands,) in the cube's own unit.
    """

    values: Values
    observed: Flags
    mean: Values
    noise: Values

    @classmethod
    def of(cls, cube: Values, observed: Flags, mean: NDArray[np.floating], noise: Values) -> Whitened:
        """A cube in units of its noise; samples that are not observed may hold anything."""
        values = np.where(observed, (cube - mean) / noise, 0).astype(np.float32)
        return cls(values, observed, mean.astype(np.float32), noise.astype(np.float32))

    @property
    def complete(self) -> bool:
        """Whether each pixel is observed in all bands or in none, so that the bands need no joint solving."""
        return bool((self.observed.all(-1) | ~self.observed.any(-1)).all())

    def hide(self, flags: Flags) -> Whitened:
        """The same with some more samples missing."""
        return replace(self, values=np.where(flags, 0, self.values), observed=self.observed & ~flags)

    def shift(self, offset: Values) -> Whitened:
        """The same with an offset (broadcastable, in units of the noise) taken off the observed samples."""
        return replace(self, values=np.where(self.observed, self.values - offset, 0).astype(np.float32))

    def rescale(self, factor: Values) -> Whitened:
        """The same with the noise of each band `factor` times as large."""
        return replace(self, values=self.values / factor, noise=self.noise * factor)

    def middle(self, side: int) -> Whitened:
        """The central crop of at most `side` pixels a side."""
        rows, columns = self.values.shape[:2]
        top, left = max(0, (rows - side) // 2), max(0, (columns - side) // 2)
        window = (slice(top, top + side), slice(left, left + side))
        return replace(self, values=self.values[window], observed=self.observed[window])

    def like(self, original: Whitened) -> Whitened:
        """The samples of another state of the same measurement in the units of this one."""
        cube = original.back(original.values)
        return Whitened.of(cube, original.observed, self.mean, self.noise)

    def back(self, values: Values) -> Values:
        """Values in units of the noise, taken back to the cube's own unit."""
        return np.asarray(values * self.noise + self.mean, np.float32)


@dataclass(frozen=True)
class Subspace:
    """Orthonormal spectra and the signal's deviation along each, in units of the noise.

    Attributes:
        loadings: (bands, rank).
        deviation: (rank,), falling.
    """

    loadings: Values
    deviation: Values

    @property
    def rank(self) -> int:
        """Number of spectra."""
        return int(self.loadings.shape[1])


def signal_subspace(data: Whitened, rank: int | None, smallest: int = 8, largest: int = 24) -> Subspace:
    """Principal subspace of the signal: eigenvectors of the covariance, the energies freed of the noise.

    The rank is the number of eigenvalues above the noise edge (1 + sqrt(bands / pixels))^2 of Marchenko and
    Pastur, at least `smallest` and at most `largest`. Missing samples are first filled by a normalised
    Gaussian of 1.5 pixels; where most are missing, all samples are, as its averaging leaves little noise, and
    the rank is `smallest`.
    """
    bands = data.values.shape[-1]
    dense = data.observed.mean() >= DENSE
    if data.complete:
        pixels = data.values[data.observed[..., 0]]
    else:
        filled = smooth_fill(data)
        pixels = (np.where(data.observed, data.values, filled) if dense else filled).reshape(-1, bands)
    pixels = pixels - pixels.mean(0)
    energy, vectors = np.linalg.eigh(pixels.T.astype(np.float64) @ pixels / len(pixels))
    energy, vectors = energy[::-1], vectors[:, ::-1]
    if dense:
        energy = _spike_energy(energy, bands / len(pixels))
        smallest = max(smallest, min(int((energy > 0).sum()), largest))
    kept = min(rank or smallest, bands)
    deviation = np.sqrt(np.maximum(energy[:kept], WEAKEST**2))
    return Subspace(vectors[:, :kept].astype(np.float32), deviation.astype(np.float32))


def _spike_energy(eigenvalues: NDArray[np.float64], ratio: float) -> NDArray[np.float64]:
    """Signal energies under sample eigenvalues of signal plus unit noise, 0 where noise alone explains them.

    Inverts lambda = (1 + e)(1 + ratio / e), the limit of the spiked covariance model (Baik and Silverstein
    2006).
    """
    centred = eigenvalues - 1 - ratio
    root = np.sqrt(np.maximum(centred**2 - 4 * ratio, 0))
    return np.where(centred > 2 * np.sqrt(ratio), (centred + root) / 2, 0.0)


def smooth_fill(data: Whitened, radius: float = 1.5) -> Values:
    """Each band averaged over its observed neighbours with Gaussian weights; wider where none is near."""
    filled = np.zeros_like(data.values)
    weight = np.zeros_like(data.values)
    for width in (radius, 4 * radius, 16 * radius):
        total = gaussian_filter(data.observed.astype(np.float32), (width, width, 0))
        average = gaussian_filter(data.values, (width, width, 0)) / np.maximum(total, 1e-6)
        filled = np.where(weight > 0.02, filled, average)
        weight = np.where(weight > 0.02, weight, total)
        if weight.min() > 0.02:
            break
    return filled


def clean_measurement(data: Whitened, rank: int | None) -> tuple[Whitened, dict[str, float]]:
    """Take out what is no Gaussian noise: dead lines and impulses become missing, stripes are subtracted.

    Returns:
        The measurement, and what was found: shares of dead and impulse samples, of striped columns and rows.
    """
    dead = dead_lines(data.values, data.observed)
    data = data.hide(dead)
    found = {"dead": float(dead.mean()), "impulses": 0.0, "striped_columns": 0.0, "striped_rows": 0.0}
    if data.values.shape[-1] < 4 or min(data.values.shape[:2]) < 16 or data.observed.mean() < 0.6:
        return data, found
    bands = data.values.shape[-1]
    limits = {"smallest": min(8, bands // 3), "largest": bands // 2}
    alone = isolated(data.values, data.observed)
    if alone.any():
        subspace = signal_subspace(data.hide(alone), rank, **limits)
        alone &= ~explained(data.values, data.observed & ~alone, subspace.loadings)
        data, found["impulses"] = data.hide(alone), float(alone.mean())
    for _ in range(3):
        subspace = signal_subspace(data, rank, **limits)
        spectra = subspace.loadings
        values = imputed(data.values, data.observed, spectra)
        columns = stripe_offsets(values, data.observed)
        rows = stripe_offsets(values.swapaxes(0, 1), data.observed.swapaxes(0, 1))
        outliers = impulses(values, data.observed, spectra)
        found["striped_columns"] = max(found["striped_columns"], float((columns != 0).any(-1).mean()))
        found["striped_rows"] = max(found["striped_rows"], float((rows != 0).any(-1).mean()))
        found["impulses"] += float(outliers.mean())
        if not (columns.any() or rows.any() or outliers.any()):
            break
        data = data.shift(columns[None] + rows[:, None]).hide(outliers)
    return data, found


def weighed(restored: Values, deviation: Values, data: Whitened) -> tuple[Values, Values]:
    """Restored and measured samples weighed by their errors, all in units of the noise.

    Where a band's residual is larger than its noise the difference is the restoration's own error e (spectra
    that the subspace lacks): E residual^2 = 1 + e^2. Of two independent estimates with errors e and 1 the
    best mean has the weights 1 / (1 + e^2) and e^2 / (1 + e^2). So hardly any noise leaves as good as all.

    Returns:
        The samples and their standard deviation, both changed where something was observed.
    """
    residual = np.where(data.observed, data.values - restored, 0)
    count = np.maximum(data.observed.sum((0, 1)), 1)
    excess = (residual**2).sum((0, 1)) / count - 1
    error = np.maximum(excess - 3 * np.sqrt(2 / count), 0)
    share = np.where(data.observed, error / (1 + error), 0)
    spread = np.sqrt((1 - share) ** 2 * np.maximum(deviation**2, error) + share**2)
    mean = restored + share * residual
    return mean.astype(np.float32), np.where(share > 0, spread, deviation).astype(np.float32)


class SubspaceEstimator:
    """Pixel by pixel linear estimate of the coefficients z of y = mask (loadings z) + n, n ~ N(0, I).

    The `LinearEstimator` of `core.inverse.vamp` for masks that may differ from band to band.
    """

    def __init__(self, data: Whitened, subspace: Subspace, device: torch.device) -> None:
        rows, columns, bands = data.values.shape
        self.shape = (1, subspace.rank, rows, columns)
        self.loadings = torch.from_numpy(subspace.loadings).to(device)
        values = torch.from_numpy(data.values).to(device).reshape(-1, bands)
        self.projection = values @ self.loadings
        self.measured = torch.from_numpy(data.observed.any(-1)).to(device)[None, None]
        self.information: Tensor | None = None
        if not data.complete:
            mask = torch.from_numpy(data.observed).to(device).reshape(-1, bands).float()
            outer = (self.loadings[:, :, None] * self.loadings[:, None, :]).reshape(bands, -1)
            self.information = (mask @ outer).reshape(-1, subspace.rank, subspace.rank)

    def __call__(self, mean: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and variances, see `LinearEstimator`."""
        weight = precision.reshape(-1)
        target = self.projection + weight * self._pixels(mean)
        if self.information is None:
            total = self.measured.reshape(-1, 1) + weight
            return self._image(target / total), self._image(1 / total)
        covariance = torch.linalg.inv(self.information + torch.diag(weight))
        estimate = (covariance @ target[..., None])[..., 0]
        return self._image(estimate), self._image(covariance.diagonal(dim1=1, dim2=2))

    def _pixels(self, image: Tensor) -> Tensor:
        return image[0].flatten(1).T

    def _image(self, pixels: Tensor) -> Tensor:
        return pixels.T.reshape(self.shape)


def refit_subspace(data: Whitened, scores: Tensor, variance: Tensor) -> tuple[Subspace, Values, Tensor]:
    """Spectra and means that explain the observed samples best, given the eigen-images.

    It is one step of alternating least squares.

    Args:
        data: the measurement.
        scores: (1, rank, rows, columns) estimated eigen-images.
        variance: same shape, their posterior variance.

    Returns:
        The new subspace, the change of the band means (bands,) in units of the noise, and the scores turned
        into the new subspace, with zero mean.
    """
    rank, bands = scores.shape[1], data.values.shape[-1]
    pixels = scores[0].flatten(1).T.double()
    pixels = pixels - pixels.mean(0)
    design = torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1)
    mask = torch.from_numpy(data.observed).reshape(-1, bands).double()
    values = torch.from_numpy(data.values).reshape(-1, bands).double()
    outer = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    normal = (mask.T @ outer).reshape(bands, rank + 1, rank + 1)
    spread = mask.T @ variance[0].flatten(1).T.double()
    normal[:, :rank, :rank] += torch.diag_embed(spread) + torch.eye(rank)
    normal[:, rank, rank] += mask.sum(0) == 0
    solution = torch.linalg.solve(normal, (values.T @ design)[..., None])[..., 0]
    loadings, shift = solution[:, :rank], solution[:, rank]
    moments = torch.cov(pixels.T).reshape(rank, rank) + torch.diag(variance.mean((0, 2, 3)).double())
    root = torch.linalg.cholesky(moments + 1e-9 * torch.eye(rank) * moments.diagonal().mean())
    spectra, deviation, _ = torch.linalg.svd(loadings @ root, full_matrices=False)
    turn = spectra.T @ loadings
    turned = torch.einsum("ij,jp->ip", turn, pixels.T).reshape(scores.shape).float()
    subspace = Subspace(
        spectra.numpy().astype(np.float32), deviation.clamp_min(WEAKEST).numpy().astype(np.float32)
    )
    return subspace, shift.numpy().astype(np.float32), turned
