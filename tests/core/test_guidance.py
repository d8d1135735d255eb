"""Guidance by pairs, intervals, weaker networks and diffusers guiders."""

import itertools
import logging
from collections.abc import Callable
from typing import Any

import diffusers.guiders
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.guidance import (
    AdaptiveProjected,
    AutoGuidance,
    ClassifierFree,
    EnergyGuided,
    Interval,
    PairGuidance,
    ScoreGuided,
    Viewed,
    ZeroStar,
    diffusers_guider,
    noise_level,
    shifted,
)
from diffusion_suite.core.schedulers import (
    EDM,
    VE,
    Denoiser,
    LinearVP,
    Mixture,
    RectifiedFlow,
    Trigonometric,
    ddim,
    even_times,
    heun,
)

KINDS = ("eps", "x0", "v", "velocity", "score")
NULL = {"label": 2}


class Network:
    """An elementwise function of state, time and label that counts its calls and rows."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, label: Tensor, **_: Any) -> Tensor:
        self.rows.append(len(x))
        shape = (-1,) + (1,) * (x.ndim - 1)
        return torch.sin(x + 2.0 * label.to(x).reshape(shape)) + 0.1 * t.reshape(-1, *shape[1:]).to(x)


@pytest.fixture
def network() -> Network:
    return Network()


def picture(*shape: int, name: str = "x") -> Tensor:
    generator = seeding.generator(name)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def mixture() -> Mixture:
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.0], [0.5, -1.5]], dtype=torch.float64)
    covariances = torch.eye(2, dtype=torch.float64) * torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    return Mixture(torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64), means, covariances)


X, LABEL = picture(2, 3, 5, 4), torch.tensor([0, 1])


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_classifier_free_is_the_line_through_both_predictions(network: Network, scale: float) -> None:
    denoiser = Denoiser(network, RectifiedFlow(), "velocity")
    guided = ClassifierFree(denoiser, scale, NULL).predict(X, 0.4, label=LABEL)
    both = [denoiser.predict(X, 0.4, label=label) for label in (LABEL, torch.tensor([2, 2]))]
    assert_close(guided, both[1] + scale * (both[0] - both[1]))


def test_classifier_free_makes_one_call(network: Network) -> None:
    denoiser = Denoiser(network, EDM(), "x0")
    ClassifierFree(denoiser, 2.0, NULL).predict(X, 1.0, label=LABEL)
    ClassifierFree(denoiser, 1.0, NULL).predict(X, 1.0, label=LABEL)
    ClassifierFree(denoiser, 2.0, NULL, batched=False).predict(X, 1.0, label=LABEL)
    assert network.rows == [4, 2, 2, 2]


@pytest.mark.parametrize(
    "null",
    [torch.tensor(2), torch.tensor([2]), torch.tensor([2, 2]), 2],
    ids=["one value", "one item", "a batch", "a number"],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_null_conditions_of_every_form(network: Network, null: Any, batch: int) -> None:
    if isinstance(null, Tensor) and null.ndim and len(null) > batch:
        null = null[:batch]
    guided = ClassifierFree(Denoiser(network, EDM(), "x0"), 2.0, {"label": null})
    expected = ClassifierFree(Denoiser(network, EDM(), "x0"), 2.0, {"label": 2}, batched=False)
    arguments = (X[:batch], torch.full((batch,), 0.3))
    assert_close(
        guided.predict(*arguments, label=LABEL[:batch]), expected.predict(*arguments, label=LABEL[:batch])
    )
    assert network.rows == [2 * batch, batch, batch]


def test_conditions_that_are_no_tensors() -> None:
    calls: list[dict[str, Any]] = []

    def model(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        calls.append(cond)
        return torch.zeros_like(x)

    denoiser, size = Denoiser(model, EDM(), "eps"), torch.tensor([3, 4])
    both = ClassifierFree(denoiser, 2.0, {"text": ["", ""]})
    both.predict(X, 1.0, text=["cat", "dog"], added={"size": size}, flag=True)
    assert calls[0]["text"] == ["cat", "dog", "", ""]
    assert calls[0]["added"]["size"].tolist() == [3, 4, 3, 4]
    assert calls[0]["flag"] is True
    ClassifierFree(denoiser, 2.0, {"text": None}).predict(X, 1.0, text=torch.ones(2, 7))
    ClassifierFree(denoiser, 2.0, {"text": torch.ones(2, 9)}).predict(X, 1.0, text=torch.ones(2, 7))
    ClassifierFree(denoiser, 2.0, {"text": torch.ones(2, 9)}).predict(X, 1.0)
    assert len(calls) == 7  # none of the last three can be one batch


def test_rescale_acts_on_the_output_it_is_given(network: Network) -> None:
    denoiser = Denoiser(network, LinearVP(), "eps")
    plain = ClassifierFree(denoiser, 3.0, NULL).predict(X, 0.5, label=LABEL)
    conditional = denoiser.predict(X, 0.5, label=LABEL)
    full = ClassifierFree(denoiser, 3.0, NULL, rescale=1.0).predict(X, 0.5, label=LABEL)
    assert_close(full.flatten(1).std(1), conditional.flatten(1).std(1))
    half = ClassifierFree(denoiser, 3.0, NULL, rescale=0.5).predict(X, 0.5, label=LABEL)
    assert_close(half, 0.5 * (full + plain))
    data = ClassifierFree(Viewed(denoiser, "x0"), 3.0, NULL, rescale=1.0)
    assert_close(
        data.x0(X, 0.5, label=LABEL).flatten(1).std(1), denoiser.x0(X, 0.5, label=LABEL).flatten(1).std(1)
    )
    assert (data.eps(X, 0.5, label=LABEL) - full).abs().max() > 1e-3
    unscaled = ClassifierFree(Viewed(denoiser, "x0"), 3.0, NULL)
    assert_close(unscaled.eps(X, 0.5, label=LABEL), plain)


@pytest.mark.parametrize(("have", "want"), [*itertools.product(KINDS, KINDS)])
def test_viewed_says_the_same_otherwise(have: str, want: str) -> None:
    denoiser = mixture().denoiser(Trigonometric(), have)  # type: ignore[arg-type]
    viewed, x = Viewed(denoiser, want), picture(3, 2)  # type: ignore[arg-type]
    assert viewed.prediction_type == want
    for view in ("x0", "eps", "v", "velocity", "score"):
        assert_close(getattr(viewed, view)(x, 0.4), getattr(denoiser, view)(x, 0.4), rtol=1e-9, atol=1e-9)


def test_interval_decides_once_a_step_by_the_noise_level() -> None:
    network, plain_network = Network(), Network()
    plain, path = Denoiser(plain_network, EDM(), "x0"), EDM()
    guided = Interval(ClassifierFree(Denoiser(network, path, "x0"), 2.0, NULL), plain, 0.3, 1.6)
    times = [4.0, 2.0, 1.0, 0.25, 0.0]  # the step from 1.0 enters 0.25, outside, and is guided throughout
    heun(guided, X, times, label=LABEL)
    assert network.rows == [4, 4]
    assert plain_network.rows == [2, 2, 2, 2, 2]  # two Heun steps above, one Euler step into the clean end


def test_interval_is_the_same_on_every_path() -> None:
    assert float(noise_level(RectifiedFlow(), 0.5)) == 1.0
    assert float(noise_level(RectifiedFlow(), 1.0)) == float("inf")
    for path in (RectifiedFlow(), LinearVP(), VE(), EDM()):
        plain, other = mixture().denoiser(path, "eps"), mixture().restricted([0]).denoiser(path, "eps")
        guided = Interval(AutoGuidance(plain, other, 3.0), plain, 0.5, 2.0)
        levels = torch.tensor([0.49, 0.51, 1.99, 2.01], dtype=torch.float64)
        t = path.t_of_logsnr(-2.0 * levels.log())
        x = picture(4, 2)
        difference = (guided.eps(x, t) - plain.eps(x, t)).abs().amax(1)
        assert (difference > 1e-6).tolist() == [False, True, True, False]
        for row, at in enumerate(t.tolist()):
            assert_close(guided.eps(x[[row]], at), guided.eps(x, t)[[row]])


def test_autoguidance_of_different_parametrisations() -> None:
    main, weak = mixture().denoiser(EDM(), "x0"), mixture().restricted([0, 1]).denoiser(EDM(), "score")
    x = picture(3, 2)
    expected = weak.x0(x, 0.7) + 2.2 * (main.x0(x, 0.7) - weak.x0(x, 0.7))
    assert_close(AutoGuidance(main, weak, 2.2).x0(x, 0.7), expected)
    assert_close(AutoGuidance(main, weak, 2.2).eps(x, 0.7), (x - expected) / 0.7)


def test_autoguidance_of_scale_one_leaves_the_weak_network_alone(network: Network) -> None:
    main, weak = Denoiser(Network(), EDM(), "x0"), Denoiser(network, EDM(), "x0")
    AutoGuidance(main, weak, 1.0).x0(X, 1.0, label=LABEL)
    assert not network.rows


def test_projection_with_everything_kept_is_classifier_free(network: Network) -> None:
    denoiser = Denoiser(network, EDM(), "x0")
    expected = ClassifierFree(denoiser, 2.5, NULL).predict(X, 1.0, label=LABEL)
    kept = AdaptiveProjected(denoiser, 2.5, NULL, eta=1.0).predict(X, 1.0, label=LABEL)
    assert_close(kept, expected)
    projected = AdaptiveProjected(denoiser, 2.5, NULL, eta=0.0).predict(X, 1.0, label=LABEL)
    conditional, unconditional = AdaptiveProjected(denoiser, 2.5, NULL).pair(X, 1.0, {"label": LABEL})
    assert ((projected - unconditional) * conditional).flatten(1).sum(1).abs().max() < 1e-10


def run(guidance: Denoiser, steps: int = 4, evaluations: int = 1, x: Tensor = X) -> list[Tensor]:
    """What a sampler's evaluations see, step by step."""
    outputs = []
    for index in range(steps):
        stepped = guidance.at_step(1.0 - index / steps, index, steps)
        for again in range(evaluations):
            outputs.append(stepped.predict(x + index + 10.0 * again, 0.5, label=LABEL[: len(x)]))
    return outputs


