"""Fréchet distance against closed forms, few samples and singular covariances."""

import math
import warnings

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.metrics import Moments, frechet_distance, frechet_infinity

pytestmark = pytest.mark.filterwarnings("ignore:fewer than")


def draw(items: int, width: int, *key: int | str) -> Tensor:
    generator = seeding.generator("frechet", items, width, *key)
    return torch.randn(items, width, generator=generator, dtype=torch.float64)


def nuclear(real: Tensor, fake: Tensor) -> float:
    """The distance from singular values of all pairs of items: exact, and slow for many."""
    a, b = (x - x.mean(0) for x in (real, fake))
    n, m = len(a) - 1, len(b) - 1
    overlap = torch.linalg.svdvals(a @ b.T).sum() / math.sqrt(n * m)
    shift = (real.mean(0) - fake.mean(0)).square().sum()
    return float(shift + a.square().sum() / n + b.square().sum() / m - 2 * overlap)


def test_diagonal_gaussians() -> None:
    one, two = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 4.0, 1.0])
    first = Moments(torch.zeros(3), torch.diag(one))
    second = Moments(torch.tensor([1.0, 0.0, -2.0]), torch.diag(two))
    expected = 5.0 + float((one.sqrt() - two.sqrt()).square().sum())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-12)


def test_equals_the_root_of_the_matrix_product() -> None:
    real, fake = draw(300, 12, 0) @ draw(12, 12, 1), draw(200, 12, 2) + 0.3
    covariances = [x.T.cov().numpy() for x in (real, fake)]
    root = sqrtm(covariances[0] @ covariances[1]).real.trace()
    shift = float((real.mean(0) - fake.mean(0)).square().sum())
    expected = shift + covariances[0].trace() + covariances[1].trace() - 2 * root
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(40, 30), (40, 200), (200, 40), (64, 64), (65, 64), (2, 3), (300, 200)])
def test_any_number_of_items(n: int, m: int) -> None:
    real, fake = draw(n, 64, "real"), 1.5 * draw(m, 64, "fake") + 0.1
    value = frechet_distance(real, fake)
    assert value == pytest.approx(nuclear(real, fake), rel=1e-9)
    moments = frechet_distance(Moments.of(real), Moments.of(fake))
    assert moments == pytest.approx(value, rel=1e-6)
    assert frechet_distance(real.float(), fake.float()) == pytest.approx(value, rel=1e-5)


def test_few_samples_never_form_a_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> Moments:
        raise AssertionError("a d x d covariance was formed")

    real, fake = draw(6, 4000, 0), draw(5, 4000, 1)
    monkeypatch.setattr(Moments, "of", refused)
    assert frechet_distance(real, fake) == pytest.approx(nuclear(real, fake), rel=1e-9)


@pytest.mark.parametrize("dead", ["first", "second", "both", "other"])
def test_features_that_never_change(dead: str) -> None:
    real, fake = draw(100, 10, 0), 2.0 * draw(90, 10, 1) + 0.2
    if dead != "second":
        real[:, 3:6] = 0.7
    if dead in ("second", "both"):
        fake[:, 3:6] = 0.7
    if dead == "other":
        fake[:, 5:8] = -1.0
    assert frechet_distance(real, fake) == pytest.approx(nuclear(real, fake), rel=1e-6)


@pytest.mark.parametrize("exponent", [1, 4, 8, 12])
def test_spectra_that_fall_far(exponent: int) -> None:
    scales = torch.logspace(0, -exponent, 60, dtype=torch.float64)
    rotation = torch.linalg.qr(draw(60, 60, "rotation"))[0]
    real, fake = draw(200, 60, 0) * scales @ rotation, 1.1 * draw(180, 60, 1) * scales @ rotation
    assert frechet_distance(real, fake) == pytest.approx(nuclear(real, fake), rel=1e-6)


def test_a_set_to_itself_and_constants() -> None:
    x = draw(50, 8, 0)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-12)
    assert frechet_distance(x[:5], x[:5]) == pytest.approx(0.0, abs=1e-12)
    assert frechet_distance(torch.ones(20, 3), torch.zeros(9, 3)) == pytest.approx(3.0)


def test_moments_of_batches_add_up() -> None:
    x = draw(97, 7, 0) + 1e3
    parts = [Moments.of(part) for part in (x[:1], x[1:30], x[30:31], x[31:])]
    whole = parts[0] + parts[1] + parts[2] + parts[3]
    assert whole.count == 97
    torch.testing.assert_close(whole.mean, x.mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(whole.covariance, x.T.cov(), rtol=0, atol=1e-10)
    torch.testing.assert_close(Moments.of(x).covariance, x.T.cov(), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="without a number"):
        _ = whole + Moments(whole.mean, whole.covariance)


def test_extrapolation_takes_the_bias_off() -> None:
    real, fake = draw(20000, 16, "real"), draw(800, 16, "fake")
    plain, limit = frechet_distance(real, fake), frechet_infinity(real, fake)
    assert len(limit.sizes) == 15
    assert limit.sizes[0] == 200
    assert limit.sizes[-1] == 800
    assert limit.values[-1] == pytest.approx(plain, rel=1e-9)
    assert abs(limit.value) < 0.3 * plain
    assert frechet_infinity(real, fake).value == limit.value
    assert frechet_infinity(real, fake, seed=1).value != limit.value


def test_warns_of_few_samples() -> None:
    with pytest.warns(UserWarning, match="fewer than 128 samples for 64 features"):
        frechet_distance(draw(200, 64, 0), draw(100, 64, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(draw(200, 64, 0), draw(128, 64, 1))
        frechet_distance(Moments(torch.zeros(2), torch.eye(2)), Moments.of(draw(4, 2, 0)))


def test_refuses_what_has_no_distance() -> None:
    good = draw(10, 3, 0)
    broken = good.clone()
    broken[4, 1] = math.nan
    with pytest.raises(InputError, match="1 of 10 items hold NaN"):
        frechet_distance(good, broken)
    with pytest.raises(InputError, match="3 features an item, the other 4"):
        frechet_distance(good, draw(10, 4, 0))
    with pytest.raises(InputError, match="1 item"):
        frechet_distance(good, good[:1])
    with pytest.raises(InputError, match="single sample"):
        frechet_distance(good, Moments.of(good[:1]))
    with pytest.raises(ValueError, match="not \\(items, width\\)"):
        frechet_distance(good, good[None])
    with pytest.raises(ValueError, match="does not fit a mean"):
        frechet_distance(good, Moments(torch.zeros(3), torch.eye(4)))
    with pytest.raises(ValueError, match="two sizes"):
        frechet_infinity(good, good, sizes=[10, 10])
    with pytest.raises(ValueError, match="do not fit"):
        frechet_infinity(good, good, sizes=[5, 11])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    for n, m in ((40, 30), (200, 40), (300, 200)):
        real, fake = draw(n, 64, "real"), draw(m, 64, "fake")
        value = frechet_distance(real.cuda(), fake.cuda())
        assert value == pytest.approx(frechet_distance(real, fake), rel=1e-9)
