"""Training of the eigen-image prior."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_suite.core.inverse import BicubicDownsampling
from diffusion_suite.core.training import SuiteModule
from diffusion_suite.geo.restoration.data import MISSING
from diffusion_suite.geo.restoration.eigen_prior import EigenPrior

FACTORS = (2, 3, 4, 6, 8)
"""Super-resolution factors met in training."""


class EigenPriorModule(SuiteModule):
    """Regression of clean eigen-images: three batches in four noisy ones, one in four noisy and downsampled.

    The squared error is weighted by 1/sigma^2 + 0.05/scale^2 (noise, a pixel) or 1/(sigma^2 + 0.1 scale^2)
    (downsampling), so that a channel counts alike at any energy and missing pixels count a little.
    """

    def __init__(
        self, channels: int = 8, widths: Sequence[int] = (32, 64, 128), blocks: Sequence[int] = (1, 2, 3)
    ) -> None:
        super().__init__()
        self.model = EigenPrior(channels, widths, blocks).to(memory_format=torch.channels_last)

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The loss of a batch, of a kind drawn at random."""
        kind = int(torch.randint(4 * len(FACTORS), (), generator=generator, device=generator.device))
        if kind < len(FACTORS):
            return {"loss": self._super_resolution_loss(batch, FACTORS[kind], generator)}
        return {"loss": self._denoising_loss(batch, generator)}

    def validation_loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Both losses of the batch, super-resolution by 4."""
        denoising = self._denoising_loss(batch, generator)
        enlarging = self._super_resolution_loss(batch, 4, generator)
        return {
            "loss": 0.75 * denoising + 0.25 * enlarging,
            "denoising": denoising,
            "super_resolution": enlarging,
        }

    def _denoising_loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        clean, scale, used, level = batch["clean"], batch["scale"], batch["used"], batch["level"]
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        noisy = torch.where(level < MISSING, clean + level * noise * used[:, :, None, None], 0.0)
        estimate = self.model(noisy, level.expand_as(clean), scale)
        weight = level**-2 + 0.05 / scale[:, :, None, None] ** 2
        return _mean_over_used((estimate - clean).square() * weight, used)

    def _super_resolution_loss(
        self, batch: dict[str, Tensor], factor: int, generator: torch.Generator
    ) -> Tensor:
        clean, scale, used = batch["clean"], batch["scale"], batch["used"]
        height, width = (side // factor * factor for side in clean.shape[-2:])
        clean = clean[..., :height, :width]
        operator = BicubicDownsampling(factor, height, width, clean.shape[1]).to(clean.device, clean.dtype)
        small = operator.A(clean)
        noise = torch.randn(small.shape, generator=generator, device=clean.device)
        small = small + noise * used[:, :, None, None]
        estimate = self.model(factor**2 * operator.adjoint(small), torch.ones_like(scale), scale, factor)
        weight = 1 / (1 + 0.1 * scale[:, :, None, None] ** 2)
        return _mean_over_used((estimate - clean).square() * weight, used)


def _mean_over_used(error: Tensor, used: Tensor) -> Tensor:
    return (error.mean((2, 3)) * used).sum() / used.sum()
