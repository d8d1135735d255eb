"""Conditional embedding perturbation (CEP; Gao et al. 2024): conditions are slightly wrong in training."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Spread = Literal["uniform", "normal"]


def perturb(condition: Tensor, values: Tensor, gamma: float = 1.0) -> Tensor:
    """C + gamma / sqrt(d) * values, for embeddings (..., d).

    Args:
        condition: embeddings.
        values: of the same shape, uniform in [-1, 1] or standard normal.
        gamma: 1 for training from scratch, less for fine-tuning.
    """
    return condition + values * (gamma / math.sqrt(condition.shape[-1]))


def spread_values(kind: Spread, like: Tensor, generator: torch.Generator) -> Tensor:
    """Values for `perturb`, of the shape of `like`: uniform in [-1, 1], or standard normal."""
    draw = torch.rand if kind == "uniform" else torch.randn
    values = draw(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)
    return values * 2 - 1 if kind == "uniform" else values
