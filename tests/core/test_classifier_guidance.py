"""Guidance by classifiers: the exact posterior, the ancestral form, and calibrated classifiers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.guidance import (
    AutoGuidance,
    CalibratedClassifier,
    CalibratedGuided,
    ClassifierGuided,
    NoiseExperts,
    ScoreGuided,
    ancestral_scales,
    calibration_by_time,
    classifier_score,
    expected_calibration_error,
    label_log_prob,
    margin_log_prob,
    posterior_variances,
    sine_variances,
    with_softplus,
)
from diffusion_suite.core.schedulers import (
    EDM,
    VE,
    DiscreteVP,
    LinearVP,
    Mixture,
    Path,
    RectifiedFlow,
    ancestral,
    betas,
    ddim,
    even_times,
)


def mixture() -> Mixture:
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.0], [0.5, -1.5]], dtype=torch.float64)
    covariances = torch.eye(2, dtype=torch.float64) * torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    return Mixture(torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64), means, covariances)


def points(count: int, name: str = "x") -> Tensor:
    return torch.randn(count, 2, generator=seeding.generator(name), dtype=torch.float64)


class Posterior:
    """Exact log p(class | x_t) of a mixture."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == x.shape[:1]
        levels, whole = (self.path.alpha(t), self.path.sigma(t)), mixture()
        return (
            torch.stack([whole.restricted([k]).log_density(x, *levels) for k in range(3)], 1)
            + whole.weights.log()
        )


@pytest.mark.parametrize("kind", ["eps", "x0", "velocity"])
@pytest.mark.parametrize("path", [RectifiedFlow(), LinearVP(), VE(), EDM()], ids=lambda p: type(p).__name__)
def test_exact_posterior_is_the_conditional_model(path: Path, kind: Any) -> None:
    x, labels = points(6), torch.tensor([0, 1, 2, 2, 1, 0])
    whole = mixture().denoiser(path, kind)
    for label in range(3):
        rows, t = x[labels == label], 0.4
        conditional = mixture().restricted([label]).denoiser(path, kind)
        chosen = torch.full((2,), label)
        guided = ClassifierGuided(whole, Posterior(path), chosen)
        assert_close(guided.eps(rows, t), conditional.eps(rows, t), rtol=0.0, atol=1e-9)
        # Any weight is classifier-free guidance with it.
        guided = ClassifierGuided(whole, Posterior(path), chosen, 2.5)
        line = AutoGuidance(conditional, whole, 2.5)
        assert_close(guided.eps(rows, t), line.eps(rows, t), rtol=0.0, atol=1e-9)


def test_classifier_is_asked_by_item_and_without_a_graph() -> None:
    path, x, labels = LinearVP(), points(4), torch.tensor([0, 1, 2, 0])
    network = nn.Linear(2, 3).double()
    guided = ClassifierGuided(mixture().denoiser(path), lambda x, t: network(x), labels)
    with torch.inference_mode():
        together = guided.eps(x, 0.5)
    alone = [
        ClassifierGuided(mixture().denoiser(path), lambda x, t: network(x), labels[[i]]).eps(x[[i]], 0.5)
        for i in range(4)
    ]
    assert_close(together, torch.cat(alone))
    assert network.weight.grad is None
    assert not together.requires_grad


def test_experts_are_the_classifier_of_their_noise() -> None:
    path, x, labels = DiscreteVP(betas("linear", 100)), points(3), torch.tensor([0, 1, 2])
    classifiers = [lambda x, t, k=k: k * torch.cat([x, -x[:, :1]], 1) for k in range(4)]
    experts = NoiseExperts(classifiers, [0, 25, 50, 75, 100])
    for t, k in ((0, 0), (49, 1), (50, 2), (99, 3)):
        routed = ClassifierGuided(mixture().denoiser(path), experts, labels)
        direct = ClassifierGuided(mixture().denoiser(path), classifiers[k], labels)
        assert_close(routed.eps(x, t), direct.eps(x, t))


