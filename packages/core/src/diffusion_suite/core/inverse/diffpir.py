"""Plug-and-play restoration along a diffusion: denoise, fit the data, noise again (Zhu et al. 2023)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.inverse.operators import LinearOperator
from diffusion_suite.core.inverse.problem import prepared
from diffusion_suite.core.schedulers import Callback, Denoiser, Grid, Noise, Step, step_noise
from diffusion_suite.core.schedulers.samplers import levels, state, walk


def diffpir(
    denoiser: Denoiser,
    operator: LinearOperator,
    y: Tensor,
    x: Tensor,
    times: Grid,
    *,
    sigma_y: float,
    noise: Noise,
    weight: float = 1.0,
    eta: float = 0.3,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Restoration by proximal steps; needs neither gradients of the network nor singular values.

    x0^ = argmin |A z - y|^2 + rho |z - x0|^2 with rho = weight (sigma_y alpha / sigma)^2, the noise that it
    implies, eps^ = (x_t - alpha x0^)/sigma, and x = alpha' x0^ + sigma' (sqrt(1 - eta) eps^ + sqrt(eta) z).
    Noise-free data: the point closest to x0 that fits them. See `plug_and_play` for the same without noise.

    Args:
        denoiser: of the prior.
        operator: y = A x + sigma_y n; any linear operator.
        y: data, (batch, *operator.data_shape), or (1, ...) for all items.
        x: pure noise at the first time, (batch, *operator.image_shape).
        times: N + 1 descending times.
        sigma_y: standard deviation of the noise of the data, in their units.
        noise: generator(s), or values (steps, *x.shape).
        weight: lambda, of the prior against the data.
        eta: share of fresh noise (zeta), 0 to 1.
        callback: called at every step; x0 is the plain prediction.
        cond: passed on to the denoiser.

    Returns:
        Images (batch, *operator.image_shape).

    Raises:
        InputError: shapes that do not fit the operator, or data that are not finite.
        ConfigError: a setting that cannot be used.
    """
    if weight <= 0.0 or not 0.0 <= eta <= 1.0:
        raise ConfigError(f"diffpir: weight {weight}, eta {eta}", "give a weight above 0, eta from 0 to 1")
    x = state(x)
    operator, y = prepared(operator, y, x, sigma_y)
    for index, t, s, step in walk(denoiser, times):
        x0 = step.x0(x, t, **cond)
        if callback is not None:
            callback(Step(index, t, x, x0))
        (alpha, sigma), (alpha_s, sigma_s) = levels(denoiser.path, t), levels(denoiser.path, s)
        rho = weight * (sigma_y * alpha / sigma) ** 2
        fitted = operator.prox(x0, y, rho) if rho > 0.0 else x0 - operator.pinv(operator.A(x0) - y)
        eps = (x - alpha * fitted) / sigma
        fresh = step_noise(noise, index, x)
        x = alpha_s * fitted + sigma_s * ((1.0 - eta) ** 0.5 * eps + eta**0.5 * fresh)
    return x
