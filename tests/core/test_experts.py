"""Noise-range experts: who serves which time, adapters apart from each other, and distillation."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.guidance import (
    ClassifierFree,
    ExpertDenoiser,
    LoraExperts,
    NoiseExperts,
    distil_experts,
    expert_boundaries,
    expert_of,
    kl_distillation,
    mse_distillation,
)
from diffusion_suite.core.schedulers import Denoiser, DiscreteVP, RectifiedFlow, betas, ddim, even_times


@pytest.mark.parametrize(("count", "steps"), [(5, 1000), (3, 1000), (7, 10), (1, 4)])
def test_ranges_are_half_open_and_complete(count: int, steps: int) -> None:
    boundaries = expert_boundaries(count, steps)
    served = expert_of(torch.arange(steps), boundaries)
    assert served.tolist() == [t * count // steps for t in range(steps)]
    assert all(boundaries[k] <= t < boundaries[k + 1] for t, k in enumerate(served.tolist()))


def test_boundaries_must_fit() -> None:
    for boundaries in ([0, 1], [0, 1, 1], [0, 2, 1]):
        with pytest.raises(ValueError, match="increasing boundaries"):
            NoiseExperts([torch.add, torch.add], boundaries)


def marked(calls: list[tuple[int, int]] | None = None) -> list[Any]:
    def expert(k: int, x: Tensor, t: Tensor, shift: Tensor | None = None) -> Tensor:
        if calls is not None:
            calls.append((k, len(x)))
        assert t.shape == x.shape[:1]
        return 0.1 * x * (k + 1) + (0.0 if shift is None else shift)

    return [lambda x, t, k=k, **cond: expert(k, x, t, **cond) for k in range(3)]


def test_every_item_goes_to_the_expert_of_its_own_time() -> None:
    calls: list[tuple[int, int]] = []
    experts = NoiseExperts(marked(calls), [0.0, 0.3, 0.6, 1.0])
    x = torch.randn(5, 2, 3, generator=seeding.generator("x"))
    t = torch.tensor([0.6, 0.1, 1.0, 0.3, 0.0])
    shift = torch.arange(5.0)[:, None, None]
    expected = 0.1 * x * torch.tensor([3, 1, 3, 2, 1])[:, None, None] + shift
    assert_close(experts(x, t, shift=shift), expected)
    assert calls == [(0, 2), (1, 1), (2, 2)]
    for row, at in enumerate(t.tolist()):
        assert_close(experts(x[[row]], at, shift=shift[[row]]), expected[[row]])
    assert_close(experts(x, torch.tensor(0.5)), 0.2 * x)


def test_routing_keeps_the_gradient() -> None:
    x = torch.randn(3, 2, generator=seeding.generator("x")).requires_grad_()
    experts = NoiseExperts(marked(), [0.0, 0.3, 0.6, 1.0])
    experts(x, torch.tensor([0.9, 0.1, 0.4])).sum().backward()
    assert_close(x.grad, 0.1 * torch.tensor([3.0, 1.0, 2.0])[:, None].expand(3, 2))


def test_expert_denoiser_in_samplers_and_guidances() -> None:
    calls: list[tuple[int, int]] = []
    denoiser = ExpertDenoiser(marked(calls), [0.0, 0.3, 0.6, 1.0], RectifiedFlow(), "velocity")
    x = torch.randn(2, 3, 4, generator=seeding.generator("x"))
    ddim(denoiser, x, [1.0, 0.6, 0.45, 0.1, 0.0])
    assert calls == [(2, 2), (2, 2), (1, 2), (0, 2)]
    shift = torch.ones(2, 1, 1)
    guided = ClassifierFree(denoiser, 2.0, {"shift": 0.0}).predict(x, torch.tensor([0.1, 0.9]), shift=shift)
    assert_close(guided, 0.1 * x * torch.tensor([1, 3])[:, None, None] + 2.0)
    plain = Denoiser(NoiseExperts(marked(), [0.0, 0.3, 0.6, 1.0]), RectifiedFlow(), "velocity")
    assert_close(ddim(plain, x, even_times(6)), ddim(denoiser, x, even_times(6)))


def network() -> nn.Sequential:
    with seeding.seeded("classifier"):
        return nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
        )  # fmt: skip


def pictures(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator("pictures", *shape))


def test_experts_start_as_the_network_and_learn_apart() -> None:
    given = network()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    experts, x = LoraExperts(given, count=3, rank=2, alpha=1), pictures(2, 2, 7, 6)
    t = torch.zeros(2)
    teacher = network().eval()
    for expert in experts:
        assert_close(expert(x, t), teacher(x))
    assert len(experts.adapter(0)) == 4  # two factors of one convolution and of one linear layer
    for weight in experts.adapter(1):
        nn.init.normal_(weight, generator=seeding.generator("adapter"))
    first, second, third = (expert(x, t) for expert in experts)
    assert_close(first, teacher(x))
    assert_close(third, teacher(x))
    assert (second - teacher(x)).abs().max() > 1e-3
    assert given.training
    for name, value in given.state_dict().items():
        assert_close(value, before[name])


def test_experts_move_and_are_saved_as_one_module() -> None:
    experts = LoraExperts(network(), count=2, rank=2)
    assert next(iter(experts.double()))(pictures(1, 2, 6, 6).double()).dtype == torch.float64
    other = LoraExperts(network(), count=2, rank=2).double()
    for weight in experts.adapter(0):
        nn.init.normal_(weight, generator=seeding.generator("adapter"))
    other.load_state_dict(experts.state_dict())
    x = pictures(1, 2, 6, 6).double()
    assert_close(next(iter(other))(x), next(iter(experts))(x))


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="no convolution or linear layer"):
        LoraExperts(nn.Linear(2, 2), count=2)


def test_distillation_losses() -> None:
    teacher = torch.randn(3, 4, generator=seeding.generator("teacher"))
    assert_close(kl_distillation(teacher / 0.25, teacher, 0.25), torch.zeros(3))
    student = torch.randn(3, 4, generator=seeding.generator("student"))
    wanted = (teacher / 0.25).softmax(1)
    expected = (wanted * (wanted.log() - student.log_softmax(1))).sum(1) / 4
    assert_close(kl_distillation(student, teacher), expected)
    pixels = [value[:, :, None, None].expand(3, 4, 2, 5) for value in (student, teacher)]
    assert_close(kl_distillation(*pixels), expected)
    assert_close(mse_distillation(student, teacher), (student - teacher).square().mean(1))


def test_distilled_experts_are_better_in_their_own_range() -> None:
    """A linear teacher of a scalar: the best expert of a noise level shrinks its output."""
    path, steps = DiscreteVP(betas("linear", 100, 1e-4, 0.1)), 100
    teacher = nn.Sequential(nn.Linear(4, 1, bias=False))
    nn.init.ones_(teacher[0].weight)
    boundaries = expert_boundaries(2, steps)
    experts = LoraExperts(teacher, count=2, rank=2, alpha=2)
    generator = seeding.generator("training")

    def images() -> Iterator[Tensor]:
        while True:
            yield torch.randn(64, 4, generator=generator)

    def errors() -> Tensor:
        x0, noise = (torch.randn(2000, 4, generator=seeding.generator(name)) for name in ("x0", "noise"))
        found = torch.zeros(2, 2)
        for (k, expert), (j, t) in itertools.product(enumerate(experts), enumerate((15, 80))):
            x_t = path.add_noise(x0, noise, t)
            found[k, j] = mse_distillation(expert(x_t, None), teacher(x0)).mean().detach()
        return found

    before = errors()
    assert_close(before[0], before[1])
    distil_experts(
        experts,
        teacher,
        images(),
        path,
        boundaries,
        iterations=200,
        generator=generator,
        loss=mse_distillation,
        learning_rate=0.02,
    )
    after = errors()
    assert after[0, 0] < after[1, 0]
    assert after[1, 1] < after[0, 1]
    assert after[1, 1] < 0.8 * before[1, 1]
