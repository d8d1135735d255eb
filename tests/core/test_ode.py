"""The probability flow to a tolerance, and log-densities, against closed forms."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import (
    EDM,
    Denoiser,
    LinearVP,
    Mixture,
    Path,
    RectifiedFlow,
    Trigonometric,
    log_likelihood,
    probability_flow,
)

PATHS: list[tuple[Path, float, float]] = [
    (RectifiedFlow(), 1e-3, 0.999),
    (Trigonometric(), 1e-3, 0.999),
    (LinearVP(), 1e-3, 1.0),
    (EDM(), 0.01, 20.0),
]


def two_modes() -> Mixture:
    return Mixture(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[-1.0, 0.5], [0.8, -0.4]], dtype=torch.float64),
        torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.15, 0.0], [0.0, 0.4]]], dtype=torch.float64),
    )


def normal(mean: float, variance: float, size: int) -> Mixture:
    eye = torch.eye(size, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    return Mixture(one, torch.full((1, size), mean, dtype=torch.float64), variance * eye[None])


@pytest.mark.parametrize(("path", "near", "far"), PATHS, ids=lambda value: type(value).__name__)
def test_flow_of_a_gaussian_both_ways(path: Path, near: float, far: float) -> None:
    mean, variance = 0.6, 0.3
    denoiser = normal(mean, variance, 2).denoiser(path)
    latent = torch.randn(2, 2, generator=seeding.generator("ode"), dtype=torch.float64) * float(
        path.sigma(far)
    )
    data = probability_flow(denoiser, latent, far, near, atol=1e-8, rtol=1e-8)
    spread = [float(torch.sqrt(path.alpha(t) ** 2 * variance + path.sigma(t) ** 2)) for t in (far, near)]
    centre = [float(path.alpha(t)) * mean for t in (far, near)]
    assert_close(data, centre[1] + spread[1] / spread[0] * (latent - centre[0]), rtol=0, atol=1e-6)
    back = probability_flow(denoiser, data, near, far, atol=1e-8, rtol=1e-8)
    assert_close(back, latent, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("path", "near", "far"), PATHS, ids=lambda value: type(value).__name__)
def test_log_density_of_a_mixture(path: Path, near: float, far: float) -> None:
    mixture = two_modes()
    x = torch.tensor([[-1.0, 0.5], [1.5, -1.0]], dtype=torch.float64)
    found = log_likelihood(
        mixture.denoiser(path),
        x,
        near,
        far,
        prior=lambda z: mixture.log_density(z, float(path.alpha(far)), float(path.sigma(far))),
        atol=1e-6,
        rtol=1e-6,
    )
    exact = mixture.log_density(x, float(path.alpha(near)), float(path.sigma(near)))
    assert_close(found.value, exact, rtol=0, atol=1e-4)
    assert_close(found.value, found.prior + found.change)
    assert found.latent.shape == x.shape


def test_the_usual_prior_is_that_of_data_with_unit_variance() -> None:
    x = torch.tensor([[0.3, -1.2, 0.5]], dtype=torch.float64)
    for path, near, far in PATHS:
        denoiser = normal(0.0, 1.0, 3).denoiser(path)
        level = float(path.alpha(near) ** 2 + path.sigma(near) ** 2)
        exact = (-0.5 * (x.square() / level + math.log(2 * math.pi * level))).sum(1)
        assert_close(log_likelihood(denoiser, x, near, far).value, exact, rtol=0, atol=1e-4)


def test_hutchinson_is_exact_for_signs_and_right_in_the_mean() -> None:
    draw = seeding.generator("probes")
    x = torch.randn(1, 1, 2, 3, generator=draw, dtype=torch.float64)
    denoiser = normal(0.2, 0.5, 6).denoiser(RectifiedFlow())
    exact = log_likelihood(denoiser, x, 1e-3, 0.999)
    signs = torch.randint(0, 2, (1, *x.shape), generator=draw).double() * 2 - 1
    assert_close(log_likelihood(denoiser, x, 1e-3, 0.999, probes=signs).value, exact.value, rtol=0, atol=1e-5)

    mixture = two_modes().denoiser(RectifiedFlow())
    point = torch.tensor([[0.2, 0.1]], dtype=torch.float64)
    exact = log_likelihood(mixture, point, 1e-2, 0.99)
    # The same point many times, each with a probe of its own.
    points, probes = point.expand(400, 2), torch.randn(1, 400, 2, generator=draw, dtype=torch.float64)
    estimated = log_likelihood(
        mixture, points, 1e-2, 0.99, probes=probes, together=True, atol=1e-3, rtol=1e-3
    )
    error = float(estimated.value.std()) / 20.0
    assert 0.01 < error < 0.3
    assert float(estimated.value.mean()) == pytest.approx(float(exact.value), abs=3 * error)


def test_items_are_solved_by_themselves_with_their_conditions() -> None:
    def model(x: Tensor, t: Tensor, *, pull: Tensor, gain: float) -> Tensor:
        assert len(pull) == len(x)
        return gain * torch.tanh(x - pull[:, None]) * (1 + t[:, None])

    denoiser = Denoiser(model, RectifiedFlow(), "velocity")
    x = torch.randn(4, 3, generator=seeding.generator("items"))
    cond: dict[str, Any] = {"pull": torch.tensor([0.0, 1.0, -1.0, 2.0]), "gain": 2.0}
    every = probability_flow(denoiser, x, 1.0, 0.0, **cond)
    density = log_likelihood(denoiser, x, 0.0, 1.0, **cond)
    for item in range(4):
        one = {"pull": cond["pull"][item : item + 1], "gain": 2.0}
        alone = x[item : item + 1]
        assert_close(probability_flow(denoiser, alone, 1.0, 0.0, **one)[0], every[item], rtol=0, atol=1e-6)
        again = log_likelihood(denoiser, alone, 0.0, 1.0, **one)
        assert_close(again.value[0], density.value[item], rtol=0, atol=1e-5)
    together = probability_flow(denoiser, x, 1.0, 0.0, together=True, atol=1e-6, rtol=1e-6, **cond)
    assert_close(
        together, probability_flow(denoiser, x, 1.0, 0.0, atol=1e-6, rtol=1e-6, **cond), rtol=0, atol=1e-4
    )


def test_a_model_that_is_not_finite_is_refused() -> None:
    denoiser = Denoiser(lambda x, t: x / 0.0, RectifiedFlow(), "velocity")
    with pytest.raises(ConfigError):
        probability_flow(denoiser, torch.ones(1, 2), 1.0, 0.0)
