"""Recorded cases of the guidance room."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import diffusers.guiders
import torch
from torch import Tensor

from diffusion_suite.core.guidance import (
    AdaptiveProjected,
    ClassifierFree,
    ClassifierGuided,
    EnergyGuided,
    NoiseExperts,
    Viewed,
    ZeroStar,
    diffusers_guider,
    expected_calibration_error,
    expert_boundaries,
    expert_of,
    group_means,
    grouping_objective,
    invariant_objective,
    kl_distillation,
    margin_log_prob,
    pinball,
    posterior_variances,
    quantile_levels,
    sine_variances,
    squared_error,
    with_softplus,
)
from diffusion_suite.core.schedulers import Denoiser, DiscreteVP, Mixture, Path, betas
from diffusion_suite.core.testing import Case


class Levels(Path):
    """A path given by its values: time is the number of a recorded (alpha, sigma)."""

    def __init__(self, alpha: Tensor, sigma: Tensor) -> None:
        self.tables = alpha.double().flatten(), sigma.double().flatten()

    def alpha(self, t: Any) -> Tensor:
        return self.tables[0][torch.as_tensor(t).long()]

    def sigma(self, t: Any) -> Tensor:
        return self.tables[1][torch.as_tensor(t).long()]

    def d_alpha(self, t: Any) -> Tensor:
        raise NotImplementedError

    def d_sigma(self, t: Any) -> Tensor:
        raise NotImplementedError

    def t_of_logsnr(self, logsnr: Any) -> Tensor:
        raise NotImplementedError


def check(case: Case, dtype: torch.dtype, name: str, value: Tensor) -> None:
    """The recorded tensor within the case's tolerance, relative where it says so."""
    expected = case.tensors[name].double().reshape(value.shape)
    tolerance = case.config["tolerance"]
    precision = "float64" if dtype == torch.float64 else "float32"
    largest = float(expected.abs().max())
    if precision in tolerance:
        # Absolute for values of order one; recordings made inside float32 are no better than relative.
        bound = tolerance[precision] * max(1.0, largest)
    elif f"{precision}_relative" in tolerance:
        bound = tolerance[f"{precision}_relative"] * largest
    else:
        bound = 1e-5 * max(1.0, largest)
    error = float((value.double() - expected).abs().max())
    assert error <= bound, f"{name}: {error:.3g} > {bound:.3g}"


def guidance_combinations(case: Case, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in case.tensors.items()}
    config = case.config["config"]
    check_here = functools.partial(check, case, dtype)
    path = Levels(torch.tensor(config["alpha"]), torch.tensor(config["sigma"]))
    x_t, outputs = tensors["x_t"], [tensors["pred_uncond"], tensors["pred_cond"], tensors["pred_cond_step2"]]

    def network(x: Tensor, t: Tensor, which: Tensor) -> Tensor:
        return torch.stack([outputs[int(k)][i % len(x_t)] for i, k in enumerate(which)])

    denoiser, null = Denoiser(network, path, "eps"), {"which": 0}
    first, second = torch.full((len(x_t),), 1), torch.full((len(x_t),), 2)

    def guided(guidance: Denoiser, index: int = 0, which: Tensor = first) -> Tensor:
        return guidance.at_step(0, index, 10).predict(x_t, 0, which=which)

    guiders = diffusers.guiders
    checked = {"pred_cond", "pred_cond_step2", "pred_uncond", "x_t"}
    for name in sorted(set(tensors) - checked):
        if match := re.fullmatch(r"cfg\.([\d.]+?)(?:\.rescale([\d.]+))?", name):
            scale, rescale = float(match[1]), float(match[2] or 0)
            check_here(name, guided(ClassifierFree(denoiser, scale, null, rescale)))
        elif match := re.fullmatch(r"cfg_original\.([\d.]+)", name):
            check_here(name, guided(ClassifierFree(denoiser, 1.0 + float(match[1]), null)))
        elif match := re.fullmatch(r"x0_space\.cfg(?:\.rescale([\d.]+))?", name):
            scale, rescale = config["x0_space_scale"], float(match[1] or 0)
            check_here(name, guided(ClassifierFree(Viewed(denoiser, "x0"), scale, null, rescale)))
        elif match := re.fullmatch(r"apg\.([\d.]+)\.eta([\d.]+)\.norm([\d.]+)", name):
            scale, eta, norm = map(float, match.groups())
            check_here(name, guided(AdaptiveProjected(denoiser, scale, null, eta=eta, norm=norm)))
        elif match := re.fullmatch(r"apg\.([\d.]+)\.eta([\d.]+)\.momentum\.step([12])", name):
            # The recorded guider starts its momentum in `prepare_inputs` only, which was not called: none of
            # these hold any. test_guidance.py compares ours with a guider whose momentum was started.
            scale, eta, which = float(match[1]), float(match[2]), first if match[3] == "1" else second
            guidance = AdaptiveProjected(denoiser, scale, null, eta=eta, norm=15.0)
            check_here(name, guided(guidance, int(match[3]) - 1, which))
        elif match := re.fullmatch(r"tangential\.([\d.]+)", name):
            guider = guiders.TangentialClassifierFreeGuidance(guidance_scale=float(match[1]))
            check_here(name, guided(diffusers_guider(guider, denoiser, null)))
        elif match := re.fullmatch(r"zero_star\.([\d.]+)\.step(\d+)", name):
            scale, index = float(match[1]), int(match[2])
            guider = guiders.ClassifierFreeZeroStarGuidance(guidance_scale=scale)
            check_here(name, guided(diffusers_guider(guider, denoiser, null), index))
            check_here(name, guided(ZeroStar(denoiser, scale, null), index))
        else:
            raise AssertionError(f"no rule for {name}")


