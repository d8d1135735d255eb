"""Loss weights: conversions, known forms, and the learned uncertainty."""

import math
from typing import get_args

import pytest
import torch
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import (
    EDM,
    P2,
    VE,
    CosineVP,
    CosMapWeight,
    Denoiser,
    DiscreteVP,
    EDMWeight,
    FourierFeatures,
    Likelihood,
    LinearVP,
    LogitNormal,
    MinSNR,
    OffsetPath,
    Path,
    Plain,
    PredictionType,
    RectifiedFlow,
    SigmaSqrt,
    Trigonometric,
    TruncatedSNR,
    UncertaintyWeight,
    Weight,
    betas,
    error_factor,
    on_prediction,
    zero_terminal_snr,
)

KINDS = get_args(PredictionType)
PATHS: list[Path] = [RectifiedFlow(), Trigonometric(), LinearVP(), CosineVP(), VE(), EDM()]
TIMES = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
WEIGHTS: list[Weight] = [
    MinSNR(),
    TruncatedSNR(),
    P2(),
    EDMWeight(),
    SigmaSqrt(),
    CosMapWeight(),
    Likelihood(),
]


def name(thing: object) -> str:
    return type(thing).__name__


@pytest.mark.parametrize("path", [*PATHS, DiscreteVP(betas("linear", 100))], ids=name)
@pytest.mark.parametrize("kind", KINDS)
def test_factors_are_those_of_squared_errors(path: Path, kind: PredictionType) -> None:
    draw = seeding.generator("errors")
    x_t, first, second = torch.randn(3, 7, 5, generator=draw, dtype=torch.float64)
    t = TIMES * 99 if isinstance(path, DiscreteVP) else TIMES
    one, other = (Denoiser(lambda x, t, given=given: given, path, "x0") for given in (first, second))
    view = {"x0": "x0", "eps": "eps", "v": "v", "velocity": "velocity", "score": "score"}[kind]
    error = (getattr(one, view)(x_t, t) - getattr(other, view)(x_t, t)).square().sum(1)
    found = error / (first - second).square().sum(1)
    assert_close(error_factor(t, path, kind), found, rtol=1e-9, atol=0)


@pytest.mark.parametrize("weight", WEIGHTS, ids=name)
@pytest.mark.parametrize("path", PATHS, ids=name)
def test_one_weight_is_the_same_training_for_every_prediction(weight: Weight, path: Path) -> None:
    for kind in KINDS:
        weighted = on_prediction(weight, TIMES, path, kind) * error_factor(TIMES, path, kind)
        assert_close(weighted, weight(TIMES, path), rtol=1e-12, atol=0)


def test_forms_on_a_variance_preserving_path() -> None:
    path = CosineVP()
    snr = torch.exp(path.logsnr(TIMES))
    ones = torch.ones_like(snr)
    forms = [
        (MinSNR(5.0), "x0", snr.clamp(max=5.0)),
        (MinSNR(5.0), "eps", snr.clamp(max=5.0) / snr),
        (MinSNR(5.0), "v", snr.clamp(max=5.0) / (snr + 1.0)),
        (TruncatedSNR(), "x0", snr.clamp(min=1.0)),
        (P2(2.0, 0.5), "eps", (2.0 + snr) ** -0.5),
        (Plain("eps"), "x0", snr),
        (Plain("v"), "x0", snr + 1.0),
        (Plain("v"), "v", ones),
        (EDMWeight(0.5), "x0", (1.0 / snr + 0.25) / (0.25 / snr)),
    ]
    for weight, kind, expected in forms:
        assert_close(on_prediction(weight, TIMES, path, kind), expected, rtol=1e-9, atol=0)  # type: ignore[arg-type]


def test_forms_on_the_straight_path() -> None:
    path, t = RectifiedFlow(), TIMES
    assert_close(error_factor(t, path, "velocity"), t**-2, rtol=1e-12, atol=0)
    assert_close(on_prediction(SigmaSqrt(), t, path, "velocity"), t**-2, rtol=1e-12, atol=0)
    cosmap = 2.0 / (math.pi * (1.0 - 2.0 * t + 2.0 * t**2))
    assert_close(on_prediction(CosMapWeight(), t, path, "velocity"), cosmap, rtol=1e-12, atol=0)


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_likelihood_weight_is_minus_half_the_slope_of_snr(path: Path) -> None:
    t = TIMES.clone().requires_grad_()
    slope = torch.autograd.grad(torch.exp(path.logsnr(t)).sum(), t)[0]
    assert_close(Likelihood()(TIMES, path), -0.5 * slope, rtol=1e-9, atol=0)
    density = LogitNormal().density
    assert_close(Likelihood(density)(TIMES, path), -0.5 * slope / density(TIMES), rtol=1e-9, atol=0)


EMPTY = DiscreteVP(zero_terminal_snr(betas("linear", 50)))


@pytest.mark.parametrize("path", [EMPTY, OffsetPath(EMPTY)], ids=name)
@pytest.mark.parametrize("kind", ["eps", "score"])
def test_eps_is_refused_where_no_data_are_left(path: Path, kind: PredictionType) -> None:
    with pytest.raises(ConfigError, match="zero terminal SNR"):
        on_prediction(MinSNR(), torch.tensor([3]), path, kind)


@pytest.mark.parametrize("kind", ["x0", "v"])
def test_weights_stay_finite_where_no_data_are_left(kind: PredictionType) -> None:
    indices = torch.arange(len(EMPTY))
    for weight in (MinSNR(), TruncatedSNR(), P2(), EDMWeight(), Plain("v"), Plain("eps")):
        found = on_prediction(weight, indices, EMPTY, kind)
        assert bool(torch.isfinite(found).all())
        assert bool((found >= 0).all())


def test_uncertainty_starts_neutral_and_learns_the_log_of_the_error() -> None:
    path, draw = EDM(), seeding.generator("uncertainty")
    uncertainty = UncertaintyWeight(32)
    levels = torch.tensor([0.05, 0.5, 5.0])
    errors = torch.tensor([0.1, 1.0, 8.0])
    assert_close(uncertainty(errors, levels, path), errors)
    optimiser = torch.optim.Adam(uncertainty.parameters(), lr=0.1)
    for _ in range(300):
        noisy = errors * (1.0 + 0.1 * torch.randn(3, generator=draw))
        loss = uncertainty(noisy, levels, path).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    learned = uncertainty.log_error(levels, path).exp()
    assert_close(learned, errors, rtol=0.1, atol=0)


def test_fourier_features_have_unit_variance_and_are_always_the_same() -> None:
    features = FourierFeatures(256)
    numbers = torch.linspace(-30, 30, 2001)
    assert float(features(numbers).square().mean()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(features(numbers[:3]), FourierFeatures(256)(numbers[:3]))
    assert features(torch.zeros(2, 5)).shape == (2, 5, 256)
