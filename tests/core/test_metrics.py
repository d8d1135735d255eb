"""Kernel distance, fidelity and diversity against plain formulas; the named report."""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from diffusion_suite.core import metrics, seeding
from diffusion_suite.core.errors import ConfigError, InputError
from diffusion_suite.core.metrics import (
    Options,
    Sets,
    fidelity,
    inception_score,
    kernel_distance,
    kernel_distance_full,
    measure,
    realism,
    sliced_wasserstein,
    vendi_by_class,
    vendi_score,
)
from diffusion_suite.core.metrics import features as shared
from diffusion_suite.core.metrics.config import METRICS
from diffusion_suite.core.metrics.kernel import kernel_resamples
from diffusion_suite.core.metrics.report import as_json
from diffusion_suite.core.metrics.resamples import Resamples


def draw(items: int, width: int, *key: int | str) -> Tensor:
    generator = seeding.generator("metrics", items, width, *key)
    return torch.randn(items, width, generator=generator, dtype=torch.float64)


def test_distances_keep_their_digits_far_from_the_origin() -> None:
    x = draw(30, 6, 0) * 1e-5 + 1e3
    y = torch.cat([x[:7] + 1e-9, draw(40, 6, 1) * 1e-5 + 1e3])
    expected = (x[:, None] - y[None]).square().sum(2)
    found = torch.cat([squares for _, squares in shared.squared_distances(x, y)])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = draw(50, 5, 0), draw(40, 5, 1)
    whole = fidelity(real, fake, 3), kernel_distance_full(real, fake), realism(real, fake, 3)
    monkeypatch.setattr(shared, "BLOCK", 130)
    monkeypatch.setattr("diffusion_suite.core.metrics.kernel.BLOCK", 130)
    parts = fidelity(real, fake, 3), kernel_distance_full(real, fake), realism(real, fake, 3)
    assert torch.equal(whole[0].balls, parts[0].balls)
    assert torch.equal(whole[0].covered, parts[0].covered)
    assert torch.equal(whole[0].reached, parts[0].reached)
    assert whole[1] == pytest.approx(parts[1], rel=1e-12)
    torch.testing.assert_close(whole[2], parts[2], rtol=1e-12, atol=0)


@pytest.mark.parametrize("quantised", [False, True])
def test_fidelity_by_its_definition(quantised: bool) -> None:
    real, fake = draw(60, 4, 0), draw(45, 4, 1) * 0.8 + 0.3
    if quantised:
        real, fake = (real * 2).round(), (fake * 2).round()
    k = 4
    within = (real[:, None] - real[None]).square().sum(2).fill_diagonal_(math.inf)
    among = (fake[:, None] - fake[None]).square().sum(2).fill_diagonal_(math.inf)
    across = (real[:, None] - fake[None]).square().sum(2)
    inside = across < within.sort(1).values[:, k - 1 : k]
    reach = among.sort(1).values[:, k - 1]
    found = fidelity(real, fake, k)
    assert found.precision == pytest.approx(float(inside.any(0).double().mean()))
    assert found.recall == pytest.approx(float((across < reach).any(1).double().mean()))
    assert found.density == pytest.approx(float(inside.sum() / k / len(fake)))
    assert found.coverage == pytest.approx(float(inside.any(1).double().mean()))


def test_fidelity_of_copies_and_of_strangers() -> None:
    x = draw(80, 6, 0)
    same = fidelity(x, x.clone(), 5)
    assert (same.precision, same.recall, same.density, same.coverage) == (1.0, 1.0, 1.0, 1.0)
    far = fidelity(x, x + 100.0, 5)
    assert (far.precision, far.recall, far.density, far.coverage) == (0.0, 0.0, 0.0, 0.0)
    assert bool((realism(x, x.clone()) == math.inf).any())
    assert float(realism(x, x + 100.0).max()) < 0.1
    with pytest.raises(InputError, match="5 items where 6 are needed"):
        fidelity(x[:5], x, 5)
    alike = fidelity(torch.zeros(8, 2), torch.zeros(8, 2), 3)
    assert alike.precision == 0.0
    with pytest.raises(InputError, match="one distance"):
        realism(torch.zeros(8, 2), torch.ones(4, 2))


