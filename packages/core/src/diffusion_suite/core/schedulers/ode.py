"""The probability-flow ODE solved to a tolerance, either way, and the log-density of data under it.

path, start, end = RectifiedFlow(), 1e-4, 1.0 - 1e-4
mixture = Mixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
found = log_likelihood(mixture.denoiser(path), torch.zeros(1, 2), start, end)
found.value  # close to -ln(2 pi)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core.schedulers.conditions import reordered
from diffusion_suite.core.schedulers.denoiser import Denoiser
from diffusion_suite.core.schedulers.integrators import Field, integrate_adaptive
from diffusion_suite.core.schedulers.likelihood import widened, with_density
from diffusion_suite.core.schedulers.samplers import levels, state


@dataclass(frozen=True)
class LogDensity:
    """What `log_likelihood` finds.

    Attributes:
        value: log-density of each item, in nats, (batch,).
        latent: where the items came to at the noisy end, (batch, ...).
        prior: log-density of the latents there, (batch,).
        change: value - prior, the integral of the divergence, (batch,).
    """

    value: Tensor
    latent: Tensor
    prior: Tensor
    change: Tensor


def probability_flow(
    denoiser: Denoiser,
    x: Tensor,
    start: float,
    end: float,
    *,
    atol: float = 1e-6,
    rtol: float = 1e-3,
    together: bool = False,
    **cond: Any,
) -> Tensor:
    """Follow dx/dt = velocity from one time to another, by dopri5 with adaptive steps.

    From noise to data (start > end) it samples; from data to noise it gives the latent that is sampled back
    to the same data. Steps wait for the device: for sampling at speed use the solvers of fixed steps.

    Args:
        denoiser: any; many prediction types have no velocity at the clean end: stay a little off it.
        x: state at `start`, (batch, ...).
        start: first time.
        end: last time, on either side of `start`.
        atol: absolute tolerance.
        rtol: relative tolerance.
        together: choose steps for the batch as a whole: fewer evaluations, but items then depend on one
            another within the tolerance. By default each item is solved on its own.
        cond: conditions; tensors and lists hold one entry an item.

    Returns:
        The state at `end`, at least in float32.

    Raises:
        ConfigError: the steps shrink to nothing, as at a pole or where the model is not finite.
    """
    x = state(x)
    ended = [
        integrate_adaptive(_field(denoiser, part), x[items], start, end, atol=atol, rtol=rtol)
        for items, part in _parts(x, cond, together)
    ]
    return torch.cat(ended)


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    start: float,
    end: float,
    *,
    probes: Tensor | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    atol: float = 1e-6,
    rtol: float = 1e-6,
    together: bool = False,
    **cond: Any,
) -> LogDensity:
    """Log-density of states at `start` by change of variables along the ODE (Song et al. 2021, section 4.3).

    ln p_start(x) = ln p_end(x_end) + integral from start to end of div velocity dt.

    Args:
        denoiser: of a differentiable model whose items do not depend on one another.
        x: data, or states at a small time, (batch, ...).
        start: their time, small; 0 where the model has a velocity there.
        end: a noisy time, where the density is that of `prior`.
        probes: vectors (probes, *x.shape) with independent entries of mean 0 and variance 1, such as standard
            normal ones, for an unbiased estimate (Hutchinson); None is exact and takes one backward pass for
            each value of an item.
        prior: log-density at `end`, (batch, ...) -> (batch,); None is a normal density of mean 0 and variance
            alpha^2 + sigma^2, that of data with unit variance.
        atol: absolute tolerance.
        rtol: relative tolerance.
        together: as for `probability_flow`.
        cond: conditions; tensors and lists hold one entry an item.

    Raises:
        ConfigError: as for `probability_flow`.
    """
    x = state(x)
    ended = []
    for items, part in _parts(x, cond, together):
        field = with_density(_field(denoiser, part), x[items], None if probes is None else probes[:, items])
        ended.append(integrate_adaptive(field, widened(x[items]), start, end, atol=atol, rtol=rtol))
    both = torch.cat(ended)
    latent, change = both[:, :-1].view_as(x), -both[:, -1]
    alpha, sigma = levels(denoiser.path, end)
    noisy = _normal(latent, alpha**2 + sigma**2) if prior is None else prior(latent)
    return LogDensity(noisy + change, latent, noisy, change)


def _field(denoiser: Denoiser, cond: dict[str, Any]) -> Field:
    return functools.partial(denoiser.velocity, **cond)


def _parts(x: Tensor, cond: dict[str, Any], together: bool) -> Iterator[tuple[slice, dict[str, Any]]]:
    """What is solved at once: the batch, or each item with its conditions."""
    if together or len(x) == 1:
        yield slice(None), cond
        return
    for index in range(len(x)):
        yield slice(index, index + 1), reordered(cond, torch.tensor([index]))


def _normal(x: Tensor, variance: float) -> Tensor:
    values = x.flatten(1)
    density: Tensor = -0.5 * (values.square() / variance + math.log(2.0 * math.pi * variance)).sum(1)
    return density
