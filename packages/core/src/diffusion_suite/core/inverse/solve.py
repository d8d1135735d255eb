"""The solvers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.inverse.ddnm import ddnm
from diffusion_suite.core.inverse.ddrm import ddrm
from diffusion_suite.core.inverse.diffpir import diffpir
from diffusion_suite.core.inverse.dps import dps
from diffusion_suite.core.inverse.operators import LinearOperator
from diffusion_suite.core.inverse.pigdm import pigdm
from diffusion_suite.core.inverse.red_diff import red_diff
from diffusion_suite.core.schedulers import Denoiser, Grid

Method = Literal["pigdm", "ddrm", "ddnm", "dps", "red_diff", "diffpir"]
SOLVERS: dict[str, Callable[..., Tensor]] = {
    solver.__name__: solver for solver in (pigdm, ddrm, ddnm, dps, red_diff, diffpir)
}


def solve(
    denoiser: Denoiser,
    operator: LinearOperator,
    y: Tensor,
    x: Tensor,
    times: Grid,
    *,
    method: Method = "pigdm",
    **settings: Any,
) -> Tensor:
    """Restore images x from data y = A x + sigma_y n by a solver chosen by name.

    Args:
        denoiser: of the prior.
        operator: the measurement.
        y: data, (batch, *operator.data_shape), or (1, ...) for all items.
        x: pure noise at the first time, (batch, *operator.image_shape).
        times: N + 1 descending times.
        method: the solver; `pigdm` samples the posterior best, `ddrm` and `red_diff` are the cheapest.
        settings: `sigma_y`, `noise`, `callback`, the solver's own, and conditions of the denoiser.

    Raises:
        ConfigError: unknown method; and as the solver.
    """
    if method not in SOLVERS:
        raise ConfigError(f"unknown solver {method!r}", f"use one of {', '.join(SOLVERS)}")
    return SOLVERS[method](denoiser, operator, y, x, times, **settings)