def classifier_guidance_mixture(case: Case, dtype: torch.dtype) -> None:
    tensors = case.tensors
    check_here = functools.partial(check, case, dtype)
    path = Levels(tensors["alpha"], tensors["sigma"])
    mixture = Mixture.recorded(tensors, "mixture", dtype)
    x_t, labels, t = tensors["x_t"].to(dtype), tensors["labels"], torch.arange(len(tensors["x_t"]))
    denoiser = mixture.denoiser(path, "eps")
    check_here("eps_uncond", denoiser.eps(x_t, t))
    check_here("x0_pred", denoiser.x0(x_t, t))
    parts = [mixture.restricted([k]) for k in range(len(mixture.weights))]
    rows = zip(labels.tolist(), x_t.split(1), t.split(1), strict=True)
    conditional = [parts[label].denoiser(path, "eps").eps(row, at) for label, row, at in rows]
    check_here("eps_cond", torch.cat(conditional))

    def posterior(x: Tensor, at: Tensor) -> Tensor:
        levels = path.alpha(at), path.sigma(at)
        densities = torch.stack([part.log_density(x, *levels) for part in parts], 1)
        return (densities + mixture.weights.log()).log_softmax(1)

    check_here("log_prob", posterior(x_t, t))
    for weight in case.config["config"]["weights"]:
        guided = ClassifierGuided(denoiser, posterior, labels, weight)
        check_here(f"eps_guided.{weight}", guided.eps(x_t, t))
    # The score is what eps has lost, in units of sigma.
    lost = denoiser.eps(x_t, t) - ClassifierGuided(denoiser, posterior, labels).eps(x_t, t)
    check_here("grad_log_prob", lost / tensors["sigma"].to(dtype)[:, None])

    goal = tensors["energy_target"].to(dtype)

    def energy(x0: Tensor) -> Tensor:
        return (x0 - goal).square().sum(1)

    check_here("energy", energy(denoiser.x0(x_t, t)))
    alpha, sigma = (tensors[name].to(dtype)[:, None] for name in ("alpha", "sigma"))
    plain = denoiser.eps(x_t, t)
    through = EnergyGuided(denoiser, energy).eps(x_t, t)
    at_x0 = EnergyGuided(denoiser, energy, jacobian=False).eps(x_t, t)
    check_here("energy_grad_through_denoiser", (through - plain) / sigma)
    check_here("energy_grad_at_x0", (at_x0 - plain) / sigma * alpha)


