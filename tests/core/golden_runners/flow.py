"""Recorded cases of flow matching and distillation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_suite.core.distillation import as_prediction, ddim_step, guidance_target, two_step_target
from diffusion_suite.core.flow_matching import (
    BrownianBridge,
    GaussianFlow,
    Interpolant,
    LipmanPath,
    Smoothed,
    UpsamplingSource,
    entropic_plan,
    integrate,
    integrate_to_tolerance,
    log_density,
    optimal_pairing,
    shifted_cosine,
    squared_distances,
    transport_map,
)
from diffusion_suite.core.representation import perturb
from diffusion_suite.core.schedulers import Denoiser, LinearVP, Mixture, RectifiedFlow, Trigonometric
from diffusion_suite.core.testing import Case


def precision(case: Case, dtype: torch.dtype) -> str:
    return "float64" if dtype == torch.float64 else "float32"


def near(found: Tensor, expected: Tensor, bound: float, what: str) -> None:
    assert_close(found.double(), expected.double(), rtol=0, atol=bound, msg=lambda m: f"{what}: {m}")


def relative(found: Tensor, expected: Tensor, bound: float, what: str) -> None:
    scale = float(expected.abs().max())
    assert_close(found.double(), expected.double(), rtol=0, atol=bound * scale, msg=lambda m: f"{what}: {m}")


def flow_targets(case: Case, dtype: torch.dtype) -> None:
    given = {name: value.to(dtype) for name, value in case.tensors.items()}
    bound = case.config["tolerance"][f"{precision(case, dtype)}_relative"]
    source, target, eps, s = (given.pop(name) for name in ("source", "target", "eps", "t"))
    vp = re.search(r"beta_min ([\d.]+).*beta_max ([\d.]+)", case.config["config"]["vp"])
    assert vp is not None
    known: dict[str, Callable[[float], Interpolant]] = {
        "linear": lambda _: Interpolant(RectifiedFlow()),
        "gvp": lambda _: Interpolant(Trigonometric()),
        "vp": lambda _: Interpolant(LinearVP(*map(float, vp.groups()))),
        "icfm": Smoothed,
        "lipman": lambda sigma: Interpolant(LipmanPath(sigma)),
        "bridge": BrownianBridge,
    }
    for name in {key.rpartition(".")[0] for key in given}:
        family, _, sigma = name.partition(".sigma")
        interpolant = known[family](float(sigma or 0))
        x, velocity = interpolant.at(source, target, s, eps if interpolant.noisy else None)
        found = {"x_t": x, "u_t": velocity}
        implied = interpolant.denoiser(lambda _x, _s, velocity=velocity, **_: velocity)
        found["noise"], found["score"] = implied.eps(x, 1.0 - s), implied.score(x, 1.0 - s)
        for key in [key for key in given if key.startswith(f"{name}.") and key.rpartition(".")[0] == name]:
            relative(found[key.rpartition(".")[2]], given.pop(key), bound, key)
    assert not given


def ot_coupling(case: Case, dtype: torch.dtype) -> None:
    given = dict(case.tensors)
    bound = case.config["tolerance"]["float64"] if dtype == torch.float64 else 1e-3
    source, target = given.pop("source").to(dtype), given.pop("target").to(dtype)
    cost = squared_distances(source, target)
    order = optimal_pairing(source, target, limit=len(source))
    assert torch.equal(order, given.pop("permutation"))
    every = torch.arange(len(source))
    relative(cost[every, order].sum()[None], given.pop("cost_sum"), bound, "cost")
    relative(cost.diagonal().sum()[None], given.pop("independent_cost_sum"), bound, "cost of given pairs")
    for weight in case.config["config"]["sinkhorn_reg"]:
        plan = entropic_plan((cost / cost.max()).to(dtype), weight)
        near(plan, given.pop(f"sinkhorn.reg{weight:g}"), bound, f"plan at {weight}")
    assert not given


def flow_gaussian(case: Case, dtype: torch.dtype) -> None:
    given = {name: value.to(dtype) for name, value in case.tensors.items()}
    tolerance, double = case.config["tolerance"], dtype == torch.float64
    bound = tolerance[precision(case, dtype)]
    ends = [given.pop(name) for name in ("source_mean", "source_cov", "target_mean", "target_cov")]
    normal, probes, matrix = given.pop("x_std"), given.pop("probe_t"), given.pop("coupled.A")
    near(transport_map(ends[1], ends[3]), given.pop("ot_map"), bound, "map")
    sigma = case.config["config"]["coupled_noise"]
    flows = {
        "independent": GaussianFlow.independent(*ends),
        "ot": GaussianFlow.optimal(*ends),
        "coupled": GaussianFlow.data_dependent(ends[2], ends[3], matrix, sigma),
    }
    for key, expected in given.items():
        name, _, what = key.partition(".")
        flow, start = flows[name], given[f"{name}.start"]
        solver = re.fullmatch(r"(euler|midpoint|heun|rk4)_?(\d+)", what)
        if solver:
            found = integrate(flow.velocity, start, int(solver[2]), method=solver[1])
            near(found, expected, bound, key)
        elif what == "start":
            near(flow.sample_source(normal), expected, bound, key)
        elif what == "velocity_at_start":
            near(torch.stack([flow.velocity(start, float(s)) for s in probes]), expected, bound, key)
        elif what == "exact":
            fine = 1e-11 if double else 1e-5
            found = integrate_to_tolerance(flow.velocity, start, atol=fine, rtol=fine, together=True)
            near(found, expected, tolerance["exact_ode"] if double else bound, key)
        else:
            assert what == "loglik_target", key
            source = flow.log_density
            found = log_density(flow.velocity, given[f"{name}.exact"], lambda x, at=source: at(x, 0.0), 64)
            near(found, expected, tolerance["exact_ode"] if double else bound, key)
            near(flow.log_density(given[f"{name}.exact"], 1.0), expected, bound, key)
    one = integrate(flows["ot"].velocity, given["ot.start"], 1)
    near(one, given["ot.exact"], bound, "one step with the optimal coupling")


def upsampling_source(case: Case, dtype: torch.dtype) -> None:
    given = dict(case.tensors)
    bound = case.config["tolerance"][precision(case, dtype)]
    x, eps = given.pop("x").to(dtype), given.pop("eps").to(dtype)
    for key in [key for key in given if key.startswith("alpha_bar.")]:
        size, table = int(key.rpartition("size")[2]), given.pop(key)
        near(shifted_cosine(len(table), size), table, bound, key)
        for noised in [key for key in given if key.startswith(f"noised.size{size}.")]:
            source = UpsamplingSource(int(noised.rpartition("step")[2]), len(table), size)
            near(source(x, eps), given.pop(noised), bound, noised)
    assert not given


def distillation_targets(case: Case, dtype: torch.dtype) -> None:
    given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in case.tensors.items()}
    settings, bound = case.config["config"], case.config["tolerance"][precision(case, dtype)]
    path, mixture = Trigonometric(), Mixture.recorded(case.tensors, "mixture", dtype)
    for part in ("weights", "means", "covs"):
        del given[f"mixture.{part}"]
    told = mixture.restricted(given.pop("conditional_components").tolist())
    x0, eps = given.pop("x0"), given.pop("eps")

    z_t = given.pop("stage1.z_t")
    pair = torch.stack([case.tensors["x0"].flatten(), case.tensors["eps"].flatten()], 1)
    alpha, sigma = torch.linalg.lstsq(pair, case.tensors["stage1.z_t"].flatten()[:, None]).solution.flatten()
    t = float(torch.atan2(sigma, alpha)) * 2 / math.pi
    near(path.add_noise(x0, eps, t), z_t, bound, "z_t of stage 1")
    for weight in settings["guidance"]:
        # The case counts w - 1.
        both = (part.denoiser(path).x0(z_t, t) for part in (told, mixture))
        near(guidance_target(*both, 1.0 + weight), given.pop(f"stage1.target.w{weight}"), bound, "stage 1")

    teacher, count = mixture.denoiser(path), settings["student_steps"]
    for key in [key for key in given if key.endswith(".z_t")]:
        name, step = key.removesuffix(".z_t"), int(re.findall(r"\d+", key)[0])
        z, t, end = given.pop(key), step / count, (step - 1) / count
        near(path.add_noise(x0, eps, t), z, bound, key)
        target, arrived = two_step_target(teacher, z, t, (step - 0.5) / count, end)
        near(target, given.pop(f"{name}.target_x"), bound, f"{name} target of x0")
        near(
            as_prediction(target, z, t, path, "v"),
            given.pop(f"{name}.target_v"),
            bound,
            f"{name} target of v",
        )
        near(arrived, given.pop(f"{name}.z_two_steps"), bound, f"{name} two steps")
        student = Denoiser(lambda *_, said=target: said, path, "x0")
        near(ddim_step(student, z, t, end), arrived, bound, f"{name} one step")

    embedding, even, normal = (given.pop(name) for name in ("cond_embedding", "uniform_pm1", "normal"))
    for key in list(given):
        _, kind, gamma = key.split(".", 2)
        values = {"uniform": even, "gaussian": normal}[kind]
        near(perturb(embedding, values, float(gamma.removeprefix("gamma"))), given.pop(key), bound, key)
    assert not given


RUNNERS = {
    "distillation_targets": distillation_targets,
    "flow_targets": flow_targets,
    "ot_coupling": ot_coupling,
    "flow_gaussian": flow_gaussian,
    "upsampling_source": upsampling_source,
}