def test_momentum_matches_diffusers_when_that_is_started(network: Network) -> None:
    denoiser = Denoiser(network, EDM(), "x0")
    guider = diffusers.guiders.AdaptiveProjectedGuidance(
        guidance_scale=2.5,
        adaptive_projected_guidance_momentum=-0.6,
        adaptive_projected_guidance_rescale=2.0,
        eta=0.3,
    )
    ours = AdaptiveProjected(denoiser, 2.5, NULL, eta=0.3, norm=2.0, momentum=-0.6)
    theirs = diffusers_guider(guider, denoiser, NULL)
    for _ in range(2):  # the second run starts anew
        for mine, other in zip(run(ours), run(theirs), strict=True):
            assert_close(mine, other)
    still = AdaptiveProjected(denoiser, 2.5, NULL, eta=0.3, norm=2.0)
    assert (run(still)[1] - run(ours)[1]).abs().max() > 1e-2


def test_momentum_moves_once_a_step_and_by_item(network: Network) -> None:
    guidance = AdaptiveProjected(Denoiser(network, EDM(), "x0"), 2.5, NULL, momentum=-0.6)
    once, twice = run(guidance), run(guidance, evaluations=2)
    for mine, other in zip(once, twice[::2], strict=True):
        assert_close(mine, other)
    alone = run(guidance, x=X[:1])
    for mine, other in zip(once, alone, strict=True):
        assert_close(mine[:1], other)
    guidance.at_step(1.0, 0, 4).predict(X, 0.5, label=LABEL)
    with pytest.raises(ValueError, match="one batch at a time"):
        guidance.at_step(0.5, 1, 4).predict(X[:1], 0.5, label=LABEL[:1])


