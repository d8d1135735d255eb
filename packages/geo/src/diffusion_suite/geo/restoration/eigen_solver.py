"""Restoration in the spectral subspace.

Eigen-images from a masked, noisy or downsampled cube and a denoiser of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from diffusion_suite.core.inverse import vamp
from diffusion_suite.core.schedulers import EDM, Denoiser
from diffusion_suite.geo.restoration.eigen_denoising import UNMEASURED, Stack
from diffusion_suite.geo.restoration.measurement import (
    Subspace,
    SubspaceEstimator,
    Whitened,
    refit_subspace,
    signal_subspace,
)
from diffusion_suite.geo.restoration.noise import Values

EXCHANGES = 4
"""Exchanges of message passing after which the estimates stand still."""


@dataclass(frozen=True)
class EigenImages:
    """Restored eigen-images with all that is needed to judge and to use them, in units of the noise.

    Attributes:
        data: the measurement, with means and noise levels as refined on the way.
        subspace: the spectra.
        scores: (1, rank, rows, columns) restored eigen-images.
        variance: same shape, posterior variance.
        pseudo, sigma: the pseudo-measurement `scores + sigma n` that the last denoising started from.
    """

    data: Whitened
    subspace: Subspace
    scores: Tensor
    variance: Tensor
    pseudo: Tensor
    sigma: Tensor

    def fitted(self) -> Values:
        """(rows, columns, bands) in units of the noise."""
        return _to_bands(self.scores, self.subspace.loadings)

    def values(self) -> Values:
        """(rows, columns, bands) in the cube's own unit."""
        return self.data.back(self.fitted())

    def deviation(self) -> Values:
        """(rows, columns, bands) posterior standard deviation in the cube's own unit, not yet calibrated."""
        variance = _to_bands(self.variance, self.subspace.loadings**2)
        return np.asarray(np.sqrt(np.maximum(variance, 0)) * self.data.noise, np.float32)

    def residual(self) -> Values:
        """Observed minus restored in units of the noise, 0 where missing."""
        return np.where(self.data.observed, self.data.values - self.fitted(), 0)


def solve(
    data: Whitened,
    subspace: Subspace,
    stack: Stack,
    steps: int,
    rounds: int,
    generator: torch.Generator,
    device: torch.device,
    refine_noise: bool = False,
) -> EigenImages:
    """Posterior mean of the eigen-images by vector approximate message passing.

    With every pixel observed in all bands or in none one exchange is exact (and one more a round if the noise
    levels are refined). Otherwise `rounds` of `steps`
    exchanges alternate with a refit of the spectra, and of the noise levels if `refine_noise`.
    """
    if data.complete:
        found = _exchange(data, subspace, stack, 1, generator, device)
        for _ in range(rounds if refine_noise else 0):
            data = data.rescale(_noise_correction(found))
            subspace = signal_subspace(data, subspace.rank)
            found = _exchange(data, subspace, stack, 1, generator, device)
        return found
    for _ in range(rounds):
        found = _exchange(data, subspace, stack, steps, generator, device)
        if refine_noise:
            data = data.rescale(_noise_correction(found))
        subspace, shift, _ = refit_subspace(data, found.scores.cpu(), found.variance.cpu())
        data = replace(data.shift(shift), mean=data.mean + shift * data.noise)
    return _exchange(data, subspace, stack, steps, generator, device)


def enlarge(small: EigenImages, stack: Stack, factor: int) -> EigenImages:
    """Eigen-images `factor` times as large.

    Small ones that lack pixels enter with their restored values there. The variance is that of the small
    ones, enlarged, and the energy of the detail that was added to them.
    """
    scale = torch.from_numpy(small.subspace.deviation)[None].to(small.scores)
    filled = torch.where(small.sigma < UNMEASURED * scale[:, :, None, None], small.pseudo, small.scores)
    scores = stack.enlarge(filled, small.scores, scale, factor)
    variance = interpolate(small.variance, scale_factor=factor, mode="bilinear")
    variance = variance + unseen_detail(scores, factor)
    return replace(small, scores=scores, variance=variance)


def unseen_detail(images: Tensor, factor: int) -> Tensor:
    """Energy of the detail that a downsampling by `factor` took away, 0 for a factor of 1.

    Natural images have about the same energy in each octave of frequency: that of the last octave which was
    measured, around a pixel, stands for each of the log2(factor) octaves above it.
    """
    if factor == 1:
        return torch.zeros_like(images)
    low = avg_pool2d(images, factor)
    halved = avg_pool2d(low, 2, ceil_mode=True, count_include_pad=False)
    octave = low - interpolate(halved, size=low.shape[-2:], mode="bilinear")
    return math.log2(factor) * interpolate(blurred(octave.square(), 3), scale_factor=factor, mode="bilinear")


def with_scores(found: EigenImages, stack: Stack) -> EigenImages:
    """The same pseudo-measurement denoised by another stack."""
    scale = torch.from_numpy(found.subspace.deviation)[None].to(found.pseudo)
    return replace(found, scores=stack(found.pseudo, found.sigma, scale))


def blurred(x: Tensor, side: int) -> Tensor:
    """Mean over a window of `side` (odd) pixels, borders replicated."""
    half = side // 2
    return avg_pool2d(pad(x, (half, half, half, half), mode="replicate"), side, stride=1)


def _exchange(
    data: Whitened,
    subspace: Subspace,
    stack: Stack,
    steps: int,
    generator: torch.Generator,
    device: torch.device,
) -> EigenImages:
    estimator = SubspaceEstimator(data, subspace, device)
    scale = torch.from_numpy(subspace.deviation)[None].to(device)
    result = vamp(
        Denoiser(stack, EDM(), "x0"),
        estimator,
        scale[:, :, None, None] ** 2,
        estimator.shape,
        steps,
        generator,
        smooth=lambda local: blurred(blurred(local, 7), 7),
        scale=scale,
    )
    return EigenImages(data, subspace, result.x0, result.variance, result.pseudo, result.sigma)


def _noise_correction(found: EigenImages) -> Values:
    """Factor (bands,) on the noise levels.

    For a posterior mean, E residual^2 = noise^2 - posterior variance.
    """
    explained = _to_bands(found.variance, found.subspace.loadings**2)
    energy = np.where(found.data.observed, found.residual() ** 2 + explained, 0).sum((0, 1))
    count = np.maximum(found.data.observed.sum((0, 1)), 1)
    return np.asarray(np.clip(np.sqrt(energy / count), 0.2, 5), np.float32)


def _to_bands(images: Tensor, loadings: Values) -> Values:
    rows, columns = images.shape[-2:]
    pixels = images[0].flatten(1).T.cpu().numpy()
    return np.asarray((pixels @ loadings.T).reshape(rows, columns, -1), np.float32)
