"""Noise tables, paths and prediction types against closed forms."""

import math

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
    Trigonometric,
    betas,
    standard_normal,
    target,
)

CONTINUOUS: list[Path] = [RectifiedFlow(), Trigonometric(), LinearVP(), CosineVP(), VE(), EDM()]
TYPES = ("eps", "x0", "v", "velocity", "score")
TIMES = torch.linspace(0.001, 0.999, 41, dtype=torch.float64)


def name(path: Path) -> str:
    return type(path).__name__


@pytest.mark.parametrize("path", CONTINUOUS, ids=name)
def test_derivatives_equal_automatic_differentiation(path: Path) -> None:
    t = TIMES.clone().requires_grad_()
    for value, slope in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma)):
        out = value(t)
        grad = torch.autograd.grad(out.sum(), t)[0] if out.requires_grad else torch.zeros_like(t)
        assert_close(slope(TIMES), grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", [*CONTINUOUS, DiscreteVP(betas("linear", 1000))], ids=name)
def test_logsnr_inverts(path: Path) -> None:
    t = TIMES * 900 if isinstance(path, DiscreteVP) else TIMES
    assert_close(path.t_of_logsnr(path.logsnr(t)), t, rtol=0, atol=1e-9 * float(t.max()))
    assert bool((path.logsnr(t).diff() < 0).all())
    assert_close(path.logsnr(t), torch.log(path.alpha(t) ** 2 / path.sigma(t) ** 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "path", [Trigonometric(), LinearVP(), CosineVP(), DiscreteVP(betas("quad", 50))], ids=name
)
def test_variance_is_preserved(path: Path) -> None:
    assert_close(path.alpha(TIMES) ** 2 + path.sigma(TIMES) ** 2, torch.ones_like(TIMES), rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", [RectifiedFlow(), Trigonometric(), LinearVP(), CosineVP(), EDM()], ids=name)
def test_the_clean_end_is_clean_and_the_noisy_end_finite(path: Path) -> None:
    assert float(path.alpha(0.0)) == 1.0
    assert float(path.sigma(0.0)) == 0.0
    for value in (path.alpha(1.0), path.sigma(1.0), path.d_alpha(1.0), path.d_sigma(1.0)):
        assert bool(torch.isfinite(value))
    tiny = torch.logspace(-12, -3, 10, dtype=torch.float64)
    assert bool((path.sigma(tiny).diff() > 0).all())


def test_discrete_path_meets_its_table() -> None:
    table = betas("linear", 20, 1e-3, 5e-2)
    path = DiscreteVP(table)
    expected = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - table, 0)])
    assert len(path) == 20
    assert float(path.alpha(-1)) == 1.0
    assert float(path.sigma(-1)) == 0.0
    assert_close(path.alpha(torch.arange(-1, 20)) ** 2, expected, rtol=0, atol=1e-15)
    assert_close(path.alpha(4.5), (path.alpha(4) + path.alpha(5)) / 2, rtol=0, atol=1e-15)


def test_discrete_path_without_data_at_its_end_stays_finite() -> None:
    path = DiscreteVP(betas("jsd", 10))
    t = torch.linspace(0, 9, 37, dtype=torch.float64)
    assert float(path.alpha(9)) == 0.0
    for value in (path.alpha(t), path.sigma(t), path.d_alpha(t), path.d_sigma(t)):
        assert bool(torch.isfinite(value).all())


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "quad", "const", "jsd", "sigmoid", "cosine"])
def test_tables_are_variances_that_do_not_fall(kind: str) -> None:
    table = betas(kind, 64, 1e-4, 2e-2)  # type: ignore[arg-type]
    assert table.dtype == torch.float64
    assert bool((table > 0).all())
    assert bool((table <= 1).all())
    assert bool((table.diff() >= 0).all())


def test_tables_have_their_closed_form() -> None:
    assert_close(betas("jsd", 4), torch.tensor([1 / 4, 1 / 3, 1 / 2, 1], dtype=torch.float64))
    assert_close(betas("linear", 3, 0.1, 0.3), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    assert_close(betas("quad", 3, 0.01, 0.09), torch.tensor([0.01, 0.04, 0.09], dtype=torch.float64))
    kept = torch.cumprod(1 - betas("cosine", 100), 0)[49]
    first = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert_close(float(kept), math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) ** 2 / first)


@pytest.mark.parametrize(
    ("kind", "steps", "end"), [("square", 10, 0.02), ("linear", 0, 0.02), ("linear", 9, 1.5)]
)
def test_bad_tables_are_refused(kind: str, steps: int, end: float) -> None:
    with pytest.raises(ConfigError):
        betas(kind, steps, 1e-4, end)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [*CONTINUOUS, DiscreteVP(betas("linear", 1000))], ids=name)
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_gives_every_view(path: Path, kind: str) -> None:
    draw = seeding.generator("views")
    x0, eps = torch.randn(2, 5, 3, 4, 6, generator=draw, dtype=torch.float64)
    t = torch.tensor([0.01, 0.2, 0.5, 0.8, 0.99], dtype=torch.float64)
    t = t * 999 if isinstance(path, DiscreteVP) else t
    x_t = path.add_noise(x0, eps, t)

    def model(_x: Tensor, _t: Tensor) -> Tensor:
        return target(x0, eps, t, path, kind)  # type: ignore[arg-type]

    denoiser = Denoiser(model, path, kind)  # type: ignore[arg-type]
    for view in TYPES:
        found = getattr(denoiser, view)(x_t, t)
        expected = target(x0, eps, t, path, view)  # type: ignore[arg-type]
        scale = float(expected.abs().max())
        assert_close(found / scale, expected / scale, rtol=0, atol=1e-9, msg=lambda m, v=view: f"{v}: {m}")


def test_data_at_the_clean_end_are_finite() -> None:
    x = torch.ones(2, 1, 2, 2)
    for kind in ("eps", "x0", "v", "velocity"):
        denoiser = Denoiser(lambda x_t, t: 0 * x_t, RectifiedFlow(), kind)  # type: ignore[arg-type]
        assert bool(torch.isfinite(denoiser.x0(x, 0.0)).all()), kind


def test_the_state_keeps_its_type_and_the_model_may_run_in_half() -> None:
    denoiser = Denoiser(lambda x_t, t: x_t.bfloat16(), RectifiedFlow(), "velocity")
    assert denoiser.x0(torch.ones(2, 1, 2, 2), torch.tensor([0.3, 0.6])).dtype == torch.float32


def test_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="velocity"):
        Denoiser(lambda x_t, t: x_t, RectifiedFlow(), "flow")  # type: ignore[arg-type]


def test_noise_of_an_item_does_not_depend_on_its_batch() -> None:
    like = torch.zeros(3, 2, 4)
    batch = standard_normal([seeding.generator(0, item) for item in range(3)], like)
    alone = standard_normal([seeding.generator(0, 2)], like[:1])
    assert torch.equal(batch[2], alone[0])
    assert torch.equal(standard_normal(batch, like), batch)
    with pytest.raises(ValueError, match="batch of 3"):
        standard_normal([seeding.generator(0)], like)
    with pytest.raises(ValueError, match="is needed"):
        standard_normal(torch.zeros(3, 2, 5), like)