def test_momentum_starts_anew_where_the_first_step_is_outside_an_interval(network: Network) -> None:
    denoiser = Denoiser(network, RectifiedFlow(), "velocity")
    momentum = AdaptiveProjected(denoiser, 2.5, NULL, momentum=-0.6)
    guidance = Interval(momentum, denoiser, 0.0, 1.5)
    first, second = run(guidance), run(guidance)
    for mine, other in zip(first, second, strict=True):
        assert_close(mine, other)


def test_zero_star_projects_and_stands_still_first(network: Network) -> None:
    denoiser = Denoiser(network, RectifiedFlow(), "velocity")
    guidance = ZeroStar(denoiser, 2.0, NULL, zero_steps=2)
    outputs = run(guidance)
    assert not outputs[0].any()
    assert not outputs[1].any()
    assert network.rows == [4, 4]
    conditional, unconditional = guidance.pair(X + 2.0, 0.5, {"label": LABEL})
    share = (conditional * unconditional).sum((1, 2, 3)) / unconditional.square().sum((1, 2, 3))
    best = share.reshape(-1, 1, 1, 1) * unconditional
    assert_close(outputs[2], best + 2.0 * (conditional - best))


@pytest.mark.parametrize(
    "make",
    [
        lambda d: ClassifierFree(d, 2.0, NULL, rescale=0.7),
        lambda d: AdaptiveProjected(d, 2.0, NULL, norm=1.0, momentum=-0.5),
        lambda d: ZeroStar(d, 2.0, NULL),
        lambda d: Interval(ClassifierFree(d, 2.0, NULL), d, 0.5, 2.0),
        lambda d: AutoGuidance(ClassifierFree(d, 2.0, NULL), d, 2.0),
        lambda d: diffusers_guider(diffusers.guiders.TangentialClassifierFreeGuidance(3.0), d, NULL),
        lambda d: EnergyGuided(ClassifierFree(d, 2.0, NULL), lambda x0: x0.square().flatten(1).sum(1), 0.1),
        lambda d: ScoreGuided(
            ScoreGuided(d, lambda x_t, x0, t: 1.0 - x0, jacobian=False),
            lambda x_t, x0, t: -torch.autograd.grad(x0.square().sum(), x_t)[0],
            scale=0.1,
        ),
    ],
    ids=["cfg", "apg", "zero star", "interval", "auto", "tangential", "energy", "nested"],
)
def test_item_does_not_depend_on_its_batch(make: Callable[[Denoiser], Denoiser]) -> None:
    guidance = make(Denoiser(Network(), RectifiedFlow(), "velocity"))
    x, label = picture(4, 2, 3, 5), torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        together = ddim(guidance, x, even_times(5), label=label)
        alone = [ddim(guidance, x[[i]], even_times(5), label=label[[i]]) for i in range(4)]
    assert torch.isfinite(together).all()
    # The tangential guider works in float32.
    assert_close(together, torch.cat(alone), rtol=0.0, atol=1e-5)


