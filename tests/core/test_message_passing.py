"""Message passing with exact Gaussian denoisers against the posterior of the joint Gaussian model."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.inverse import MessagePassing, vamp
from diffusion_suite.core.schedulers import EDM, Denoiser

DOUBLE = torch.float64
ROWS, COLUMNS, BANDS = 9, 10, 6
PIXELS = ROWS * COLUMNS
DEVIATION = torch.tensor([5.0, 1.5], dtype=DOUBLE)
CHANNELS = len(DEVIATION)
SHAPE = (1, CHANNELS, ROWS, COLUMNS)
VARIANCE = DEVIATION.square()[None, :, None, None]


def draws(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator("vamp", name), dtype=DOUBLE)


def covariance() -> Tensor:
    """(channels, pixels, pixels) of exponentially correlated fields."""
    rows, columns = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    places = torch.stack([rows, columns], -1).reshape(-1, 2).to(DOUBLE)
    return DEVIATION.square()[:, None, None] * torch.exp(-torch.cdist(places, places) / 3)


PRIOR = covariance()
LOADINGS = torch.linalg.qr(draws("loadings", BANDS, CHANNELS))[0]


def gaussian_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact posterior mean of the fields under noise of any map of levels."""
    noise = torch.diag_embed(sigma.expand(x.shape).reshape(CHANNELS, PIXELS) ** 2)
    solved = torch.linalg.solve(PRIOR + noise, x.reshape(CHANNELS, PIXELS, 1))
    return (PRIOR @ solved).reshape(x.shape)


@dataclass
class Bands:
    """y = mask (loadings z) + n pixel by pixel, n ~ N(0, I): a `LinearEstimator`."""

    mask: Tensor
    y: Tensor

    @property
    def measured(self) -> Tensor:
        return self.mask.any(-1).reshape(1, 1, ROWS, COLUMNS)

    @property
    def information(self) -> Tensor:
        return torch.einsum("br,pb,bs->prs", LOADINGS, self.mask.to(DOUBLE), LOADINGS)

    def __call__(self, mean: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
        weight = precision.reshape(CHANNELS)
        inverse = torch.linalg.inv(self.information + torch.diag(weight))
        target = self.y @ LOADINGS + weight * mean.reshape(CHANNELS, PIXELS).T
        estimate = torch.einsum("prs,ps->rp", inverse, target)
        return estimate.reshape(SHAPE), inverse.diagonal(dim1=1, dim2=2).T.reshape(SHAPE)

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean and variances of the joint model, by dense linear algebra."""
        precision = torch.block_diag(*torch.linalg.inv(PRIOR))
        for p in range(PIXELS):
            places = torch.arange(CHANNELS) * PIXELS + p
            precision[places[:, None], places] += self.information[p]
        inverse = torch.linalg.inv(precision)
        mean = inverse @ (self.y @ LOADINGS).T.reshape(-1)
        return mean.reshape(SHAPE), inverse.diagonal().reshape(SHAPE)


def measure(mask: Tensor) -> tuple[Bands, Tensor]:
    clean = torch.linalg.cholesky(PRIOR) @ draws("fields", CHANNELS, PIXELS, 1)
    y = clean[..., 0].T @ LOADINGS.T + draws("noise", PIXELS, BANDS)
    return Bands(mask, torch.where(mask, y, 0.0)), clean.reshape(SHAPE)


def random_mask(share: float) -> Tensor:
    return torch.rand(PIXELS, BANDS, generator=seeding.generator("vamp mask", str(share))) < share


def run(bands: Bands, steps: int, seed: int = 0, **settings: object) -> MessagePassing:
    denoiser = Denoiser(gaussian_denoiser, EDM(), "x0")
    return vamp(denoiser, bands, VARIANCE, SHAPE, steps, seeding.generator(seed), **settings)


def over_measured(bands: Bands, map_of: Tensor) -> Tensor:
    """Mean of each channel over the pixels that were measured in some band."""
    return (map_of * bands.measured).sum((0, 2, 3)) / bands.measured.sum()


def test_identity_measurement_is_one_denoising() -> None:
    bands, _ = measure(torch.ones(PIXELS, BANDS, dtype=torch.bool))
    found = run(bands, 1)
    scores = (bands.y @ LOADINGS).T.reshape(SHAPE)
    assert_close(found.pseudo, scores)
    assert_close(found.sigma, torch.ones(SHAPE, dtype=DOUBLE))
    assert_close(found.x0, gaussian_denoiser(scores, torch.ones(1, dtype=DOUBLE)))
    assert_close(found.x0, bands.posterior()[0])


@pytest.mark.parametrize("share", [0.75, 0.4, 0.15])
def test_mask_gives_the_exact_posterior_mean(share: float) -> None:
    bands, clean = measure(random_mask(share))
    mean, variance = bands.posterior()
    found = run(bands, 20)
    assert (found.x0 - mean).square().mean() < 0.01**2 * variance.mean()
    assert_close((found.x0 - clean).square().mean(), (mean - clean).square().mean(), rtol=0.01, atol=0)


def test_few_exchanges_are_enough_for_practice() -> None:
    bands, _ = measure(random_mask(0.4))
    mean, variance = bands.posterior()
    assert (run(bands, 4).x0 - mean).square().mean() < 0.1**2 * variance.mean()


@pytest.mark.parametrize("share", [1.0, 0.75, 0.4])
def test_variance_is_that_of_the_posterior(share: float) -> None:
    bands, _ = measure(random_mask(share))
    exact = over_measured(bands, bands.posterior()[1])
    probes = [over_measured(bands, run(bands, 12, seed).variance) for seed in range(12)]
    assert_close(torch.stack(probes).mean(0), exact, rtol=0.05, atol=0)


def test_pixels_without_any_band_are_filled_by_the_prior() -> None:
    mask = torch.ones(ROWS, COLUMNS, BANDS, dtype=torch.bool)
    mask[:, 4:6] = False
    bands, _ = measure(mask.reshape(PIXELS, BANDS))
    found = run(bands, 1)
    assert (found.pseudo[..., 4:6] == 0).all()
    assert (found.sigma[..., 4:6] > 1e3 * DEVIATION.max()).all()
    assert_close(found.x0, bands.posterior()[0], rtol=0, atol=1e-5)
    local = run(bands, 1, smooth=lambda map_of: map_of).variance
    assert (local <= VARIANCE + 1e-9).all()


def test_generator_alone_decides() -> None:
    bands, _ = measure(random_mask(0.4))
    first, again, other = run(bands, 3, 1), run(bands, 3, 1), run(bands, 3, 2)
    assert torch.equal(first.x0, again.x0)
    assert torch.equal(first.variance, again.variance)
    assert not torch.equal(first.variance, other.variance)


def test_callback_sees_every_exchange() -> None:
    bands, _ = measure(random_mask(0.75))
    seen: list[Tensor] = []
    found = run(bands, 5, callback=lambda state: seen.append(state["x0"]))
    assert len(seen) == 5
    assert torch.equal(seen[-1], found.x0)