@pytest.mark.parametrize("path", [RectifiedFlow(), LinearVP(), EDM()], ids=lambda p: type(p).__name__)
def test_ancestral_form_moves_the_mean_by_variance_times_gradient(path: Path) -> None:
    times = even_times(6) if not isinstance(path, EDM) else [8.0, 4.0, 2.0, 1.0, 0.5, 0.0]
    whole, labels, x = mixture().denoiser(path), torch.tensor([0, 2]), points(2)
    variances = posterior_variances(path, times)
    scales = ancestral_scales(path, times, 1.7 * variances)
    guided = ClassifierGuided(whole, Posterior(path), labels, scales)
    score = classifier_score(Posterior(path), labels)
    still = torch.zeros(1, 2, 2, dtype=torch.float64)
    for index in range(1, len(scales)):
        pair = times[index : index + 2]
        stepped = guided.at_step(times[index], index, len(scales))
        for sampler in (ancestral, lambda *a, **k: ddim(*a, eta=1.0, **k)):
            moved = sampler(stepped_only(stepped), x, pair, noise=still) - sampler(
                whole, x, pair, noise=still
            )
            expected = 1.7 * variances[index] * score(x, x, pair[0])
            assert_close(moved, expected, rtol=1e-9, atol=1e-12)
    assert scales[-1] == 0.0


def stepped_only(denoiser: Any) -> Any:
    """A denoiser that stays at the step it was made for."""
    denoiser.at_step = lambda *_: denoiser
    return denoiser


def test_ancestral_scale_tends_to_one() -> None:
    path = LinearVP()
    scales = []
    for steps in (10, 100, 1000):
        times = even_times(steps)
        scales.append(ancestral_scales(path, times, posterior_variances(path, times))[steps // 2])
    errors = [abs(scale - 1.0) for scale in scales]
    assert errors[0] > 5.0 * errors[1] > 25.0 * errors[2]
    assert errors[2] < 0.05


def test_posterior_variances_are_those_of_the_table() -> None:
    table = betas("linear", 50)
    kept = torch.cumprod(1.0 - table, 0)
    before = torch.cat([torch.ones(1), kept[:-1]])
    expected = (table * (1.0 - before) / (1.0 - kept)).flip(0)
    assert_close(posterior_variances(DiscreteVP(table), list(range(49, -2, -1))), expected.double())


def test_posterior_variances_where_times_rise() -> None:
    path = LinearVP()
    variances = posterior_variances(path, [0.8, 0.5, 0.8, 0.5])
    assert variances[1] == 0.0
    assert variances[0] == variances[2] > 0.0
    assert ancestral_scales(path, [0.8, 0.5, 0.8, 0.5], variances)[1] == 0.0


def test_margin_temperature() -> None:
    logits, labels = 200.0 * points(5), torch.tensor([0, 1, 1, 0, 1])  # exp would overflow float32
    assert torch.isfinite(margin_log_prob(logits.float(), labels)).all()
    assert_close(margin_log_prob(logits, labels, 1.0, 1.0), label_log_prob(logits, labels))
    alone = margin_log_prob(logits, labels, 2.0, 0.0)
    assert_close(alone, 2.0 * logits.gather(1, labels[:, None])[:, 0] - math.log(2))


def test_sine_variances() -> None:
    variances = torch.tensor([0.2, 0.5, 0.3, 0.1], dtype=torch.float64)
    expected = (
        0.3 * torch.tensor([0.2, 0.5, 0.5, 0.5]) * torch.tensor([math.sqrt(0.5), 1.0, math.sqrt(0.5), 0.0])
    )
    assert_close(sine_variances(variances, 0.3), expected.double(), atol=1e-7, rtol=0.0)


def test_calibrated_guidance_moves_the_mean_by_the_gradient_at_the_data() -> None:
    path, labels, x = LinearVP(), torch.tensor([0, 1]), points(2)
    times = even_times(8)
    weight = points(2, "weight")
    whole = mixture().denoiser(path)
    guided = CalibratedGuided(whole, lambda x0: x0 @ weight, labels, times, scale=2.0, gamma=0.3)
    variances = posterior_variances(path, times)
    total = variances + sine_variances(variances, 0.3)
    still = torch.zeros(1, 2, 2, dtype=torch.float64)
    for index in range(1, 8):
        pair = times[index : index + 2]
        x0 = whole.x0(x, pair[0])
        share = (0.5 * x0 @ weight).softmax(1)
        gradient = (nn.functional.one_hot(labels, 2) - 0.5 * share) @ weight.T
        stepped = stepped_only(guided.at_step(pair[0], index, 8))
        moved = ancestral(stepped, x, pair, noise=still) - ancestral(whole, x, pair, noise=still)
        assert_close(moved, 2.0 * total[index] * gradient, rtol=1e-9, atol=1e-12)


def test_calibrated_guidance_reaches_the_class() -> None:
    """A sampler of 1-in-3 components, guided by a classifier of clean points, lands in the wanted one."""
    path, times, count = LinearVP(), even_times(50), 64
    whole = mixture()

    def classifier(x0: Tensor) -> Tensor:
        densities = [whole.restricted([k]).log_density(x0) for k in range(3)]
        return torch.stack(densities, 1)

    labels = torch.arange(count) % 3
    guided = CalibratedGuided(whole.denoiser(path), classifier, labels, times, margin=1.0)
    with torch.no_grad():
        found = ancestral(guided, points(count), times, noise=seeding.generator("noise"))
        plain = ancestral(whole.denoiser(path), points(count), times, noise=seeding.generator("noise"))
    assert (whole.responsibilities(found).argmax(1) == labels).double().mean() > 0.9
    assert (whole.responsibilities(plain).argmax(1) == labels).double().mean() < 0.6


def network() -> nn.Sequential:
    with seeding.seeded("classifier"):
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
        )  # fmt: skip


def test_softplus_takes_the_place_of_every_relu_of_a_copy() -> None:
    given = network()
    soft = with_softplus(given, 3.0)
    assert not [m for m in soft.modules() if isinstance(m, nn.ReLU)]
    assert [m.beta for m in soft.modules() if isinstance(m, nn.Softplus)] == [3.0, 3.0]
    assert len([m for m in given.modules() if isinstance(m, nn.ReLU)]) == 2
    x = torch.randn(2, 3, 8, 6, generator=seeding.generator("x"))
    assert_close(with_softplus(given, 1e4)(x), given(x), rtol=1e-3, atol=1e-3)
    assert_close(with_softplus(nn.ReLU(), 3.0)(x), torch.log1p(torch.exp(3.0 * x)) / 3.0)
    with pytest.raises(ConfigError, match="no ReLU"):
        with_softplus(nn.Sequential(nn.Linear(2, 2), nn.GELU()))


def test_calibrated_classifier_prepares_its_input_and_is_frozen() -> None:
    given = network()
    made = CalibratedClassifier(given, size=12, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7), beta=None)
    pixels = torch.rand(2, 3, 12, 12, generator=seeding.generator("x"))
    normal = (pixels - torch.tensor([0.2, 0.3, 0.4])[:, None, None]) / torch.tensor([0.5, 0.6, 0.7])[
        :, None, None
    ]
    assert_close(made(2.0 * pixels - 1.0), given(normal))
    assert made(torch.rand(1, 3, 40, 20)).shape == (1, 5)
    assert not [p for p in made.parameters() if p.requires_grad]
    assert [p for p in given.parameters() if p.requires_grad]
    made.train()
    assert not made.classifier.training
    assert given.training


