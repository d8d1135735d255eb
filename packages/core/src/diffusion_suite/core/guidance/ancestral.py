"""Guidance that is stated as a shift of the mean of an ancestral step, for samplers that take denoisers."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from diffusion_suite.core.schedulers import Path
from diffusion_suite.core.schedulers.samplers import Grid, levels, transition


def posterior_variances(path: Path, times: Grid) -> Tensor:
    """Variance of q(x_s | x_t, x0) for each step t -> s; 0 into a clean end and where times rise.

    Args:
        path: any path.
        times: of the sampler, steps + 1 of them.

    Returns:
        (steps,) in float64 on the host, in the order of execution.
    """
    small = [transition(path, t, s)[2] if s < t else 0.0 for t, s in _steps(times)]
    return torch.tensor(small, dtype=torch.float64)


def ancestral_scales(path: Path, times: Grid, shifts: Tensor) -> list[float]:
    """Scales of a score with which each ancestral step moves its mean by shift times the score.

    The mean a x0 + b x_t moves by a (sigma^2/alpha) scale g when x0 does by (sigma^2/alpha) scale g. With the
    posterior variance as shift this is "mean += variance times gradient" exactly, and the scale is
    (alpha_t sigma_s^2) / (alpha_s sigma_t^2): it tends to 1 as the steps get smaller, where both rules agree.

    Args:
        path: any path.
        times: of the sampler (`ancestral`, or `ddim` with eta = 1).
        shifts: (steps,), factor of the score in the mean, in the order of execution.

    Returns:
        One scale a step, for `ScoreGuided(..., scale=...)`; 0 where alpha = 0 and where times rise.
    """
    scales = []
    for (t, s), shift in zip(_steps(times), shifts.tolist(), strict=True):
        alpha, sigma = levels(path, t)
        scales.append(shift * alpha / (transition(path, t, s)[0] * sigma**2) if s < t else 0.0)
    return scales


def _steps(times: Grid) -> list[tuple[float, float]]:
    numbers = times.tolist() if isinstance(times, Tensor) else list(times)
    return list(itertools.pairwise(numbers))
