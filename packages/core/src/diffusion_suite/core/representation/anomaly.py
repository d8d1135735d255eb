"""Anomalies: what a denoiser of normal data denoises badly, or takes away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import Denoiser, Noise, ddim, standard_normal, step_noise


def denoising_map(
    denoiser: Denoiser,
    x0: Tensor,
    times: Sequence[float],
    *,
    noise: Noise,
    draws: int = 1,
    **cond: Any,
) -> Tensor:
    """Squared noise error |eps - eps(x_t, t)|^2 of every value, averaged over times and draws: x0's shape.

    Args:
        denoiser: of normal data.
        x0: data (batch, ...).
        times: at which it is noised, small ones for small anomalies.
        noise: generator(s), or values (times * draws, *x0.shape).
        draws: noises a time.
        cond: conditions for the model.
    """
    total = torch.zeros_like(x0, dtype=torch.promote_types(x0.dtype, torch.float32))
    for place in range(len(times) * draws):
        t, eps = times[place // draws], step_noise(noise, place, x0)
        x_t = denoiser.path.add_noise(x0, eps, t)
        total += (denoiser.eps(x_t, t, **cond) - eps).square()
    return total / (len(times) * draws)


def reconstruction_map(
    denoiser: Denoiser, x0: Tensor, times: Sequence[float], *, noise: Noise, **cond: Any
) -> Tensor:
    """Squared difference of data from what DDIM makes of them noised to the first time: x0's shape.

    Args:
        denoiser: of normal data.
        x0: data (batch, ...).
        times: descending to the clean end; the first tells how much may be taken away.
        noise: generator(s), or values of x0's shape.
        cond: conditions for the model.

    Raises:
        ConfigError: as for `ddim`.
    """
    if len(times) < 2:
        raise ConfigError(f"{len(times)} time(s) make no step", "give N + 1 times for N steps")
    noisy = denoiser.path.add_noise(x0, standard_normal(noise, x0), times[0])
    return (ddim(denoiser, noisy, times, **cond) - x0).square()


def anomaly_score(errors: Tensor, share: float = 1.0, smooth: int = 1) -> Tensor:
    """One number an item: the mean of the largest errors of its map, (batch,).

    Args:
        errors: (batch, ...), as from `denoising_map` or `reconstruction_map`.
        share: of the places that count, the largest; 1 for all, little for small anomalies.
        smooth: side of a square over which maps (batch, channels, height, width) are averaged first, odd.

    Raises:
        ConfigError: a share outside (0, 1], or an even square.
    """
    if not 0.0 < share <= 1.0 or smooth < 1 or smooth % 2 == 0:
        raise ConfigError(f"share {share} and smooth {smooth}", "give 0 < share <= 1 and an odd number")
    if smooth > 1:
        errors = F.avg_pool2d(errors, smooth, 1, smooth // 2, count_include_pad=False)
    places = errors.flatten(2).mean(1) if errors.ndim > 2 else errors
    count = max(1, round(share * places.shape[1]))
    return places.topk(count, dim=1).values.mean(1)