def test_calibration_error() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.58, 0.42], [0.45, 0.55]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1])
    # Bins (0.8, 0.9]: 0.9 right; (0.7, 0.8]: 0.8 wrong; (0.5, 0.6]: 0.58 and 0.55 right.
    expected = (0.1 + 0.8 + 0.42 + 0.45) / 4
    assert_close(
        expected_calibration_error(probabilities, labels, 10), torch.tensor(expected, dtype=torch.float64)
    )
    assert expected_calibration_error(torch.eye(3), torch.arange(3)) == 0.0


def test_calibration_by_time_grows_where_the_data_cannot_be_told() -> None:
    whole, path = mixture(), LinearVP()
    x0 = whole.sample(400, seeding.generator("data"))
    labels = whole.responsibilities(x0).argmax(1)

    def confident(x: Tensor) -> Tensor:
        return 50.0 * whole.responsibilities(x)

    errors = calibration_by_time(
        confident, whole.denoiser(path), x0, labels, [0.01, 0.4, 0.9], noise=seeding.generator("noise")
    )
    assert errors.shape == (3,)
    assert errors[0] < 0.1 < errors[1] < errors[2]


def test_scores_can_be_shared_between_guidances() -> None:
    path, labels, x = LinearVP(), torch.tensor([0, 1]), points(2)
    score = classifier_score(Posterior(path), labels)
    guided = ScoreGuided(mixture().denoiser(path), score, scale=1.5, jacobian=False)
    assert_close(
        guided.x0(x, 0.3), ClassifierGuided(mixture().denoiser(path), Posterior(path), labels, 1.5).x0(x, 0.3)
    )
