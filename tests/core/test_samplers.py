"""Time grids and samplers against the exact flow of a Gaussian, and what every sampler promises."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import (
    EDM,
    VE,
    CosineVP,
    Denoiser,
    DiscreteVP,
    LinearVP,
    Path,
    RectifiedFlow,
    Step,
    Trigonometric,
    ancestral,
    betas,
    clean_end,
    ddim,
    dpm_solver_pp,
    edm_heun,
    euler,
    euler_maruyama,
    even_times,
    heun,
    index_times,
    karras_times,
    logsnr_times,
    midpoint,
    renoise,
    rk4,
    standard_normal,
    target,
    time_travel,
)

MEAN, VARIANCE = 0.7, 0.25
SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "euler": euler,
    "midpoint": midpoint,
    "heun": heun,
    "rk4": rk4,
    "ddim": ddim,
    "ddim_eta": functools.partial(ddim, eta=0.6),
    "ancestral": ancestral,
    "ancestral_large": functools.partial(ancestral, variance="large"),
    "dpm_solver_pp": dpm_solver_pp,
    "edm_heun": edm_heun,
    "edm_churn": functools.partial(edm_heun, churn=3.0),
    "euler_maruyama": euler_maruyama,
}
STOCHASTIC = {"ddim_eta", "ancestral", "ancestral_large", "edm_churn", "euler_maruyama"}
EVALUATIONS = {"midpoint": 2, "heun": 2, "rk4": 4, "edm_heun": 2, "edm_churn": 2}
LAST = {"heun": 1, "rk4": 2, "edm_heun": 1, "edm_churn": 1}


def gaussian(path: Path, kind: Any = "x0") -> Denoiser:
    """The exact denoiser of N(MEAN, VARIANCE) in every entry."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = path.at(t, x)
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        x0 = MEAN + gain * (x - alpha * MEAN)
        return x0 if kind == "x0" else target(x0, (x - alpha * x0) / sigma, t, path, kind)

    return Denoiser(model, path, kind)


def flow_end(path: Path, x: Tensor, t: float, s: float) -> Tensor:
    """Where the probability flow of the Gaussian carries x from t to s."""
    spread = [float(torch.sqrt(path.alpha(u) ** 2 * VARIANCE + path.sigma(u) ** 2)) for u in (t, s)]
    centre = [float(path.alpha(u)) * MEAN for u in (t, s)]
    return centre[1] + spread[1] / spread[0] * (x - centre[0])


def name(path: Path) -> str:
    return type(path).__name__


def called(sampler: str, **given: Any) -> dict[str, Any]:
    """The arguments with which a sampler may be given noise."""
    return {"noise": given["noise"]} if sampler in STOCHASTIC else {}


