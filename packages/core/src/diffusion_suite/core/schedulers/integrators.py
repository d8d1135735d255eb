"""Fixed-grid integration of dx/dt = f(x, t): Euler, midpoint, Heun and Runge-Kutta steps, one loop.

Times are Python numbers from a host list, ascending or descending; N + 1 times make N steps, and Euler
evaluates the field N times.

    >>> import torch
    >>> grid = [0.0, 0.5, 1.0]
    >>> float(integrate_grid(lambda x, t: 0 * x + 3 * t**2, torch.zeros(1, 1), grid, "rk4"))
    1.0
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError

Field = Callable[[Tensor, float], Tensor]
Method = Literal["euler", "midpoint", "heun", "rk4"]


@dataclass(frozen=True)
class FieldStep:
    """What a callback sees of one step.

    Attributes:
        index: of the step, from 0.
        t: time at which the step starts.
        x: state that enters the step.
        slope: the field there.
    """

    index: int
    t: float
    x: Tensor
    slope: Tensor


def euler(field: Field, x: Tensor, t: float, s: float, slope: Tensor) -> Tensor:
    """One Euler step from t to s (order 1); `slope` is the field at (x, t), no more is evaluated."""
    return x + (s - t) * slope


def midpoint(field: Field, x: Tensor, t: float, s: float, slope: Tensor) -> Tensor:
    """One midpoint step from t to s (order 2, two evaluations)."""
    h = s - t
    return x + h * field(x + 0.5 * h * slope, t + 0.5 * h)


def heun(field: Field, x: Tensor, t: float, s: float, slope: Tensor) -> Tensor:
    """One Heun (trapezoidal) step from t to s (order 2, two evaluations)."""
    h = s - t
    return x + 0.5 * h * (slope + field(x + h * slope, s))


def rk4(field: Field, x: Tensor, t: float, s: float, slope: Tensor) -> Tensor:
    """One Runge-Kutta step from t to s (order 4, four evaluations; the classical rule)."""
    h = s - t
    second = field(x + 0.5 * h * slope, t + 0.5 * h)
    third = field(x + 0.5 * h * second, t + 0.5 * h)
    fourth = field(x + h * third, s)
    return x + h / 6 * (slope + 2 * (second + third) + fourth)


STEPS: dict[str, Callable[[Field, Tensor, float, float, Tensor], Tensor]] = {
    "euler": euler,
    "midpoint": midpoint,
    "heun": heun,
    "rk4": rk4,
}


def integrate_grid(
    field: Field,
    x: Tensor,
    times: Sequence[float],
    method: Method = "euler",
    callback: Callable[[FieldStep], None] | None = None,
) -> Tensor:
    """Follow a field through a list of times.

    Args:
        field: (x, t) -> slope of x's shape.
        x: state at the first time, (batch, ...); kept at least in float32.
        times: N + 1 host numbers in the order of travel, for N steps.
        method: the step.
        callback: called at the start of each step with a `FieldStep`.

    Returns:
        The state at the last time.

    Raises:
        ConfigError: unknown method, or fewer than two times.
    """
    if method not in STEPS:
        raise ConfigError(f"unknown integration method {method!r}", f"use one of {', '.join(STEPS)}")
    if len(times) < 2:
        raise ConfigError(f"{len(times)} time(s) make no step", "give at least a start and an end")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    for index, (t, s) in enumerate(itertools.pairwise(times)):
        slope = field(x, t)
        if callback is not None:
            callback(FieldStep(index, t, x, slope))
        x = STEPS[method](field, x, t, s, slope)
    return x


def integrate_adaptive(
    field: Field, x: Tensor, start: float, end: float, *, atol: float = 1e-6, rtol: float = 1e-3
) -> Tensor:
    """Follow a field from one time to another with steps chosen by the error (torchdiffeq's dopri5).

    The step is chosen for the whole batch by its mean error: items solved together meet the tolerance, but
    depend on one another within it. Each step waits for the device.

    Args:
        field: (x, t) -> slope of x's shape.
        x: state at `start`, (batch, ...); kept at least in float32.
        start: first time.
        end: last time, on either side of `start`.
        atol: absolute tolerance.
        rtol: relative tolerance.

    Returns:
        The state at `end`.

    Raises:
        ConfigError: the step shrinks to nothing, as at a pole of the field or where it is not a number.
    """
    from torchdiffeq import odeint

    x = x.to(torch.promote_types(x.dtype, torch.float32))
    ends = torch.tensor([start, end], dtype=x.dtype, device=x.device)
    low, high = min(start, end), max(start, end)

    def inside(t: Tensor, state: Tensor) -> Tensor:
        # The solver probes ahead for its first step; a path need not go on beyond its ends.
        return field(state, min(max(float(t), low), high))

    # Its steps end at the last time instead of going past it and interpolating.
    options = {"step_t": ends[1:]}
    try:
        path = odeint(inside, x, ends, atol=atol, rtol=rtol, method="dopri5", options=options)
    except AssertionError as error:
        raise ConfigError(
            f"the adaptive solver cannot go on ({error})",
            "check that the model's output is finite, raise the tolerances, or use fixed steps",
        ) from error
    final: Tensor = path[-1]
    return final
