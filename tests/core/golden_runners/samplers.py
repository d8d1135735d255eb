"""Recorded cases of samplers and inversions on exact mixture denoisers."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core.guidance import AutoGuidance, ClassifierFree, Interval, noise_level
from diffusion_suite.core.schedulers import (
    EDM,
    Denoiser,
    DiscreteVP,
    Mixture,
    Path,
    RectifiedFlow,
    betas,
    ddim,
    dpm_decode,
    dpm_encode,
    dpm_solver_pp,
    edm_heun,
    euler,
    euler_maruyama,
    even_times,
    heun,
    index_times,
    invert,
    karras_times,
    probability_flow,
)
from diffusion_suite.core.testing import Case

TYPES = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


class Check:
    """Compares results with the recorded tensors, and counts off those that were compared."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        self.case, self.double = case, dtype == torch.float64
        self.tolerance: dict[str, float] = case.config["tolerance"]
        self.seen: set[str] = set()

    def __call__(
        self, name: str, found: Tensor, loosest: float = 0.0, tightest: float = float("inf")
    ) -> None:
        expected = self.case.tensors[name].double()
        bound = min(max(self.tolerance["float64" if self.double else "float32"], loosest), tightest)
        scale = max(1.0, float(expected.abs().max()))
        assert_close(found.double(), expected, rtol=0, atol=bound * scale, msg=lambda text: f"{name}: {text}")
        self.seen.add(name)

    def complete(self, *given: str) -> None:
        """Every tensor was compared, but the given ones, by the start of their names."""
        left = [name for name in self.case.tensors if name not in self.seen and not name.startswith(given)]
        assert not left, f"not compared: {left}"


def inputs(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in case.tensors.items()}


def run_ddim_dpm_mixture(case: Case, dtype: torch.dtype) -> None:
    check, given = Check(case, dtype), inputs(case, dtype)
    path, mixture = DiscreteVP(betas("linear", 1000)), Mixture.recorded(case.tensors, "mixture", dtype)
    start, clip = given["initial_noise"], 1.0 if case.config["config"]["clip"] else None
    for spacing in case.config["config"]["spacings"]:
        times = index_times(len(path), case.config["config"]["num_inference_steps"], spacing)
        assert times[:-1] == given[f"timesteps.{spacing}"].tolist()
        check.seen.add(f"timesteps.{spacing}")
    for name in case.tensors:
        if name.startswith("ddim."):
            _, spacing, kind, eta = name.split(".", 3)
            times = [*given[f"timesteps.{spacing}"].tolist(), -1]
            share = float(eta.removeprefix("eta"))
            denoiser = mixture.denoiser(path, TYPES[kind])  # type: ignore[arg-type]
            check(name, ddim(denoiser, start, times, eta=share, noise=given["step_noise"], clip=clip))
    times = [*given["timesteps.dpmpp2m"].tolist(), -1]
    library = check.tolerance["dpmpp2m"]
    level = [float(path.sigma(t) / path.alpha(t)) for t in times]
    check("dpmpp2m.sigmas", torch.tensor(level, dtype=torch.float64), library)
    check("dpmpp2m", dpm_solver_pp(mixture.denoiser(path), start, times, clip=clip), library)
    check.complete("initial_noise", "step_noise", "mixture.", "timesteps.dpmpp2m")


def run_edm_sampling_mixture(case: Case, dtype: torch.dtype) -> None:
    check, given, config = Check(case, dtype), inputs(case, dtype), case.config["config"]
    path, mixture = EDM(), Mixture.recorded(case.tensors, "mixture", dtype)
    denoiser, start = mixture.denoiser(path), config["sigma_max"] * given["initial_noise"]
    levels = karras_times(config["num_steps"], config["sigma_min"], config["sigma_max"], config["rho"])
    check("sigmas", torch.tensor(levels, dtype=torch.float64), tightest=1e-12)
    times = case.tensors["sigmas"].tolist()
    check("denoised_probe", denoiser.x0(given["denoised_probe_x"], given["denoised_probe_sigma"]))

    check("uncond.heun", edm_heun(denoiser, start, times))
    churned = [i for i, s in enumerate(times[:-1]) if config["S_min"] <= s <= config["S_max"]]
    check("churn_used", torch.tensor(len(churned)))
    noise = torch.zeros_like(given["churn_noise"])
    noise[churned] = given["churn_noise"][: len(churned)]
    settings: dict[str, Any] = {key: config[f"S_{key}"] for key in ("churn", "min", "max", "noise")}
    settings = {"churn" if key == "churn" else f"churn_{key}": value for key, value in settings.items()}
    check("uncond.heun_churn", edm_heun(denoiser, start, times, noise=noise, **settings))
    tight = 1e-10 if check.double else 1e-6
    near = probability_flow(denoiser, start[:1], times[0], times[-2], atol=tight, rtol=tight)
    check("uncond.exact_ode_first_sample", euler(denoiser, near, times[-2:])[0])

    chosen = given["conditional_components"].tolist()
    labelled, condition = with_label(mixture, chosen, path), torch.ones(len(start))
    conditional = mixture.restricted(chosen).denoiser(path)
    weak = Mixture.recorded(case.tensors, "weak_model", dtype).denoiser(path)
    low, high = config["interval_sigma_lo"], config["interval_sigma_hi"]
    for w in config["guidance"]:
        free = ClassifierFree(labelled, w, {"label": 0.0})
        check(f"cfg{w}.heun", edm_heun(free, start, times, label=condition))
        limited = Interval(free, labelled, low, high)
        check(f"cfg{w}.interval.heun", edm_heun(limited, start, times, label=condition))
        check(f"autoguidance{w}.heun", edm_heun(AutoGuidance(conditional, weak, w), start, times))
    given_names = "churn_noise", "conditional_components", "denoised_probe_", "initial_noise", "mixture."
    check.complete(*given_names, "weak_model.")


