"""Posterior solvers against the closed form, against their equations, and on what they must refuse."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core import seeding
from diffusion_suite.core.errors import ConfigError, InputError
from diffusion_suite.core.inverse import (
    SOLVERS,
    AveragePooling,
    Blur,
    Composed,
    Dense,
    ForwardDenoiser,
    FunctionOperator,
    Identity,
    Inpainting,
    LinearOperator,
    MeasurementGuided,
    MeasurementScore,
    ddnm,
    ddrm,
    dps,
    exact_posterior,
    pigdm,
    red_diff,
    solve,
)
from diffusion_suite.core.schedulers import (
    EDM,
    Denoiser,
    DiscreteVP,
    Mixture,
    Path,
    PredictionType,
    RectifiedFlow,
    Step,
    betas,
    ddim,
    even_times,
    index_times,
    karras_times,
    standard_normal,
    time_travel,
)

DOUBLE = torch.float64
TABLE = DiscreteVP(betas("linear", 1000))
STOCHASTIC = ("ddrm", "ddnm", "dps", "diffpir", "red_diff")


def draws(*shape: int, key: str = "") -> Tensor:
    return torch.randn(*shape, generator=seeding.generator("posterior", key, *shape), dtype=DOUBLE)


def smooth(height: int, width: int, reach: float, mean: float = 0.0) -> Mixture:
    """A Gaussian of images whose pixels resemble their neighbours."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows, columns], -1).reshape(-1, 2).double()
    covariance = torch.exp(-torch.cdist(places, places) / reach)
    return Mixture(torch.ones(1, dtype=DOUBLE), torch.full((1, len(places)), mean).double(), covariance[None])


def correlated(size: int, key: str = "") -> Mixture:
    root = draws(size, size, key=key) / size**0.5
    covariance = root @ root.T + 0.05 * torch.eye(size, dtype=DOUBLE)
    return Mixture(torch.ones(1, dtype=DOUBLE), draws(1, size, key=key), covariance[None])


def cast(prior: Mixture, dtype: torch.dtype) -> Mixture:
    return Mixture(*(part.to(dtype) for part in (prior.weights, prior.means, prior.covariances)))


def affine(prior: Mixture, path: Path, kind: PredictionType) -> Denoiser:
    """The exact denoiser of a single Gaussian in float32, cheap enough for thousands of samples."""
    mean, (values, vectors) = prior.means[0].float(), torch.linalg.eigh(prior.covariances[0])
    values, vectors = values.float(), vectors.float()

    def model(x: Tensor, t: Tensor) -> Tensor:
        flat = x.flatten(1)
        alpha, sigma = path.at(t, flat)
        gain = alpha * values / (alpha**2 * values + sigma**2)
        x0 = mean + ((flat - alpha * mean) @ vectors * gain) @ vectors.T
        return (x0 if kind == "x0" else (flat - alpha * x0) / sigma).view_as(x)

    return Denoiser(model, path, kind)


def measured(prior: Mixture, operator: LinearOperator, sigma_y: float) -> Tensor:
    truth = prior.sample(1, seeding.generator("truth")).reshape(1, *operator.image_shape)
    clean = operator.to(dtype=DOUBLE).A(truth)
    return clean + sigma_y * draws(*clean.shape, key="data")


def half(width: int) -> Tensor:
    return torch.rand(6, width, generator=seeding.generator("mask")) < 0.5