def test_guiders_are_off_by_step(network: Network) -> None:
    denoiser = Denoiser(network, EDM(), "x0")
    guider = diffusers.guiders.ClassifierFreeGuidance(guidance_scale=2.0, start=0.5)
    outputs = run(diffusers_guider(guider, denoiser, NULL))
    assert network.rows == [2, 2, 4, 4]
    assert_close(outputs[0], denoiser.predict(X, 0.5, label=LABEL))
    assert_close(outputs[3], ClassifierFree(denoiser, 2.0, NULL).predict(X + 3.0, 0.5, label=LABEL))
    with pytest.raises(ValueError, match="by step"):
        diffusers_guider(guider, denoiser, NULL).predict(X, 0.5, label=LABEL)


def test_guiders_that_cannot_work_are_refused(network: Network) -> None:
    denoiser, guiders = Denoiser(network, EDM(), "x0"), diffusers.guiders
    for guider in (
        guiders.SkipLayerGuidance(skip_layer_guidance_layers=[1]),
        guiders.PerturbedAttentionGuidance(perturbed_guidance_layers=[1]),
        guiders.AutoGuidance(auto_guidance_layers=[1], dropout=0.1),
    ):
        with pytest.raises(ConfigError, match="inside a diffusers network"):
            diffusers_guider(guider, denoiser, NULL)
    magnitude = diffusers_guider(guiders.MagnitudeAwareGuidance(), denoiser, NULL).at_step(0.5, 0, 4)
    with pytest.raises(ConfigError, match="no data of 4 dimensions"):
        magnitude.predict(X, 0.5, label=LABEL)
    assert torch.isfinite(magnitude.predict(X[:, 0], 0.5, label=LABEL)).all()


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Every constructor of a guider logs that it is experimental."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", [RectifiedFlow(), LinearVP(), EDM()], ids=lambda p: type(p).__name__)
def test_score_enters_through_the_noise(path: Any, kind: Any) -> None:
    denoiser, g, x = mixture().denoiser(path, kind), picture(3, 2, name="g"), picture(3, 2)
    for t in (0.3, torch.tensor([0.2, 0.5, 0.8])):
        alpha, sigma = path.at(t, x)
        guided = ScoreGuided(denoiser, lambda x_t, x0, t: g, scale=0.5)
        assert_close(guided.eps(x, t), denoiser.eps(x, t) - 0.5 * sigma * g)
        assert_close(guided.x0(x, t), denoiser.x0(x, t) + 0.5 * sigma**2 / alpha * g)
        assert_close(guided.score(x, t), denoiser.score(x, t) + 0.5 * g)