def run_interpolant_samplers(case: Case, dtype: torch.dtype) -> None:
    check, given, config = Check(case, dtype), inputs(case, dtype), case.config["config"]
    path, mixture = RectifiedFlow(), Mixture.recorded(case.tensors, "mixture", dtype)
    chosen = [int(number) for number in re.findall(r"\d+", config["conditional"])]
    denoiser, start = mixture.restricted(chosen).denoiser(path, "velocity"), given["initial_noise"]
    steps, noise = config["num_steps"], given["step_noise"]
    times = even_times(steps)
    check("euler", euler(denoiser, start, times))
    check("heun", heun(denoiser, start, times))
    check("euler_maruyama", euler_maruyama(denoiser, start, even_times(steps, last=0.04), noise=noise))
    labelled = with_label(mixture, chosen, path)
    ends = (float(noise_level(path, config[f"guidance_{end}"])) for end in ("low", "high"))
    guided = Interval(ClassifierFree(labelled, config["cfg"], {"label": 0.0}), labelled, *ends)
    name = f"euler.cfg{config['cfg']}.interval"
    check(name, euler(guided, start, times, label=torch.ones(len(start))))
    check.complete("initial_noise", "mixture.", "step_noise")


def run_ddim_inversion(case: Case, dtype: torch.dtype) -> None:
    check, given = Check(case, dtype), inputs(case, dtype)
    path, mixture = DiscreteVP(betas("linear", 1000)), Mixture.recorded(case.tensors, "mixture", dtype)
    denoiser, data = mixture.denoiser(path, "eps"), given["x0"]
    times = [*given["steps"].flip(0).tolist(), -1]
    usual = invert(denoiser, data, times, exact=False)
    check("latent.naive", usual)
    check("reconstruction.naive", ddim(denoiser, usual, times))
    for mixed in (0, 3):
        exact = invert(denoiser, data, times, anderson=mixed)
        check("latent.fixed_point", exact)
        restored = ddim(denoiser, exact, times)
        check("reconstruction.fixed_point", restored)
        worst = check.tolerance["fixed_point_reconstruction"] if check.double else 1e-4
        assert_close(restored, data, rtol=0, atol=worst)
    check.complete("mixture.", "steps", "x0")


def run_dpm_encoder(case: Case, dtype: torch.dtype) -> None:
    check, given = Check(case, dtype), inputs(case, dtype)
    path, data = DiscreteVP(betas("linear", 1000)), given["x0"]
    source, target = (
        Mixture.recorded(case.tensors, name, dtype).denoiser(path) for name in ("source", "target")
    )
    times = [*given["steps"].flip(0).tolist(), -1]
    noise = torch.cat([given["noise_T"][None], given["step_noise"]])
    latents = dpm_encode(source, data, times, eta=case.config["config"]["eta"], noise=noise)
    check("x_T", latents.start)
    check("z", latents.noise[: len(given["z"])])
    check("final_residual", latents.residual)
    restored = dpm_decode(source, latents)
    check("reconstruction", restored)
    assert_close(restored, data, rtol=0, atol=1e-8 if check.double else 1e-4)
    check("reconstruction_without_residual", dpm_decode(source, latents, residual=False))
    check("translation", dpm_decode(target, latents, residual=False))
    check.complete("noise_T", "source.", "step_noise", "steps", "target.", "x0")


def with_label(mixture: Mixture, chosen: list[int], path: Path) -> Denoiser:
    """A velocity model that knows the chosen components where label is 1, and all of them where it is 0."""
    both = mixture.denoiser(path, "velocity"), mixture.restricted(chosen).denoiser(path, "velocity")

    def model(x: Tensor, t: Tensor, *, label: Tensor) -> Tensor:
        free, told = (denoiser.predict(x, t) for denoiser in both)
        return torch.where(label[:, None] == 1, told, free)

    return Denoiser(model, path, "velocity")


RUNNERS = {
    "ddim_dpm_mixture": run_ddim_dpm_mixture,
    "edm_sampling_mixture": run_edm_sampling_mixture,
    "interpolant_samplers": run_interpolant_samplers,
    "ddim_inversion": run_ddim_inversion,
    "dpm_encoder": run_dpm_encoder,
}
