"""The exact denoiser of a Gaussian mixture, against derivatives of its density."""

import torch
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.schedulers import Mixture, RectifiedFlow


def mixture() -> Mixture:
    draw = seeding.generator("mixture")
    roots = torch.randn(3, 4, 4, generator=draw, dtype=torch.float64)
    means = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    return Mixture(torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), means, roots @ roots.mT)


def test_score_is_the_gradient_of_the_noisy_density() -> None:
    data, path = mixture(), RectifiedFlow()
    t = torch.tensor([0.1, 0.5, 0.9, 0.99, 0.3], dtype=torch.float64)
    x = torch.randn(5, 4, generator=seeding.generator("x"), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(data.log_density(x, path.alpha(t), path.sigma(t)).sum(), x)
    for kind in ("x0", "eps", "v", "velocity", "score"):
        assert_close(data.denoiser(path, kind).score(x, t), gradient, rtol=1e-9, atol=1e-9)
    assert_close(data.denoiser(path).score(x[1:2], 0.5), gradient[1:2], rtol=1e-9, atol=1e-9)


def test_draws_have_the_moments() -> None:
    data = mixture()
    draws = data.sample(20_000, seeding.generator("draws"))
    assert_close(draws.mean(0), (data.weights[:, None] * data.means).sum(0), rtol=0, atol=0.1)
    assert_close(
        data.restricted([1]).sample(20_000, seeding.generator(1)).T.cov(),
        data.covariances[1],
        rtol=0.1,
        atol=0.2,
    )
