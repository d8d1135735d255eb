"""Invariant guidance: group inference, the invariant objective, and the mixed denoiser."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.guidance import (
    AdaptiveProjected,
    EnergyGuided,
    Mixed,
    group_means,
    grouping_objective,
    infer_groups,
    invariant_objective,
    largest_gap,
)
from diffusion_suite.core.schedulers import Denoiser, LinearVP, RectifiedFlow


def test_hard_groups_have_ordinary_means() -> None:
    losses = torch.tensor([1.0, 3.0, 10.0])
    membership = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert_close(group_means(losses, membership), torch.tensor([2.0, 10.0]))
    # mean 6, unbiased variance 32
    assert_close(invariant_objective(losses, membership, 0.5), torch.tensor(22.0))


def test_equal_groups_cost_their_mean_only() -> None:
    membership = torch.rand(6, 3, generator=seeding.generator("g"))
    assert_close(invariant_objective(torch.full((6,), 0.7), membership, 5.0), torch.tensor(0.7))


def test_small_groups_are_penalised() -> None:
    losses, equal = torch.ones(4), torch.zeros(4, 2)
    assert_close(grouping_objective(losses, equal, 3.0), torch.tensor(0.0))
    one = torch.tensor([[50.0, 0.0]]).expand(4, 2)
    assert_close(grouping_objective(losses, one, 3.0), torch.tensor(3.0))


def test_inference_finds_what_the_biased_model_serves_worse() -> None:
    hard = torch.arange(60) % 3 == 0
    losses = torch.where(hard, 1.0, 0.2) + 0.05 * torch.randn(60, generator=seeding.generator("losses"))
    with torch.no_grad():
        membership = infer_groups(losses, 2, generator=seeding.generator("start"), steps=300)
    assert_close(membership.sum(1), torch.ones(60))
    groups = membership.argmax(1)
    agreement = (groups == hard.long()).float().mean()
    assert max(agreement, 1 - agreement) > 0.95
    means = group_means(losses, membership)
    assert (means[0] - means[1]).abs() > 0.5
    again = infer_groups(losses, 2, generator=seeding.generator("start"), steps=300)
    assert torch.equal(again, membership)


def test_largest_gap() -> None:
    assert_close(largest_gap(torch.tensor([0, 0, 0, 1]), 3), torch.tensor(0.75, dtype=torch.float64))
    assert largest_gap(torch.tensor([0, 1, 2]), 3) == 0.0


def denoiser(scale: float, kind: str = "eps") -> tuple[nn.Linear, Denoiser]:
    layer = nn.Linear(3, 3, bias=False)
    nn.init.constant_(layer.weight, scale)
    return layer, Denoiser(lambda x, t: layer(x), LinearVP(), kind)  # type: ignore[arg-type]


def test_mixture_of_outputs_and_who_is_trained() -> None:
    (frozen, biased), (light, correction) = denoiser(0.3), denoiser(0.0)
    x = torch.randn(4, 3, generator=seeding.generator("x"))
    mixed = Mixed(biased, correction, 0.4)
    assert_close(mixed.eps(x, 0.5), 0.6 * biased.eps(x, 0.5))
    mixed.eps(x, 0.5).square().sum().backward()
    assert frozen.weight.grad is None
    assert light.weight.grad is not None


def test_correction_of_another_kind_mixes_noise_with_noise() -> None:
    (_, biased), (_, correction) = denoiser(0.3), denoiser(0.2, "x0")
    x = torch.randn(4, 3, generator=seeding.generator("x"))
    expected = 0.6 * biased.eps(x, 0.5) + 0.4 * correction.eps(x, 0.5)
    assert_close(Mixed(biased, correction, 0.4).eps(x, 0.5), expected)


def test_guidance_differentiates_through_the_frozen_network_too() -> None:
    (_, biased), (_, correction) = denoiser(0.3), denoiser(0.2)
    x, path = torch.randn(4, 3, generator=seeding.generator("x")), LinearVP()
    mixed = Mixed(biased, correction, 0.4)
    found = EnergyGuided(mixed, lambda x0: x0.sum(1)).eps(x, 0.5) - mixed.eps(x, 0.5)
    alpha, sigma = path.at(0.5, x)
    slope = (1.0 - sigma * 3 * (0.6 * 0.3 + 0.4 * 0.2)) / alpha
    assert_close(found, (sigma * slope).expand(4, 3))


def test_steps_reach_both_parts() -> None:
    steps: list[int] = []

    class Told(Denoiser):
        def at_step(self, t: float, index: int, count: int) -> Denoiser:
            steps.append(index)
            return Denoiser(self.model, self.path, self.prediction_type)

    def model(x: Tensor, t: Tensor, known: Tensor | None = None) -> Tensor:
        return x

    first, second = (Told(model, RectifiedFlow(), "velocity") for _ in range(2))
    assert isinstance(Mixed(first, second).at_step(1.0, 3, 5), Mixed)
    assert isinstance(AdaptiveProjected(first, 2.0, {}).at_step(1.0, 4, 5), AdaptiveProjected)
    assert steps == [3, 3, 4]


@pytest.mark.slow
def test_invariant_training_evens_out_the_groups() -> None:
    """A network fit to a majority serves a minority worse; the objective brings both losses together."""
    generator = seeding.generator("data")
    minority = torch.arange(200) % 5 == 0
    x0 = torch.where(minority[:, None], 2.0, -1.0) + 0.2 * torch.randn(200, 2, generator=generator)
    path = LinearVP()
    with seeding.seeded("weights"):
        layers = [nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 2)) for _ in range(2)]
    biased, correction = (
        Denoiser(lambda x, t, n=n: n(torch.cat([x, t[:, None].to(x)], 1)), path, "eps") for n in layers
    )

    def losses(denoiser: Denoiser, draws: int = 4) -> Tensor:
        rounds = []
        for _ in range(draws):
            eps = torch.randn(x0.shape, generator=generator)
            t = 0.2 + 0.6 * torch.rand(len(x0), generator=generator)
            rounds.append((denoiser.eps(path.add_noise(x0, eps, t), t) - eps).square().mean(1))
        return torch.stack(rounds).mean(0)

    optimizer = torch.optim.Adam(layers[0].parameters(), 3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        losses(biased)[~minority].mean().backward()
        optimizer.step()
    nn.init.zeros_(layers[1][2].weight)
    nn.init.zeros_(layers[1][2].bias)
    mixed = Mixed(biased, correction, 0.5)
    with torch.no_grad():
        membership = infer_groups(losses(biased, 50), 2, generator=generator)
        before = group_means(losses(mixed, 50), membership)
    optimizer = torch.optim.Adam(layers[1].parameters(), 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        invariant_objective(losses(mixed), membership).backward()
        optimizer.step()
    with torch.no_grad():
        after = group_means(losses(mixed, 50), membership)
    assert after.diff().abs() < 0.5 * before.diff().abs()
    assert after.max() < before.max()
