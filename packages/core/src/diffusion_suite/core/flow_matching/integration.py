"""From source to target along a velocity, in s from 0 to 1; and the log-density of what comes out.

>>> import torch
>>> integrate(lambda x, s: torch.ones_like(x), torch.zeros(1, 2), 4)
tensor([[1., 1.]])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.flow_matching.interpolants import Velocity
from diffusion_suite.core.schedulers import FieldStep, integrate_adaptive, integrate_grid, times, transported
from diffusion_suite.core.schedulers.conditions import reordered
from diffusion_suite.core.schedulers.integrators import Method


def integrate(
    velocity: Velocity,
    x: Tensor,
    steps: int | Sequence[float] = 10,
    *,
    method: Method = "euler",
    callback: Callable[[FieldStep], None] | None = None,
    **cond: Any,
) -> Tensor:
    """Carry sources to targets in fixed steps.

    Args:
        velocity: model (x, s, **cond) -> dx/ds; s reaches it as a tensor (batch,).
        x: sources, (batch, ...); kept at least in float32.
        steps: number of equal steps from s = 0 to 1, or the times themselves, one more than
            steps. N steps are N evaluations for Euler, 2N for midpoint and Heun, 4N for rk4.
        method: `euler`, `midpoint`, `heun` or `rk4`.
        callback: called at the start of each step.
        **cond: conditions, passed on.

    Returns:
        The targets, of x's shape.

    Raises:
        ConfigError: unknown method, or no step.
    """
    return integrate_grid(_field(velocity, cond), x, grid(steps), method, callback)


def integrate_to_tolerance(
    velocity: Velocity,
    x: Tensor,
    *,
    atol: float = 1e-6,
    rtol: float = 1e-3,
    together: bool = False,
    backward: bool = False,
    **cond: Any,
) -> Tensor:
    """Carry sources to targets in steps chosen by the error (dopri5 of torchdiffeq).

    Args:
        velocity: as for `integrate`.
        x: sources, (batch, ...).
        atol: absolute tolerance.
        rtol: relative tolerance.
        together: choose the steps for the batch as a whole: fewer calls, but an item then depends on its
            neighbours within the tolerance. By default each item is carried on its own.
        backward: from s = 1 to 0 instead.
        **cond: conditions; tensors and lists hold one entry an item.

    Returns:
        The targets, of x's shape.

    Raises:
        ConfigError: the solver cannot meet the tolerance.
    """
    ends = (1.0, 0.0) if backward else (0.0, 1.0)
    if together or len(x) == 1:
        return integrate_adaptive(_field(velocity, cond), x, *ends, atol=atol, rtol=rtol)
    ended = []
    for index in range(len(x)):
        item = torch.tensor([index])
        field = _field(velocity, reordered(cond, item))
        ended.append(integrate_adaptive(field, x[index : index + 1], *ends, atol=atol, rtol=rtol))
    return torch.cat(ended)


def log_density(
    velocity: Velocity,
    x: Tensor,
    source_log_density: Callable[[Tensor], Tensor],
    steps: int | Sequence[float] = 100,
    *,
    method: Method = "rk4",
    probes: Tensor | None = None,
    **cond: Any,
) -> Tensor:
    """Log-density of targets under the flow, by change of variables.

    The targets are carried back to s = 0; ln p(x) = ln p_source(x_0) - integral of div v (Chen et al. 2018).

    Args:
        velocity: as for `integrate`; no item may depend on another.
        x: targets, (batch, ...).
        source_log_density: log-density of sources, (batch, ...) -> (batch,).
        steps: as for `integrate`, from s = 0 to 1.
        method: as for `integrate`.
        probes: random vectors (probes, *x.shape) for an estimate of the divergence; None computes it exactly,
            which takes one backward pass for each value of an item.
        **cond: conditions, passed on.

    Returns:
        (batch,), in nats.
    """
    back = grid(steps)[::-1]
    start, change = transported(_field(velocity, cond), x, back, method, probes)
    return source_log_density(start) - change


def grid(steps: int | Sequence[float]) -> list[float]:
    """The times of a number of equal steps from 0 to 1, or the given times.

    Raises:
        ConfigError: fewer than one step.
    """
    if not isinstance(steps, int):
        return [float(time) for time in steps]
    if steps < 1:
        raise ConfigError(f"{steps} steps from source to target", "give at least 1")
    return [index / steps for index in range(steps + 1)]


def _field(velocity: Velocity, cond: dict[str, Any]) -> Callable[[Tensor, float], Tensor]:
    def field(x: Tensor, s: float) -> Tensor:
        slope = velocity(x, times(float(s), x), **cond)
        return slope.to(torch.promote_types(slope.dtype, torch.float32))

    return field
