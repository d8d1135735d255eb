"""Restoration by optimisation with a diffusion prior, without back-propagation (Mardani et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.inverse.operators import LinearOperator
from diffusion_suite.core.inverse.problem import prepared
from diffusion_suite.core.schedulers import Callback, Denoiser, Grid, Noise, Step, step_noise
from diffusion_suite.core.schedulers.samplers import levels, state, walk

Weighting = Literal["linear", "sqrt", "square", "log", "clipped", "constant"]
WEIGHTS: dict[str, Callable[[float], float]] = {
    "linear": lambda level: level,
    "sqrt": math.sqrt,
    "square": lambda level: level**2,
    "log": math.log1p,
    "clipped": lambda level: min(level, 1.0),
    "constant": lambda level: 1.0,
}
"""Weight of the prior as a function of the noise level sigma/alpha."""


def red_diff(
    denoiser: Denoiser,
    operator: LinearOperator,
    y: Tensor,
    x: Tensor,
    times: Grid,
    *,
    sigma_y: float = 0.0,
    noise: Noise,
    start: Tensor | None = None,
    prior_weight: float = 0.25,
    data_weight: float = 1.0,
    weighting: Weighting = "linear",
    draws: int = 1,
    rate: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.99),
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """One restoration an item, found by Adam; the cheapest solver a step.

    At every time t but the last (the clean end), with x_t = alpha mu + sigma eps and w = sigma/alpha or as
    `weighting` says, mu follows the gradient of

        data_weight mean((y - A mu)^2) / 2 + prior_weight w mean((eps(x_t) - eps) mu)

    where the bracket counts as a constant. The result is mu after the last update: a mode-seeking estimate,
    not a posterior sample.

    Args:
        denoiser: of the prior.
        operator: y = A x + sigma_y n; any linear operator.
        y: data, (batch, *operator.data_shape), or (1, ...) for all items.
        x: gives the shape, type and device of the result; its values are not used.
        times: N + 1 descending times, 100 to 1000 steps.
        sigma_y: not used; here so that solvers can be exchanged.
        noise: generator(s), or values (steps * draws, *x.shape).
        start: first mu; None = A^+ y.
        prior_weight: lambda.
        data_weight: weight of the misfit.
        weighting: of the prior over noise levels.
        draws: noises a step, whose gradients are averaged.
        rate: learning rate of Adam.
        betas: of Adam.
        callback: called at every step; x is the last noisy state, x0 the mu that was noised.
        cond: passed on to the denoiser.

    Returns:
        Images (batch, *operator.image_shape).

    Raises:
        InputError: shapes that do not fit the operator, or data that are not finite.
        ConfigError: unknown weighting, fewer than one draw, or bad times.
    """
    if weighting not in WEIGHTS:
        raise ConfigError(f"red_diff: unknown weighting {weighting!r}", f"use one of {', '.join(WEIGHTS)}")
    if draws < 1:
        raise ConfigError(f"red_diff: {draws} draws", "give 1 or more")
    x = state(x)
    operator, y = prepared(operator, y, x, sigma_y)
    mu = (operator.pinv(y) if start is None else start.to(x)).detach().clone()
    adam = torch.optim.Adam([mu], lr=rate, betas=betas)
    pixels, measurements = mu[0].numel(), y[0].numel()
    for index, t, _, step in walk(denoiser, times):
        alpha, sigma = levels(denoiser.path, t)
        weight = prior_weight * WEIGHTS[weighting](sigma / alpha if alpha > 0.0 else math.inf)
        if weight == math.inf:
            raise ConfigError(f"red_diff: no data are left at time {t}", "start a little below it")
        misfit = operator.adjoint(operator.A(mu) - y)
        pull = torch.zeros_like(mu)
        for draw in range(draws):
            eps = step_noise(noise, index * draws + draw, mu)
            x_t = alpha * mu + sigma * eps
            with torch.no_grad():
                pull += (step.eps(x_t, t, **cond) - eps) / draws
        if callback is not None:
            callback(Step(index, t, x_t, mu.clone()))
        mu.grad = data_weight / measurements * misfit + weight / pixels * pull
        adam.step()
    return mu
