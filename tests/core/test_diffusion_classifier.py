"""A denoiser as a classifier: on Gaussian classes it agrees with the exact posterior, whatever the batch."""

import pytest
import torch
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.representation import classify
from diffusion_suite.core.representation.classifier import candidates, stages
from diffusion_suite.core.schedulers import EDM, Denoiser, DiscreteVP, RectifiedFlow, betas

MEANS = 1.5 * torch.randn(5, 6, generator=seeding.generator("means"))
VARIANCE = 0.2


def denoiser(path, seen=None):
    """The exact conditional denoiser of isotropic classes; a class is told by its number or its mean."""

    def model(x_t, t, label):
        means = MEANS[label].view_as(x_t) if label.ndim == 1 else label.view_as(x_t)
        if seen is not None:
            seen.append(len(x_t))
        alpha, sigma = path.at(t, x_t)
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        return means + gain * (x_t - alpha * means)

    return Denoiser(model, path, "x0")


def drawn(count):
    draw = seeding.generator("drawn")
    labels = torch.randint(5, (count,), generator=draw)
    return MEANS[labels] + VARIANCE**0.5 * torch.randn(count, 6, generator=draw), labels


def generators(count, start=0):
    return [seeding.generator("classifier", start + item) for item in range(count)]


@pytest.mark.parametrize("path", [RectifiedFlow(), DiscreteVP(betas("linear", 1000))])
@pytest.mark.parametrize("error", ["l1", "l2"])
def test_classes_of_gaussians(path, error):
    x0, labels = drawn(200)
    nearest = torch.cdist(x0, MEANS).argmin(1)
    found = classify(denoiser(path), x0, torch.arange(5), noise=generators(200), error=error)
    assert (found.labels == nearest).float().mean() > 0.9
    assert abs((found.labels == labels).float().mean() - (nearest == labels).float().mean()) < 0.08


def test_an_item_does_not_depend_on_its_batch_or_on_the_size_of_a_pass():
    x0, _ = drawn(4)
    x0 = x0.view(4, 1, 2, 3)
    path = RectifiedFlow()
    whole = classify(denoiser(path), x0, torch.arange(5), noise=generators(4))
    alone = classify(denoiser(path), x0[2:3], torch.arange(5), noise=generators(1, 2), batch_size=2)
    assert_close(alone.errors[0], whole.errors[2], rtol=0, atol=1e-5, equal_nan=True)
    assert torch.equal(alone.labels, whole.labels[2:3])
    flipped = classify(denoiser(path), x0.flip(0), torch.arange(5), noise=generators(4)[::-1])
    assert torch.equal(flipped.labels.flip(0), whole.labels)


def test_conditions_may_be_vectors():
    x0, _ = drawn(6)
    path = RectifiedFlow()
    numbers = classify(denoiser(path), x0, torch.arange(5), noise=generators(6))
    vectors = classify(denoiser(path), x0, MEANS, noise=generators(6))
    assert_close(numbers.scores, vectors.scores)


def test_losers_are_evaluated_no_more_and_passes_are_bounded():
    seen = []
    x0, _ = drawn(3)
    found = classify(
        denoiser(RectifiedFlow(), seen),
        x0,
        torch.arange(5),
        noise=generators(3),
        budgets=(2, 8),
        keep=(2, 1),
        batch_size=4,
        trials=2,
    )
    assert found.errors.shape == (3, 5, 16)
    assert sum(seen) == 3 * 5 * 4 + 3 * 2 * 12
    assert max(seen) == 4
    evaluated = found.errors.isfinite().sum(2)
    assert torch.equal(evaluated.sort(1).values, torch.tensor([4, 4, 4, 16, 16]).expand(3, -1))
    assert torch.equal(evaluated.gather(1, found.labels[:, None]), torch.full((3, 1), 16))
    assert_close(found.scores, -found.errors.nanmean(2))


def test_weight_of_the_times():
    x0, _ = drawn(3)
    options = {"noise": torch.randn(4, 3, 6, generator=seeding.generator("w")), "budgets": (4,), "keep": (1,)}
    path = RectifiedFlow()
    only_first = classify(
        denoiser(path), x0, torch.arange(5), time_weight=lambda t: float(t < 0.2), **options
    )
    plain = classify(denoiser(path), x0, torch.arange(5), **options)
    assert_close(only_first.scores, -plain.errors[..., 0])
    assert_close(only_first.errors, plain.errors)


def test_times_and_stages():
    assert candidates(RectifiedFlow(), 4) == [0.125, 0.375, 0.625, 0.875]
    table = DiscreteVP(betas("linear", 1000))
    assert candidates(table, 5) == [100, 300, 500, 700, 900]
    assert len(candidates(table, 60)) == 60
    plan = stages(25, (5, 25))
    assert plan[0] == [2, 7, 12, 17, 22]
    assert sorted(plan[0] + plan[1]) == list(range(25))
    with pytest.raises(ConfigError, match="give smaller budgets"):
        candidates(table, 1001)
    with pytest.raises(ConfigError, match="no natural times"):
        candidates(EDM(), 4)
    x0, _ = drawn(2)
    found = classify(
        denoiser(EDM()), x0, torch.arange(5), noise=generators(2), budgets=(2,), keep=(1,), times=[0.3, 0.6]
    )
    assert found.times.tolist() == pytest.approx([0.3, 0.6])


@pytest.mark.parametrize("options", [{"budgets": (5,)}, {"trials": 0}, {"error": "huber"}, {"keep": (0, 1)}])
def test_bad_options(options):
    x0, _ = drawn(1)
    with pytest.raises(ConfigError):
        classify(denoiser(RectifiedFlow()), x0, torch.arange(5), noise=generators(1), **options)
