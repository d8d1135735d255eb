"""Denoising diffusion restoration in the singular basis of a linear operator (Kawar et al. 2022).

In units of noise-to-signal, q = sigma/alpha, the state of a diffusion is the clean image plus noise of
standard deviation q, and every singular coefficient is one of three kinds: not measured, measured less
accurately than the state, or measured more accurately. `ddrm_start` and `ddrm_transition` draw states whose
marginals agree with the forward process in all three; `ddrm` walks them down a grid of times.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core.inverse.operators import LinearOperator, SpectralOperator, divide
from diffusion_suite.core.inverse.problem import prepared, spectral
from diffusion_suite.core.schedulers.denoiser import Denoiser
from diffusion_suite.core.schedulers.noise import Noise, standard_normal, step_noise
from diffusion_suite.core.schedulers.samplers import Callback, Grid, Step, levels, state, walk

Level = float | Tensor


def ddrm(
    denoiser: Denoiser,
    operator: LinearOperator,
    y: Tensor,
    x: Tensor,
    times: Grid,
    *,
    sigma_y: float,
    noise: Noise,
    eta: float = 0.85,
    eta_b: float = 1.0,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Restoration by DDRM: 20 evaluations are enough, no gradient of the network is needed.

    Noise-free data are met exactly. The samples vary less than the posterior does.

    Args:
        denoiser: of the prior.
        operator: y = A x + sigma_y n, with singular values.
        y: data, (batch, *operator.data_shape), or (1, ...) for all items.
        x: pure noise at the first time, (batch, *operator.image_shape).
        times: N + 1 descending times.
        sigma_y: standard deviation of the noise of the data, in their units.
        noise: generator(s), or values (steps, *x.shape) of images, which are projected on the right singular
            vectors.
        eta: share of fresh noise where the data do not decide.
        eta_b: weight of the data where they are the better source.
        callback: called at every step.
        cond: passed on to the denoiser.

    Returns:
        Images (batch, *operator.image_shape).

    Raises:
        InputError: no singular values, shapes that do not fit the operator, or data that are not finite.
        ConfigError: a negative noise level, or bad times.
    """
    x = state(x)
    basis, y = prepared(spectral(operator, "ddrm"), y, x, sigma_y)
    path, data = denoiser.path, basis.data_to_spectral(y)
    for index, t, s, step in walk(denoiser, times):
        if index == 0:
            x = _start(basis, data, sigma_y, x, *levels(path, t))
        x0, eps = step.both(x, t, **cond)
        if callback is not None:
            callback(Step(index, t, x, x0))
        drawn = basis.to_spectral(step_noise(noise, index, x))
        x = ddrm_transition(basis, x0, eps, data, *levels(path, s), sigma_y, drawn, eta, eta_b)
    return x


def _start(
    operator: SpectralOperator, data: Tensor, sigma_y: float, x: Tensor, alpha: float, sigma: float
) -> Tensor:
    """The first state from pure noise; its variance is that of the path for data of unit variance."""
    if alpha == 0.0:
        return x
    scale = math.hypot(alpha, sigma)
    return scale * ddrm_start(operator, data, sigma_y, sigma / alpha, operator.to_spectral(x / scale))


def ddrm_start(operator: SpectralOperator, data: Tensor, sigma_y: Level, q: Level, noise: Noise) -> Tensor:
    """State at the largest noise level, scaled to unit variance.

    Coefficients that are measured more accurately than the level start at their measurement.

    Args:
        operator: y = A x + sigma_y n.
        data: `operator.data_to_spectral(y)`, shape (batch, channels, height, width).
        sigma_y: standard deviation of the data's noise; a number, or a tensor that broadcasts to the spectral
            layout (for instance (channels, 1, 1) for a level a channel) where the operator does not mix them.
        q: sigma/alpha at the largest level.
        noise: generator(s) or standard normal spectral coefficients.

    Returns:
        Images of shape (batch, channels, height, width).
    """
    singular, measured = operator.spectrum, operator.measured
    known = measured & (singular * q > sigma_y)
    safe = torch.where(known, singular, 1.0)
    mean = torch.where(known, data / safe, 0.0)
    variance = q**2 - torch.where(known, sigma_y / safe, 0.0) ** 2
    drawn = standard_normal(noise, data)
    return operator.from_spectral((mean + variance.clamp(min=0.0).sqrt() * drawn) / q)


def ddrm_transition(
    operator: SpectralOperator,
    x0: Tensor,
    eps: Tensor,
    data: Tensor,
    alpha: Level,
    sigma: Level,
    sigma_y: Level,
    noise: Noise,
    eta: float = 0.85,
    eta_b: float = 1.0,
    strict: bool = False,
) -> Tensor:
    """State at a smaller noise level (alpha, sigma), given the prediction at the present one.

    With q = sigma/alpha, v = V^T x0, e = V^T eps, u = U^T y, s a singular value and n the noise:

        not measured     v + q sqrt(1 - eta^2) e + q eta n
        s q < sigma_y    v + q sqrt(1 - eta^2) (u - s v)/sigma_y + q eta n
        s q >= sigma_y   eta_b u/s + (1 - eta_b) v + sqrt(q^2 - eta_b^2 sigma_y^2/s^2) n

    Coefficients with s = 0 count as not measured, and noise-free data are met exactly. With `strict`, as in
    the published code, equality counts as not measured (so the last step returns x0 itself even for
    noise-free data), and a measured coefficient with s = 0 and noisy data falls under the second row.

    Args:
        operator: y = A x + sigma_y n.
        x0: predicted clean images (batch, channels, height, width).
        eps: predicted noise, same shape.
        data: `operator.data_to_spectral(y)`, same shape.
        alpha: factor of the data at the level being entered.
        sigma: factor of the noise there.
        sigma_y: standard deviation of the data's noise, as for `ddrm_start`.
        noise: generator(s) or standard normal spectral coefficients.
        eta: share of fresh noise where the data do not decide.
        eta_b: weight of the data where they are the better source.
        strict: comparisons of the published code.

    Returns:
        The state x = alpha (clean + noise), shape of x0.
    """
    q = sigma / alpha
    singular = operator.spectrum
    reach = singular * q
    if strict:
        better, worse = operator.measured & (reach > sigma_y), operator.measured & (reach < sigma_y)
    else:
        measured = operator.measured & (singular > 0)
        better, worse = measured & (reach >= sigma_y), measured & (reach < sigma_y)

    v, drawn = operator.to_spectral(x0), standard_normal(noise, x0)
    kept = q * (1.0 - eta**2) ** 0.5
    unmeasured_term = operator.to_spectral(eps)
    residual_term = _quotient(data - singular * v, sigma_y)
    prior = v + kept * torch.where(worse, residual_term, unmeasured_term) + (q * eta) * drawn

    safe = torch.where(better, singular, 1.0)
    spread = (q**2 - (torch.where(better, sigma_y / safe, 0.0) * eta_b) ** 2).clamp(min=0.0).sqrt()
    posterior = eta_b * (data / safe) + (1.0 - eta_b) * v + spread * drawn
    return alpha * operator.from_spectral(torch.where(better, posterior, prior))


def _quotient(residual: Tensor, sigma_y: Level) -> Tensor:
    if isinstance(sigma_y, Tensor):
        return divide(residual, sigma_y)
    return residual / sigma_y if sigma_y > 0 else torch.zeros_like(residual)
