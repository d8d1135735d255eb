"""Recorded cases of tables, paths, prediction types, preconditioning, training times and loss weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core.schedulers import (
    EDM,
    P2,
    VE,
    CosineVP,
    CosMap,
    CosMapWeight,
    Denoiser,
    DiscreteVP,
    EDMWeight,
    LinearVP,
    LogitNormal,
    LogNormal,
    MinSNR,
    Mode,
    Path,
    Plain,
    Preconditioning,
    PredictionType,
    RectifiedFlow,
    SigmaSqrt,
    Trigonometric,
    TruncatedSNR,
    Weight,
    betas,
    c_noise,
    error_factor,
    exponential_shift,
    on_prediction,
    posterior,
    resolution_shift,
    stratified,
    target,
    zero_terminal_snr,
)
from diffusion_suite.core.testing import Case

NUMBER = r"-?[\d.]*\d(?:[eE][-+]?\d+)?"
LIBRARY_NAMES = {"squaredcos_cap_v2": "cosine"}


def tolerances(case: Case, dtype: torch.dtype, float32: float = 2e-5) -> tuple[float, float]:
    """(relative, absolute) bounds of every value; the absolute one is scaled by the largest."""
    given = case.config["tolerance"]
    name = "float64" if dtype == torch.float64 else "float32"
    bound = given.get(f"{name}_relative", given.get(name, float32))
    return float(bound), float(bound)


def near(found: Tensor, expected: Tensor, bound: tuple[float, float], what: str) -> None:
    found = found.double()
    assert found.shape == expected.shape, what
    scale = min(1.0, float(expected.abs().max()))
    assert_close(found, expected, rtol=bound[0], atol=bound[1] * scale, msg=lambda m: f"{what}: {m}")


def vp_discrete_schedules(case: Case, dtype: torch.dtype) -> None:
    expected = dict(case.tensors)
    bound = tolerances(case, dtype)
    for entry in case.config["config"]:
        kind = LIBRARY_NAMES.get(entry["schedule"], entry["schedule"])
        table = betas(kind, entry["num_train_timesteps"], entry["beta_start"], entry["beta_end"])
        path, moments = DiscreteVP(table), posterior(table)
        index = torch.arange(len(path))
        found = {
            "betas": table,
            "alphas_cumprod": path.alpha_bar[1:],
            "snr": (path.alpha(index) / path.sigma(index)) ** 2,
            "logsnr": path.logsnr(index),
            "zero_snr_alphas_cumprod": DiscreteVP(zero_terminal_snr(table)).alpha_bar[1:],
            "posterior_variance": moments.variance,
            "posterior_mean_coef_x0": moments.of_x0,
            "posterior_mean_coef_xt": moments.of_x_t,
        }
        for name, value in found.items():
            near(value.to(dtype), expected.pop(entry["prefix"] + name), bound, entry["prefix"] + name)
        library = expected.pop(entry["prefix"] + "alphas_cumprod_fp32_library")
        worst = float((path.alpha_bar[1:] - library.double()).abs().max())
        assert worst <= case.config["tolerance"]["fp32_vs_library"]
    assert not expected


def continuous(name: str, text: str = "") -> Path:
    """The path of a recorded name, with the numbers of its description."""
    numbers = [float(number) for number in re.findall(NUMBER, text)]
    match name:
        case "rectified_flow":
            return RectifiedFlow()
        case "gvp_cosine":
            return Trigonometric()
        case "vp_linear_sde":
            return LinearVP(numbers[0], numbers[1]) if numbers else LinearVP()
        case "ve_geometric":
            return VE(numbers[1], numbers[2]) if numbers else VE()
        case "vp_cosine_offset":
            return CosineVP(float(re.findall(rf"s=({NUMBER})", text)[0])) if text else CosineVP()
        case "edm":
            return EDM()
    raise ValueError(f"unknown path {name}")


def continuous_paths(case: Case, dtype: torch.dtype) -> None:
    expected = dict(case.tensors)
    t = expected.pop("t").to(dtype)
    bound = tolerances(case, dtype)
    for name in {key.partition(".")[0] for key in expected}:
        text = case.config["config"][name]
        path = continuous(name, text)
        # The recorded time of `edm` is the noise level over its largest.
        factor = float(re.findall(rf"sigma = ({NUMBER}) t", text)[0]) if name == "edm" else 1.0
        at = t.double() * factor if dtype == torch.float64 else t * factor
        near(path.alpha(at).to(dtype), expected.pop(f"{name}.alpha"), bound, f"{name}.alpha")
        near(path.sigma(at).to(dtype), expected.pop(f"{name}.sigma"), bound, f"{name}.sigma")
        for key, slope in (("d_alpha", path.d_alpha), ("d_sigma", path.d_sigma)):
            near((factor * slope(at)).to(dtype), expected.pop(f"{name}.{key}"), bound, f"{name}.{key}")
        near(path.logsnr(at).to(dtype), expected.pop(f"{name}.logsnr"), bound, f"{name}.logsnr")
        back = path.t_of_logsnr(path.logsnr(at))
        assert_close(back, at.double(), rtol=0, atol=1e-9 * factor)
    assert not expected


def prediction_conversions(case: Case, dtype: torch.dtype) -> None:
    expected = dict(case.tensors)
    x0, eps, t, output = (expected.pop(name).to(dtype) for name in ("x0", "eps", "t", "pred"))
    relative = tolerances(case, dtype)[0]

    def equal(found: Tensor, key: str) -> None:
        assert found.dtype == dtype
        wanted = expected.pop(key)
        scale = float(wanted.abs().max())
        assert_close(found.double(), wanted, rtol=0, atol=relative * scale, msg=lambda m: f"{key}: {m}")

    for name in {key.partition(".")[0] for key in expected}:
        path = continuous(name, str(case.config["config"].get(name, "")))
        recorded = expected[f"{name}.x_t"].to(dtype)
        equal(path.add_noise(x0, eps, t), f"{name}.x_t")
        for kind in get_args(PredictionType):
            equal(target(x0, eps, t, path, kind), f"{name}.target.{kind}")
            denoiser = Denoiser(lambda _x, _t: output, path, kind)
            equal(denoiser.x0(recorded, t), f"{name}.from_{kind}.x0")
            equal(denoiser.eps(recorded, t), f"{name}.from_{kind}.eps")
    assert not expected


def edm_preconditioning(case: Case, dtype: torch.dtype) -> None:
    from diffusion_suite.core.schedulers.grids import karras_times

    expected = dict(case.tensors)
    x, output, sigma, normals = (
        expected.pop(name).to(dtype) for name in ("x", "network_output", "sigma", "normals")
    )
    bound = tolerances(case, dtype)
    for sigma_data in case.config["config"]["sigma_data"]:
        prefix = f"sd{sigma_data}"
        precondition = Preconditioning(EDM(), float(sigma_data))
        skip, out, scale = precondition.coefficients(sigma)
        calls: list[tuple[Tensor, Tensor]] = []

        def network(scaled: Tensor, level: Tensor, calls: list[tuple[Tensor, Tensor]] = calls) -> Tensor:
            calls.append((scaled, level))
            return output

        denoised = precondition(network).x0(x, sigma)
        found = {
            "c_skip": skip,
            "c_out": out,
            "c_in": scale,
            "c_noise": calls[0][1],
            "denoised": denoised,
            "weight": EDMWeight(float(sigma_data))(sigma, EDM()),
        }
        for name, value in found.items():
            near(value.to(dtype), expected.pop(f"{prefix}.{name}"), bound, f"{prefix}.{name}")
        near(c_noise(sigma, EDM()).to(dtype), calls[0][1].double(), bound, "c_noise")
        near(calls[0][0], scale.reshape(-1, 1, 1, 1) * x.double(), bound, "c_in x")
    levels = [float(number) for number in re.findall(rf"sigma_m\w+ ({NUMBER})", case.config["shows"])]
    for steps in case.config["config"]["N"]:
        found_grid = torch.as_tensor(karras_times(steps, *levels), dtype=torch.float64).to(dtype)
        near(found_grid, expected.pop(f"karras_sigmas_{steps}"), bound, f"karras {steps}")
    pairs = re.findall(rf"\(({NUMBER}),({NUMBER})\)", case.config["shows"])
    for name, (mean, std) in zip(("edm", "edm2"), pairs, strict=True):
        drawn = LogNormal(float(mean), float(std)).of_normal(normals)
        near(drawn.to(dtype), expected.pop(f"lognormal_sigma_{name}"), bound, f"log-normal {name}")
    assert not expected


def timestep_sampling(case: Case, dtype: torch.dtype) -> None:
    expected = dict(case.tensors)
    u, z, grid = (expected.pop(name).to(dtype) for name in ("uniforms", "normals", "density_grid"))
    spread = stratified(u[0], len(u))
    maps: dict[str, Callable[..., Tensor]] = {
        "logit_normal": lambda m, s: LogitNormal(m, s).of_normal(z.double()),
        "logit_normal_density": lambda m, s: LogitNormal(m, s).density(grid),
        "mode": lambda k: Mode(k).of_uniform(u.double()),
        "cosmap_t": lambda: CosMap().of_uniform(u.double()),
        "cosmap_density": lambda: CosMap().density(grid),
        "shift": lambda factor: resolution_shift(u, factor),
        "exp_shift": lambda mu: exponential_shift(u, mu),
        "stratified": lambda: spread,
        "low_discrepancy_sorted": lambda: spread.sort().values,
    }
    for key, wanted in expected.items():
        name, _, rest = key.partition(".")
        numbers = [float(number) for number in re.findall(NUMBER, rest)]
        near(maps[name](*numbers).to(dtype), wanted, tolerances(case, dtype), key)


def loss_weights(case: Case, dtype: torch.dtype) -> None:
    expected, given = dict(case.tensors), case.config["config"]
    bound = tolerances(case, dtype)
    kind = LIBRARY_NAMES.get(given["schedule"], given["schedule"])
    path = DiscreteVP(betas(kind, given["num_train_timesteps"], given["beta_start"], given["beta_end"]))
    index, t = torch.arange(len(path)), expected.pop("rf_t").to(dtype)

    def weight(text: str) -> Weight:
        numbers = [float(number) for number in re.findall(NUMBER, text.partition(".")[2])]
        match text.partition(".")[0]:
            case "min_snr":
                return MinSNR(*numbers)
            case "p2":
                return P2(*numbers)
            case "edm":
                return EDMWeight(*numbers)
            case "snr_plus_one":
                return Plain("v")
            case "truncated_snr":
                return TruncatedSNR()
        raise ValueError(f"unknown weight {text}")

    for key, wanted in expected.items():
        found: Tensor
        prediction: Any
        match key.split("."):
            case ["alphas_cumprod"]:
                found = path.alpha_bar[1:]
            case ["snr"]:
                found = error_factor(index, path, "eps")
            case ["edm_sigma"]:
                found = torch.exp(-0.5 * path.logsnr(index))
            case ["rf", "cosmap"]:
                found = on_prediction(CosMapWeight(), t, RectifiedFlow(), "velocity")
            case ["rf", "sigma_sqrt"]:
                found = on_prediction(SigmaSqrt(), t, RectifiedFlow(), "velocity")
            case ["rf", factor]:
                prediction = factor.removeprefix("factor_x0_to_").removesuffix("_loss")
                found = error_factor(t, RectifiedFlow(), prediction)
            case [factor] if factor.startswith("factor_x0_to_"):
                prediction = factor.removeprefix("factor_x0_to_").removesuffix("_loss")
                found = error_factor(index, path, prediction)
            case [*_, prediction]:
                found = on_prediction(weight(key.rpartition(".")[0]), index, path, prediction)
        near(found.to(dtype), wanted, bound, key)


RUNNERS: dict[str, Callable[[Case, torch.dtype], None]] = {
    "vp_discrete_schedules": vp_discrete_schedules,
    "continuous_paths": continuous_paths,
    "prediction_conversions": prediction_conversions,
    "edm_preconditioning": edm_preconditioning,
    "timestep_sampling": timestep_sampling,
    "loss_weights": loss_weights,
}
