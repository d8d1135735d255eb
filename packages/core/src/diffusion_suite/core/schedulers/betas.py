"""Discrete variance-preserving noise tables."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError

BetaSchedule = Literal["linear", "scaled_linear", "quad", "const", "jsd", "sigmoid", "cosine"]


def betas(kind: BetaSchedule, steps: int, start: float = 1e-4, end: float = 0.02) -> Tensor:
    """Variances beta_0 ... beta_{T-1} of the discrete forward process.

    `linear` is an even ramp; `scaled_linear` and `quad` are two names of the square of an even ramp of
    sqrt(beta); `const` repeats `end`; `jsd` is 1/T, 1/(T-1), ..., 1; `sigmoid` maps a logistic curve on
    [-6, 6] to the interval; `cosine` is Nichol and Dhariwal's, capped at 0.999. `jsd` and `cosine` ignore
    `start` and `end`.

    Args:
        kind: name of the schedule.
        steps: T, at least 1.
        start: first variance.
        end: last variance.

    Returns:
        float64 tensor of shape (T,).

    Raises:
        ConfigError: unknown kind, fewer than one step, or variances outside [0, 1].
    """
    if steps < 1:
        raise ConfigError(f"a noise table needs at least one step, not {steps}", "give steps >= 1")
    if not (0.0 <= start <= 1.0 and 0.0 <= end <= 1.0):
        raise ConfigError(f"variances {start} ... {end} leave [0, 1]", "give beta values between 0 and 1")
    ramp = torch.linspace(0.0, 1.0, steps, dtype=torch.float64)
    match kind:
        case "linear":
            return start + (end - start) * ramp
        case "quad" | "scaled_linear":
            return (math.sqrt(start) + (math.sqrt(end) - math.sqrt(start)) * ramp) ** 2
        case "const":
            return torch.full((steps,), end, dtype=torch.float64)
        case "jsd":
            return 1.0 / torch.arange(steps, 0, -1, dtype=torch.float64)
        case "sigmoid":
            return start + (end - start) * torch.sigmoid(12.0 * ramp - 6.0)
        case "cosine":
            return _cosine(steps)
        case _:
            raise ConfigError(
                f"unknown beta schedule {kind!r}", f"use one of {', '.join(get_args(BetaSchedule))}"
            )


def _cosine(steps: int, offset: float = 0.008) -> Tensor:
    grid = torch.arange(steps + 1, dtype=torch.float64) / steps
    level = torch.cos((grid + offset) / (1.0 + offset) * math.pi / 2.0) ** 2
    return (1.0 - level[1:] / level[:-1]).clamp(max=0.999)
