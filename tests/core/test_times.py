"""Training times: maps, densities and stratified draws."""

import math

import pytest
import torch
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import (
    EDM,
    CosineVP,
    CosMap,
    Indices,
    LogitNormal,
    LogNormal,
    Mode,
    RectifiedFlow,
    Shifted,
    Times,
    Uniform,
    exponential_shift,
    resolution_shift,
    stratified,
    uniforms,
)

DISTRIBUTIONS: list[Times] = [
    Uniform(),
    Uniform(0.2, 0.9),
    LogitNormal(),
    LogitNormal(-0.5, 1.2),
    Mode(),
    Mode(-0.8),
    CosMap(),
    LogNormal(),
    LogNormal(-0.4, 1.0, RectifiedFlow()),
    LogNormal(0.3, 0.8, CosineVP()),
    Shifted(LogitNormal(), 3.0),
    Shifted(Mode(0.81), 0.5),
]
EVEN = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)


def name(times: Times) -> str:
    return repr(times).partition(", path")[0]


@pytest.mark.parametrize("times", DISTRIBUTIONS, ids=name)
def test_the_map_of_even_draws_inverts_the_distribution(times: Times) -> None:
    t = times.of_uniform(EVEN)
    falling = isinstance(getattr(times, "base", times), Mode)
    assert_close(times.cdf(t), 1.0 - EVEN if falling else EVEN, rtol=0, atol=1e-10)


@pytest.mark.parametrize("times", DISTRIBUTIONS, ids=name)
def test_the_density_is_the_slope_of_the_distribution(times: Times) -> None:
    t = times.of_uniform(EVEN).sort().values
    step = 1e-6 * t
    slope = (times.cdf(t + step) - times.cdf(t - step)) / (2.0 * step)
    inside = slice(1, -1)
    assert_close(times.density(t)[inside], slope[inside], rtol=1e-6, atol=1e-6)
    assert_close(times.log_density(t), times.density(t).log())


@pytest.mark.parametrize("times", DISTRIBUTIONS, ids=name)
def test_draws_follow_the_distribution(times: Times) -> None:
    drawn = times.sample(4096, seeding.generator("draws"))
    assert drawn.dtype == torch.float32
    assert drawn.shape == (4096,)
    assert bool(torch.isfinite(drawn).all())
    # Stratified draws: their empirical distribution is within a stratum of the true one.
    levels = times.cdf(drawn.double()).sort().values
    assert_close(levels, (torch.arange(4096) + 0.5).double() / 4096, rtol=0, atol=1.01 / 4096)


def test_stratified_draws_fall_one_in_each_stratum() -> None:
    u = stratified(torch.tensor(0.83, dtype=torch.float64), 8)
    assert sorted((u * 8).long().tolist()) == list(range(8))
    assert float(u[0]) == 0.83


def test_stratified_draws_lower_the_variance_of_a_mean() -> None:
    def spread(stratify: bool) -> float:
        means = [
            float(uniforms(16, seeding.generator("mean", i), spread=stratify).square().mean())
            for i in range(200)
        ]
        return float(torch.tensor(means).std())

    assert spread(True) < 0.3 * spread(False)


def test_draws_of_an_item_do_not_depend_on_its_batch() -> None:
    def draw(*items: int) -> list[float]:
        return LogitNormal().sample(len(items), [seeding.generator(0, item) for item in items]).tolist()

    assert draw(4, 7, 2)[1] == draw(7)[0]


def test_given_draws_are_used_as_they_are_and_checked() -> None:
    u = torch.tensor([0.25, 0.5])
    assert Uniform(0.0, 2.0).sample(2, u).tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match="needed"):
        Uniform().sample(3, u)
    with pytest.raises(ValueError, match="batch of 3"):
        Uniform().sample(3, [seeding.generator(0)])


def test_draws_never_reach_the_ends_even_in_float32() -> None:
    for first in (0.0, 1.0 - 2.0**-53):
        generator = seeding.generator("ends")
        assert Uniform().sample(1, generator).item() not in (0.0, 1.0)
        u = stratified(torch.tensor(first, dtype=torch.float64), 4)
        assert bool((u < 1.0).all())
    drawn = Uniform().sample(200_000, seeding.generator("many"))
    assert float(drawn.min()) > 0.0
    assert float(drawn.max()) < 1.0


def test_a_shift_multiplies_the_noise_level_and_is_undone() -> None:
    t, path = EVEN, RectifiedFlow()
    shifted = resolution_shift(t, 3.0)
    assert_close(path.logsnr(shifted), path.logsnr(t) - 2.0 * math.log(3.0), rtol=0, atol=1e-10)
    assert_close(resolution_shift(shifted, 1.0 / 3.0), t, rtol=0, atol=1e-12)
    assert_close(exponential_shift(t, math.log(3.0)), shifted, rtol=0, atol=1e-12)
    assert resolution_shift(torch.tensor([0.0, 1.0]), 5.0).tolist() == [0.0, 1.0]


def test_levels_are_log_normal_on_every_path() -> None:
    for path in (EDM(), RectifiedFlow(), CosineVP()):
        t = LogNormal(-0.4, 1.0, path).of_normal(torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64))
        expected = torch.tensor([-1.4, -0.4, 1.6], dtype=torch.float64)
        assert_close(-0.5 * path.logsnr(t), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("base", [Uniform(), LogitNormal(), Mode(), Shifted(CosMap(), 2.0)], ids=name)
def test_indices_cover_the_table_with_their_probabilities(base: Times) -> None:
    indices = Indices(20, base)
    drawn = indices.sample(20_000, seeding.generator("indices"))
    assert drawn.dtype == torch.int64
    counted = torch.bincount(drawn, minlength=20).double() / len(drawn)
    wanted = indices.density(torch.arange(20))
    assert float(wanted.sum()) == pytest.approx(1.0, abs=1e-9)
    assert_close(counted, wanted, rtol=0, atol=2e-4)


def test_bad_settings_are_refused() -> None:
    for bad in (lambda: Mode(2.0), lambda: LogitNormal(0.0, 0.0), lambda: Uniform(1.0, 0.0)):
        with pytest.raises(ConfigError):
            bad()
    with pytest.raises(ConfigError):
        Shifted(Uniform(), -1.0)
    with pytest.raises(ConfigError):
        LogNormal(std=-1.0)
