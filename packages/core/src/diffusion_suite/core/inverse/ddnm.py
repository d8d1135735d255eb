"""Denoising diffusion null-space models: the prediction corrected by the data (Wang et al. 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core.inverse.operators import LinearOperator, SpectralOperator, divide
from diffusion_suite.core.inverse.problem import prepared, spectral
from diffusion_suite.core.schedulers import Callback, Denoiser, Grid, Noise, Step, step_noise
from diffusion_suite.core.schedulers.samplers import levels, state, walk


def ddnm(
    denoiser: Denoiser,
    operator: LinearOperator,
    y: Tensor,
    x: Tensor,
    times: Grid,
    *,
    sigma_y: float,
    noise: Noise,
    eta: float = 0.85,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Restoration by DDNM (noise-free data, any operator) and DDNM+ (noisy data, singular values).

    x0^ = x0 - L A^+ (A x0 - y), then the state at the next level is alpha x0^ plus noise. Noise-free data: L
    is the identity and the noise sigma (eta z + sqrt(1 - eta^2) eps). Noisy data, for a singular value s > 0:

        sigma >= alpha sigma_y / s    L = 1, noise sqrt(sigma^2 - alpha^2 sigma_y^2 / s^2) z
        sigma <  alpha sigma_y / s    L = s sigma sqrt(1 - eta^2) / (alpha sigma_y), noise eta sigma z

    and the noise of the noise-free case where s = 0. Where times rise, as in `schedulers.time_travel(times,
    length, repeats)`, the last prediction is noised again: the method's time travel.

    Args:
        denoiser: of the prior.
        operator: y = A x + sigma_y n.
        y: data, (batch, *operator.data_shape), or (1, ...) for all items.
        x: pure noise at the first time, (batch, *operator.image_shape).
        times: N + 1 times.
        sigma_y: standard deviation of the noise of the data, in their units.
        noise: generator(s), or values (steps, *x.shape) of images.
        eta: share of fresh noise.
        callback: called at every evaluation; x0 is the plain prediction.
        cond: passed on to the denoiser.

    Returns:
        Images (batch, *operator.image_shape).

    Raises:
        InputError: noisy data without singular values, shapes that do not fit the operator, or data that are
            not finite.
        ConfigError: a negative noise level, or bad times.
    """
    x = state(x)
    operator, y = prepared(operator, y, x, sigma_y)
    basis = spectral(operator, "ddnm with noisy data") if sigma_y > 0 else None
    data, kept, x0 = y if basis is None else basis.data_to_spectral(y), (1.0 - eta**2) ** 0.5, x
    for index, t, s, step in walk(denoiser, times, rising=True):
        alpha, sigma = levels(denoiser.path, s)
        fresh = step_noise(noise, index, x)
        if s > t:
            x = alpha * x0 + sigma * fresh
            continue
        x0, eps = step.both(x, t, **cond)
        if callback is not None:
            callback(Step(index, t, x, x0))
        if basis is None:
            clean = x0 - operator.pinv(operator.A(x0) - data)
            x = alpha * clean + sigma * (eta * fresh + kept * eps)
        else:
            x = _noisy(basis, x0, eps, data, fresh, alpha, sigma, sigma_y, eta)
    return x


def _noisy(
    basis: SpectralOperator,
    x0: Tensor,
    eps: Tensor,
    data: Tensor,
    fresh: Tensor,
    alpha: float,
    sigma: float,
    sigma_y: float,
    eta: float,
) -> Tensor:
    """The step of DDNM+ into (alpha, sigma), coefficient by coefficient."""
    singular, kept = basis.spectrum, (1.0 - eta**2) ** 0.5
    measured = basis.measured & (singular > 0)
    better = measured & (singular * sigma >= alpha * sigma_y)
    v, z = basis.to_spectral(x0), basis.to_spectral(fresh)
    weight = torch.where(better, 1.0, singular * (sigma * kept / (alpha * sigma_y)))
    clean = v - torch.where(measured, weight * (v - divide(data, singular)), 0.0)
    level = torch.where(better, alpha * sigma_y / torch.where(better, singular, 1.0), 0.0)
    spread = torch.where(better, (sigma**2 - level**2).clamp(min=0.0).sqrt(), eta * sigma)
    rest = torch.where(measured, 0.0, sigma * kept * basis.to_spectral(eps))
    return basis.from_spectral(alpha * clean + spread * z + rest)
