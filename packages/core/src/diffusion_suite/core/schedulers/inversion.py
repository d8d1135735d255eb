"""Deterministic inversion: the noise from which DDIM makes given data.

The usual inversion evaluates the model at the level being entered, but on the state before it, and so loses
some of the data; the exact one solves for the state from which DDIM steps back.

    times = index_times(1000, 50, "leading")
    latent = invert(denoiser, x0, times)
    ddim(denoiser, latent, times)  # x0 again
"""

from __future__ import annotations

import functools
import itertools
import warnings
from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers.denoiser import Denoiser
from diffusion_suite.core.schedulers.fixed_point import fixed_point
from diffusion_suite.core.schedulers.samplers import Callback, Grid, Step, checked, levels, state


def invert(
    denoiser: Denoiser,
    x0: Tensor,
    times: Grid,
    *,
    exact: bool = True,
    tolerance: float | None = None,
    iterations: int = 100,
    anderson: int = 0,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Inverts `ddim` with eta = 0 on the same times.

    Entering the level (alpha, sigma) at t from x_s, at the level (alpha', sigma') of the cleaner time s, the
    exact state is the fixed point of either of

        F(z) = alpha/alpha' x_s + (sigma - alpha sigma'/alpha') eps(z, t)
        G(z) = sigma/sigma' x_s + (alpha - sigma alpha'/sigma') x0(z, t)

    For data of unit variance G contracts faster where (sigma/alpha) (sigma'/alpha') > 1, and is used there.
    The usual inversion is F(x_s). Every item stops by itself, so that its latent does not depend on its
    batch; the test waits for the device once an evaluation.

    Args:
        denoiser: any; a guidance that remembers earlier steps (momentum) has no inverse.
        x0: data at the last of the times, (batch, ...).
        times: descending times, as for `ddim`.
        exact: solve for the fixed point; else the usual inversion, one evaluation a step.
        tolerance: stops an item when an evaluation moves none of its entries by more, relative to its largest
            entry where that is above 1. None is 1e-5 in float32 and 1e-10 in float64.
        iterations: most evaluations a step after the first guess.
        anderson: number of earlier iterates that Anderson's method mixes in (3, say): fewer evaluations, and
            convergence of many maps that do not contract; 0 is plain iteration.
        callback: called once a step, with the time being entered, the state before it and the predicted data.
        cond: passed on to the denoiser.

    Returns:
        The state at the first time, at least in float32. Items that did not reach the tolerance in a step
        keep their best iterate.

    Raises:
        ConfigError: bad times, or a tolerance or number of iterations that is not positive.

    Warns:
        RuntimeWarning: once, if an item did not reach the tolerance.
    """
    x = state(x0)
    if tolerance is None:
        tolerance = 1e-10 if x.dtype == torch.float64 else 1e-5
    if tolerance <= 0.0 or iterations < 1 or anderson < 0:
        raise ConfigError(
            f"tolerance {tolerance}, {iterations} iterations and {anderson} iterates to mix",
            "give a tolerance above 0, at least one iteration, and anderson of 0 or more",
        )
    path, left = denoiser.path, []
    pairs = list(itertools.pairwise(checked(times)))
    # The steps of the sampler, last one first, each with the guidance that the sampler has in it.
    for index, (t, s) in reversed(list(enumerate(pairs))):
        entered, step = x, denoiser.at_step(t, index, len(pairs))
        noisy = exact and _level(denoiser, t) * _level(denoiser, s) > 1.0
        move = functools.partial(_through_x0 if noisy else _through_eps, step, entered, t, s, cond)
        x = move(entered)
        if exact:
            x, residual = fixed_point(move, x, tolerance, iterations, anderson)
            left.append(residual)
        if callback is not None:
            (alpha, sigma), (alpha_s, sigma_s) = levels(path, t), levels(path, s)
            predicted = (sigma * entered - sigma_s * x) / (alpha_s * sigma - alpha * sigma_s)
            callback(Step(len(pairs) - 1 - index, t, entered, predicted))
    if left:
        _warn(torch.stack(left), [t for t, _ in reversed(pairs)], tolerance)
    return x


def _through_eps(
    denoiser: Denoiser, entered: Tensor, t: float, s: float, cond: dict[str, Any], z: Tensor
) -> Tensor:
    (alpha, sigma), (alpha_s, sigma_s) = levels(denoiser.path, t), levels(denoiser.path, s)
    ratio = alpha / alpha_s
    return ratio * entered + (sigma - ratio * sigma_s) * denoiser.eps(z, t, **cond)


def _through_x0(
    denoiser: Denoiser, entered: Tensor, t: float, s: float, cond: dict[str, Any], z: Tensor
) -> Tensor:
    (alpha, sigma), (alpha_s, sigma_s) = levels(denoiser.path, t), levels(denoiser.path, s)
    ratio = sigma / sigma_s
    return ratio * entered + (alpha - ratio * alpha_s) * denoiser.x0(z, t, **cond)


def _level(denoiser: Denoiser, t: float) -> float:
    alpha, sigma = levels(denoiser.path, t)
    return sigma / alpha if alpha > 0.0 else float("inf")


def _warn(residuals: Tensor, entered: list[float], tolerance: float) -> None:
    """Says how many items (steps, batch) stopped short of the tolerance, and where it was worst."""
    short = ~(residuals <= tolerance)
    items = int(short.any(0).sum())
    if not items:
        return
    worst = int(residuals.amax(1).argmax())
    warnings.warn(
        f"exact inversion stopped short of its tolerance {tolerance:g} for {items} of {residuals.shape[1]} "
        f"items, worst at time {entered[worst]:g} (residual {float(residuals[worst].max()):.1e}): the map "
        "does not contract there; mix iterates (anderson=3), take more steps or iterations, or guide less",
        RuntimeWarning,
        stacklevel=3,
    )
