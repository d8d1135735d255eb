"""Proximal plug-and-play: a denoiser and a measurement by turns, at falling noise levels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from diffusion_suite.core.inverse.operators import LinearOperator
from diffusion_suite.core.schedulers import Denoiser

Callback = Callable[[dict[str, Any]], None]


def plug_and_play(
    denoiser: Denoiser,
    operator: LinearOperator,
    y: Tensor,
    sigma_y: float,
    levels: Iterable[float],
    start: Tensor,
    weight: float = 0.1,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Half-quadratic splitting with a denoising prior.

    At each level s, x0 <- denoiser(z, s), then z <- argmin |A z - y|^2 / sigma_y^2 + weight / s^2 |z - x0|^2
    (Zhang et al. 2021, DPIR, eq. 6; DiffPIR without fresh noise).

    Args:
        denoiser: on a path with alpha = 1 whose time is the noise level.
        operator: the measurement; its `prox` is used.
        y: data, (batch, *operator.data_shape).
        sigma_y: standard deviation of their noise, above 0.
        levels: noise levels, falling.
        start: first image, (batch, *operator.image_shape).
        weight: of the prior against the data; larger is smoother.
        callback: called after each level with `level`, `x0`.
        cond: passed on to the denoiser.

    Returns:
        The image that fits the data, after the last level; denoise it once more for the cleanest estimate.
    """
    z = start
    for level in levels:
        x0 = denoiser.x0(z, level, **cond)
        if callback is not None:
            callback({"level": level, "x0": x0})
        z = operator.prox(x0, y, weight * (sigma_y / level) ** 2)
    return z
