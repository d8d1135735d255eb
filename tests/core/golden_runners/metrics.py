"""Recorded metrics: distances, fidelity, memorisation, diversity, intrinsic dimension."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core.metrics import (
    Moments,
    authentic,
    copying_statistic,
    denoiser_jacobian,
    fidelity,
    flipd,
    flow_map_jacobian,
    frechet_distance,
    frechet_infinity,
    inception_score,
    jacobian_spectrum,
    kernel_distance,
    kernel_distance_full,
    levina_bickel,
    realism,
    score_spectrum,
    sliced_wasserstein,
    two_nn,
    vendi_by_class,
    vendi_score,
)
from diffusion_suite.core.schedulers import EDM, Mixture
from diffusion_suite.core.testing import Case

SINGLE = 1e-3
"""Relative tolerance in float32 where the case names none."""


class Check:
    """The tensors of a case in one type, and comparison at its tolerance."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        self.expected = case.tensors
        self.tensors = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in case.tensors.items()
        }
        self.exact = dtype == torch.float64
        tolerance = case.config["tolerance"]
        if self.exact:
            self.absolute = tolerance.get("float64", 0.0)
            self.relative = tolerance.get("float64_relative", 0.0)
        else:
            self.absolute = tolerance.get("float32", 0.0)
            self.relative = tolerance.get("float32_relative", 0.0 if self.absolute else SINGLE)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def same(self, name: str, value: Any, loose: float = 0.0) -> None:
        """Compare with the recorded tensor, relative to its largest entry; in float32 `loose` is added."""
        expected = self.expected[name].double()
        found = torch.as_tensor(value, dtype=torch.float64).reshape(expected.shape)
        bound = self.absolute + self.relative * float(expected.abs().max())
        bound += 0.0 if self.exact else loose
        error = float((found - expected).abs().max())
        assert error <= bound, f"{name}: off by {error:.3g}, bound {bound:.3g}"

    def indices(self, pattern: str) -> list[str]:
        """Names `pattern` with 0, 1, ... in place of the braces, as far as there are any."""
        found: list[str] = []
        while pattern.format(len(found)) in self.tensors:
            found.append(pattern.format(len(found)))
        return found


