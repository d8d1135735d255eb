"""Recorded operators, exact posteriors and posterior samplers."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from diffusion_suite.core.guidance import ScoreGuided
from diffusion_suite.core.inverse import (
    AveragePooling,
    Blur,
    Covariance,
    Dense,
    Grayscale,
    Inpainting,
    MeasurementScore,
    SpectralOperator,
    ddnm,
    ddrm,
    dps,
    exact_posterior,
    pigdm,
    red_diff,
)
from diffusion_suite.core.schedulers import (
    Denoiser,
    DiscreteVP,
    Mixture,
    Path,
    Time,
    betas,
    ddim,
    index_times,
)
from diffusion_suite.core.testing import Case


def near(case: Case, found: Tensor, expected: Tensor, scale: float = 1.0) -> None:
    """Within the case's tolerance for the type of `found`."""
    tolerance, size = case.config["tolerance"], max(1.0, float(expected.abs().max()))
    if found.dtype == torch.float64:
        bound = tolerance["float64"]
    else:
        bound = tolerance.get("float32", tolerance.get("float32_relative", 1e-3) * size)
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=scale * bound)


def operator_of(name: str, case: Case, dtype: torch.dtype) -> SpectralOperator:
    channels, height, width = case.tensors["x"].shape[1:]
    kernel = case.tensors.get("kernel1d", torch.ones(1))
    kind, _, border = name.rpartition("_")
    match kind, border:
        case "average", "pool":
            return AveragePooling(case.config["config"]["average_pool"], height, width, channels, dtype)
        case "blur", "zero" | "circular" | "reflect":
            return Blur(kernel, height, width, channels, border, dtype=dtype)
        case "blur_downsample", "zero" | "circular" | "reflect":
            factor = case.config["config"]["downsample"]
            return Blur(kernel, height, width, channels, border, factor, dtype=dtype)
        case "", "grayscale":
            return Grayscale(channels, height, width, dtype=dtype)
        case "", "inpainting":
            return Inpainting(case.tensors["mask"], channels).to(dtype=dtype)
    raise AssertionError(f"{case.path} holds an operator {name!r} that is not known here")


def linear_operators(case: Case, dtype: torch.dtype) -> None:
    given = {key: value.to(dtype) for key, value in case.tensors.items()}
    names = [key.removesuffix(".y") for key in given if key.endswith(".y")]
    assert names
    rho = case.config["config"].get("rho", 0.3)
    for name in names:
        operator = operator_of(name, case, dtype)
        near(case, operator.A(given["x"]), given[f"{name}.y"])
        near(case, operator.adjoint(given[f"{name}.r"]), given[f"{name}.adjoint_r"])
        if f"{name}.pinv_r" in given:
            expected = given[f"{name}.pinv_r"]
            near(case, operator.pinv(given[f"{name}.r"]), expected, max(1.0, float(expected.abs().max())))
        if f"{name}.singular_values" in given:
            recorded = given[f"{name}.singular_values"]
            singular = operator.singulars.sort(descending=True).values
            near(case, singular[: len(recorded)], recorded)
            assert float(singular[len(recorded) :].abs().amax() if len(singular) > len(recorded) else 0) == 0
        if f"{name}.prox" in given:
            found = operator.prox(given[f"{name}.prox_z"], given[f"{name}.y"], rho)
            near(case, found, given[f"{name}.prox"])


class Recorded(Path):
    """Levels of a case; the time is their index."""

    def __init__(self, alpha: Tensor, sigma: Tensor) -> None:
        self.levels = alpha.double(), sigma.double()

    def alpha(self, t: Time) -> Tensor:
        return self.levels[0][torch.as_tensor(t).long()]

    def sigma(self, t: Time) -> Tensor:
        return self.levels[1][torch.as_tensor(t).long()]

    def d_alpha(self, t: Time) -> Tensor:
        raise NotImplementedError

    def d_sigma(self, t: Time) -> Tensor:
        raise NotImplementedError

    def t_of_logsnr(self, logsnr: Time) -> Tensor:
        raise NotImplementedError


def gaussian(mean: Tensor, covariance: Tensor) -> Mixture:
    return Mixture(mean.new_ones(1), mean[None], covariance[None])


def gaussian_posterior(case: Case, dtype: torch.dtype) -> None:
    given = {key: value.to(dtype) for key, value in case.tensors.items()}
    operator, sigma_y, y = Dense(given["H"]), float(case.tensors["sigma_y"]), given["y"]
    prior = gaussian(given["prior_mean"], given["prior_cov"])
    normal = gaussian(torch.zeros_like(given["prior_mean"]), torch.eye(len(given["prior_mean"]), dtype=dtype))
    for name, distribution in {"": prior, "std_normal_": normal}.items():
        found = exact_posterior(distribution, operator, y, sigma_y)
        near(case, found.means[0], given[f"{name}posterior_mean"])
        near(case, found.covariances[0], given[f"{name}posterior_cov"])
    noise = sigma_y**2 * torch.eye(len(y), dtype=dtype)
    seen = operator.A(prior.means), given["H"] @ prior.covariances @ given["H"].T + noise
    near(case, Mixture(prior.weights, *seen).log_density(y[None]), given["log_evidence"])

    path, x_t = Recorded(given["alpha"], given["sigma"]), given["x_t"]
    t, data = torch.arange(len(x_t)), y.expand(len(x_t), -1)

    def score(distribution: Mixture, covariance: Covariance) -> Tensor:
        measurement = MeasurementScore(path, operator, data, sigma_y, covariance, iterations=2 * len(y))
        plain = distribution.denoiser(path)
        return ScoreGuided(plain, measurement).score(x_t, t) - plain.score(x_t, t)

    near(case, prior.denoiser(path).score(x_t, t), given["score_prior"])
    near(case, score(prior, "denoiser"), given["likelihood_score_exact"])
    near(case, score(prior, "denoiser") + prior.denoiser(path).score(x_t, t), given["score_posterior"])
    for covariance in ("isotropic", "denoiser"):
        near(case, score(normal, covariance), given["pigdm_likelihood_score_std_normal_prior"])
    near(case, score(prior, "point"), given["dps_point_likelihood_score"])

    table = DiscreteVP(betas("linear", 1000))
    steps = int(re.search(r"(\d+)_posterior_samples", " ".join(given)).group(1))
    name = f"ddim{steps}_posterior_samples"
    times, start = index_times(1000, steps), given["initial_noise"]
    guided = prior.denoiser(table, "eps")
    settings = {"sigma_y": sigma_y, "iterations": 2 * len(y), "sampler": ddim}
    near(case, pigdm(guided, operator, y[None], start, times, **settings), given[name])