def kernel(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = a @ b.T / a.shape[1] + 1
    return product**3


def test_kernel_distance_is_unbiased() -> None:
    real, fake = draw(40, 5, 0), draw(30, 5, 1) + 0.4
    xx, yy, xy = kernel(real, real), kernel(fake, fake), kernel(real, fake)
    expected = (xx.sum() - xx.trace()) / (40 * 39) + (yy.sum() - yy.trace()) / (30 * 29) - 2 * xy.mean()
    assert kernel_distance_full(real, fake) == pytest.approx(float(expected), rel=1e-12)
    values = [kernel_distance_full(draw(20, 3, i), draw(25, 3, "other", i)) for i in range(200)]
    mean, error = float(torch.tensor(values).mean()), float(torch.tensor(values).std()) / math.sqrt(200)
    assert abs(mean) < 3 * error


def test_subsets_are_seeded_and_shrink() -> None:
    real, fake = draw(40, 5, 0), draw(30, 5, 1) + 0.4
    found = kernel_distance(real, fake, subsets=7)
    assert len(found.values) == 7
    assert found.size == 30
    assert kernel_distance(real, fake, subsets=7) == found
    assert kernel_distance(real, fake, subsets=7, seed=1) != found
    assert kernel_distance(real[:30], fake).values == pytest.approx([kernel_distance_full(real[:30], fake)])


def test_resampled_kernel_distances() -> None:
    real, fake = draw(40, 5, 0), draw(30, 5, 1)
    counts = tuple(Resamples(6, 0).counts(str(len(x)), len(x)) for x in (real, fake))
    found = kernel_resamples(real, fake, (counts[0], counts[1]))
    for index, value in enumerate(found):
        a, b = counts[0][:, index], counts[1][:, index]

        def within(x: Tensor, w: Tensor) -> Tensor:
            weights = torch.outer(w, w).fill_diagonal_(0.0)
            return torch.sum(weights * kernel(x, x)) / weights.sum()

        across = (torch.outer(a, b) * kernel(real, fake)).sum() / (a.sum() * b.sum())
        torch.testing.assert_close(value, within(real, a) + within(fake, b) - 2 * across)


def test_vendi_score() -> None:
    assert vendi_score(torch.eye(7)) == pytest.approx(7.0)
    assert vendi_score(torch.ones(9, 3)) == pytest.approx(1.0)
    x = draw(20, 50, 0)
    rows = x / x.norm(dim=1, keepdim=True)
    values = torch.linalg.eigvalsh(rows @ rows.T / 20)
    assert vendi_score(x) == pytest.approx(float(torch.exp(-(values * values.log()).sum())), rel=1e-9)
    assert vendi_score(x, 2) == pytest.approx(float(1 / values.square().sum()), rel=1e-9)
    assert vendi_score(x, math.inf) == pytest.approx(float(1 / values.max()), rel=1e-9)
    assert vendi_score(x, 0) == pytest.approx(20.0)
    assert vendi_score(x[:, :4]) <= 4.0
    twice = torch.cat([x, x])
    assert vendi_score(twice) == pytest.approx(vendi_score(x), rel=1e-9)
    counted = vendi_score(x, weights=torch.tensor([2.0] * 10 + [1.0] * 10))
    assert counted == pytest.approx(vendi_score(torch.cat([x, x[:10]])), rel=1e-9)
    labels = torch.tensor([4, 1] * 10)
    assert vendi_by_class(x, labels) == {1: vendi_score(x[1::2]), 4: vendi_score(x[::2])}
    with pytest.raises(InputError, match="zero"):
        vendi_score(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="below 0"):
        vendi_score(x, -1)


def test_inception_score() -> None:
    assert inception_score(torch.eye(5)) == pytest.approx(5.0)
    assert inception_score(torch.full((8, 4), 0.25)) == pytest.approx(1.0)
    assert inception_score(torch.eye(4).repeat(2, 1), splits=2) == pytest.approx(4.0)
    with pytest.raises(InputError, match="sum to 1"):
        inception_score(torch.ones(4, 4))


def test_sliced_wasserstein_of_shifted_and_scaled_gaussians() -> None:
    x = draw(4000, 200, 0)
    assert sliced_wasserstein(x, x + 0.5) == pytest.approx(0.5, rel=1e-9)
    assert sliced_wasserstein(x, 3 * draw(4000, 200, 1)) == pytest.approx(2.0, rel=0.02)


SETS = Sets(draw(60, 4, "real"), draw(50, 4, "fake"), draw(70, 4, "train"), draw(55, 4, "test"))


def test_report_of_every_metric() -> None:
    scores = measure(SETS, list(METRICS), "pixels", Options(bootstrap=5, cells=1, subset_size=30, subsets=10))
    names = [score.name for score in scores]
    assert len(set(names)) == len(names)
    assert {name.removesuffix("_pixels").removesuffix("_real") for name in names} == set(METRICS)
    for score in scores:
        assert math.isfinite(score.value), score
        assert score.standard_error is not None, score
        assert score.standard_error > 0, score
        assert all(len(getattr(SETS, part)) == size for part, size in score.sizes.items())
    again = measure(SETS, list(METRICS), "pixels", Options(bootstrap=5, cells=1, subset_size=30, subsets=10))
    assert again == scores
    by_name = {score.name: score for score in scores}
    assert by_name["precision_pixels"].value == fidelity(SETS.real, SETS.fake).precision
    assert by_name["kd_full_pixels"].value == kernel_distance_full(SETS.real, SETS.fake)
    assert set(as_json(scores)) == set(names)


def test_standard_errors_tell_the_spread() -> None:
    """The bootstrap's error of a mean-like figure is near the spread over fresh sets."""
    names = ["sliced_wasserstein", "kd_full"]
    values, errors = [], []
    for index in range(40):
        sets = Sets(draw(80, 6, "a", index), 1.5 * draw(80, 6, "b", index) + 0.5)
        scores = measure(sets, names, "x", Options(bootstrap=20))
        values.append([score.value for score in scores])
        errors.append([score.standard_error or 0.0 for score in scores])
    spread, told = torch.tensor(values).std(0), torch.tensor(errors).mean(0)
    assert bool(((told / spread - 1).abs() < 0.35).all()), told / spread


def test_notes_and_no_resamples() -> None:
    sets = Sets(draw(9, 8, 0), draw(40, 8, 1))
    fd = measure(sets, ["fd"], "dinov2", Options(bootstrap=0))[0]
    assert fd.name == "fd_dinov2"
    assert fd.standard_error is None
    assert fd.note == "mostly bias: real below 16 items"
    twins = Sets(torch.cat([draw(30, 3, 0), draw(30, 3, 0)[:4]]), draw(30, 3, 1))
    found = measure(twins, ["dimension_two_nn"], "x", Options(bootstrap=0))
    assert found[1].note == "4 equal items left out"


def test_report_refuses() -> None:
    with pytest.raises(ConfigError, match="did you mean 'precision'"):
        measure(SETS, ["precison"], "pixels")
    for name in ("authpct", "ct"):
        with pytest.raises(ConfigError, match="training and a test set"):
            measure(Sets(SETS.real, SETS.fake, SETS.train), [name], "pixels")
    broken = draw(55, 4, "test")
    broken[3] = math.nan
    with pytest.raises(InputError, match="test set: 1 of 55 items hold NaN"):
        measure(Sets(SETS.real, SETS.fake, SETS.train, broken), ["ct"], "pixels")
    with pytest.raises(InputError, match="4 features an item, the other 5"):
        measure(Sets(SETS.real, draw(50, 5, 0)), ["fd"], "pixels")


def test_names_are_there_and_nothing_heavy_is_imported() -> None:
    assert metrics.__all__ == sorted(metrics.__all__)
    for name in metrics.__all__:
        assert getattr(metrics, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = metrics.nothing
    code = (
        "import sys, diffusion_suite.core.metrics, diffusion_suite.core.metrics.config;"
        "print([m for m in ('torch', 'numpy', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