def calibrated_classifier(case: Case, dtype: torch.dtype) -> None:
    config, tensors = case.config["config"], case.tensors
    check_here = functools.partial(check, case, dtype)
    logits, labels = tensors["logits"].to(dtype).requires_grad_(), tensors["labels"]
    joint = config["joint_temperature"]
    values = margin_log_prob(logits, labels, joint, config["margin_discount"] * joint)
    (slope,) = torch.autograd.grad(values.sum(), logits)
    check_here("margin_log_prob", values.detach())
    check_here("margin_log_prob_grad_logits", slope)
    for name in tensors:
        if name.startswith("softplus.beta"):
            soft = with_softplus(torch.nn.ReLU(), float(name.removeprefix("softplus.beta")))
            check_here(name, soft(tensors["softplus_x"].to(dtype)))
        if name.startswith("ece."):
            bins = int(name.removeprefix("ece."))
            check_here(name, expected_calibration_error(logits.detach().softmax(1), labels, bins))
    steps = config["respaced_steps"]
    kept = torch.linspace(0, 999, steps, dtype=torch.float64).round().int().tolist()
    variances = posterior_variances(DiscreteVP(betas("linear", 1000)), [*reversed(kept), -1])
    check_here("schedule_variance", variances.flip(0).to(dtype))
    check_here("schedule_added", sine_variances(variances.to(dtype), config["gamma"]).flip(0))


def self_guidance_sequences(case: Case, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in case.tensors.items()}
    check_here = functools.partial(check, case, dtype)
    path = Levels(case.tensors["alpha"], case.tensors["sigma"])
    prior = Mixture(torch.ones(1, dtype=dtype), tensors["prior_mean"][None], tensors["prior_cov"][None])
    denoiser, y_t = prior.denoiser(path, "eps"), tensors["y_t"]
    check_here("x0_pred", denoiser.x0(y_t, 0))
    samples = int(case.tensors["num_samples"])
    levels = quantile_levels(samples, len(y_t) // samples)
    energies = {
        "MSE": squared_error(tensors["observation"], tensors["mask"]),
        "quantile": pinball(tensors["observation"], tensors["mask"], levels),
    }
    added = {}
    for name, energy in energies.items():
        check_here(f"{name}.energy", energy(denoiser.x0(y_t, 0)).sum())
        added[name] = EnergyGuided(denoiser, energy).score(y_t, 0) - denoiser.score(y_t, 0)
        check_here(f"{name}.score", added[name])
    # The steps are recorded for the quantile energy.
    variance = float(case.tensors["posterior_variance"])
    for name in tensors:
        if match := re.fullmatch(r"(ddim_eps|ddpm_shift)\.scale([\d.]+)", name):
            scale = float(match[2])
            if match[1] == "ddim_eps":
                check_here(name, EnergyGuided(denoiser, energies["quantile"], scale).eps(y_t, 0))
            else:
                check_here(name, scale * variance * added["quantile"])


def noise_experts(case: Case, dtype: torch.dtype) -> None:
    config, tensors = case.config["config"], case.tensors
    count, steps = config["n_experts"], config["num_train_timesteps"]
    boundaries = expert_boundaries(count, steps)
    assert boundaries == tensors["boundaries"].tolist()
    every = torch.arange(steps)
    assert torch.equal(expert_of(every, boundaries), tensors["expert_of_step"])
    experts = [functools.partial(lambda k, x, t: torch.full_like(x, k), k) for k in range(count)]
    routed = NoiseExperts(experts, boundaries)
    recorded = tensors["expert_of_step"].to(dtype)
    assert torch.equal(routed(torch.zeros(steps, 1, dtype=dtype), every)[:, 0], recorded)
    one = torch.zeros(1, 1, dtype=dtype)
    assert [int(routed(one, t)) for t in range(steps)] == tensors["expert_of_step"].tolist()
    student, teacher = (tensors[name].to(dtype) for name in ("student_logits", "teacher_logits"))
    loss = kl_distillation(student, teacher, config["teacher_temperature"])
    check(case, dtype, "kd_loss_per_sample", loss)


def invariant(case: Case, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in case.tensors.items()}
    check_here = functools.partial(check, case, dtype)
    losses, membership = tensors["loss_per_sample"], tensors["group_membership"]
    check_here("group_mean", group_means(losses, membership))
    check_here("objective", invariant_objective(losses, membership, case.config["config"]["lambda_"]))
    logits = tensors["grouper_logits"].requires_grad_()
    objective = grouping_objective(losses, logits)
    (slope,) = torch.autograd.grad(objective, logits)
    check_here("grouper_objective", objective.detach())
    check_here("grouper_grad", slope)


RUNNERS: dict[str, Callable[[Case, torch.dtype], None]] = {
    "guidance_combinations": guidance_combinations,
    "classifier_guidance_mixture": classifier_guidance_mixture,
    "calibrated_classifier": calibrated_classifier,
    "self_guidance_sequences": self_guidance_sequences,
    "noise_experts": noise_experts,
    "invariant_objective": invariant,
}
