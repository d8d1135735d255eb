"""Flow matching against closed forms."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.flow_matching import (
    BrownianBridge,
    GaussianFlow,
    Interpolant,
    LipmanPath,
    Pairs,
    Smoothed,
    UpsamplingSource,
    WithCondition,
    enlarged,
    flow_loss,
    independent,
    integrate,
    integrate_to_tolerance,
    interpolant,
    log_density,
    shifted_cosine,
    straightness,
)
from diffusion_suite.core.flow_matching.interpolants import InterpolantName
from diffusion_suite.core.schedulers import (
    FieldStep,
    Mixture,
    integrate_adaptive,
    integrate_grid,
    transported,
    uniforms,
)

NAMES: tuple[InterpolantName, ...] = ("linear", "trigonometric", "vp", "lipman", "smoothed", "bridge")


def draws(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator(name), dtype=torch.float64)


def gaussians(dimension: int = 3) -> list[Tensor]:
    """Mean and covariance of a source and of a target."""
    made = []
    for name in ("source", "target"):
        root = draws(f"{name} root", dimension, dimension)
        made += [draws(f"{name} mean", dimension), root @ root.T + 0.3 * torch.eye(dimension).double()]
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_velocity_is_the_derivative_of_the_state(name: InterpolantName) -> None:
    made = interpolant(name)
    source, target, noise = (draws(part, 5, 2, 3, 4) for part in ("a", "b", "e"))
    s = torch.tensor([0.05, 0.3, 0.5, 0.7, 0.95], dtype=torch.float64).requires_grad_()
    extra = noise if made.noisy else None
    x, velocity = made.at(source, target, s, extra)
    slope = torch.autograd.grad(x.sum(), s)[0]
    assert_close(velocity.sum((1, 2, 3)).detach(), slope, rtol=1e-6, atol=1e-6)


def test_ends_are_source_and_target() -> None:
    source, target, noise = (draws(part, 2, 3) for part in ("a", "b", "e"))
    for made in (Interpolant(), interpolant("trigonometric"), BrownianBridge()):
        extra = noise if made.noisy else None
        for s, end in ((0.0, source), (1.0, target)):
            x, velocity = made.at(source, target, s, extra)
            assert_close(x, end, rtol=0, atol=1e-12)
            assert bool(torch.isfinite(velocity).all())
    assert_close(Smoothed(0.2).at(source, target, 1.0, noise)[0], target + 0.2 * noise)
    assert_close(interpolant("lipman", 0.1).at(source, target, 1.0)[0], target + 0.1 * source)


@pytest.mark.parametrize("name", ["linear", "trigonometric", "vp", "lipman"])
def test_score_and_noise_follow_from_the_velocity(name: InterpolantName) -> None:
    made = interpolant(name)
    source, target = draws("a", 4, 3, 5), draws("b", 4, 3, 5)
    s = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    x, velocity = made.at(source, target, s)
    seen = made.denoiser(lambda *_: velocity)
    sigma = made.path.sigma(1.0 - s)[:, None, None]
    assert_close(seen.eps(x, 1.0 - s), source, rtol=0, atol=1e-9)
    assert_close(seen.x0(x, 1.0 - s), target, rtol=0, atol=1e-9)
    assert_close(seen.score(x, 1.0 - s), -source / sigma, rtol=0, atol=1e-8)


def test_the_lipman_path_inverts() -> None:
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    path = LipmanPath(0.05)
    assert_close(path.t_of_logsnr(path.logsnr(t)), t, rtol=0, atol=1e-12)


def test_bad_pairs_and_names_are_refused() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="no pairs"):
        Interpolant().at(x, torch.zeros(2, 1), 0.5)
    with pytest.raises(ValueError, match="needs noise"):
        Smoothed().at(x, x, 0.5)
    with pytest.raises(ValueError, match="needs no noise"):
        Interpolant().at(x, x, 0.5, x)
    with pytest.raises(ConfigError, match="bridge"):
        interpolant("straight")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no sigma"):
        interpolant("linear", 0.1)
    with pytest.raises(ConfigError, match="sigma"):
        interpolant("bridge", -1.0)


def test_the_loss_is_the_weighted_mean_square() -> None:
    source, target, s = draws("a", 3, 2, 4), draws("b", 3, 2, 4), torch.tensor([0.2, 0.5, 0.9])
    calls = []

    def model(x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        calls.append((x, time, label))
        return torch.zeros_like(x).bfloat16()

    pairs = Pairs(source, target, {"label": torch.arange(3)})
    weight = torch.tensor([1.0, 0.0, 2.0])
    loss = flow_loss(model, pairs, s, weight=weight)
    each = (target - source).square().mean((1, 2))
    assert_close(loss, (weight.double() * each).mean())
    (x, time, label) = calls[0]
    assert_close(x, torch.lerp(source, target, s.double()[:, None, None]))
    assert torch.equal(time, s)
    assert torch.equal(label, torch.arange(3))
    generators = [seeding.generator(item) for item in range(3)]
    assert float(flow_loss(model, pairs, s, Smoothed(0.5), noise=generators)) > 0.0


# From source to target


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_orders_of_convergence(method: str, order: int) -> None:
    x, end = torch.ones(1, 1, dtype=torch.float64), math.exp(math.sin(1.0))
    errors = [
        abs(float(integrate(lambda x, s: x * s.cos()[:, None], x, n, method=method)) - end) for n in (32, 64)
    ]
    assert math.log2(errors[0] / errors[1]) > order - 0.2


def test_steps_are_evaluations_and_the_callback_sees_each() -> None:
    asked, seen = [], []

    def model(x: Tensor, s: Tensor, gain: float) -> Tensor:
        asked.append(s)
        return gain * torch.ones_like(x)

    def note(step: FieldStep) -> None:
        seen.append((step.index, step.t, float(step.x[0, 0]), float(step.slope[0, 0])))

    x = integrate(model, torch.zeros(2, 3), 4, callback=note, gain=2.0)
    assert_close(x, torch.full((2, 3), 2.0))
    assert [float(s[0]) for s in asked] == [0.0, 0.25, 0.5, 0.75]
    assert all(s.shape == (2,) for s in asked)
    assert seen == [(i, i / 4, i / 2, 2.0) for i in range(4)]
    assert_close(integrate(model, torch.zeros(1, 1), [0.0, 0.1, 1.0], gain=3.0), torch.full((1, 1), 3.0))


def test_what_makes_no_step_is_refused() -> None:
    x = torch.zeros(1, 1)
    with pytest.raises(ConfigError, match="at least 1"):
        integrate(lambda x, s: x, x, 0)
    with pytest.raises(ConfigError, match="one of euler"):
        integrate(lambda x, s: x, x, 2, method="leapfrog")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="start and an end"):
        integrate_grid(lambda x, t: x, x, [0.0])
    with pytest.raises(ConfigError, match="adaptive"):
        integrate_adaptive(lambda x, t: x * float("nan"), x, 0.0, 1.0)


def test_adaptive_steps_meet_the_tolerance_and_items_stand_alone() -> None:
    flow = GaussianFlow.independent(*gaussians())
    start = flow.sample_source(draws("start", 4, 3))
    fine = integrate(flow.velocity, start, 200, method="rk4")
    assert_close(integrate_to_tolerance(flow.velocity, start, atol=1e-9, rtol=1e-9), fine, rtol=0, atol=1e-7)
    back = integrate_to_tolerance(flow.velocity, fine, atol=1e-9, rtol=1e-9, backward=True)
    assert_close(back, start, rtol=0, atol=1e-7)
    labels = torch.arange(4)

    def model(x: Tensor, s: Tensor, label: Tensor) -> Tensor:
        return flow.velocity(x, s) * (1.0 + label.double())[:, None]

    batch = integrate_to_tolerance(model, start, label=labels)
    assert_close(batch[2:3], integrate_to_tolerance(model, start[2:3], label=labels[2:3]), rtol=0, atol=1e-12)
    together = integrate_to_tolerance(model, start, label=labels, together=True)
    assert_close(together, batch, rtol=1e-2, atol=1e-2)
    assert not torch.equal(together, batch)


def test_half_precision_models_keep_a_float_state() -> None:
    x = integrate(lambda x, s: x.bfloat16(), torch.ones(1, 2, dtype=torch.bfloat16), 3)
    assert x.dtype == torch.float32


# Gaussians


def test_the_optimal_coupling_needs_one_step() -> None:
    flow = GaussianFlow.optimal(*gaussians())
    start = flow.sample_source(draws("start", 8, 3))
    exact = integrate(flow.velocity, start, 50, method="rk4")
    assert_close(integrate(flow.velocity, start, 1), exact, rtol=0, atol=1e-8)
    root = torch.linalg.cholesky(flow.target_cov)
    many = flow.sample_source(draws("many", 20_000, 3))
    moved = torch.linalg.solve_triangular(
        root, (integrate(flow.velocity, many, 1) - flow.target_mean).T, upper=False
    )
    assert_close(moved @ moved.T / 20_000, torch.eye(3).double(), rtol=0, atol=0.05)
    straight = straightness(flow.velocity, start)
    assert float(straight.curvature.max()) < 1e-10
    assert max(straight.means().values()) < 1e-8


def test_a_closed_form_velocity_is_the_mean_of_the_targets() -> None:
    """v(x, s) = E[x_b - x_a | x_s = x], by regression on draws of a data-dependent pair."""
    _, _, mean, cov = gaussians(2)
    matrix = draws("matrix", 2, 2)
    flow = GaussianFlow.data_dependent(mean, cov, matrix, 0.4)
    target = mean + draws("b", 40_000, 2) @ torch.linalg.cholesky(cov).T
    source = target @ matrix.T + 0.4 * draws("e", 40_000, 2)
    x, velocity = Interpolant().at(source, target, 0.3)
    design = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    fitted = design @ torch.linalg.lstsq(design, velocity).solution
    assert float((fitted - flow.velocity(x, 0.3)).square().mean().sqrt()) < 0.03
    per_item = flow.velocity(x[:3], torch.tensor([0.3, 0.1, 0.3], dtype=torch.float64))
    assert_close(per_item[[0, 2]], flow.velocity(x[[0, 2]], 0.3), rtol=0, atol=1e-12)


def test_log_density_by_change_of_variables() -> None:
    flow = GaussianFlow.independent(*gaussians())
    x = flow.target_mean + draws("x", 5, 3) @ torch.linalg.cholesky(flow.target_cov).T
    exact = torch.distributions.MultivariateNormal(flow.target_mean, flow.target_cov).log_prob(x)
    assert_close(flow.log_density(x, 1.0), exact, rtol=0, atol=1e-10)
    found = log_density(flow.velocity, x, lambda start: flow.log_density(start, 0.0))
    assert_close(found, exact, rtol=0, atol=1e-4)
    alone = log_density(flow.velocity, x[3:4], lambda start: flow.log_density(start, 0.0))
    assert_close(alone, found[3:4], rtol=0, atol=1e-10)


def test_random_probes_estimate_the_divergence() -> None:
    matrix = draws("matrix", 6, 6)
    x = draws("x", 2, 2, 3)
    probes = draws("probes", 4000, 2, 2, 3).sign()

    def field(x: Tensor, t: float) -> Tensor:
        return (x.flatten(1) @ matrix.T).view_as(x)

    end, change = transported(field, x, [0.0, 0.01], "euler")
    assert_close(change, -0.01 * matrix.trace().expand(2), rtol=0, atol=1e-12)
    _, guess = transported(field, x, [0.0, 0.01], "euler", probes)
    assert_close(guess, change, rtol=0, atol=0.01 * 4 * float(matrix.norm()) / 4000**0.5)
    assert end.shape == x.shape
    assert not end.requires_grad
    assert not change.requires_grad


def test_straightness_of_a_curved_flow() -> None:
    """A rotation by a right angle: ||x_b - x_a||^2 = 2 |x|^2 and the speed is pi/2 |x|."""

    def turn(x: Tensor, s: Tensor) -> Tensor:
        return 0.5 * math.pi * torch.stack([-x[:, 1], x[:, 0]], 1)

    found = straightness(turn, torch.tensor([[1.0, 0.0], [0.0, 3.0]]), steps=4096, compared=(1, 16))
    expected = torch.tensor([1.0, 9.0]) * (math.pi**2 / 4 - 2.0)
    assert_close(found.curvature, expected, rtol=5e-3, atol=0)
    assert float(found.errors[1][0]) > float(found.errors[16][0]) > 0.0
    assert_close(found.errors[1][1], 3 * found.errors[1][0])


@pytest.mark.slow
def test_a_small_network_learns_the_exact_velocity() -> None:
    mean, cov = torch.tensor([2.0, -1.0]), torch.tensor([[1.0, 0.5], [0.5, 0.6]])
    flow = GaussianFlow.independent(torch.zeros(2), torch.eye(2), mean, cov)
    with seeding.seeded("velocity"):
        layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def model(x: Tensor, s: Tensor) -> Tensor:
        output: Tensor = layers(torch.cat([x, s[:, None]], 1))
        return output

    optimizer = torch.optim.Adam(layers.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2000)
    root, generator = torch.linalg.cholesky(cov), seeding.generator("training")
    for _ in range(2000):
        target = mean + torch.randn(2048, 2, generator=generator) @ root.T
        pairs, s = independent(target, generator), uniforms(2048, generator).float()
        loss = flow_loss(model, pairs, s)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    x, _ = Interpolant().at(pairs.source, pairs.target, s)
    with torch.no_grad():
        error = (model(x, s) - flow.velocity(x, s)).square().mean().sqrt()
    assert float(error) < 0.05


# Upsampling


def test_the_table_is_the_plain_cosine_at_size_64() -> None:
    table = shifted_cosine(11)
    tau = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert_close(table, torch.cos(0.5 * math.pi * tau) ** 2, rtol=0, atol=2e-5)
    wide = shifted_cosine(11, 128)
    assert_close(torch.logit(wide[1:-1]), torch.logit(table[1:-1]) - 2 * math.log(2), rtol=0, atol=1e-9)


def test_variants_of_the_start() -> None:
    low, noise = draws("low", 2, 4, 6, 10), draws("noise", 2, 4, 6, 10)
    kept = float(shifted_cosine()[400])
    expected = kept**0.5 * low + (1 - kept) ** 0.5 * noise
    assert_close(UpsamplingSource()(low, noise), expected, rtol=0, atol=1e-12)
    assert torch.equal(UpsamplingSource(step=-1)(low, noise), low)
    assert torch.equal(UpsamplingSource(step=None)(low, noise), noise)
    pairs = UpsamplingSource().coupling()(draws("high", 2, 4, 6, 10), noise, condition=low)
    assert_close(pairs.source, expected, rtol=0, atol=1e-12)
    assert pairs.cond["condition"] is low
    for step in (-2, 1000):
        with pytest.raises(ConfigError, match="of a table"):
            UpsamplingSource(step=step)
    with pytest.raises(ConfigError):
        shifted_cosine(1)


def test_an_upsampling_step_from_end_to_end() -> None:
    latent = torch.rand(2, 4, 3, 5)
    up = enlarged(latent, (12, 20), nn.PixelShuffle(2), nn.PixelUnshuffle(2))
    assert up.shape == (2, 4, 6, 10)

    class Timed(nn.Module):
        def forward(self, x: Tensor, s: Tensor, label: int) -> Tensor:
            return x[:, :4] + x[:, 4:] + s[:, None, None, None] * label

    model = WithCondition(Timed())
    source = UpsamplingSource()(up, seeding.generator("start"))
    assert_close(model(source, torch.ones(2), up, label=2), source + up + 2.0)
    assert integrate(model, source, 2, condition=up, label=0).shape == up.shape


def test_a_flow_from_noise_runs_in_any_sampler() -> None:
    """The denoiser of a velocity in s gives the mixture's own prediction in t = 1 - s."""
    mixture = Mixture(
        torch.ones(1).double(), torch.tensor([[1.0, -2.0]]).double(), 0.5 * torch.eye(2).double()[None]
    )
    flow = GaussianFlow.independent(
        torch.zeros(2).double(), torch.eye(2).double(), mixture.means[0], mixture.covariances[0]
    )
    made = Interpolant()
    x = draws("x", 3, 2)
    exact = mixture.denoiser(made.path)
    assert_close(made.denoiser(flow.velocity).x0(x, 0.4), exact.x0(x, 0.4), rtol=0, atol=1e-10)
