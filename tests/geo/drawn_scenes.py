"""Small clean cubes for tests: drawn scenes with smooth spectra, in units of reflectance."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.geo.restoration.scenes import eigen_scene


def clean_cube(
    rows: int = 48, columns: int = 40, bands: int = 20, rank: int = 4, seed: int = 0
) -> np.ndarray:
    """(rows, columns, bands) float32 about in [0, 1], of exactly `rank` spectra and a mean."""
    rng = numpy_generator(seed, "clean cube")
    images, deviations = eigen_scene(rng, max(rows, columns), rank)
    spectra = gaussian_filter1d(rng.standard_normal((rank, bands + 12)), 3, axis=1)[:, 6:-6]
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
    scene = np.moveaxis(images * deviations[:, None, None], 0, -1)[:rows, :columns] @ spectra
    return (0.5 + 0.15 * scene / scene.std()).astype(np.float32)


def noisy(clean: np.ndarray, sigma: float | np.ndarray, seed: int = 0) -> np.ndarray:
    """The cube with Gaussian noise of one level, or of one a band."""
    rng = numpy_generator(seed, "noise")
    return (clean + sigma * rng.standard_normal(clean.shape)).astype(np.float32)


def rmse(found: np.ndarray, clean: np.ndarray) -> float:
    """Root of the mean squared error over what is finite in both."""
    return float(np.sqrt(np.nanmean((found - clean) ** 2)))
