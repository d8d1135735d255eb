"""Denoisers of eigen-images behind one view: the pretrained prior, and a classical one without a network.

Both take stacks of any number of channels in units of the noise and are used as `core.schedulers.Denoiser`s
on the path whose time is the noise level.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pywt
import torch
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_tv_chambolle, denoise_wavelet
from torch import Tensor
from torch.nn.functional import interpolate, pad

from diffusion_suite.core.inverse import BicubicDownsampling, plug_and_play
from diffusion_suite.core.schedulers import EDM, Denoiser
from diffusion_suite.geo.restoration.eigen_prior import WEAKEST, EigenPrior
from diffusion_suite.geo.restoration.noise import Flags, Values
from diffusion_suite.geo.restoration.symmetries import turned, turned_back

GUIDES = 2
"""Strong channels that go along with each further group of weak ones, so that their edges guide it."""

ENLARGING_STEPS = 12
LAST_LEVEL = 0.3
"""Steps of super-resolution and its last noise level, in noise levels of the measurement."""

UNMEASURED = 1e3
"""Noise levels above this many deviations of the signal belong to pixels that were not measured."""


class Stack(Protocol):
    """A denoiser of eigen-images."""

    def __call__(self, x: Tensor, sigma: Tensor, scale: Tensor) -> Tensor:
        """Clean stack.

        Args:
            x: noisy stack (1, rank, rows, columns).
            sigma: noise level, broadcastable to x; huge where not measured.
            scale: (1, rank) standard deviation of the clean channels.
        """
        ...

    def enlarge(self, measured: Tensor, clean: Tensor, scale: Tensor, factor: int) -> Tensor:
        """Stack `factor` times as large.

        Args:
            measured: small noisy stack, unit noise.
            clean: the same denoised.
            scale: (1, rank).
            factor: 2 or more.
        """
        ...


class PriorStack:
    """The eigen-image prior on stacks of any rank, averaged over turns and mirror images.

    Args:
        prior: the network.
        turns: how many of the 8 symmetries of the square are averaged; the first is none.
        dtype: arithmetic of the network.
    """

    def __init__(self, prior: EigenPrior, turns: int = 1, dtype: torch.dtype = torch.float32) -> None:
        self.prior, self.turns, self.dtype = prior, turns, dtype

    def __call__(self, x: Tensor, sigma: Tensor, scale: Tensor) -> Tensor:
        """Clean stack, see `Stack`."""
        return self._averaged(x, sigma, scale, 1)

    def enlarge(self, measured: Tensor, clean: Tensor, scale: Tensor, factor: int) -> Tensor:
        """Mean of two estimates whose errors differ.

        One is the network's own, trained to estimate the large stack from the adjoint of the small one. The
        other is proximal plug-and-play from the pseudo-inverse of the denoised small stack, in each view, the
        levels falling from the strongest channel's deviation to a third of the noise.
        """
        views = range(self.turns)
        played = [
            turned_back(self._played(turned(measured, k), turned(clean, k), scale, factor), k) for k in views
        ]
        operator = _downsampling(measured, factor)
        levels = torch.ones_like(scale)[:, :, None, None]
        regressed = self._averaged(factor**2 * operator.adjoint(measured), levels, scale, factor)
        return (torch.stack(played).mean(0) + regressed) / 2

    def _played(self, measured: Tensor, clean: Tensor, scale: Tensor, factor: int) -> Tensor:
        operator = _downsampling(measured, factor)
        first = max(float(scale.max()), 2 * LAST_LEVEL)
        levels = np.geomspace(first, LAST_LEVEL, ENLARGING_STEPS).tolist()
        quick = PriorStack(self.prior, 1, self.dtype)
        start = operator.pinv(clean)
        denoiser = Denoiser(quick, EDM(), "x0")
        fitted = plug_and_play(denoiser, operator, measured, 1.0, levels, start, scale=scale)
        return quick(fitted, torch.full_like(scale, LAST_LEVEL)[:, :, None, None], scale)

    def _averaged(self, x: Tensor, sigma: Tensor, scale: Tensor, factor: int) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        sigma = sigma.expand(1, x.shape[1], *_map_shape(sigma, x))
        total = torch.zeros_like(x)
        for turn in range(self.turns):
            output = self._groups(turned(x, turn), turned(sigma, turn), scale, factor)
            total += turned_back(output, turn)
        return total / self.turns

    def _groups(self, x: Tensor, sigma: Tensor, scale: Tensor, factor: int) -> Tensor:
        rank, width = x.shape[1], self.prior.channels
        parts = [self._network(x[:, :width], sigma[:, :width], scale[:, :width], factor)]
        for start in range(width, rank, width - GUIDES):
            stop = min(start + width - GUIDES, rank)
            chosen = [*range(GUIDES), *range(start, stop)]
            parts.append(self._network(x[:, chosen], sigma[:, chosen], scale[:, chosen], factor)[:, GUIDES:])
        return torch.cat(parts, 1)

    def _network(self, x: Tensor, sigma: Tensor, scale: Tensor, factor: int) -> Tensor:
        rank, empty = x.shape[1], self.prior.channels - x.shape[1]
        if empty:
            x = pad(x, (0, 0, 0, 0, 0, empty))
            sigma = pad(sigma, (0, 0, 0, 0, 0, empty), value=1.0)
            scale = pad(scale, (0, empty), value=WEAKEST)
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            clean: Tensor = self.prior(x, sigma, scale, factor)
        return clean[:, :rank].to(x.dtype)


class ClassicalStack:
    """Wavelet shrinkage (BayesShrink, Daubechies 2) of each channel by itself, shifted and averaged.

    Missing pixels, whose noise level is huge, are first filled by the mean of what is near.
    """

    def __init__(self, shifts: int = 2) -> None:
        self.shifts = shifts

    def __call__(self, x: Tensor, sigma: Tensor, scale: Tensor) -> Tensor:
        """Clean stack, see `Stack`."""
        level = (
            torch.as_tensor(sigma, dtype=x.dtype)
            .expand(1, x.shape[1], *_map_shape(sigma, x))
            .cpu()
            .numpy()[0]
        )
        images = x[0].cpu().numpy()
        out = np.empty_like(images)
        for channel, (image, deviation) in enumerate(zip(images, scale[0].tolist(), strict=True)):
            missing = level[channel] > UNMEASURED * deviation
            if deviation <= WEAKEST or missing.all():
                out[channel] = 0
                continue
            filled = _filled(image, ~missing) if missing.any() else image
            out[channel] = self._wavelets(filled, float(np.median(level[channel][~missing])))
        return torch.from_numpy(out)[None].to(x)

    def enlarge(self, measured: Tensor, clean: Tensor, scale: Tensor, factor: int) -> Tensor:
        """The denoised small stack interpolated by cubic convolution."""
        return interpolate(clean, scale_factor=factor, mode="bicubic", align_corners=False)

    def _wavelets(self, image: np.ndarray, sigma: float) -> np.ndarray:
        if min(image.shape) < 8:
            return np.asarray(denoise_tv_chambolle(image, weight=sigma))
        total = np.zeros_like(image)
        depth = max(1, pywt.dwtn_max_level(image.shape, "db2") - 1)
        for row in range(self.shifts):
            for column in range(self.shifts):
                rolled = np.roll(image, (row, column), (0, 1))
                clean = denoise_wavelet(
                    rolled,
                    sigma=sigma,
                    wavelet="db2",
                    method="BayesShrink",
                    mode="soft",
                    wavelet_levels=depth,
                )
                total += np.roll(clean, (-row, -column), (0, 1))
        return total / self.shifts**2


def _downsampling(small: Tensor, factor: int) -> BicubicDownsampling:
    channels, rows, columns = small.shape[1:]
    return BicubicDownsampling(factor, rows * factor, columns * factor, channels).to(small.device)


def _filled(image: Values, known: Flags) -> Values:
    """Missing pixels as the Gaussian mean of the known ones, in ever wider windows until some are near."""
    known = np.broadcast_to(known, image.shape)
    filled, weight = image.copy(), known.astype(np.float32)
    for width in (1.0, 4.0, 16.0, 64.0):
        near = gaussian_filter(known.astype(np.float32), width)
        average = gaussian_filter(np.where(known, image, 0), width) / np.maximum(near, 1e-9)
        empty = (weight == 0) & (near > 1e-3)
        filled, weight = np.where(empty, average, filled), np.where(empty, near, weight)
    return np.asarray(filled, np.float32)


def _map_shape(sigma: Tensor, x: Tensor) -> tuple[int, int]:
    has_map = sigma.ndim == 4 and max(sigma.shape[2:]) > 1
    return (x.shape[2], x.shape[3]) if has_map else (1, 1)