def test_score_is_left_out_where_there_is_no_data() -> None:
    output, score = picture(2, 3), picture(2, 3, name="g")
    for kind in KINDS:
        assert_close(shifted(output, score, 1.0, RectifiedFlow(), kind), output)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_score_needs_no_graph_and_leaves_none(mode: Any) -> None:
    weight = torch.nn.Linear(2, 2).double()
    denoiser = Denoiser(lambda x, t, shift: weight(x) + shift, RectifiedFlow(), "velocity")

    def score(x_t: Tensor, x0: Tensor, t: Any) -> Tensor:
        assert x0.requires_grad
        return -torch.autograd.grad(x0.square().sum(), x_t)[0]

    with mode():
        x, t, shift = picture(3, 2), torch.full((3,), 0.5), torch.ones(3, 2, dtype=torch.float64)
        found = ScoreGuided(denoiser, score).predict(x, t, shift=shift)
    assert not found.requires_grad
    assert weight.weight.grad is None


def test_outer_guidance_differentiates_through_an_inner_one() -> None:
    denoiser = mixture().denoiser(RectifiedFlow(), "velocity")
    inner = ScoreGuided(denoiser, lambda x_t, x0, t: 1.0 - x0, jacobian=False)
    x = picture(3, 2)

    def energy(x0: Tensor) -> Tensor:
        return x0.square().sum(1)

    at = x.clone().requires_grad_()
    shift = (inner.x0(x, 0.5) - denoiser.x0(x, 0.5)).detach()
    (expected,) = torch.autograd.grad(energy(denoiser.x0(at, 0.5) + shift).sum(), at)
    found = EnergyGuided(inner, energy).score(x, 0.5) - inner.score(x, 0.5)
    assert_close(found, -expected)


def test_scales_by_step_are_checked() -> None:
    guided = ScoreGuided(mixture().denoiser(EDM()), lambda x_t, x0, t: x_t, scale=[1.0, 2.0])
    x = picture(2, 2)
    assert_close(guided.at_step(1.0, 1, 2).score(x, 1.0), mixture().denoiser(EDM()).score(x, 1.0) + 2.0 * x)
    with pytest.raises(ValueError, match="2 scales"):
        guided.at_step(1.0, 0, 3)
    with pytest.raises(ValueError, match="at_step"):
        guided.score(x, 1.0)


def test_classifier_free_of_a_mixture_samples_the_sharpened_class() -> None:
    """With w = 1 a guided sampler draws from the class; larger w draw less spread."""
    whole = mixture()

    def model(x: Tensor, t: Tensor, known: Tensor) -> Tensor:
        of_class, of_all = (m.denoiser(EDM()).x0(x, t) for m in (whole.restricted([0]), whole))
        return torch.where(known[:, None] > 0, of_class, of_all)

    denoiser, known = Denoiser(model, EDM(), "x0"), torch.ones(200)
    x = 20.0 * picture(200, 2)
    times = [20.0, 10.0, 5.0, 2.5, 1.2, 0.8, 0.5, 0.3, 0.2, 0.1, 0.05, 0.0]
    spreads = []
    for scale in (1.0, 3.0):
        found = heun(ClassifierFree(denoiser, scale, {"known": 0}), x, times, known=known)
        spreads.append(float(found.std(0).mean()))
        if scale == 1.0:
            assert_close(found.mean(0), whole.means[0], rtol=0.0, atol=0.08)
    assert spreads[1] < spreads[0]


def test_pairs_are_open_to_other_rules(network: Network) -> None:
    class Larger(PairGuidance):
        def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
            return torch.maximum(conditional, unconditional)

    guided = Larger(Denoiser(network, EDM(), "x0"), NULL).x0(X, 1.0, label=LABEL)
    assert (guided >= Denoiser(network, EDM(), "x0").x0(X, 1.0, label=LABEL)).all()
