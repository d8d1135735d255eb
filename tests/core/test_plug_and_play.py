"""Plug-and-play with the denoiser of a Gaussian, whose fixed point has a closed form."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.inverse import (
    BicubicDownsampling,
    Identity,
    Inpainting,
    LinearOperator,
    plug_and_play,
)
from diffusion_suite.core.schedulers import EDM, Denoiser

DOUBLE = torch.float64
DEVIATION = 2.0
SHAPE = (2, 8, 12)


def draws(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator("plug and play", *shape), dtype=DOUBLE)


def shrink(x: Tensor, sigma: float, mean: float = 0.0) -> Tensor:
    """Posterior mean of N(mean, DEVIATION^2) under noise of level sigma."""
    return mean + (x - mean) * DEVIATION**2 / (DEVIATION**2 + sigma**2)


def operators() -> dict[str, LinearOperator]:
    mask = torch.rand(*SHAPE, generator=seeding.generator("mask")) < 0.5
    return {
        "identity": Identity(*SHAPE).to(dtype=DOUBLE),
        "mask": Inpainting(mask).to(dtype=DOUBLE),
        "bicubic": BicubicDownsampling(2, *SHAPE[1:], SHAPE[0], dtype=DOUBLE),
    }


def dense(operator: LinearOperator) -> Tensor:
    units = torch.eye(torch.Size(SHAPE).numel(), dtype=DOUBLE).reshape(-1, *SHAPE)
    return operator.A(units).flatten(1).T


@pytest.mark.parametrize("name", operators())
def test_fixed_point_against_the_closed_form(name: str) -> None:
    operator, level, sigma_y, weight = operators()[name], 0.8, 0.3, 0.2
    matrix = dense(operator)
    y = draws(1, len(matrix)).reshape(1, *operator.data_shape)
    denoiser = Denoiser(shrink, EDM(), "x0")
    found = plug_and_play(
        denoiser, operator, y, sigma_y, [level] * 400, torch.zeros(1, *SHAPE, dtype=DOUBLE), weight
    )
    gain, rho = shrink(torch.ones((), dtype=DOUBLE), level), weight * sigma_y**2 / level**2
    normal = matrix.T @ matrix + rho * (1 - gain) * torch.eye(matrix.shape[1], dtype=DOUBLE)
    assert_close(found.flatten(), torch.linalg.solve(normal, matrix.T @ y.flatten()))


def test_one_level_is_a_denoising_and_a_fit_to_the_data() -> None:
    start, y = draws(1, *SHAPE), draws(3, *SHAPE)[:1]
    found = plug_and_play(
        Denoiser(shrink, EDM(), "x0"), Identity(*SHAPE).to(dtype=DOUBLE), y, 0.5, [1.0], start, weight=4.0
    )
    assert_close(found, (y + shrink(start, 1.0)) / 2)


def test_falling_levels_end_at_the_data() -> None:
    operator = operators()["mask"]
    y = operator.A(draws(1, *SHAPE))
    levels = torch.logspace(1, -4, 30).tolist()
    found = plug_and_play(Denoiser(shrink, EDM(), "x0"), operator, y, 1e-6, levels, operator.pinv(y))
    assert_close(operator.A(found), y, atol=1e-4, rtol=0)


def test_conditions_and_callback() -> None:
    seen: list[float] = []
    start = torch.zeros(1, *SHAPE, dtype=DOUBLE)
    found = plug_and_play(
        Denoiser(shrink, EDM(), "x0"),
        Identity(*SHAPE).to(dtype=DOUBLE),
        start,
        1e6,
        [3.0, 2.0, 1.0],
        start,
        callback=lambda state: seen.append(state["level"]),
        mean=7.0,
    )
    assert seen == [3.0, 2.0, 1.0]
    gains = [DEVIATION**2 / (DEVIATION**2 + level**2) for level in seen]
    assert_close(found, torch.full_like(found, 7.0 * (1 - math.prod(gains))), rtol=1e-6, atol=0)
