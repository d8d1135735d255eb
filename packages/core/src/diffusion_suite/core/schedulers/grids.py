"""Lists of times for samplers: N steps are N + 1 host numbers, from the start to and including the clean end.

A table of variances (`DiscreteVP`) has whole-number times and its clean end at -1; elsewhere the clean end is
0. The last model evaluation happens at the last time but one.

    >>> index_times(1000, 4)
    [999, 749, 499, 249, -1]
    >>> even_times(4)
    [1.0, 0.75, 0.5, 0.25, 0.0]
    >>> time_travel([4, 3, 2, 1, 0], length=2, repeats=2)
    [4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers.offset import OffsetPath
from diffusion_suite.core.schedulers.paths import EDM, DiscreteVP, Path

Spacing = Literal["trailing", "leading", "linspace"]


def index_times(length: int, steps: int, spacing: Spacing = "trailing", offset: int = 0) -> list[int]:
    """Indices of a table of variances, then -1.

    `trailing` counts back from the last index, T - 1, in strides of T/N; `leading` uses the multiples of
    T // N from 0 (plus `offset`), so that it never reaches the noisiest indices; `linspace` spreads N indices
    evenly from T - 1 to 0.

    Args:
        length: of the table, T.
        steps: N, 1 to T.
        spacing: the rule.
        offset: added to the indices of `leading` (Stable Diffusion uses 1).

    Raises:
        ConfigError: unknown spacing, or steps that do not fit the table.
    """
    if not 1 <= steps <= length:
        raise ConfigError(f"{steps} steps on a table of {length}", f"use 1 to {length} steps")
    match spacing:
        case "trailing":
            indices = [round(length - i * length / steps) - 1 for i in range(steps)]
        case "leading":
            indices = [i * (length // steps) + offset for i in reversed(range(steps))]
        case "linspace":
            indices = [round(i * (length - 1) / max(steps - 1, 1)) for i in reversed(range(steps))]
        case _:
            raise ConfigError(f"unknown spacing {spacing!r}", f"use one of {', '.join(get_args(Spacing))}")
    if indices[0] >= length:
        raise ConfigError(f"index {indices[0]} lies outside a table of {length}", "use a smaller offset")
    return [*indices, -1]


def even_times(steps: int, start: float = 1.0, end: float = 0.0, last: float | None = None) -> list[float]:
    """Evenly spaced times from start to end.

    Args:
        steps: N, at least 1.
        start: first time.
        end: last time, the clean end.
        last: if given, N even times run from `start` to it and the last step goes from there to `end` (0.04
            for the stochastic interpolants of `euler_maruyama`).

    Raises:
        ConfigError: fewer than one step.
    """
    _at_least_one(steps)
    if last is not None:
        return [*_even(start, last, steps), end]
    return _even(start, end, steps + 1)


def karras_times(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, path: Path | None = None
) -> list[float]:
    """Times whose noise levels sigma/alpha are even after taking the rho-th root (Karras et al. 2022).

    sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, then the clean end.

    Args:
        steps: N, at least 1.
        sigma_min: level of the last evaluation.
        sigma_max: level of the start.
        rho: how strongly small levels are favoured; 1 spaces the levels evenly.
        path: whose times are returned; None is EDM, where they are the levels.

    Raises:
        ConfigError: fewer than one step, or levels not in order.
    """
    _at_least_one(steps)
    if not 0.0 < sigma_min < sigma_max:
        raise ConfigError(f"noise levels from {sigma_max} to {sigma_min}", "give 0 < sigma_min < sigma_max")
    roots = _even(sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho), steps)
    sigmas = [root**rho for root in roots]
    if path is None or isinstance(path, EDM):
        return [*sigmas, 0.0]
    return [*(float(path.t_of_logsnr(-2.0 * math.log(sigma))) for sigma in sigmas), clean_end(path)]


def logsnr_times(path: Path, steps: int, start: float, last: float) -> list[float]:
    """Times even in log-SNR, the grid on which `dpm_solver_pp` is at its best; then the clean end.

    Args:
        path: any.
        steps: N, at least 1.
        start: first time, where some data are left (0.999 on the straight path).
        last: time of the last evaluation, where some noise is left (0.001, say).

    Raises:
        ConfigError: fewer than one step, or a log-SNR that is infinite or does not rise.
    """
    _at_least_one(steps)
    first, final = float(path.logsnr(start)), float(path.logsnr(last))
    if not -math.inf < first < final < math.inf:
        raise ConfigError(
            f"log-SNR from {first:g} at time {start} to {final:g} at {last}",
            "give a start with data left and a cleaner last time with noise left",
        )
    return [*(float(path.t_of_logsnr(value)) for value in _even(first, final, steps)), clean_end(path)]


def time_travel(
    times: Sequence[float], length: int, repeats: int, window: tuple[float, float] | None = None
) -> list[float]:
    """A grid that goes back: every block of `length` steps is made `repeats` times, one after another.

    After a block all but the last pass climb back along its times, as in RePaint and in the time travel of
    DDNM; a block as long as its window repeats one stretch, as in cyclic one-way diffusion. `ddim` and
    `ancestral` noise the state where times rise.

    Args:
        times: descending times.
        length: steps a block; a shorter remainder is made once.
        repeats: passes over each block, at least 1.
        window: (noisiest, cleanest) time of the stretch that is repeated; None for all of it.

    Raises:
        ConfigError: a length or number of repeats below 1, or a window without a time.
    """
    if length < 1 or repeats < 1:
        raise ConfigError(f"blocks of {length} steps made {repeats} times", "give whole numbers above 0")
    high, low = window or (math.inf, -math.inf)
    inside = [index for index, t in enumerate(times) if low <= t <= high]
    if not inside:
        raise ConfigError(f"no time lies between {high} and {low}", "give a window on the grid")
    travelled: list[float] = list(times[: inside[0] + 1])
    for begin in range(inside[0], inside[-1], length):
        end = min(begin + length, inside[-1])
        down: list[float] = list(times[begin + 1 : end + 1])
        if end - begin == length:
            travelled += [*down, *reversed(times[begin:end])] * (repeats - 1)
        travelled += down
    return [*travelled, *times[inside[-1] + 1 :]]


def clean_end(path: Path) -> float:
    """The time of the data on a path: -1 on a table of variances, else 0."""
    base = path.base if isinstance(path, OffsetPath) else path
    return -1 if isinstance(base, DiscreteVP) else 0.0


def _even(first: float, last: float, count: int) -> list[float]:
    numbers: list[float] = torch.linspace(first, last, count, dtype=torch.float64).tolist()
    return numbers


def _at_least_one(steps: int) -> None:
    if steps < 1:
        raise ConfigError(f"{steps} steps", "use 1 or more")
