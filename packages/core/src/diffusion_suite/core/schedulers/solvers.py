"""Solvers for few steps and for stochastic sampling, in the shape of `samplers`, on any path.

DPM-Solver++ 2M reaches a given error in the fewest evaluations; `edm_heun` is the sampler of the EDM family,
with churn; `euler_maruyama` follows the reverse SDE with any amount of noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers.denoiser import Denoiser
from diffusion_suite.core.schedulers.noise import Noise, step_noise
from diffusion_suite.core.schedulers.paths import EDM, Path
from diffusion_suite.core.schedulers.samplers import Callback, Grid, Step, checked, levels, state, walk


def dpm_solver_pp(
    denoiser: Denoiser,
    x: Tensor,
    times: Grid,
    *,
    clip: float | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """DPM-Solver++ 2M (Lu et al. 2022): order 2 with one evaluation a step, best on `logsnr_times`.

    With h the change of ln(alpha/sigma) in a step from (alpha, sigma) to (alpha', sigma'):

        D = x0 + h / (2 h_previous) (x0 - x0_previous)
        x <- sigma'/sigma x + alpha' (1 - e^-h) D

    The first step, and one into a clean end, are of order 1 (D = x0).

    Args:
        denoiser: any.
        x: state at the first time, (batch, ...).
        times: N + 1 descending times.
        clip: largest magnitude of x0, for models of pixels.
        callback: called at the start of every step.
        cond: passed on to the denoiser.

    Returns:
        The state at the last time, at least in float32.

    Raises:
        ConfigError: fewer than two times, or times that do not descend.
    """
    path, x = denoiser.path, state(x)
    before: tuple[Tensor, float] | None = None
    for index, t, s, step in walk(denoiser, times):
        x0 = step.x0(x, t, **cond)
        x0 = x0 if clip is None else x0.clamp(-clip, clip)
        if callback is not None:
            callback(Step(index, t, x, x0))
        (alpha, sigma), (alpha_s, sigma_s) = levels(path, t), levels(path, s)
        change = 0.5 * float(path.logsnr(s) - path.logsnr(t))
        data = x0
        if before is not None and sigma_s > 0.0:
            data = x0 + change / (2.0 * before[1]) * (x0 - before[0])
        x = sigma_s / sigma * x + (alpha_s - alpha * sigma_s / sigma) * data
        before = x0, change
    return x


def edm_heun(
    denoiser: Denoiser,
    x: Tensor,
    times: Grid,
    *,
    noise: Noise | None = None,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Heun's rule in the noise level q = sigma/alpha, with optional churn (Karras et al. 2022, algorithm 2).

    For z = x/alpha, the state of the EDM path, and N steps: where churn_min <= q <= churn_max the level is
    raised to q^ = q (1 + min(churn/N, sqrt(2) - 1)) and z gains churn_noise sqrt(q^ q^ - q q) noise; then

        d = (z - x0(z; q^)) / q^,   z <- z + (q' - q^) (d + d')/2

    with d' the slope at the next level q'; a step into a clean end is an Euler step. Order 2, two evaluations
    a step. On paths whose time ends, churn never lifts the level above the first one.

    Args:
        denoiser: any.
        x: state at the first time, (batch, ...); sigma_max times standard normal noise on EDM.
        times: N + 1 descending times, as from `karras_times`.
        noise: generator(s), or values (steps, *x.shape) of which steps without churn use none; needed for
            churn > 0.
        churn: S_churn; 0 is deterministic.
        churn_min: S_min, smallest level with churn.
        churn_max: S_max, largest level with churn.
        churn_noise: S_noise, standard deviation of the added noise (1.003 or so keeps detail).
        callback: called in every step; `x` is the state before churn, `x0` the prediction after it.
        cond: passed on to the denoiser.

    Returns:
        The state at the last time, at least in float32.

    Raises:
        ConfigError: bad times, a start without data (alpha = 0), negative churn, or churn without noise.
    """
    if churn < 0.0:
        raise ConfigError(f"churn is {churn}", "give 0 or more")
    if churn > 0.0 and noise is None:
        raise ConfigError("churn adds noise and none is given", "pass noise=, a generator or the values")
    path, x, numbers = denoiser.path, state(x), checked(times)
    top = math.inf if isinstance(path, EDM) else _level(path, numbers[0])
    growth = 1.0 + min(churn / (len(numbers) - 1), math.sqrt(2.0) - 1.0)
    for index, t, s, step in walk(denoiser, numbers):
        alpha, alpha_s = levels(path, t)[0], levels(path, s)[0]
        q, q_s, u = _level(path, t), _level(path, s), t
        z = x / alpha
        raised = min(q * growth, top)
        if noise is not None and churn_min <= q <= churn_max and raised > q:
            z = z + churn_noise * math.sqrt(raised**2 - q**2) * step_noise(noise, index, z)
            q, u = raised, float(path.t_of_logsnr(-2.0 * math.log(raised)))
        x0 = step.x0(levels(path, u)[0] * z, u, **cond)
        if callback is not None:
            callback(Step(index, t, x, x0))
        slope = (z - x0) / q
        ahead = z + (q_s - q) * slope
        if q_s > 0.0:
            ahead_slope = (ahead - step.x0(alpha_s * ahead, s, **cond)) / q_s
            ahead = z + (q_s - q) * 0.5 * (slope + ahead_slope)
        x = alpha_s * ahead
    return x


def euler_maruyama(
    denoiser: Denoiser,
    x: Tensor,
    times: Grid,
    *,
    noise: Noise,
    diffusion: Callable[[float], float] | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Euler-Maruyama steps of the reverse SDE with any diffusion w(t) (stochastic interpolants).

    x <- x - (v - w/2 score) dt + sqrt(w dt) z for a step of length dt towards the data; the last step adds no
    noise. Every w >= 0 keeps the marginals in the limit of small steps: 0 is Euler on the flow, g(t)^2 the
    reverse SDE of a diffusion. Stop evaluating a little before the data: `even_times(N, last=0.04)`.

    Args:
        denoiser: any.
        x: state at the first time, (batch, ...).
        times: N + 1 descending times.
        noise: generator(s), or values (steps, *x.shape), the last of which is not used.
        diffusion: w at a time, not negative; None is d(sigma^2)/dt, 2 t on the straight path.
        callback: called at the start of every step.
        cond: passed on to the denoiser.

    Returns:
        The state at the last time, at least in float32.

    Raises:
        ConfigError: fewer than two times, times that do not descend, or a negative diffusion.
    """
    path, x, count = denoiser.path, state(x), len(times) - 1
    for index, t, s, step in walk(denoiser, times):
        x0, eps = step.both(x, t, **cond)
        if callback is not None:
            callback(Step(index, t, x, x0))
        sigma, d_alpha, d_sigma = float(path.sigma(t)), float(path.d_alpha(t)), float(path.d_sigma(t))
        w = 2.0 * sigma * d_sigma if diffusion is None else diffusion(t)
        if w < 0.0:
            raise ConfigError(f"the diffusion at time {t} is {w}", "give a function that is not negative")
        x = x + (s - t) * (d_alpha * x0 + (d_sigma + 0.5 * w / sigma) * eps)
        if index + 1 < count and w > 0.0:
            x = x + math.sqrt(w * (t - s)) * step_noise(noise, index, x)
    return x


def _level(path: Path, t: float) -> float:
    """sigma/alpha at a time."""
    alpha, sigma = levels(path, t)
    if alpha == 0.0:
        raise ConfigError(f"no data are left at time {t}", "start a little below it, or use another sampler")
    return sigma / alpha