class Counted(Denoiser):
    """Counts evaluations and notes the steps that it is asked for."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner.model, inner.path, inner.prediction_type)
        self.times: list[Any] = []
        self.steps: list[tuple[float, int, int]] = []

    def predict(self, x_t: Tensor, t: Any, **cond: Any) -> Tensor:
        self.times.append(t)
        return super().predict(x_t, t, **cond)

    def at_step(self, t: float, index: int, count: int) -> Denoiser:
        self.steps.append((t, index, count))
        return self


# Grids


def test_index_grids_are_those_of_the_libraries() -> None:
    assert index_times(1000, 4) == [999, 749, 499, 249, -1]
    assert index_times(1000, 4, "leading") == [750, 500, 250, 0, -1]
    assert index_times(1000, 4, "leading", offset=1) == [751, 501, 251, 1, -1]
    assert index_times(1000, 4, "linspace") == [999, 666, 333, 0, -1]
    assert index_times(10, 3) == [9, 6, 2, -1]
    assert index_times(5, 5, "leading") == [4, 3, 2, 1, 0, -1]


def test_even_grid_ends_where_it_is_told() -> None:
    assert even_times(5) == [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
    assert_close(torch.tensor(even_times(3, 0.9, 0.1, last=0.3)), torch.tensor([0.9, 0.6, 0.3, 0.1]))


@pytest.mark.parametrize("path", [None, VE(), LinearVP(), DiscreteVP(betas("linear", 1000))], ids=name)
def test_karras_grid_has_its_levels_on_every_path(path: Path | None) -> None:
    times = karras_times(7, 0.02, 20.0, 7.0, path)
    path = path or EDM()
    levels = [float(path.sigma(t) / path.alpha(t)) for t in times[:-1]]
    roots = torch.tensor(levels, dtype=torch.float64) ** (1 / 7)
    assert_close(roots, torch.linspace(20 ** (1 / 7), 0.02 ** (1 / 7), 7, dtype=torch.float64))
    assert times[-1] == clean_end(path)


@pytest.mark.parametrize("path", [RectifiedFlow(), CosineVP(), DiscreteVP(betas("linear", 100))], ids=name)
def test_logsnr_grid_is_even(path: Path) -> None:
    start, last = (99, 0) if isinstance(path, DiscreteVP) else (0.99, 0.01)
    times = logsnr_times(path, 9, start, last)
    gaps = torch.tensor([float(path.logsnr(t)) for t in times[:-1]], dtype=torch.float64).diff()
    assert_close(gaps, gaps.mean().expand(8), rtol=1e-7, atol=0)
    assert times[0] == pytest.approx(start)
    assert len(times) == 10


def test_time_travel_repeats_its_blocks() -> None:
    grid = [5, 4, 3, 2, 1, 0]
    assert time_travel(grid, 2, 2) == [5, 4, 3, 4, 5, 4, 3, 2, 1, 2, 3, 2, 1, 0]
    assert time_travel(grid, 2, 1) == grid
    assert time_travel(grid, 9, 3) == grid
    assert time_travel(grid, 2, 3, (4, 2)) == [5, 4, 3, 2, 3, 4, 3, 2, 3, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    "grid",
    [
        lambda: index_times(10, 11),
        lambda: index_times(10, 0),
        lambda: index_times(10, 5, "quadratic"),  # type: ignore[arg-type]
        lambda: index_times(10, 10, "leading", offset=1),
        lambda: even_times(0),
        lambda: karras_times(5, 1.0, 0.5),
        lambda: logsnr_times(RectifiedFlow(), 5, 1.0, 0.1),
        lambda: logsnr_times(RectifiedFlow(), 5, 0.1, 0.9),
        lambda: time_travel([2, 1, 0], 0, 2),
        lambda: time_travel([2, 1, 0], 1, 2, (9, 8)),
    ],
)
def test_bad_grids_are_refused(grid: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        grid()


# Accuracy

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "ddim": 1, "dpm_solver_pp": 2, "edm_heun": 2}
CONTINUOUS: list[Path] = [RectifiedFlow(), Trigonometric(), LinearVP(), CosineVP()]


def grid_between(sampler: str, path: Path, steps: int, start: float, end: float) -> list[float]:
    if sampler == "dpm_solver_pp":
        return logsnr_times(path, steps + 1, start, end)[:-1]
    return even_times(steps, start, end)


@pytest.mark.parametrize("path", CONTINUOUS, ids=name)
@pytest.mark.parametrize("sampler", [*ORDERS, "euler_maruyama"])
def test_order_of_convergence(sampler: str, path: Path) -> None:
    draw = seeding.generator("order")
    x = torch.randn(5, 1, generator=draw, dtype=torch.float64)
    exact = flow_end(path, x, 0.9, 0.1)
    still = {"noise": draw, "diffusion": lambda _: 0.0} if sampler == "euler_maruyama" else {}
    errors = []
    for steps in (40, 80):
        times = grid_between(sampler, path, steps, 0.9, 0.1)
        end = SAMPLERS[sampler](gaussian(path), x, times, **still)
        errors.append(float((end - exact).abs().max()))
    assert errors[1] > 1e-13
    assert math.log2(errors[0] / errors[1]) >= ORDERS.get(sampler, 1) - 0.2


@pytest.mark.parametrize("path", [VE(), EDM()], ids=name)
@pytest.mark.parametrize("sampler", ORDERS)
def test_order_of_convergence_of_exploding_noise(sampler: str, path: Path) -> None:
    x = 5.0 * torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    start, end = (float(path.t_of_logsnr(-2 * math.log(level))) for level in (5.0, 0.3))
    exact, errors = flow_end(path, x, start, end), []
    for steps in (40, 80):
        times = grid_between(sampler, path, steps, start, end)
        errors.append(float((SAMPLERS[sampler](gaussian(path), x, times) - exact).abs().max()))
    assert math.log2(errors[0] / errors[1]) >= ORDERS[sampler] - 0.2


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver_pp"])
def test_tables_are_followed_to_the_clean_end(sampler: str) -> None:
    path = DiscreteVP(betas("linear", 1000))
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    end = SAMPLERS[sampler](gaussian(path, "eps"), x, index_times(1000, 500))
    assert_close(end, flow_end(path, x, 999, -1), rtol=0, atol=1e-2 if sampler == "ddim" else 1e-3)


@pytest.mark.parametrize("sampler", sorted(STOCHASTIC))
@pytest.mark.parametrize("path", [RectifiedFlow(), LinearVP()], ids=name)
def test_stochastic_samplers_draw_from_the_data(sampler: str, path: Path) -> None:
    draw = seeding.generator("moments", sampler)
    x = torch.randn(6000, 1, generator=draw, dtype=torch.float64)
    # Even times suit the SDE's own steps, even log-SNR those that take x0 for constant.
    even = sampler == "euler_maruyama"
    times = even_times(400, last=2e-3) if even else logsnr_times(path, 400, 0.999, 2e-3)
    drawn = SAMPLERS[sampler](gaussian(path), x, times, noise=draw)
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(drawn.var()) == pytest.approx(VARIANCE, rel=0.06)


def test_the_interpolant_sde_keeps_the_law_for_any_diffusion() -> None:
    path, draw = RectifiedFlow(), seeding.generator("diffusion")
    x = torch.randn(6000, 1, generator=draw, dtype=torch.float64)
    for strength in (0.2, 1.0):

        def diffusion(t: float, strength: float = strength) -> float:
            return strength * t

        drawn = euler_maruyama(
            gaussian(path),
            x,
            even_times(200, last=0.01),
            noise=draw,
            diffusion=diffusion,
        )
        assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.02)
        assert float(drawn.var()) == pytest.approx(VARIANCE, rel=0.06)


# Single steps against their formulas


@pytest.mark.parametrize("path", [RectifiedFlow(), LinearVP(), EDM()], ids=name)
def test_ancestral_is_ddim_with_all_its_noise(path: Path) -> None:
    draw = seeding.generator("ancestral")
    noise = torch.randn(6, 3, 1, generator=draw, dtype=torch.float64)
    x, times = torch.randn(3, 1, generator=draw, dtype=torch.float64), even_times(6, 0.9)
    denoiser = gaussian(path)
    assert_close(ancestral(denoiser, x, times, noise=noise), ddim(denoiser, x, times, eta=1.0, noise=noise))


def test_ancestral_is_the_maximum_likelihood_solver() -> None:
    """The reverse step of Popov et al. with its corrections kappa, nu, mu, omega, written out."""
    start, slope = 0.05, 19.95
    path, draw = LinearVP(start, start + slope), seeding.generator("popov")
    denoiser = gaussian(path, "score")
    drawn = torch.randn(4, 3, 1, generator=draw, dtype=torch.float64)
    found = ancestral(denoiser, drawn[0], even_times(3), noise=drawn[1:])

    def gamma(s: float, t: float) -> float:
        return math.exp(-0.5 * (t - s) * (start + 0.5 * slope * (t + s)))

    expected, h = drawn[0], 1.0 / 3.0
    for index, t in enumerate((1.0, 2 / 3, 1 / 3)):
        a = max(t - h, 0.0)
        rate, step, whole = start + slope * t, gamma(a, t), gamma(0, t)
        kappa = gamma(0, a) * (1 - step**2) / (whole * rate * h) - 1
        mu = step * (1 - gamma(0, a) ** 2) / (1 - whole**2)
        nu = gamma(0, a) * (1 - step**2) / (1 - whole**2)
        omega = nu / whole + mu - (0.5 * rate * h + 1)
        sigma = math.sqrt((1 - gamma(0, a) ** 2) * (1 - step**2) / (1 - whole**2))
        score = denoiser.score(expected, t)
        change = -expected * (0.5 * rate * h + omega) - score * (1 + kappa) * rate * h
        expected = expected - change + sigma * drawn[index + 1]
    assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_large_variance_is_that_of_the_table() -> None:
    table = betas("linear", 50, 1e-3, 0.1)
    path = DiscreteVP(table)
    denoiser = Denoiser(lambda x, t: torch.zeros_like(x), path, "x0")
    x, noise = torch.zeros(2, 1), torch.ones(1, 2, 1)
    step = ancestral(denoiser, x, [30, 29], noise=noise, variance="large")
    assert_close(step, torch.full((2, 1), math.sqrt(float(table[30]))))


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "dpm_solver_pp"])
def test_clipping_bounds_the_data_and_keeps_the_state_consistent(sampler: str) -> None:
    path = RectifiedFlow()
    denoiser = Denoiser(lambda x, t: 3.0 * x, path, "x0")
    x = torch.tensor([[1.0, -2.0, 0.1]], dtype=torch.float64)
    seen: list[Step] = []
    end = SAMPLERS[sampler](
        denoiser,
        x,
        [0.5, 0.25],
        clip=1.0,
        callback=seen.append,
        **({"noise": torch.zeros(1, 1, 3)} if sampler == "ancestral" else {}),
    )
    x0 = torch.tensor([[1.0, -1.0, 0.3]], dtype=torch.float64)
    assert_close(seen[0].x0, x0)
    if sampler != "ancestral":
        eps = (x - 0.5 * x0) / 0.5
        assert_close(end, 0.75 * x0 + 0.25 * eps)
    assert_close(
        SAMPLERS[sampler](denoiser, x, [0.5, 0.0], clip=1.0, **called(sampler, noise=torch.zeros(1, 1, 3))),
        x0,
    )


@pytest.mark.parametrize("churn", [0.0, 4.0])
@pytest.mark.parametrize("path", [RectifiedFlow(), LinearVP(), DiscreteVP(betas("linear", 1000))], ids=name)
def test_edm_heun_is_one_sampler_on_every_path(path: Path, churn: float) -> None:
    draw = seeding.generator("scaled")
    drawn = torch.randn(10, 4, 1, generator=draw, dtype=torch.float64)
    settings: dict[str, Any] = {"noise": drawn[1:], "churn": churn, "churn_max": 10.0, "churn_noise": 1.01}
    times, levels = karras_times(9, 0.02, 50.0, path=path), karras_times(9, 0.02, 50.0)
    alpha = float(path.alpha(times[0]))
    theirs = edm_heun(gaussian(EDM()), 50.0 * drawn[0], levels, **settings)
    ours = edm_heun(gaussian(path), 50.0 * alpha * drawn[0], times, **settings)
    assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_zero_terminal_snr_and_pure_noise_can_start() -> None:
    for path, start in ((DiscreteVP(betas("jsd", 10)), 9), (RectifiedFlow(), 1.0)):
        x = torch.ones(2, 1, dtype=torch.float64)
        times = [start, *([4, -1] if isinstance(path, DiscreteVP) else [0.5, 0.0])]
        for sampler in ("ddim", "ancestral", "dpm_solver_pp"):
            end = SAMPLERS[sampler](
                gaussian(path, "v"), x, times, **called(sampler, noise=torch.zeros(2, 2, 1))
            )
            assert bool(torch.isfinite(end).all())


# Time travel


def test_renoising_keeps_the_law() -> None:
    for path, t, s in (
        (RectifiedFlow(), 0.2, 0.7),
        (DiscreteVP(betas("linear", 100)), -1, 60),
        (EDM(), 0.1, 3.0),
    ):
        draw = seeding.generator("renoise")
        x0 = torch.full((50_000, 1), 2.0, dtype=torch.float64)
        x_t = path.add_noise(x0, standard_normal(draw, x0), t)
        x_s = renoise(path, x_t, t, s, standard_normal(draw, x0))
        assert float(x_s.mean()) == pytest.approx(2.0 * float(path.alpha(s)), abs=0.05)
        assert float(x_s.std()) == pytest.approx(float(path.sigma(s)), rel=0.02)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_time_travel_draws_from_the_data(sampler: str) -> None:
    draw, path = seeding.generator("travel"), LinearVP()
    times = time_travel(logsnr_times(path, 240, 0.99, 0.01), 40, 3)
    x = torch.randn(4000, 1, generator=draw, dtype=torch.float64)
    denoiser = Counted(gaussian(path))
    drawn = SAMPLERS[sampler](denoiser, x, times, noise=draw)
    falling = sum(s < t for t, s in itertools.pairwise(times))
    assert len(denoiser.times) == falling == 3 * 240
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(drawn.var()) == pytest.approx(VARIANCE, rel=0.1)


# What every sampler promises


def network(x: Tensor, t: Tensor, *, shift: Tensor | None = None) -> Tensor:
    """Bends its input, differently at every time and for every condition, each item by itself."""
    t = t.to(x).reshape(-1, 1, 1, 1)
    bent = torch.tanh(1.3 * x.roll(1, -1) + 0.4 * t) - 0.2 * x
    return bent if shift is None else bent + shift.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("kind", ["x0", "velocity"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_item_does_not_depend_on_its_batch(sampler: str, kind: Any) -> None:
    denoiser, times = Denoiser(network, RectifiedFlow(), kind), even_times(6, 0.98)
    shift = torch.tensor([0.1, -0.3, 0.2, 0.5])

    def run(items: list[int]) -> Tensor:
        draws = [seeding.generator("item", item) for item in items]
        x = standard_normal(draws, torch.empty(len(items), 3, 4, 6))
        noise = called(sampler, noise=draws)
        return SAMPLERS[sampler](denoiser, x, times, shift=shift[items], **noise)

    together = run([0, 1, 2, 3])
    for item in range(4):
        assert_close(run([item])[0], together[item], rtol=0, atol=1e-5)
    assert_close(run([2, 0]), together[[2, 0]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_evaluations_steps_and_callbacks(sampler: str) -> None:
    denoiser, times = Counted(gaussian(RectifiedFlow())), [0.9, 0.5, 0.2, 0.0]
    seen: list[Step] = []
    x = torch.tensor([[0.3], [-0.8]])
    noise = called(sampler, noise=torch.zeros(3, 2, 1))
    SAMPLERS[sampler](denoiser, x, times, callback=seen.append, **noise)
    many = EVALUATIONS.get(sampler, 1)
    assert len(denoiser.times) == 2 * many + LAST.get(sampler, many)
    assert denoiser.steps == [(0.9, 0, 3), (0.5, 1, 3), (0.2, 2, 3)]
    assert [(step.index, step.t) for step in seen] == [(0, 0.9), (1, 0.5), (2, 0.2)]
    assert all(isinstance(step, Step) and step.x.shape == step.x0.shape == x.shape for step in seen)
    assert_close(seen[0].x, x)
    if sampler != "edm_churn":
        assert_close(seen[0].x0, denoiser.x0(x, 0.9))
    alone = SAMPLERS[sampler](denoiser, x, times, **noise)
    assert_close(SAMPLERS[sampler](denoiser, x, torch.tensor(times, dtype=torch.float64), **noise), alone)


@pytest.mark.parametrize(
    "sampler", ["ddim", "ancestral", "dpm_solver_pp", "euler", "edm_heun", "euler_maruyama"]
)
def test_indices_reach_the_network_as_whole_numbers(sampler: str) -> None:
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return 0.1 * x

    denoiser = Denoiser(model, DiscreteVP(betas("linear", 100)), "eps")
    end = SAMPLERS[sampler](
        denoiser,
        torch.ones(2, 3, dtype=torch.bfloat16),
        torch.tensor([80, 40, -1]),
        **called(sampler, noise=torch.ones(2, 2, 3)),
    )
    assert all(t.dtype == torch.int64 and t.shape == (2,) for t in seen)
    assert {int(t[0]) for t in seen} == {80, 40}
    assert end.dtype == torch.float32


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("times", [[0.5], [0.2, 0.5, 0.0], [0.5, 0.5, 0.0], []])
def test_bad_times_are_refused(sampler: str, times: list[float]) -> None:
    if times[:2] == [0.2, 0.5] and sampler in ("ddim", "ddim_eta", "ancestral", "ancestral_large"):
        pytest.skip("noises the state again")
    noise = called(sampler, noise=torch.zeros(2, 1, 1))
    with pytest.raises(ConfigError):
        SAMPLERS[sampler](gaussian(RectifiedFlow()), torch.ones(1, 1), times, **noise)


def test_bad_settings_are_refused() -> None:
    denoiser, x, times = gaussian(RectifiedFlow()), torch.ones(1, 1), [0.9, 0.5, 0.0]
    bad: list[Callable[[], Tensor]] = [
        lambda: ddim(denoiser, x, times, eta=1.5, noise=torch.zeros(2, 1, 1)),
        lambda: ddim(denoiser, x, times, eta=0.5),
        lambda: ddim(denoiser, x, [0.5, 0.9, 0.0]),
        lambda: ancestral(denoiser, x, times, noise=torch.zeros(2, 1, 1), variance="huge"),  # type: ignore[arg-type]
        lambda: edm_heun(denoiser, x, times, churn=1.0),
        lambda: edm_heun(denoiser, x, times, churn=-1.0),
        lambda: edm_heun(denoiser, x, [1.0, 0.5, 0.0]),
        lambda: euler_maruyama(denoiser, x, times, noise=seeding.generator(0), diffusion=lambda t: -t),
    ]
    for run in bad:
        with pytest.raises(ConfigError):
            run()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("path", [RectifiedFlow(), LinearVP(), DiscreteVP(betas("linear", 100))], ids=name)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_sampler_waits_for_the_device(sampler: str, path: Path) -> None:
    denoiser = Denoiser(network, path, "v")
    times = index_times(100, 5) if isinstance(path, DiscreteVP) else even_times(5, 0.98)
    x = torch.randn(2, 3, 4, 6, device="cuda", generator=seeding.generator(0, device="cuda"))
    seen: list[Step] = []

    def run() -> Tensor:
        draws = [seeding.generator("item", item, device="cuda") for item in range(2)]
        return SAMPLERS[sampler](denoiser, x, times, callback=seen.append, **called(sampler, noise=draws))

    first = run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_close(first, second)
