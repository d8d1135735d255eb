"""Guidance that acts only where the noise is neither too strong nor too weak."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.guidance.base import Guidance, alike
from diffusion_suite.core.schedulers import Denoiser, Path, Time


class Interval(Guidance):
    """Guidance limited to an interval of noise levels (Kynkaanniemi et al. 2024).

    The level is sigma/alpha = 1/sqrt(SNR), the sigma of EDM, on every path. A sampler decides once a step, by
    the level at its start, so both evaluations of a Heun step are guided alike. Outside the interval the
    plain denoiser alone is evaluated. Evaluated apart from a sampler, each item's own time decides.

    Args:
        guided: used where low <= sigma/alpha <= high.
        plain: used elsewhere, as a rule the conditional network that `guided` is made of.
        low: lower end; 0.283 with `high` 1.609 and scale 2 was best for EDM2-XXL on ImageNet-512.
        high: upper end.
    """

    def __init__(self, guided: Denoiser, plain: Denoiser, low: float, high: float) -> None:
        super().__init__(guided)
        self.plain = alike(plain, guided)
        self.low = low
        self.high = high

    @override
    def at_step(self, t: float, index: int, count: int) -> Denoiser:
        # Both are told of every step: a momentum must start anew even if its first step is outside.
        guided, plain = self.denoiser.at_step(t, index, count), self.plain.at_step(t, index, count)
        return guided if bool(self._inside(t)) else plain

    @override
    def predict(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        inside = self._inside(t)
        if not isinstance(t, Tensor):
            return (self.denoiser if bool(inside) else self.plain).predict(x_t, t, **cond)
        inside = inside.to(x_t.device).reshape(inside.shape + (1,) * (x_t.ndim - inside.ndim))
        guided, plain = self.denoiser.predict(x_t, t, **cond), self.plain.predict(x_t, t, **cond)
        return torch.where(inside, guided, plain)

    def _inside(self, t: Time) -> Tensor:
        level = noise_level(self.path, t)
        return (level >= self.low) & (level <= self.high)


def noise_level(path: Path, t: Time) -> Tensor:
    """sigma/alpha in float64: the noise level in the units of EDM; infinite where there is no data."""
    return path.sigma(t) / path.alpha(t)
