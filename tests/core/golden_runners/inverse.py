"""Recorded operators, exact posteriors and posterior samplers."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_suite.core.inverse import AveragePooling, Blur, Grayscale, Inpainting, SpectralOperator
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


RUNNERS = {"linear_operators": linear_operators}
