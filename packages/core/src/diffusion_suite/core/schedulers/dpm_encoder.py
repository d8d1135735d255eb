"""Stochastic inversion: the noises that a sampler turns into given data.

This is the DPM-Encoder (Wu and De la Torre 2023): a path of states is drawn from the posterior of the data;
each state, less what the model expects, over the sampler's noise level is the noise of that step. Decoding
the noises with another model, prompt or guidance translates the data.

    latents = dpm_encode(source, x0, index_times(1000, 50, "leading"), noise=generator)
    dpm_decode(source, latents)  # x0 again
    dpm_decode(target, latents, residual=False)  # its translation
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers.denoiser import Denoiser
from diffusion_suite.core.schedulers.noise import Noise, step_noise
from diffusion_suite.core.schedulers.samplers import (
    Callback,
    Grid,
    checked,
    ddim,
    ddim_coefficients,
    levels,
    state,
    walk,
)


@dataclass(frozen=True)
class DPMLatents:
    """Data as noises, for N steps.

    Attributes:
        times: the N + 1 times of the sampler.
        eta: its share of fresh noise.
        start: state at the first time, (batch, ...).
        noise: noises of the steps, (N, batch, ...); 0 in steps that add none, such as one into a clean end.
        residual: data less what the last step gives from the state before it, (batch, ...); without it the
            data come back only nearly.
    """

    times: tuple[float, ...]
    eta: float
    start: Tensor
    noise: Tensor
    residual: Tensor


def dpm_encode(
    denoiser: Denoiser, x0: Tensor, times: Grid, *, eta: float = 1.0, noise: Noise, **cond: Any
) -> DPMLatents:
    """Finds start and noises with which `ddim` of the same eta and times makes the data.

    x_T = alpha x0 + sigma e at the first time; then each state from the posterior of DDIM(eta),
    x_s = alpha' x0 + sqrt(sigma'^2 - s_eta^2) (x_t - alpha x0)/sigma + s_eta e, and its noise is
    (x_s - what the denoiser expects)/s_eta. One evaluation a step.

    Args:
        denoiser: of the source.
        x0: data, (batch, ...).
        times: descending times to the clean end; its first is the largest the decoder starts from.
        eta: above 0, to 1; small values keep more of the data's layout in the start, 1 is DDPM.
        noise: generator(s), or values (N, *x0.shape): those of the start, then of each step but the last.
        cond: passed on to the denoiser.

    Raises:
        ConfigError: eta outside (0, 1], or bad times.
    """
    if not 0.0 < eta <= 1.0:
        raise ConfigError(f"eta is {eta}", "give a share of fresh noise above 0, at most 1")
    numbers = checked(times)
    path, x0, last = denoiser.path, state(x0), len(numbers) - 2
    alpha, sigma = levels(path, numbers[0])
    start = x = mean = alpha * x0 + sigma * step_noise(noise, 0, x0)
    found = []
    for index, t, s, step in walk(denoiser, numbers):
        of_x0, of_eps, fresh = ddim_coefficients(path, t, s, eta)
        predicted, eps = step.both(x, t, **cond)
        mean = of_x0 * predicted + of_eps * eps
        if index < last:
            alpha, sigma = levels(path, t)
            x = of_x0 * x0 + of_eps / sigma * (x - alpha * x0) + fresh * step_noise(noise, index + 1, x)
            found.append((x - mean) / fresh)
    return DPMLatents(tuple(numbers), eta, start, torch.stack([*found, torch.zeros_like(x)]), x0 - mean)


def dpm_decode(
    denoiser: Denoiser,
    latents: DPMLatents,
    *,
    residual: bool = True,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Runs `ddim` with the noises of some data: the data themselves, or their translation.

    Args:
        denoiser: of the source, which gives the data back, or of another domain, prompt or guidance.
        latents: as from `dpm_encode`.
        residual: add what the last step of the source lacked; not in a translation, for it belongs to the
            source.
        callback: called at the start of every step.
        cond: passed on to the denoiser.

    Returns:
        Data, (batch, ...).
    """
    x = ddim(
        denoiser,
        latents.start,
        latents.times,
        eta=latents.eta,
        noise=latents.noise,
        callback=callback,
        **cond,
    )
    if residual:
        x = x + latents.residual
    return x