KERNEL = torch.tensor([1.0, 2.0, 4.0, 2.0, 1.0]) / 10
CASES: dict[str, tuple[Mixture, Callable[[], LinearOperator], float, Path, list[float]]] = {
    "matrix, table": (correlated(8), lambda: Dense(draws(3, 8) / 2), 0.2, TABLE, index_times(1000, 50)),
    "mask, straight": (smooth(6, 8, 4), lambda: Inpainting(half(8), 1), 0.1, RectifiedFlow(), even_times(40)),
    "blur, EDM": (smooth(6, 5, 3, 1), lambda: Blur(KERNEL, 6, 5, 1), 0.1, EDM(), karras_times(40, 0.01)),
    "user's, straight": (
        smooth(4, 6, 3, -1),
        lambda: FunctionOperator(lambda x: x[:, :, ::2].cumsum(-1) / 3, (1, 4, 6)),
        0.2,
        RectifiedFlow(),
        even_times(40),
    ),
    "composed, table": (
        smooth(6, 8, 4),
        lambda: Composed(AveragePooling(2, 6, 8, 1), Blur(KERNEL, 6, 8, 1)),
        0.05,
        TABLE,
        index_times(1000, 50),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_default_solver_samples_gaussian_posteriors(name: str) -> None:
    prior, make, sigma_y, path, times = CASES[name]
    operator = make()
    y = measured(prior, operator, sigma_y)
    exact = exact_posterior(prior, operator, y[0], sigma_y)
    x = float(path.sigma(times[0])) * draws(2000, *operator.image_shape, key="start").float()
    denoiser = affine(prior, path, "eps" if path is TABLE else "x0")
    found = solve(denoiser, operator, y, x, times, sigma_y=sigma_y)
    samples = found.double().flatten(1)
    std = exact.covariances[0].diagonal().sqrt()
    assert float(((samples.mean(0) - exact.means[0]).abs() / std).max()) < 0.25
    total = samples.T.cov().trace() / exact.covariances[0].trace()
    assert abs(float(total) - 1) < 0.05


def test_the_published_covariance_is_exact_for_a_standard_normal_prior_only() -> None:
    operator, y = Dense(draws(3, 8)), draws(1, 3)
    x, times = draws(4, 8, key="start"), index_times(1000, 20)
    normal = Mixture(torch.ones(1).double(), torch.zeros(1, 8).double(), torch.eye(8)[None].double())

    def run(prior: Mixture, covariance: str) -> Tensor:
        settings = {"sigma_y": 0.2, "covariance": covariance, "iterations": 8, "sampler": ddim}
        return pigdm(prior.denoiser(TABLE, "eps"), operator, y, x, times, **settings)

    assert_close(run(normal, "isotropic"), run(normal, "denoiser"), rtol=0, atol=1e-9)
    assert float((run(correlated(8), "isotropic") - run(correlated(8), "denoiser")).abs().max()) > 0.05


def test_operators_with_and_without_singular_values_agree() -> None:
    operator, prior, y = Dense(draws(3, 8)), correlated(8), draws(1, 3)
    same = FunctionOperator(operator.A, (8,), adjoint=operator.adjoint)
    for covariance in ("isotropic", "denoiser"):
        problem = (y, draws(4, 8, key="start"), even_times(20))
        settings: dict[str, Any] = {"sigma_y": 0.2, "covariance": covariance, "iterations": 8}
        found = [
            pigdm(prior.denoiser(RectifiedFlow()), kind, *problem, **settings) for kind in (operator, same)
        ]
        assert_close(found[0], found[1], rtol=0, atol=1e-6)


def test_the_likelihood_score_is_the_gradient_of_the_log_likelihood() -> None:
    operator, prior, y = Dense(draws(3, 6)), correlated(6), draws(1, 3)
    path, t = RectifiedFlow(), 0.4
    x = draws(2, 6, key="state")
    score = MeasurementScore(path, operator, y.expand(2, -1), 0.3, iterations=6)
    found = MeasurementGuided(prior.denoiser(path), score).score(x, t) - prior.denoiser(path).score(x, t)
    alpha, sigma = path.at(t, x)
    leaf = x.clone().requires_grad_()
    joint = prior.log_density(leaf, alpha, sigma)
    for item in range(2):
        conditional = exact_posterior(prior, operator, y[0], 0.3)
        log_posterior = conditional.log_density(leaf[item : item + 1], alpha, sigma) - joint[item]
        (expected,) = torch.autograd.grad(log_posterior.sum(), leaf, retain_graph=True)
        assert_close(found[item], expected[item], rtol=0, atol=1e-9)


def test_the_closed_form_of_a_mixture_equals_a_sum_over_a_grid() -> None:
    prior = Mixture(torch.tensor([0.3, 0.7]).double(), draws(2, 1), torch.tensor([[[0.5]], [[0.2]]]).double())
    exact = exact_posterior(prior, Dense(torch.tensor([[2.0]]).double()), torch.tensor([0.4]), 0.6)
    grid = torch.linspace(-12, 12, 24001, dtype=DOUBLE)[:, None]
    weights = (prior.log_density(grid) - (0.4 - 2 * grid[:, 0]) ** 2 / (2 * 0.36)).softmax(0)
    assert_close((weights[:, None] * grid).sum(0), exact.weights @ exact.means, rtol=0, atol=1e-7)
    assert_close(weights * 1e3, exact.log_density(grid).exp(), rtol=0, atol=1e-7)


def problem(dtype: torch.dtype = DOUBLE) -> tuple[Denoiser, LinearOperator, Tensor, Tensor]:
    """Images (2, 3, 4), masked; four items of data and of start noise."""
    operator = Inpainting(draws(3, 4) > 0, channels=2).to(dtype=dtype)
    prior = cast(correlated(24), dtype)
    truth = prior.sample(4, seeding.generator("truth")).reshape(4, 2, 3, 4)
    return prior.denoiser(TABLE, "eps"), operator, operator.A(truth), draws(4, 2, 3, 4).to(dtype)


def generators(*items: int) -> list[torch.Generator]:
    return [seeding.generator("item", item) for item in items]


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("method", SOLVERS)
def test_an_item_does_not_depend_on_its_batch(method: str, dtype: torch.dtype) -> None:
    denoiser, operator, y, x = problem(dtype)
    times = index_times(1000, 12)

    def run(items: list[int]) -> Tensor:
        settings: dict[str, Any] = {"sigma_y": 0.1, "noise": generators(*items), "method": method}
        return solve(denoiser, operator, y[items], x[items], times, **settings)

    whole = run([0, 1, 2, 3])
    assert whole.dtype == dtype
    assert not whole.requires_grad
    assert whole.shape == x.shape
    assert_close(run([2]), whole[2:3], rtol=0, atol=1e-5)
    assert_close(run([3, 1]), whole[[3, 1]], rtol=0, atol=1e-5)
    assert float((run([0]) - whole[1:2]).abs().max()) > 1e-3


@pytest.mark.parametrize("method", SOLVERS)
def test_bad_data_are_refused_by_name(method: str) -> None:
    denoiser, operator, y, x = problem()
    settings: dict[str, Any] = {"sigma_y": 0.1, "noise": seeding.generator("n"), "method": method}
    times = index_times(1000, 3)
    with pytest.raises(InputError, match=r"Inpainting: data of shape \(2, 3, 3\) given"):
        solve(denoiser, operator, y[..., :3], x, times, **settings)
    with pytest.raises(InputError, match="Inpainting: the data hold NaN"):
        solve(denoiser, operator, y / 0, x, times, **settings)
    with pytest.raises(InputError, match="Inpainting: 3 items of data for 4"):
        solve(denoiser, operator, y[:3], x, times, **settings)
    with pytest.raises(InputError, match="Inpainting: a state of shape"):
        solve(denoiser, operator, y, x[..., :2], times, **settings)
    with pytest.raises(ConfigError, match="noise level is -1"):
        solve(denoiser, operator, y, x, times, **{**settings, "sigma_y": -1.0})


def test_an_unknown_solver_lists_the_known_ones() -> None:
    denoiser, operator, y, x = problem()
    with pytest.raises(ConfigError, match="unknown solver 'mcg'; use one of pigdm, ddrm"):
        solve(denoiser, operator, y, x, [1, 0], method="mcg", sigma_y=0.0)  # type: ignore[arg-type]


NOISE_FREE: dict[str, Callable[[], LinearOperator]] = {
    "mask": lambda: Inpainting(draws(4, 6) > 0, 2).to(dtype=DOUBLE),
    "pool": lambda: AveragePooling(2, 4, 6, 2, DOUBLE),
    "blur": lambda: Blur(KERNEL, 4, 6, 2, "zero", dtype=DOUBLE),
    "matrix": lambda: Dense(draws(7, 48), (2, 4, 6)),
}


@pytest.mark.parametrize("name", NOISE_FREE)
@pytest.mark.parametrize("method", ["ddrm", "ddnm", "diffpir"])
def test_noise_free_data_are_met(method: str, name: str) -> None:
    operator, prior = NOISE_FREE[name](), correlated(48)
    y = operator.A(prior.sample(3, seeding.generator("truth")).reshape(3, 2, 4, 6))
    settings: dict[str, Any] = {"sigma_y": 0.0, "noise": generators(0, 1, 2), "method": method}
    x = solve(prior.denoiser(TABLE), operator, y, draws(3, 2, 4, 6), index_times(1000, 5), **settings)
    assert float((operator.A(x) - y).abs().max()) < 1e-6


@pytest.mark.parametrize("method", ["pigdm", "ddrm", "ddnm", "diffpir"])
@pytest.mark.parametrize("path", [TABLE, RectifiedFlow(), EDM()], ids=lambda path: type(path).__name__)
def test_noise_free_identity_returns_the_data(method: str, path: Path) -> None:
    times = {EDM: karras_times(6), RectifiedFlow: even_times(6)}.get(type(path), index_times(1000, 6))
    prior, y = correlated(12), draws(2, 3, 4, key="y")
    settings: dict[str, Any] = {"sigma_y": 0.0, "noise": generators(0, 1), "method": method}
    if method == "pigdm":
        settings["iterations"] = 20
    x = float(path.sigma(times[0])) * draws(2, 3, 4)
    found = solve(prior.denoiser(path), Identity(3, 4).to(dtype=DOUBLE), y, x, times, **settings)
    assert_close(found, y, rtol=0, atol=1e-6)


def test_solvers_that_need_singular_values_say_so() -> None:
    prior, operator = correlated(6), FunctionOperator(lambda x: x[:, :4], (6,))
    x, y, times = draws(2, 6), draws(2, 4), index_times(1000, 4)
    noise = seeding.generator("n")
    for solver, sigma_y in ((ddrm, 0.0), (ddnm, 0.1)):
        with pytest.raises(InputError, match=r"FunctionOperator: ddn?r?m.* needs singular values.*Dense.of"):
            solver(prior.denoiser(TABLE), operator, y, x, times, sigma_y=sigma_y, noise=noise)
    found = ddnm(prior.denoiser(TABLE), operator, y, x, times, sigma_y=0.0, noise=noise)
    assert_close(found[:, :4], y, rtol=0, atol=1e-6)


def test_ddrm_starts_at_what_is_measured_better_than_the_first_level() -> None:
    prior, operator, y = correlated(4), Identity(4).to(dtype=DOUBLE), draws(2, 4)
    seen: list[Step] = []
    x = draws(2, 4, key="start")
    noise = seeding.generator("n")
    ddrm(prior.denoiser(TABLE), operator, y, x, [99, 49, -1], sigma_y=0.1, noise=noise, callback=seen.append)
    alpha, sigma = (float(level) for level in (TABLE.alpha(99), TABLE.sigma(99)))
    q = sigma / alpha
    assert_close(seen[0].x, (y + (q**2 - 0.01) ** 0.5 * x) / q)
    assert [step.index for step in seen] == [0, 1]


def test_time_travel_noises_the_last_prediction_again() -> None:
    denoiser, operator, y, x = problem()
    seen: list[Step] = []
    times = time_travel([900, 600, 300, -1], length=2, repeats=2)
    noise = draws(len(times) - 1, *x.shape, key="steps")
    settings: dict[str, Any] = {"sigma_y": 0.1, "noise": noise, "callback": seen.append}
    found = ddnm(denoiser, operator, y, x, times, **settings)
    assert [step.t for step in seen] == [900, 600, 900, 600, 300]
    assert_close(seen[2].x, TABLE.add_noise(seen[1].x0, noise[3], 900))
    again = ddnm(denoiser, operator, y, x, times, **settings)
    assert torch.equal(found, again)


def test_dps_takes_a_non_linear_measurement_and_follows_its_equation() -> None:
    prior, x = correlated(5), draws(3, 5)
    denoiser, times = prior.denoiser(TABLE, "eps"), [500, 400]
    measure = lambda image: image.abs() + image**2  # noqa: E731
    y, noise = draws(1, 5, key="y").square(), draws(1, 3, 5)
    found = dps(denoiser, measure, y, x, times, noise=noise, scale=0.7)
    for item in range(3):
        leaf = x[item : item + 1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad((y - measure(denoiser.x0(leaf, 500))).norm(), leaf)
        plain = dps(denoiser, measure, y, leaf.detach(), times, noise=noise[:, item : item + 1], scale=0.0)
        assert_close(found[item : item + 1], plain - 0.7 * gradient)
    with pytest.raises(InputError, match=r"dps: data of shape \(1, 4\)"):
        dps(denoiser, measure, y[:, :4], x, times, noise=noise)


def test_dps_stands_still_where_the_data_are_met() -> None:
    operator = Inpainting(torch.zeros(4), shape=(4,)).to(dtype=DOUBLE)
    denoiser, x = correlated(4).denoiser(TABLE), draws(2, 4)
    settings: dict[str, Any] = {"noise": generators(0, 1)}
    found = dps(denoiser, operator, torch.zeros(2, 4).double(), x, index_times(1000, 3), **settings)
    assert bool(torch.isfinite(found).all())


def test_red_diff_returns_what_its_last_update_made() -> None:
    prior, operator, y = correlated(6), Dense(draws(3, 6)), draws(2, 3)
    denoiser, x, noise = prior.denoiser(TABLE, "eps"), draws(2, 6), draws(2, 2, 6, key="eps")
    settings: dict[str, Any] = {"noise": noise, "draws": 2, "weighting": "sqrt", "rate": 0.3}
    found = red_diff(denoiser, operator, y, x, [300, -1], **settings)
    mu, (alpha, sigma) = operator.pinv(y), TABLE.at(300, x)
    pulls = [denoiser.eps(alpha * mu + sigma * eps, 300) - eps for eps in noise]
    gradient = operator.adjoint(operator.A(mu) - y) / 3 + 0.25 * (sigma / alpha).sqrt() / 6 * sum(pulls) / 2
    assert_close(found, mu - 0.3 * gradient / (gradient.abs() + 1e-8))
    with pytest.raises(ConfigError, match="unknown weighting 'cubic'"):
        red_diff(denoiser, operator, y, x, [1, -1], noise=noise, weighting="cubic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no data are left"):
        red_diff(prior.denoiser(RectifiedFlow()), operator, y, x, even_times(3), noise=noise)


def test_guidance_by_data_starts_anew_with_every_run_and_works_in_inference_mode() -> None:
    denoiser, operator, y, x = problem()
    score = MeasurementScore(TABLE, operator, y, 0.1, iterations=2)
    guided, times = MeasurementGuided(denoiser, score), index_times(1000, 6)
    first = ddim(guided, x, times)
    assert torch.equal(ddim(guided, x, times), first)
    with torch.inference_mode():
        assert_close(pigdm(denoiser, operator, y, x, times, sigma_y=0.1, iterations=2, sampler=ddim), first)


def test_pigdm_refuses_settings_that_make_no_sense() -> None:
    denoiser, operator, y, x = problem()
    for settings in ({"covariance": "full"}, {"iterations": 0}, {"covariance": "point"}):
        with pytest.raises(ConfigError):
            pigdm(denoiser, operator, y, x, [5, -1], sigma_y=0.0, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("warm", [False, True])
def test_a_network_whose_jacobian_is_no_covariance_cannot_make_the_residual_grow(warm: bool) -> None:
    jacobian, path = draws(6, 6, key="jacobian"), RectifiedFlow()
    operator, y, leaf = Dense(draws(4, 6)), draws(3, 4), draws(3, 6, key="x").requires_grad_()
    alpha, sigma = path.at(0.6, leaf)
    start = 10 * draws(3, 4, key="start") if warm else None
    x0 = leaf @ jacobian.T
    _, v = MeasurementScore(path, operator, y, 0.1, iterations=3).solved(leaf, x0, 0.6, start)
    matrix = draws(4, 6)
    system = sigma**2 / alpha * matrix @ jacobian.T @ matrix.T + 0.01 * torch.eye(4, dtype=DOUBLE)
    residual = (y - operator.A(x0)).detach()
    assert bool(((residual - v @ system.T).norm(dim=1) <= residual.norm(dim=1)).all())
    full = MeasurementScore(path, operator, y, 0.1, iterations=6).solved(leaf, x0, 0.6, start)[1]
    assert_close(full @ system.T, residual, rtol=0, atol=1e-8)


def test_a_forward_denoiser_learns_from_observations_alone() -> None:
    operator = Dense(draws(3, 6))
    network = torch.nn.Linear(3, 6).double()
    denoiser = ForwardDenoiser(lambda o, t, **_: network(o), operator, TABLE)
    o_t, o_0 = draws(4, 3, key="o"), draws(4, 3, key="clean")
    assert_close(denoiser.x0(o_t, 500), operator.A(denoiser.signal(o_t, 500)))
    (denoiser.x0(o_t, 500) - o_0).square().mean().backward()
    assert network.weight.grad is not None
    assert float(network.weight.grad.abs().max()) > 0
    with torch.no_grad():
        assert ddim(denoiser, standard_normal(seeding.generator("o"), o_t), index_times(1000, 4)).shape == (
            4,
            3,
        )