def posterior_samplers(case: Case, dtype: torch.dtype) -> None:
    config = case.config["config"]
    given = {key: value.to(dtype) for key, value in case.tensors.items()}
    operator, prior = Dense(given["H"]), Mixture.recorded(case.tensors, "prior", dtype)
    clean, x = operator.A(given["x_true"]), given["initial_noise"]

    def denoiser_of(table: Tensor) -> Denoiser:
        kept = torch.cat([torch.ones(1, dtype=torch.float64), table])
        return prior.denoiser(DiscreteVP(1 - kept[1:] / kept[:-1]), "eps")

    denoiser = denoiser_of(case.tensors["alphas_cumprod"])
    times = [*reversed(case.tensors["steps"].tolist()), -1]
    checked = set()
    for sigma_y in config["sigma_y"]:
        problem = (denoiser, operator, clean + sigma_y * given["measurement_noise"], x, times)
        settings = {"sigma_y": sigma_y, "noise": given["step_noise"]}
        for eta, eta_b in config["ddrm_etas"]:
            name = f"ddrm.sigma_y{sigma_y}.eta{eta}.etab{eta_b}"
            near(case, ddrm(*problem, **settings, eta=eta, eta_b=eta_b), given[name])
            checked.add(name)
        name = f"ddnm.sigma_y{sigma_y}.eta{config['ddnm_eta']}"
        near(case, ddnm(*problem, **settings, eta=config["ddnm_eta"]), given[name])
        checked.add(name)

    sigma_y = config["dps"]["sigma_y"]
    y = clean + sigma_y * given["measurement_noise"]
    table = case.tensors["dps.alphas_cumprod"]
    for scale in config["dps"]["scales"]:
        times = [*reversed(range(len(table))), -1]
        found = dps(
            denoiser_of(table),
            operator,
            y,
            x,
            times,
            sigma_y=sigma_y,
            noise=given["dps.step_noise"],
            scale=scale,
        )
        near(case, found, given[f"dps.scale{scale}"])
        checked.add(f"dps.scale{scale}")

    red = config["red"]
    y = clean + red["sigma_y"] * given["measurement_noise"]
    times = [*case.tensors["red.steps"].tolist(), -1]
    weightings = {"linear": "linear", "sqrt": "sqrt", "const": "constant", "square": "square", "log": "log"}
    for name, weighting in weightings.items():
        if f"red.{name}" not in given:
            continue
        found = red_diff(
            denoiser,
            operator,
            y,
            x,
            times,
            noise=given["red.noise"],
            start=given["red.init"],
            prior_weight=red["lambda_"],
            data_weight=red["obs_weight"],
            weighting=weighting,
            rate=red["lr"],
            betas=tuple(red["adam"][:2]),
        )
        near(case, found, given[f"red.{name}"])
        checked.add(f"red.{name}")
    if "red.fixed_point" in given:
        _fixed_point(case, given, operator, denoiser, y)
        checked.add("red.fixed_point")
    assert {key for key in given if key.startswith(("ddrm.", "ddnm.", "dps.scale", "red."))} - checked <= {
        "red.init",
        "red.noise",
        "red.steps",
    }


def _fixed_point(
    case: Case, given: dict[str, Tensor], operator: Dense, denoiser: Denoiser, y: Tensor
) -> None:
    """Where RED-Diff's gradient, averaged over the noise and all times of the table, vanishes.

    A Gaussian prior's denoiser is affine, so the average over the noise is the value at noise 0.
    """
    mu, red = given["red.fixed_point"], case.config["config"]["red"]
    gradient = operator.adjoint(operator.A(mu) - y) / y.shape[1] * red["obs_weight"]
    times = range(len(case.tensors["alphas_cumprod"]))
    for t in times:
        alpha, sigma = denoiser.path.at(t, mu)
        gradient += red["lambda_"] / len(times) * sigma / alpha * denoiser.eps(alpha * mu, t) / mu.shape[1]
    near(case, gradient, torch.zeros_like(gradient))


RUNNERS = {
    "linear_operators": linear_operators,
    "gaussian_posterior": gaussian_posterior,
    "posterior_samplers": posterior_samplers,
    "posterior_samplers_gaussian_prior": posterior_samplers,
}