def check_frechet_distance(case: Case, dtype: torch.dtype) -> None:
    check = Check(case, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name in check.indices("{}.fd"):
            real, fake = check[name.replace("fd", "real")], check[name.replace("fd", "fake")]
            check.same(name, frechet_distance(real, fake))
            check.same(name, frechet_distance(fake, real))
            check.same(name, frechet_distance(Moments.of(real), Moments.of(fake)))
            check.same(name, frechet_distance(Moments.of(real), fake))
            batches = [Moments.of(fake[start : start + 7]) for start in range(0, len(fake), 7)]
            check.same(name, frechet_distance(real, sum(batches[1:], batches[0])))
            shift = Moments.of(real).mean - Moments.of(fake).mean
            check.same(name.replace("fd", "mean_term"), shift.square().sum())
    first, second = (Moments(check[f"moments.mean{i}"], check[f"moments.cov{i}"]) for i in (1, 2))
    check.same("moments.fd", frechet_distance(first, second))
    check.same("singular.fd_to_cov2", frechet_distance(Moments(first.mean, check["singular.cov1"]), second))
    subsets = [check[name] for name in check.indices("inf.subset{}")]
    limit = frechet_infinity(check["0.real"], check["0.fake"], subsets=subsets)
    assert limit.sizes == tuple(check["inf.sizes"].tolist())
    check.same("inf.values", limit.values)
    check.same("inf.extrapolated", limit.value)


def check_kernel_distance(case: Case, dtype: torch.dtype) -> None:
    check = Check(case, dtype)
    real, fake = check["real"], check["fake"]
    both = min(len(real), len(fake))
    check.same("mmd_unbiased_unequal", kernel_distance_full(real, fake))
    check.same("mmd_equal_sizes", kernel_distance_full(real[:both], fake[:both]))
    pairs = [(check[name], check[name.replace("real", "fake")]) for name in check.indices("subset{}.real")]
    found = kernel_distance(real, fake, indices=pairs)
    check.same("subset_values", found.values)
    check.same("subset_mean", found.value)
    check.same("subset_std_population", found.deviation)


def check_precision_recall(case: Case, dtype: torch.dtype) -> None:
    check = Check(case, dtype)
    real, fake = check["real"], check["fake"]
    # In float32 a distance may change its side of a radius: one item at most.
    item = 1.0 / min(len(real), len(fake))
    for k in case.config["config"]["k"]:
        found = fidelity(real, fake, k)
        for name in ("precision", "recall", "density", "coverage"):
            check.same(f"k{k}.{name}", getattr(found, name), loose=2.0 * item)
        check.same(f"k{k}.realism", realism(real, fake, k))


def check_memorisation(case: Case, dtype: torch.dtype) -> None:
    check = Check(case, dtype)
    train, test, generated = check["train"], check["test"], check["generated"]
    new = authentic(train, generated)
    assert int((new.long() != check["authentic"]).sum()) <= (0 if check.exact else 1)
    check.same("authpct", 100.0 * new.double().mean(), loose=100.0 / len(new))
    centroids = check["cell_centroids"]
    found = copying_statistic(train, test, generated, centroids=centroids)
    check.same("ct", found.value, loose=0.02)
    check.same("zu_global", found.overall, loose=0.02)
    for name, value in zip(check.indices("zu.cell{}"), found.cells, strict=True):
        check.same(name, value, loose=0.02)
    swapped = copying_statistic(generated, test, train, centroids=centroids)
    check.same("ct_swapped_train_generated", swapped.value, loose=0.02)


def check_diversity(case: Case, dtype: torch.dtype) -> None:
    check = Check(case, dtype)
    features = check["features"]
    for order in case.config["config"]["q"]:
        check.same(f"vendi.q{order}", vendi_score(features, float(order)))
    check.same("vendi.polynomial", vendi_score(features, kernel="polynomial"))
    check.same("vendi.identical", vendi_score(check["identical"]))
    check.same("vendi.orthonormal", vendi_score(check["orthonormal"]))
    check.same("vendi.per_class", list(vendi_by_class(features, check["labels"]).values()))
    check.same("inception_score_one_split", inception_score(check["class_probs"]))
    check.same("sliced_w_approx", sliced_wasserstein(features, check["other"]))


def check_intrinsic_dimension(case: Case, dtype: torch.dtype) -> None:
    check = Check(case, dtype)
    ones = torch.ones(1, dtype=dtype)
    gaussian = Mixture(ones, check["mean"][None], check["cov"][None])
    denoiser = gaussian.denoiser(EDM())
    points, noise = check["points"], check["noise"]
    highest = float(str(case.config["config"]["flow_map"]).split("sigma")[1].split()[0])
    sigmas = check.expected["sigmas"].tolist()
    for row, sigma in enumerate(sigmas):
        # Where noise is faint, float32 data lose digits: the score divides them by sigma^2.
        loose = 1e-4 / sigma
        spectrum = score_spectrum(denoiser, points[:1], sigma, noise=noise)
        _row(check, "score_spectrum", row, spectrum.values, loose)
        assert spectrum.dimension == int(check["normal_bundle_dim"][row])
        _row(check, "flipd", row, flipd(denoiser, points, sigma), loose)
        jacobian = denoiser_jacobian(denoiser, points[:1], sigma)
        _row(check, "denoiser_jacobian_spectrum", row, jacobian_spectrum(jacobian)[0], loose)
        flow = flow_map_jacobian(denoiser, points[:1], highest, sigma)
        _row(check, "flow_map_singular_values", row, jacobian_spectrum(flow)[0], loose)
    nearest = min(range(len(sigmas)), key=lambda row: sigmas[row])
    assert int(check["normal_bundle_dim"][nearest]) == int(check["true_dim"])
    for name in check.tensors:
        if name.startswith("mle_k"):
            check.same(name, levina_bickel(check["samples"], int(name.removeprefix("mle_k"))))
    check.same("two_nn", two_nn(check["samples"]))


def _row(check: Check, name: str, row: int, values: Tensor, loose: float) -> None:
    expected = check.expected[name][row].double()
    scale = float(expected.abs().max())
    bound = check.absolute if check.exact else loose * scale
    error = float((values.double() - expected).abs().max())
    assert math.isfinite(error)
    assert error <= bound, f"{name}[{row}]: off by {error:.3g}, bound {bound:.3g}"


RUNNERS: dict[str, Callable[..., None]] = {
    "frechet_distance": check_frechet_distance,
    "kernel_distance": check_kernel_distance,
    "precision_recall": check_precision_recall,
    "memorisation": check_memorisation,
    "diversity": check_diversity,
    "intrinsic_dimension": check_intrinsic_dimension,
}
