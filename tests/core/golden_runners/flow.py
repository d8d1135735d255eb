"""Recorded cases of flow matching and distillation."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor
from torch.testing import assert_close

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
from diffusion_suite.core.schedulers import LinearVP, RectifiedFlow, Trigonometric
from diffusion_suite.core.testing import Case


def precision(case: Case, dtype: torch.dtype) -> str:
    return "float64" if dtype == torch.float64 else "float32"


def near(found: Tensor, expected: Tensor, bound: float, what: str) -> None:
    """Equal within a bound that is absolute for values up to 1 and relative to the largest beyond."""
    scale = max(1.0, float(expected.abs().max()))
    assert_close(found.double(), expected.double(), rtol=0, atol=bound * scale, msg=lambda m: f"{what}: {m}")


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
            found = integrate_to_tolerance(flow.velocity, start, atol=fine, rtol=fine)
            near(found, expected, tolerance["exact_ode"] if double else bound, key)
        else:
            assert what == "loglik_target", key
            source = flow.log_density
            found = log_density(flow.velocity, given[f"{name}.exact"], lambda x, at=source: at(x, 0.0), 200)
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


RUNNERS = {
    "flow_targets": flow_targets,
    "ot_coupling": ot_coupling,
    "flow_gaussian": flow_gaussian,
    "upsampling_source": upsampling_source,
}
