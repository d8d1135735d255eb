"""How hard each noise level is, learned beside the network (EDM2, Karras et al. 2024)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from typing_extensions import override

from diffusion_suite.core import seeding
from diffusion_suite.core.schedulers.paths import Path, Time
from diffusion_suite.core.schedulers.preconditioning import c_noise


class FourierFeatures(nn.Module):
    """Random waves sqrt(2) cos(2 pi (f x + p)) of a number, with unit variance.

    Args:
        channels: number of waves.
        bandwidth: standard deviation of the frequencies f.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, channels: int = 128, bandwidth: float = 1.0) -> None:
        super().__init__()
        draw = seeding.generator("fourier features", channels)
        self.register_buffer("frequencies", bandwidth * torch.randn(channels, generator=draw))
        self.register_buffer("phases", torch.rand(channels, generator=draw))

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Features (..., channels) of numbers (...)."""
        turns = x.to(self.frequencies)[..., None] * self.frequencies + self.phases
        return math.sqrt(2.0) * torch.cos(2.0 * math.pi * turns)


class UncertaintyWeight(nn.Module):
    """Balances noise levels by a learned u(t): e^-u error + u, least where u = ln(expected error).

    u is linear in `FourierFeatures` of c_noise and starts at 0. It is trained with the network and
    dropped afterwards:

        errors = denoising_errors(denoiser, x0, t, generator, EDMWeight())
        loss = uncertainty(errors, t, denoiser.path).mean()

    Args:
        channels: number of Fourier features.
    """

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.features = FourierFeatures(channels)
        self.head = nn.Linear(channels, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def log_error(self, t: Time, path: Path) -> Tensor:
        """u, the expected logarithm of the weighted error, in the shape of t."""
        features = self.features(c_noise(t, path)) / math.sqrt(self.features.frequencies.numel())
        u: Tensor = self.head(features)
        return u.squeeze(-1)

    @override
    def forward(self, errors: Tensor, t: Time, path: Path) -> Tensor:
        """Balanced losses (batch,) of weighted errors (batch,) at times (batch,)."""
        u = self.log_error(t, path)
        return errors * torch.exp(-u) + u
