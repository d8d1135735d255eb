"""Diffusion posterior sampling: ancestral steps and a gradient of the misfit (Chung et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError, InputError
from diffusion_suite.core.guidance.score import gradient
from diffusion_suite.core.inverse.operators import LinearOperator
from diffusion_suite.core.inverse.problem import prepared
from diffusion_suite.core.schedulers import Callback, Denoiser, Grid, Noise, Step, step_noise
from diffusion_suite.core.schedulers.samplers import state, transition, walk


def dps(
    denoiser: Denoiser,
    operator: LinearOperator | Callable[[Tensor], Tensor],
    y: Tensor,
    x: Tensor,
    times: Grid,
    *,
    sigma_y: float = 0.0,
    noise: Noise,
    scale: float = 0.3,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Restoration under any differentiable measurement, linear or not.

    After each ancestral step, x <- x' - scale d/dx_t |y - A(x0(x_t))|, with the norm of each item by itself.
    It wants many steps (1000), does not know the noise level of the data, and its samples are off in both
    mean and spread: prefer `pigdm` where the measurement is linear.

    Args:
        denoiser: of the prior; the network must be differentiable.
        operator: a linear operator, or any differentiable function (batch, ...) -> (batch, ...).
        y: data, one for each item of the state, or one for all.
        x: pure noise at the first time, (batch, ...).
        times: N + 1 descending times.
        sigma_y: not used; here so that solvers can be exchanged.
        noise: generator(s), or values (steps, *x.shape).
        scale: step of the gradient: 0.3 for super-resolution and blur, 0.5 for inpainting, 1 for phase
            retrieval.
        callback: called at every step.
        cond: passed on to the denoiser.

    Returns:
        Images of the shape of x.

    Raises:
        InputError: data that are not finite or do not fit the operator.
        ConfigError: bad times, or a negative scale.
    """
    if scale < 0.0:
        raise ConfigError(f"dps: a scale of {scale}", "give 0 or more")
    x = state(x)
    measure, y = _measurement(operator, y, x, sigma_y)
    for index, t, s, step in walk(denoiser, times):
        x_t, x0, pull = _prediction(step, measure, y, x, t, cond)
        if callback is not None:
            callback(Step(index, t, x_t, x0))
        of_x0, of_x, variance, _ = transition(denoiser.path, t, s)
        x = of_x0 * x0 + of_x * x_t - scale * pull
        fresh = step_noise(noise, index, x)
        x = x + math.sqrt(variance) * fresh
    return x


def _prediction(
    denoiser: Denoiser,
    measure: Callable[[Tensor], Tensor],
    y: Tensor,
    x: Tensor,
    t: float,
    cond: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    """State, predicted data, and the gradient of each item's misfit, all without a graph."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        x0 = denoiser.x0(leaf, t, **cond)
        square = (y - measure(x0)).square().flatten(1).sum(1)
        # A misfit of 0 has no direction; its gradient counts as 0.
        pull = gradient(torch.where(square > 0, square, 1.0).sqrt(), leaf)
        return leaf.detach(), x0.detach(), pull


def _measurement(
    operator: LinearOperator | Callable[[Tensor], Tensor], y: Tensor, x: Tensor, sigma_y: float
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    if isinstance(operator, LinearOperator):
        linear, y = prepared(operator, y, x, sigma_y)
        return linear.A, y
    with torch.no_grad():
        needed = tuple(operator(x).shape)
    if tuple(y.shape[1:]) != needed[1:] or y.shape[0] not in (1, x.shape[0]):
        raise InputError(
            f"dps: data of shape {tuple(y.shape)} given, the measurement gives {needed}",
            "give data made by this measurement",
        )
    if not bool(torch.isfinite(y).all()):
        raise InputError("dps: the data hold NaN or infinite values", "replace or mask them")
    return operator, y.to(x.device).expand(x.shape[0], *y.shape[1:])
