"""Intrinsic dimension of subspaces and of curved sets, on several paths."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.metrics import (
    asymmetry,
    denoiser_jacobian,
    flipd,
    flow_map_jacobian,
    jacobian_spectrum,
    levina_bickel,
    score_spectrum,
    two_nn,
)
from diffusion_suite.core.schedulers import (
    EDM,
    Denoiser,
    DiscreteVP,
    LinearVP,
    Mixture,
    Path,
    PredictionType,
    RectifiedFlow,
    betas,
)

WIDTH, RANK = 8, 3
VARIANCES = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
PATHS: list[tuple[Path, PredictionType]] = [
    (EDM(), "x0"),
    (RectifiedFlow(), "velocity"),
    (LinearVP(), "eps"),
    (DiscreteVP(betas("linear", 1000)), "v"),
]


def draw(*shape: int, key: int | str = 0) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator("dimension", key), dtype=torch.float64)


def subspace() -> tuple[Mixture, Tensor]:
    """A Gaussian on three dimensions of eight, and their directions (8, 3)."""
    directions = torch.linalg.qr(draw(WIDTH, RANK))[0]
    covariance = directions @ torch.diag(VARIANCES) @ directions.T
    return Mixture(torch.ones(1).double(), draw(1, WIDTH, key="mean"), covariance[None]), directions


def at_level(path: Path, level: float) -> float:
    """The time at which sigma / alpha is this."""
    return float(path.t_of_logsnr(-2.0 * math.log(level)))


@pytest.mark.parametrize(("path", "kind"), PATHS, ids=lambda x: type(x).__name__)
def test_spectra_of_a_gaussian_on_a_subspace(path: Path, kind: PredictionType) -> None:
    mixture, directions = subspace()
    denoiser, point = mixture.denoiser(path, kind), mixture.means + directions.T[:1]
    low, high = at_level(path, 0.05), at_level(path, 3.0)
    sigma, top = (float(path.sigma(t) / path.alpha(t)) for t in (low, high))

    found = score_spectrum(denoiser, point, low, noise=seeding.generator("noise"))
    assert found.dimension == RANK
    assert len(found.values) == WIDTH
    assert_close(flipd(denoiser, mixture.means, low).item(), RANK - sigma**2 * float((1 / VARIANCES).sum()),
                 rtol=0, atol=0.01)  # fmt: skip

    jacobian = denoiser_jacobian(denoiser, point, low)
    values, right = jacobian_spectrum(jacobian)
    expected = torch.cat([VARIANCES / (VARIANCES + sigma**2), torch.zeros(WIDTH - RANK).double()])
    assert_close(values, expected, rtol=0, atol=1e-9)
    assert_close((right[:RANK] @ directions).square().sum(), torch.tensor(3.0).double(), rtol=1e-9, atol=0)
    assert asymmetry(jacobian) < 1e-9

    flow = flow_map_jacobian(denoiser, point, high, low, steps=64)
    scales = torch.cat([VARIANCES, torch.zeros(WIDTH - RANK).double()])
    expected = ((scales + sigma**2) / (scales + top**2)).sqrt()
    assert_close(jacobian_spectrum(flow)[0], expected, rtol=1e-5, atol=0)


def test_score_spectrum_takes_generators_or_values() -> None:
    mixture, _ = subspace()
    denoiser, point = mixture.denoiser(EDM()), mixture.means
    noise = draw(4 * WIDTH, WIDTH, key="noise")
    given = score_spectrum(denoiser, point, 0.01, noise=noise)
    one = score_spectrum(denoiser, point, 0.01, noise=seeding.generator(1))
    many = score_spectrum(
        denoiser, point, 0.01, noise=[seeding.generator(1, i) for i in range(20)], copies=20
    )
    assert given.dimension == one.dimension == many.dimension == RANK
    assert_close(one.values, score_spectrum(denoiser, point, 0.01, noise=seeding.generator(1)).values)


@pytest.mark.parametrize("shape", [(2, 2, 2), (8,)])
def test_flipd_by_probes_and_one_by_one(shape: tuple[int, ...]) -> None:
    mixture, directions = subspace()
    denoiser = mixture.denoiser(EDM())
    points = (mixture.means + draw(5, RANK, key="points") @ directions.T).view(5, *shape)
    exact = flipd(denoiser, points, 0.3)
    assert exact.shape == (5,)
    for index in range(5):
        assert_close(flipd(denoiser, points[index : index + 1], 0.3), exact[index : index + 1])
    signs = torch.tensor([[1.0 if i >> b & 1 else -1.0 for b in range(8)] for i in range(256)]).double()
    everything = signs[:, None].expand(256, 5, 8).reshape(256, 5, *shape)
    assert_close(flipd(denoiser, points, 0.3, noise=everything), exact)
    generators = [seeding.generator("probes", index) for index in range(5)]
    estimate = flipd(denoiser, points, 0.3, noise=generators, probes=200)
    assert_close(estimate, exact, rtol=0, atol=1.0)
    alone = flipd(denoiser, points[3:4], 0.3, noise=[seeding.generator("probes", 3)], probes=200)
    assert_close(alone, estimate[3:4], rtol=1e-9, atol=0)


def test_conditions_reach_the_model_for_every_copy() -> None:
    seen = []

    def model(x: Tensor, t: Tensor, scale: Tensor, name: str) -> Tensor:
        seen.append((x.shape[0], scale.shape[0], name))
        return x * scale

    denoiser = Denoiser(model, EDM(), "x0")
    jacobian = denoiser_jacobian(denoiser, torch.ones(1, 100), 0.1, scale=torch.full((1, 1), 0.5), name="cat")
    assert_close(jacobian, 0.5 * torch.eye(100))
    assert seen == [(64, 64, "cat"), (36, 36, "cat")]


def test_asymmetry_of_a_rotation() -> None:
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    denoiser = Denoiser(lambda x, t: x @ quarter.T, EDM(), "x0")
    jacobian = denoiser_jacobian(denoiser, torch.ones(1, 2), 0.1)
    assert_close(jacobian, quarter)
    assert asymmetry(jacobian) == pytest.approx(2.0)


@pytest.mark.parametrize(("dimension", "ambient"), [(2, 2), (2, 10), (5, 20)])
def test_estimates_from_samples(dimension: int, ambient: int) -> None:
    flat = torch.rand(1500, dimension, generator=seeding.generator("flat"), dtype=torch.float64)
    curved = torch.sin(flat @ draw(dimension, ambient) * 0.3)
    assert levina_bickel(curved) == pytest.approx(dimension, rel=0.15)
    assert two_nn(curved) == pytest.approx(dimension, rel=0.15)
    moved = torch.cat([curved, curved[:50]])
    assert levina_bickel(moved) == pytest.approx(levina_bickel(curved), rel=1e-6)
    assert two_nn(moved) == pytest.approx(two_nn(curved), rel=1e-6)


def test_refusals() -> None:
    mixture, _ = subspace()
    denoiser = mixture.denoiser(RectifiedFlow(), "velocity")
    pair = mixture.means.expand(2, -1)
    with pytest.raises(ValueError, match="one point"):
        denoiser_jacobian(denoiser, pair, 0.1)
    with pytest.raises(ValueError, match="one point"):
        score_spectrum(denoiser, pair, 0.1, noise=draw(4, WIDTH))
    with pytest.raises(ValueError, match="without noise or data"):
        flow_map_jacobian(denoiser, mixture.means, 1.0, 0.1)
    with pytest.raises(ValueError, match="give noise"):
        flipd(denoiser, torch.zeros(1, 600), 0.1)
    with pytest.raises(InputError, match="3 are needed"):
        two_nn(torch.ones(10, 2))
    with pytest.raises(InputError, match="11 are needed"):
        levina_bickel(draw(9, 2))
    with pytest.raises(InputError, match="equally far"):
        two_nn(torch.eye(3))
    with pytest.raises(ValueError, match="at least 2"):
        levina_bickel(draw(9, 2), k=1)
