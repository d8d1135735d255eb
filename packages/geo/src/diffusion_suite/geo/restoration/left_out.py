"""A measurement split into folds: eigen-images from the samples kept, and the samples left out as targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from diffusion_suite.core.inverse import BicubicDownsampling
from diffusion_suite.core.seeding import generator, numpy_generator
from diffusion_suite.geo.restoration.eigen_denoising import Stack
from diffusion_suite.geo.restoration.eigen_solver import EXCHANGES, solve
from diffusion_suite.geo.restoration.measurement import Subspace, SubspaceEstimator, Whitened
from diffusion_suite.geo.restoration.noise import Flags
from diffusion_suite.geo.restoration.symmetries import turned

BORDER = 2
"""Measured pixels along the cut of a crop that the downsampling takes from beyond it."""


@dataclass(frozen=True)
class Fold:
    """Part of the samples, left out of what a network sees and given to it as its target.

    Attributes:
        pseudo: (1, rank, rows, columns) eigen-images from the kept samples, `clean + sigma n`.
        sigma: same shape, their noise level.
        target: (1, bands, rows, columns) all samples, in units of the noise.
        left_out: same shape, flags of the samples left out.
    """

    pseudo: Tensor
    sigma: Tensor
    target: Tensor
    left_out: Tensor

    def cut(self, side: int, draw: tuple[int, int, int], factor: int) -> Fold:
        """A crop of at most `side` pixels of the restored image, turned or mirrored.

        Args:
            side: its largest side after enlargement.
            draw: three random numbers.
            factor: enlargement; the samples left out along a cut edge are dropped.
        """
        rows, columns = self.pseudo.shape[-2:]
        height, width = (min(size, max(side // factor, 4 * BORDER)) for size in (rows, columns))
        top, left = draw[0] % (rows - height + 1), draw[1] % (columns - width + 1)
        views = [x[..., top : top + height, left : left + width] for x in vars(self).values()]
        if factor > 1:
            inside = torch.zeros_like(views[3])
            first, last = BORDER * (top > 0), height - BORDER * (top + height < rows)
            start, stop = BORDER * (left > 0), width - BORDER * (left + width < columns)
            inside[..., first:last, start:stop] = True
            views[3] = views[3] & inside
        return Fold(*(turned(x, draw[2] % 8) for x in views))

    def enlarged(self, factor: int) -> tuple[Tensor, Tensor]:
        """Eigen-images and noise level on the grid of the restored image."""
        if factor == 1:
            return self.pseudo, self.sigma
        return interpolate(self.pseudo, scale_factor=factor, mode="bicubic"), interpolate(
            self.sigma, scale_factor=factor
        )

    def error(self, values: Tensor, factor: int) -> Tensor:
        """Mean squared error of restored values (1, bands, rows, columns) on the samples left out."""
        if factor > 1:
            bands, rows, columns = values.shape[1:]
            values = BicubicDownsampling(factor, rows, columns, bands).to(values.device).A(values)
        error = torch.where(self.left_out, values - self.target, 0.0)
        return error.square().sum() / self.left_out.sum().clamp_min(1)


def split(
    data: Whitened,
    subspace: Subspace,
    stack: Stack | None,
    folds: int,
    key: tuple[int, ...],
    device: torch.device,
) -> list[Fold]:
    """The folds of a measurement; each observed sample is left out of one of them.

    Args:
        data: without the samples that judge the fit.
        subspace: of the eigen-images.
        stack: denoiser that the eigen-images are solved for with, where the kept samples of a pixel do not
            tell them; None if they do.
        folds: how many.
        key: of the random split.
        device: of the tensors.
    """
    draws = numpy_generator(*key, "folds").integers(folds, size=data.observed.shape, dtype="uint8")
    target = _image(data.values).to(device)
    made = []
    for fold in range(folds):
        left_out: Flags = (draws == fold) & data.observed
        pseudo, sigma = _pseudo_measurement(data.hide(left_out), subspace, stack, key, device)
        made.append(Fold(pseudo, sigma, target, _image(left_out).to(device)))
    return made


def _pseudo_measurement(
    kept: Whitened, subspace: Subspace, stack: Stack | None, key: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    if stack is not None:
        found = solve(kept, subspace, stack, EXCHANGES, 0, generator(*key, "probes"), device)
        return found.pseudo, found.sigma.expand_as(found.pseudo).contiguous()
    variance = torch.from_numpy(subspace.deviation).to(device)[None, :, None, None] ** 2
    estimator = SubspaceEstimator(kept, subspace, device)
    estimate, spread = estimator(torch.zeros(estimator.shape, device=device), 1 / variance)
    gain = (1 - spread / variance).clamp_min(1e-6)
    return estimate / gain, (spread / gain).sqrt()


def _image(samples: object) -> Tensor:
    return torch.as_tensor(samples).permute(2, 0, 1)[None].contiguous()
