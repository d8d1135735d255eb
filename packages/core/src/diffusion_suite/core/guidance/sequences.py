"""Self-guidance of unconditional sequence models by what was observed (TSDiff, Kollovieh et al. 2023).

The energies go into `EnergyGuided`: eps <- eps - scale sigma (-grad E) in every sampler. The ancestral form,
x += scale variance (-grad E), is `scale=ancestral_scales(path, times, scale * posterior_variances(path,
times))`. Useful scales are 1 to 8, by data set.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_suite.core.guidance.energy import Energy, energy_gradient
from diffusion_suite.core.guidance.score import gradient
from diffusion_suite.core.schedulers import Denoiser, Noise, step_noise


def squared_error(observation: Tensor, mask: Tensor) -> Energy:
    """E = sum over observed entries of (x0 - y)^2.

    Args:
        observation: y, (...) for all items or (batch, ...); what it holds where unobserved does not matter,
            NaN included.
        mask: 1 or true where observed, same shape or one that broadcasts.

    Returns:
        x0 (batch, ...) -> (batch,).
    """

    def energy(x0: Tensor) -> Tensor:
        missed = torch.where(mask.bool(), x0 - observation, 0.0)
        return missed.square().flatten(1).sum(1)

    return energy


def quantile_levels(samples: int, series: int = 1, device: str | torch.device = "cpu") -> Tensor:
    """Levels (i + 1)/(S + 1) of S parallel samples, so that one batch yields quantiles.

    Args:
        samples: S, number of samples of each series.
        series: number of series; a series' samples are adjacent in the batch.
        device: of the data.

    Returns:
        (series * samples,) in float64.
    """
    ranks = torch.arange(1, samples + 1, dtype=torch.float64, device=device)
    return (ranks / (samples + 1)).repeat(series)


def pinball(observation: Tensor, mask: Tensor, levels: Tensor) -> Energy:
    """E = sum over observed entries of max(k (y - x0), (k - 1)(y - x0)), the quantile loss at level k.

    Args:
        observation: y, as for `squared_error`.
        mask: 1 or true where observed.
        levels: k of each item, (batch,), as from `quantile_levels`, on the device of the data.

    Returns:
        x0 (batch, ...) -> (batch,).
    """

    def energy(x0: Tensor) -> Tensor:
        level = levels.to(x0.dtype).reshape(-1, *(1,) * (x0.ndim - 1))
        missed = torch.where(mask.bool(), observation - x0, 0.0)
        return torch.maximum(level * missed, (level - 1.0) * missed).flatten(1).sum(1)

    return energy


def refine(
    denoiser: Denoiser,
    forecast: Tensor,
    energy: Energy,
    t: float,
    *,
    noise: Noise,
    iterations: int = 20,
    step: float = 0.1,
    temperature: float = 0.1,
) -> Tensor:
    """Bring a forecast of any other model nearer to what the denoiser holds likely, by Langevin steps.

    y <- y - step grad [|eps - eps_hat(alpha y + sigma eps, t)|^2 + E(y)] + sqrt(2 step temperature) z, with
    fresh eps and z at every iteration.

    Args:
        denoiser: of whole sequences, unconditional.
        forecast: start, (batch, ...), in the units of the data.
        energy: keeps y near the forecast, such as `squared_error(forecast, mask)`.
        t: the one time at which the denoiser is asked; TSDiff takes step 20 of 100.
        noise: generator(s), or values (2 * iterations, *forecast.shape), eps and z in turn.
        iterations: number of steps.
        step: their length.
        temperature: 0 descends without noise.

    Returns:
        The refined sequences, at least in float32.
    """
    y = forecast.detach().to(torch.promote_types(forecast.dtype, torch.float32))
    for index in range(iterations):
        eps = step_noise(noise, 2 * index, y)
        with torch.inference_mode(False), torch.enable_grad():
            at = y.clone().requires_grad_()
            predicted = denoiser.eps(denoiser.path.add_noise(at, eps.clone(), t), t)
            slope = gradient((predicted - eps.clone()).square().flatten(1).sum(1), at)
            slope = slope + energy_gradient(energy, y.clone())
        y = y - step * slope + (2.0 * step * temperature) ** 0.5 * step_noise(noise, 2 * index + 1, y)
    return y
