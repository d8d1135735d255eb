"""Guidance by energies of the clean data, recurrences, and self-guidance of sequences."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.guidance import (
    EnergyGuided,
    ancestral_scales,
    energy_gradient,
    gradient,
    pinball,
    posterior_variances,
    quantile_levels,
    refine,
    squared_error,
)
from diffusion_suite.core.schedulers import (
    EDM,
    Denoiser,
    DiscreteVP,
    LinearVP,
    Mixture,
    RectifiedFlow,
    ancestral,
    betas,
    ddim,
    even_times,
    time_travel,
)

LENGTH = 12
EYE = torch.eye(LENGTH, dtype=torch.float64)


def prior() -> Mixture:
    """A smooth Gaussian process of twelve steps."""
    place = torch.arange(LENGTH, dtype=torch.float64)
    covariance = torch.exp(-0.5 * ((place[:, None] - place) / 3.0) ** 2) + 0.02 * EYE
    return Mixture(torch.ones(1, dtype=torch.float64), place.sin()[None], covariance[None])


def noise(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=seeding.generator(name), dtype=torch.float64)


def bowl(x0: Tensor) -> Tensor:
    return 0.5 * (x0 - 1.0).square().flatten(1).sum(1)


@pytest.mark.parametrize("kind", ["eps", "x0", "velocity"])
def test_energy_of_a_gaussian_prior_in_closed_form(kind: Any) -> None:
    """x0 is affine in x_t with slope J = alpha C S^-1, so grad E = J^T (x0 - 1)."""
    path, x, t = LinearVP(), noise(3, LENGTH), 0.3
    denoiser = prior().denoiser(path, kind)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    covariance = prior().covariances[0]
    slope = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * EYE)
    away = denoiser.x0(x, t) - 1.0
    through = EnergyGuided(denoiser, bowl, 2.0).eps(x, t) - denoiser.eps(x, t)
    assert_close(through, 2.0 * sigma * away @ slope, rtol=1e-8, atol=1e-8)
    at_x0 = EnergyGuided(denoiser, bowl, 2.0, jacobian=False).eps(x, t) - denoiser.eps(x, t)
    assert_close(at_x0, 2.0 * sigma * away / alpha, rtol=1e-8, atol=1e-8)


def test_without_jacobian_no_graph_of_the_network_is_made() -> None:
    graphs = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        graphs.append(torch.is_grad_enabled() and x.requires_grad)
        return x

    x = noise(2, 3, 4)
    EnergyGuided(Denoiser(model, RectifiedFlow(), "velocity"), bowl, jacobian=False).x0(x, 0.5)
    EnergyGuided(Denoiser(model, RectifiedFlow(), "velocity"), bowl).x0(x, 0.5)
    assert graphs == [False, True]


def test_backward_guidance_moves_the_data_downhill() -> None:
    denoiser, x = prior().denoiser(RectifiedFlow(), "velocity"), noise(3, LENGTH)
    guided = EnergyGuided(denoiser, bowl, 0.0, backward_steps=5, backward_rate=0.3)
    plain = denoiser.x0(x, 0.4)
    assert_close(guided.x0(x, 0.4), plain + (1.0 - 0.7**5) * (1.0 - plain))
    both = EnergyGuided(denoiser, bowl, 2.0, backward_steps=5, backward_rate=0.3)
    forward = EnergyGuided(denoiser, bowl, 2.0)
    assert_close(both.x0(x, 0.4) - guided.x0(x, 0.4), forward.x0(x, 0.4) - plain)


def test_energy_that_mixes_items_is_refused() -> None:
    denoiser, x = prior().denoiser(RectifiedFlow()), noise(3, LENGTH)
    with pytest.raises(ValueError, match="one value an item"):
        EnergyGuided(denoiser, lambda x0: x0.square().mean()).x0(x, 0.4)
    with pytest.raises(ValueError, match="one value an item"):
        gradient(x.sum(0), x)


def test_energy_of_a_network_under_inference_mode() -> None:
    judge, denoiser = nn.Linear(LENGTH, 1).double(), prior().denoiser(LinearVP())
    with torch.inference_mode():
        guided = EnergyGuided(denoiser, lambda x0: judge(x0).square()[:, 0])
        found = ddim(guided, noise(2, LENGTH), even_times(4))
    assert torch.isfinite(found).all()
    assert judge.weight.grad is None


def test_recurrences_are_a_grid_that_goes_back() -> None:
    """Every step is made three times, from x_i = sqrt(a_i/a_j) x_j + sqrt(1 - a_i/a_j) z in between."""
    path, times = DiscreteVP(betas("linear", 100, 1e-4, 0.1)), [99, 50, 20, -1]
    guided, x = EnergyGuided(prior().denoiser(path), bowl, 0.3), noise(2, LENGTH)
    grid = time_travel(times, 1, 3)
    values = noise(len(grid) - 1, 2, LENGTH, name="z")
    expected, draw = x, iter(values)
    for i, j in itertools.pairwise(times):
        for again in range(3):
            expected = ddim(guided, expected, [i, j])
            next(draw)
            if again < 2:
                ratio = path.alpha(i) ** 2 / path.alpha(j) ** 2
                expected = ratio.sqrt() * expected + (1.0 - ratio).sqrt() * next(draw)
    assert_close(ddim(guided, x, grid, noise=values), expected, rtol=1e-9, atol=1e-9)


def test_guided_samples_of_a_gaussian_process_near_the_posterior() -> None:
    """An energy of the predicted data is no exact likelihood, but pulls the mean most of the way."""
    path, observed, spread = EDM(), torch.tensor([1, 6, 9]), 0.3
    process, count = prior(), 400
    y = noise(3, name="y")
    covariance = process.covariances[0]

    def energy(x0: Tensor) -> Tensor:
        return 0.5 * (x0[:, observed] - y).square().sum(1) / spread**2

    gain = covariance[:, observed] @ torch.linalg.inv(
        covariance[observed][:, observed] + spread**2 * EYE[:3, :3]
    )
    mean = process.means[0] + gain @ (y - process.means[0, observed])
    times = [40.0 * 0.8**i for i in range(40)] + [0.0]
    with torch.no_grad():
        found = ddim(EnergyGuided(process.denoiser(path), energy, 0.3), 40.0 * noise(count, LENGTH), times)
    plain = process.means[0]
    assert (found.mean(0) - mean)[observed].norm() < 0.5 * (plain - mean)[observed].norm()


def test_squared_error_ignores_what_was_not_observed() -> None:
    y = torch.tensor([1.0, float("nan"), 3.0])
    energy = squared_error(y, torch.tensor([1, 0, 1]))
    x0 = torch.tensor([[0.0, 5.0, 1.0], [1.0, 7.0, 3.0]])
    assert energy(x0).tolist() == [5.0, 0.0]
    assert torch.isfinite(energy_gradient(energy, x0)).all()


def test_pinball_is_least_at_the_quantile() -> None:
    values = noise(1001, name="values").sort().values
    levels = quantile_levels(3, 2)
    assert levels.tolist() == [0.25, 0.5, 0.75] * 2
    energy = pinball(values, torch.ones(1001), levels)
    best = values[(levels * 1000).round().long()]
    for step in (-0.1, 0.1):
        assert (energy((best + step)[:, None].expand(6, 1001)) > energy(best[:, None].expand(6, 1001))).all()


def test_pinball_pulls_upwards_by_the_level_and_downwards_by_the_rest() -> None:
    y, levels = torch.zeros(4), torch.tensor([0.2, 0.9])
    energy = pinball(y, torch.tensor([1, 1, 0, 1]), levels)
    x0 = torch.tensor([[-1.0, 1.0, 3.0, -2.0]]).expand(2, 4)
    found = energy_gradient(energy, x0)
    assert_close(found, torch.tensor([[-0.2, 0.8, 0.0, -0.2], [-0.9, 0.1, 0.0, -0.9]]))


def test_parallel_samples_spread_to_their_quantiles() -> None:
    path = DiscreteVP(betas("linear", 100, 1e-4, 0.1))
    samples, times = 9, list(range(99, -2, -1))
    y = torch.zeros(LENGTH, dtype=torch.float64)
    mask = (torch.arange(LENGTH) < 8).double()
    guided = EnergyGuided(prior().denoiser(path), pinball(y, mask, quantile_levels(samples)), 4.0)
    with torch.no_grad():
        found = ddim(guided, noise(1, LENGTH).expand(samples, LENGTH), times)
    means = found[:, :8].mean(1)
    assert (means.diff() > 0).all()


def test_ancestral_form_of_self_guidance() -> None:
    """x += scale variance (-grad E), the gradient at the state that enters the step, not at the new one."""
    path, times = DiscreteVP(betas("linear", 100, 1e-4, 0.1)), [99, 60, 30, 10, -1]
    denoiser = prior().denoiser(path, "eps")
    energy = squared_error(torch.zeros(LENGTH), torch.ones(LENGTH))
    variances = posterior_variances(path, times)
    guided = EnergyGuided(denoiser, energy, ancestral_scales(path, times, 4.0 * variances))
    x, z = noise(2, LENGTH), noise(4, 2, LENGTH, name="z")
    seen: list[Tensor] = []
    found = ancestral(guided, x, times, noise=z, callback=lambda step: seen.append(step.x))
    for index in range(3):
        pair, state = times[index : index + 2], seen[index]
        at = state.clone().requires_grad_()
        (slope,) = torch.autograd.grad(energy(denoiser.x0(at, pair[0])).sum(), at)
        expected = ancestral(denoiser, state, pair, noise=z[[index]]) - 4.0 * variances[index] * slope
        assert_close(seen[index + 1], expected, rtol=1e-8, atol=1e-8)
    assert_close(found, denoiser.x0(seen[3], 10))  # no variance, no shift


def test_refinement_follows_the_gradient_of_a_gaussian_process() -> None:
    """eps_hat is affine: with one known draw the slope of both terms has a closed form."""
    path, t = DiscreteVP(betas("linear", 100, 1e-4, 0.1)), 20
    denoiser, forecast = prior().denoiser(path, "eps"), noise(2, LENGTH)
    values = noise(2, 2, LENGTH, name="z")
    energy = squared_error(forecast, torch.ones(LENGTH))
    found = refine(denoiser, forecast, energy, t, noise=values, iterations=1, step=0.05, temperature=0.2)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    inverse = torch.linalg.inv(alpha**2 * prior().covariances[0] + sigma**2 * EYE)
    x_t = alpha * forecast + sigma * values[0]
    missed = sigma * (x_t - alpha * prior().means[0]) @ inverse - values[0]
    slope = 2.0 * alpha * sigma * missed @ inverse
    assert_close(found, forecast - 0.05 * slope + (2 * 0.05 * 0.2) ** 0.5 * values[1], rtol=1e-8, atol=1e-8)


def test_refinement_brings_a_poor_forecast_nearer_and_items_stay_apart() -> None:
    path, process = DiscreteVP(betas("linear", 100, 1e-4, 0.1)), prior()
    forecast = process.means[0] + 0.5 * noise(4, LENGTH)
    energy = squared_error(forecast, torch.ones(LENGTH))

    def refined(rows: list[int]) -> Tensor:
        energy = squared_error(forecast[rows], torch.ones(LENGTH))
        generators = [seeding.generator("item", row) for row in rows]
        with torch.no_grad():
            return refine(
                process.denoiser(path), forecast[rows], energy, 20, noise=generators, temperature=0.0
            )

    together = refined([0, 1, 2, 3])
    assert (process.log_density(together) > process.log_density(forecast)).all()
    assert energy(together).mean() < 0.5 * (forecast - process.means[0]).square().sum(1).mean()
    for row in range(4):
        assert_close(refined([row])[0], together[row], rtol=0.0, atol=1e-10)
