"""Samplers that one can read at a glance: the flow's ODE, DDIM, and ancestral sampling, on any path.

All have one shape: sampler(denoiser, x, times, *, noise=..., callback=None, **cond) -> x. The state `x` lives
at the first of the N + 1 `times`, which descend to and include the clean end (see `grids`), and N steps are
made; coefficients are Python numbers computed in float64, so that a loop never waits for the device.
Gradients flow through a sampler: call it under `torch.no_grad()` where they are not wanted.

    path = RectifiedFlow()
    mixture = Mixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    noise = torch.randn(8, 2, generator=seeding.generator("example"))
    heun(mixture.denoiser(path), noise, even_times(20))
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers.denoiser import Denoiser, to_x0
from diffusion_suite.core.schedulers.integrators import STEPS
from diffusion_suite.core.schedulers.noise import Noise, step_noise
from diffusion_suite.core.schedulers.paths import Path

Grid = Sequence[float] | Tensor


@dataclass(frozen=True)
class Step:
    """What a callback sees of one step.

    Attributes:
        index: of the step, from 0.
        t: time at which it starts.
        x: state that enters it, (batch, ...).
        x0: clean data predicted there, same shape.
    """

    index: int
    t: float
    x: Tensor
    x0: Tensor


Callback = Callable[[Step], None]


def euler(
    denoiser: Denoiser, x: Tensor, times: Grid, *, callback: Callback | None = None, **cond: Any
) -> Tensor:
    """Euler steps along the velocity dx/dt: order 1, one evaluation a step.

    Args:
        denoiser: any.
        x: state at the first time, (batch, ...).
        times: N + 1 descending times.
        callback: called at the start of every step.
        cond: passed on to the denoiser.

    Returns:
        The state at the last time, at least in float32.

    Raises:
        ConfigError: fewer than two times, or times that do not descend.
    """
    return _flow(denoiser, x, times, "euler", callback, cond)


def midpoint(
    denoiser: Denoiser, x: Tensor, times: Grid, *, callback: Callback | None = None, **cond: Any
) -> Tensor:
    """Midpoint steps along the velocity: order 2, two evaluations a step; see `euler`."""
    return _flow(denoiser, x, times, "midpoint", callback, cond)


def heun(
    denoiser: Denoiser, x: Tensor, times: Grid, *, callback: Callback | None = None, **cond: Any
) -> Tensor:
    """Heun steps along the velocity: order 2, two evaluations a step; see `euler`.

    A step into a clean end (sigma = 0), where many models have no velocity, is an Euler step.
    """
    return _flow(denoiser, x, times, "heun", callback, cond)


def rk4(
    denoiser: Denoiser, x: Tensor, times: Grid, *, callback: Callback | None = None, **cond: Any
) -> Tensor:
    """Classical Runge-Kutta steps along the velocity: order 4, four evaluations a step; see `euler`.

    A step into a clean end (sigma = 0) is a midpoint step.
    """
    return _flow(denoiser, x, times, "rk4", callback, cond)


def ddim(
    denoiser: Denoiser,
    x: Tensor,
    times: Grid,
    *,
    eta: float = 0.0,
    noise: Noise | None = None,
    clip: float | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """DDIM on any path (Song et al. 2021).

    From (alpha, sigma) at t to (alpha', sigma') at the next time s:

        x_s = alpha' x0 + sqrt(sigma'^2 - s_eta^2) eps + s_eta z
        s_eta = eta sigma' sqrt(1 - (alpha sigma' / (alpha' sigma))^2)

    Where the next time is noisier (see `time_travel`), the state is noised again instead, without evaluating
    the model.

    Args:
        denoiser: any.
        x: state at the first time, (batch, ...).
        times: N + 1 times, each unlike its neighbours.
        eta: share of fresh noise, 0 (deterministic) to 1 (ancestral).
        noise: generator(s), or values (steps, *x.shape); needed for eta > 0 or a time that rises.
        clip: largest magnitude of x0, for models of pixels (1, say); eps is recomputed from the clipped x0.
        callback: called at every evaluation of the model.
        cond: passed on to the denoiser.

    Returns:
        The state at the last time, at least in float32.

    Raises:
        ConfigError: eta outside [0, 1], bad times, or missing noise.
    """
    if not 0.0 <= eta <= 1.0:
        raise ConfigError(f"eta is {eta}", "give a share of fresh noise between 0 and 1")
    path, x = denoiser.path, state(x)
    for index, t, s, step in walk(denoiser, times, rising=True):
        if s > t:
            x = renoise(path, x, t, s, step_noise(_needed(noise), index, x))
            continue
        x0, eps = predict(step, x, t, clip, cond)
        if callback is not None:
            callback(Step(index, t, x, x0))
        alpha, kept, fresh = ddim_coefficients(path, t, s, eta)
        x = alpha * x0 + kept * eps
        if fresh > 0.0:
            x = x + fresh * step_noise(_needed(noise), index, x)
    return x


def ancestral(
    denoiser: Denoiser,
    x: Tensor,
    times: Grid,
    *,
    noise: Noise,
    variance: Literal["small", "large"] = "small",
    clip: float | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Draws every state from the posterior q(x_s | x_t, x0) at the predicted x0 (DDPM, Ho et al. 2020).

    On any path and any grid. It is also the maximum-likelihood solver of the reverse SDE (Popov et al. 2022),
    whose corrections kappa, omega and sigma amount to this posterior.

    Args:
        denoiser: any.
        x: state at the first time, (batch, ...).
        times: N + 1 times, each unlike its neighbours; where they rise the state is noised again.
        noise: generator(s), or values (steps, *x.shape).
        variance: `small` is the posterior's; `large` that of the forward transition, beta on a table (the
            last step into a clean end adds no noise in both).
        clip: largest magnitude of x0, for models of pixels.
        callback: called at every evaluation of the model.
        cond: passed on to the denoiser.

    Returns:
        The state at the last time, at least in float32.

    Raises:
        ConfigError: unknown variance or bad times.
    """
    if variance not in ("small", "large"):
        raise ConfigError(f"unknown variance {variance!r}", "use small or large")
    path, x = denoiser.path, state(x)
    for index, t, s, step in walk(denoiser, times, rising=True):
        if s > t:
            x = renoise(path, x, t, s, step_noise(noise, index, x))
            continue
        x0 = step.x0(x, t, **cond)
        x0 = x0 if clip is None else x0.clamp(-clip, clip)
        if callback is not None:
            callback(Step(index, t, x, x0))
        of_x0, of_x, small, large = transition(path, t, s)
        x = of_x0 * x0 + of_x * x
        if small > 0.0:
            spread = small if variance == "small" else large
            x = x + math.sqrt(spread) * step_noise(noise, index, x)
    return x


def renoise(path: Path, x: Tensor, t: float, s: float, noise: Tensor) -> Tensor:
    """The forward process from t to a noisier time s: x_s = r x_t + sqrt(sigma_s^2 - r^2 sigma_t^2) z.

    With r = alpha_s / alpha_t. It is the jump back of time travel, RePaint and cyclic one-way diffusion.

    Args:
        path: of the state.
        x: state at t, (batch, ...).
        t: its time, with data left (alpha above 0).
        s: a noisier time.
        noise: standard normal values of x's shape, as from `standard_normal`.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(path, t), levels(path, s)
    ratio = alpha_s / alpha_t
    return ratio * x + math.sqrt(max(sigma_s**2 - (ratio * sigma_t) ** 2, 0.0)) * noise


def walk(
    denoiser: Denoiser, times: Grid, rising: bool = False
) -> Iterator[tuple[int, float, float, Denoiser]]:
    """The steps of a sampler: (index, time, next time, denoiser of this step).

    Args:
        denoiser: asked once a step for its `at_step`.
        times: host numbers; a tensor is brought to the host once.
        rising: whether a time may be noisier than the one before it.

    Raises:
        ConfigError: fewer than two times, equal neighbours, or rising times where there may be none.
    """
    numbers = checked(times, rising)
    for index, (t, s) in enumerate(itertools.pairwise(numbers)):
        yield index, t, s, denoiser.at_step(t, index, len(numbers) - 1)


def checked(times: Grid, rising: bool = False) -> list[float]:
    """The times as host numbers, also those of a tensor or an array; errors as of `walk`."""
    numbers: list[float] = times.tolist() if hasattr(times, "tolist") else list(times)
    if len(numbers) < 2:
        raise ConfigError(f"{len(numbers)} time(s) make no step", "give N + 1 times for N steps")
    for t, s in itertools.pairwise(numbers):
        if not (s < t or (rising and s > t)):
            raise ConfigError(f"time {s} follows {t}", "give times that descend to the clean end")
    return numbers


def state(x: Tensor) -> Tensor:
    """The state of a sampler, at least in float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def levels(path: Path, t: float) -> tuple[float, float]:
    """(alpha, sigma) at a host time, as Python numbers."""
    return float(path.alpha(t)), float(path.sigma(t))


def predict(
    denoiser: Denoiser, x: Tensor, t: float, clip: float | None, cond: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """(x0, eps) from one evaluation; eps is recomputed where x0 is clipped."""
    x0, eps = denoiser.both(x, t, **cond)
    if clip is None:
        return x0, eps
    alpha, sigma = levels(denoiser.path, t)
    x0 = x0.clamp(-clip, clip)
    return x0, (x - alpha * x0) / sigma


def ddim_coefficients(path: Path, t: float, s: float, eta: float) -> tuple[float, float, float]:
    """(alpha', sqrt(sigma'^2 - s_eta^2), s_eta) of a DDIM step from t to s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(path, t), levels(path, s)
    fresh = eta**2 * max(1.0 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2, 0.0)
    return alpha_s, sigma_s * math.sqrt(1.0 - fresh), sigma_s * math.sqrt(fresh)


def transition(path: Path, t: float, s: float) -> tuple[float, float, float, float]:
    """q(x_s | x_t, x0), s cleaner than t: factors of x0 and x_t, its variance, and that of q(x_t | x_s)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(path, t), levels(path, s)
    ratio = alpha_t / alpha_s
    forward = max(sigma_t**2 - (ratio * sigma_s) ** 2, 0.0)
    share = (sigma_s / sigma_t) ** 2
    return alpha_s * forward / sigma_t**2, ratio * share, forward * share, forward


def _flow(
    denoiser: Denoiser,
    x: Tensor,
    times: Grid,
    method: str,
    callback: Callback | None,
    cond: dict[str, Any],
) -> Tensor:
    path, x = denoiser.path, state(x)
    for index, t, s, step in walk(denoiser, times):
        slope = step.velocity(x, t, **cond)
        if callback is not None:
            callback(Step(index, t, x, to_x0(slope, x, t, path, "velocity")))
        clean = levels(path, s)[1] == 0.0
        rule = STEPS[{"heun": "euler", "rk4": "midpoint"}.get(method, method) if clean else method]
        x = rule(functools.partial(step.velocity, **cond), x, t, s, slope)
    return x


def _needed(noise: Noise | None) -> Noise:
    if noise is None:
        raise ConfigError("these steps add noise and none is given", "pass noise=, a generator or the values")
    return noise
