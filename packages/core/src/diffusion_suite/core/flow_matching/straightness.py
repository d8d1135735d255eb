"""How straight a flow's trajectories are, and what few steps cost: to be reported for every flow model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core.flow_matching.integration import integrate
from diffusion_suite.core.flow_matching.interpolants import Velocity
from diffusion_suite.core.schedulers import FieldStep


@dataclass(frozen=True)
class Straightness:
    """Straightness of each item of a batch.

    Attributes:
        curvature: (batch,) S = integral over s of ||x_b - x_a - v(x_s, s)||^2 along the model's own
            trajectory (Liu et al. 2023); 0 for straight lines at constant speed.
        errors: for each number of steps, (batch,) root mean square difference of the end point from that of
            `steps` steps, over the values of an item.
        steps: of the reference.
    """

    curvature: Tensor
    errors: dict[int, Tensor]
    steps: int

    def means(self) -> dict[str, float]:
        """Means over the batch by name: `curvature`, `error_1`, ...; waits for the device."""
        named = {"curvature": self.curvature} | {f"error_{n}": e for n, e in self.errors.items()}
        return {name: float(values.mean()) for name, values in named.items()}


def straightness(
    velocity: Velocity, x: Tensor, *, steps: int = 64, compared: Sequence[int] = (1, 2, 4), **cond: Any
) -> Straightness:
    """Measure S and the error of few Euler steps against many.

    Args:
        velocity: model (x, s, **cond) -> dx/ds.
        x: sources, (batch, ...).
        steps: Euler steps of the reference, which also are the points of the integral.
        compared: numbers of steps to compare.
        **cond: conditions, passed on.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    mean, curvature = torch.zeros_like(x, dtype=wide), torch.zeros(len(x), dtype=wide, device=x.device)

    def collect(step: FieldStep) -> None:
        # x_b - x_a is the mean slope of these steps, so that S is the variance of slopes (Welford 1962).
        before = step.slope - mean
        mean.add_(before, alpha=1.0 / (step.index + 1))
        curvature.add_((before * (step.slope - mean)).flatten(1).sum(1), alpha=1.0 / steps)

    end = integrate(velocity, x, steps, callback=collect, **cond)
    errors = {}
    for few in compared:
        away = integrate(velocity, x, few, **cond) - end
        errors[few] = away.square().flatten(1).mean(1).sqrt()
    return Straightness(curvature, errors, steps)
