"""Zero terminal SNR, the posterior of a step, and preconditioning."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import (
    EDM,
    DiscreteVP,
    EDMWeight,
    LinearVP,
    Mixture,
    Path,
    Preconditioning,
    RectifiedFlow,
    betas,
    c_noise,
    on_prediction,
    posterior,
    zero_terminal_snr,
)

STEPS = 40


def test_rescaled_table_keeps_its_first_step_and_ends_without_data() -> None:
    table = betas("scaled_linear", 1000, 0.00085, 0.012)
    before, after = DiscreteVP(table), DiscreteVP(zero_terminal_snr(table))
    assert float(after.alpha(999)) == 0.0
    assert float(after.sigma(999)) == 1.0
    assert_close(after.alpha(0), before.alpha(0), rtol=0, atol=1e-15)
    # The map of alpha is linear: its differences keep their proportions.
    indices = torch.arange(1000)
    ratio = after.alpha(indices).diff() / before.alpha(indices).diff()
    assert_close(ratio, torch.full_like(ratio, float(ratio[0])), rtol=1e-9, atol=0)
    assert bool((after.alpha(indices).diff() < 0).all())


def test_rescaling_twice_changes_nothing() -> None:
    once = zero_terminal_snr(betas("linear", STEPS))
    assert_close(zero_terminal_snr(once), once, rtol=0, atol=1e-14)


def test_table_of_one_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="two or more"):
        zero_terminal_snr(betas("linear", 1))


@pytest.mark.parametrize("ends_empty", [False, True])
def test_posterior_is_the_conditional_of_the_joint_gaussian(ends_empty: bool) -> None:
    table = betas("linear", STEPS, 1e-3, 0.2)
    table = zero_terminal_snr(table) if ends_empty else table
    moments, path = posterior(table), DiscreteVP(table)
    assert float(moments.variance[0]) == 0.0
    assert_close(moments.of_x0[0], torch.ones((), dtype=torch.float64), rtol=0, atol=1e-12)
    for step in range(1, STEPS):
        # x_{i-1} = a x0 + s z, x_i = r x_{i-1} + sqrt(beta) w, so their covariance given x0 is r s^2.
        a, s = float(path.alpha(step - 1)), float(path.sigma(step - 1))
        r, beta = math.sqrt(1.0 - float(table[step])), float(table[step])
        gain = r * s**2 / (r**2 * s**2 + beta)
        assert float(moments.of_x_t[step]) == pytest.approx(gain, abs=1e-12)
        assert float(moments.of_x0[step]) == pytest.approx(a - gain * r * a, abs=1e-12)
        assert float(moments.variance[step]) == pytest.approx(s**2 * (1.0 - gain * r), abs=1e-12)


PATHS = [EDM(), RectifiedFlow(), LinearVP(), DiscreteVP(zero_terminal_snr(betas("linear", 100)))]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_optimal_raw_output_gives_back_the_exact_denoiser(path: Path, sign: int) -> None:
    """Data N(0, sigma_d^2): the best D is c_skip x, so the raw output is zero at every level."""
    spread = 0.7
    mixture = Mixture(
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, 3, dtype=torch.float64),
        spread**2 * torch.eye(3, dtype=torch.float64)[None],
    )
    x = torch.randn(4, 3, generator=seeding.generator("raw"), dtype=torch.float64)
    t = torch.tensor([3, 20, 70, 99] if isinstance(path, DiscreteVP) else [0.01, 0.3, 0.6, 0.9])
    denoiser = Preconditioning(path, spread, sign)(lambda scaled, level: torch.zeros_like(scaled))
    assert_close(denoiser.x0(x, t), mixture.denoiser(path).x0(x, t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_input_target_and_weight_have_unit_scale(path: Path) -> None:
    """c_in x_t and the raw target have variance 1, and the weighted error is that of the raw output."""
    spread = 0.4
    t = torch.tensor([2, 50, 98] if isinstance(path, DiscreteVP) else [0.05, 0.4, 0.95])
    precondition = Preconditioning(path, spread)
    skip, out, scale = precondition.coefficients(t)
    alpha, sigma = path.alpha(t), path.sigma(t)
    ones = torch.ones(3, dtype=torch.float64)
    assert_close(scale**2 * (alpha**2 * spread**2 + sigma**2), ones, rtol=0, atol=1e-12)
    target = ((1.0 - skip * alpha) ** 2 * spread**2 + (skip * sigma) ** 2) / out**2
    assert_close(target, ones, rtol=0, atol=1e-9)
    assert_close(on_prediction(EDMWeight(spread), t, path, "x0") * out**2, ones, rtol=0, atol=1e-9)


def test_the_network_sees_scaled_states_and_a_quarter_of_the_log_level() -> None:
    seen: list[Tensor] = []

    def network(scaled: Tensor, level: Tensor, *, label: int) -> Tensor:
        assert label == 3
        seen.extend([scaled, level])
        return scaled.bfloat16()

    x = torch.ones(2, 1, 2, 3)
    denoised = Preconditioning(EDM())(network).x0(x, 2.0, label=3)
    assert denoised.dtype == torch.float32
    assert_close(seen[0], x / math.sqrt(4.25))
    assert_close(seen[1], torch.full((2,), 0.25 * math.log(2.0)))
    assert_close(c_noise(0.5, RectifiedFlow()), torch.zeros((), dtype=torch.float64))


def test_data_without_spread_are_refused() -> None:
    with pytest.raises(ConfigError, match="sigma_data"):
        Preconditioning(EDM(), 0.0)
