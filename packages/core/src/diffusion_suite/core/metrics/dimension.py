"""Intrinsic dimension, from a denoiser at a point or from samples.

Everything about a denoiser is told of z = x_t / alpha, data plus noise of the level s = sigma / alpha. The
denoiser must be a gradient field for its spectra to mean what they say: `asymmetry` tells how far it is from
one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.metrics.features import checked, nearest_others
from diffusion_suite.core.schedulers import Denoiser, Noise, standard_normal

EXACT = 512
"""Up to so many dimensions a divergence is exact unless noise is given."""

CHUNK = 64
"""Rows of a Jacobian that are computed at once."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values with the dimension that they tell.

    Attributes:
        values: descending, (min(K, D),).
        dimension: D less the number of values before the largest gap.
    """

    values: Tensor
    dimension: int


def score_spectrum(
    denoiser: Denoiser, point: Tensor, t: float, *, noise: Noise, copies: int | None = None, **cond: Any
) -> Spectrum:
    """Dimension from scores of noisy copies of a point: they span normal directions (Stanczuk et al. 2024).

    Args:
        denoiser: of D-dimensional data.
        point: (1, ...), clean.
        t: time; its noise must be small against the data's curvature and extent.
        noise: generator(s) or values, (K, ...).
        copies: K; None takes 4 D, or as many as values are given.
        cond: for the model, tensors (1, ...) are repeated.

    Raises:
        ValueError: more than one point.
    """
    _single(point)
    width = point[0].numel()
    count = copies or (len(noise) if isinstance(noise, Tensor) else 4 * width)
    clean = point.expand(count, *point.shape[1:])
    alpha, sigma = denoiser.path.at(t, point)
    noisy = alpha * clean + sigma * standard_normal(noise, clean)
    with torch.no_grad():
        scores = alpha * denoiser.score(noisy, t, **_repeated(cond, count))
    values = torch.linalg.svdvals(scores.flatten(1).double())
    normal = 1 + int((values[:-1] - values[1:]).argmax()) if len(values) > 1 else 0
    return Spectrum(values, width - normal)


def flipd(
    denoiser: Denoiser, x0: Tensor, t: float, *, noise: Noise | None = None, probes: int = 8, **cond: Any
) -> Tensor:
    """Local intrinsic dimension D + s^2 (div score + |score|^2), by Fokker-Planck (Kamkari et al. 2024).

    Args:
        denoiser: of D-dimensional data.
        x0: points (batch, ...), clean.
        t: time, small.
        noise: generator(s) of random signs for Hutchinson's estimate, or the signs, (probes, batch, ...);
            None computes the divergence exactly, for D <= 512.
        probes: random probes, each one more backward pass.
        cond: for the model.

    Returns:
        (batch,).

    Raises:
        ValueError: no noise for D > 512.
    """
    width = x0[0].numel()
    if noise is None and width > EXACT:
        raise ValueError(f"an exact divergence in {width} dimensions is too slow; give noise")
    alpha, sigma = denoiser.path.at(t, x0)
    noisy = (alpha * x0).detach().requires_grad_()
    with torch.enable_grad():
        score = denoiser.score(noisy, t, **cond)
        if noise is None:
            basis = torch.eye(width).to(score).view(width, *x0.shape[1:])
            pulled = (_pull(score, noisy, e.expand_as(score)) * e for e in basis)
            divergence = sum((part.flatten(1).sum(1) for part in pulled), torch.zeros(len(x0)).to(score))
        else:
            count = len(noise) if isinstance(noise, Tensor) else probes
            divergence = torch.zeros(len(x0)).to(score)
            for index in range(count):
                given = noise[index] if isinstance(noise, Tensor) else noise
                signs = standard_normal(given, score).sign()
                divergence = divergence + (_pull(score, noisy, signs) * signs).flatten(1).sum(1) / count
    found: Tensor = width + sigma**2 * (divergence + score.detach().flatten(1).square().sum(1))
    return found.detach()


def denoiser_jacobian(denoiser: Denoiser, point: Tensor, t: float, **cond: Any) -> Tensor:
    """Jacobian (D, D) of the denoised data in z = x_t / alpha, at a clean point (1, ...).

    For data on a subspace its singular values are L / (L + s^2) along it, with L the data's variances, and 0
    across; its leading right singular vectors are directions of editing.

    Args:
        denoiser: of D-dimensional data.
        point: (1, ...), clean.
        t: time.
        cond: for the model, tensors (1, ...) are repeated.

    Raises:
        ValueError: more than one point.
    """
    alpha, _ = denoiser.path.at(t, point)
    return alpha * _jacobian(lambda x, c: denoiser.x0(x, t, **c), alpha * point, cond)


def jacobian_spectrum(jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (D,), descending, and right singular vectors (D, D), a row each, of a Jacobian."""
    _, values, right = torch.linalg.svd(jacobian)
    return values, right


def asymmetry(jacobian: Tensor) -> float:
    """|J - J^T| / |J|, 0 for a gradient field; above about 0.1 the dimensions here mean little."""
    return float((jacobian - jacobian.T).norm() / jacobian.norm())


def flow_map_jacobian(
    denoiser: Denoiser, point: Tensor, t_start: float, t_end: float, *, steps: int = 128, **cond: Any
) -> Tensor:
    """Jacobian (D, D) of the probability flow from one level of noise to another, in z = x_t / alpha.

    dz / d ln s = s eps is solved by Runge-Kutta steps of order 4, even in ln s. For data on a subspace the
    singular values are sqrt((L + s_end^2) / (L + s_start^2)).

    Args:
        denoiser: of D-dimensional data.
        point: (1, ...), a noisy state z at `t_start`.
        t_start: time at the start, with noise and data.
        t_end: time at the end, with noise.
        steps: each takes 4 evaluations, whose graphs are held for 64 copies of the point at once.
        cond: for the model, tensors (1, ...) are repeated.

    Raises:
        ValueError: more than one point, or a level without noise or without data.
    """
    first, last = (-0.5 * float(denoiser.path.logsnr(t)) for t in (t_start, t_end))
    if not abs(first) + abs(last) < float("inf"):
        raise ValueError(f"the flow from t={t_start} to t={t_end} starts or ends without noise or data")
    width = (last - first) / steps

    def slope(z: Tensor, level: float, given: dict[str, Any]) -> Tensor:
        t = float(denoiser.path.t_of_logsnr(-2.0 * level))
        alpha, sigma = denoiser.path.at(t, z)
        return sigma / alpha * denoiser.eps(alpha * z, t, **given)

    def flow(z: Tensor, given: dict[str, Any]) -> Tensor:
        for index in range(steps):
            level = first + index * width
            a = slope(z, level, given)
            b = slope(z + 0.5 * width * a, level + 0.5 * width, given)
            c = slope(z + 0.5 * width * b, level + 0.5 * width, given)
            d = slope(z + width * c, level + width, given)
            z = z + width / 6.0 * (a + 2.0 * b + 2.0 * c + d)
        return z

    return _jacobian(flow, point, cond)


def levina_bickel_terms(samples: Tensor, k: int = 10) -> Tensor:
    """Inverse of each sample's own estimate of the dimension, (n,); see `levina_bickel`."""
    distances = nearest_others(_distinct(samples, k + 1), k)
    return (distances[:, -1:].log() - distances[:, :-1].log()).sum(1) / (k - 1)


def levina_bickel(samples: Tensor, k: int = 10) -> float:
    """Maximum-likelihood dimension from k nearest neighbours (Levina, Bickel 2004; averaged as by MacKay).

    The inverse of the mean of the inverse estimates at each sample. Of equal samples one counts.

    Args:
        samples: (n, d).
        k: neighbours, at least 2.

    Raises:
        InputError: no more than k different samples, or all neighbours equally far.
        ValueError: k below 2.
    """
    if k < 2:
        raise ValueError("k is at least 2")
    return _inverse(levina_bickel_terms(samples, k).mean())


def two_nn_terms(samples: Tensor) -> Tensor:
    """Logarithm of the second over the first neighbour's distance, (n,); see `two_nn`."""
    distances = nearest_others(_distinct(samples, 3), 2)
    return (distances[:, 1] / distances[:, 0]).log()


def two_nn(samples: Tensor) -> float:
    """Dimension from two nearest neighbours: n / sum log(r_2 / r_1) (Facco et al. 2017).

    Of equal samples one counts.

    Args:
        samples: (n, d).

    Raises:
        InputError: fewer than 3 different samples, or all neighbours equally far.
    """
    return _inverse(two_nn_terms(samples).mean())


def _inverse(mean: Tensor) -> float:
    if not float(mean) > 0:
        raise InputError("all neighbours are equally far, which tells no dimension", "give other samples")
    return float(1.0 / mean)


def _distinct(samples: Tensor, least: int) -> Tensor:
    return checked(torch.unique(checked(samples), dim=0), least, "different samples")


def _single(point: Tensor) -> None:
    if len(point) != 1:
        raise ValueError(f"one point (1, ...) is needed, not {tuple(point.shape)}")


def _repeated(cond: dict[str, Any], count: int) -> dict[str, Any]:
    """Conditions of one item for `count` copies of it."""

    def several(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != 1:
            return value
        return value.expand(count, *value.shape[1:])

    return {name: several(value) for name, value in cond.items()}


def _pull(output: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(output, x, weights, retain_graph=True)
    return gradient


def _jacobian(
    function: Callable[[Tensor, dict[str, Any]], Tensor], point: Tensor, cond: dict[str, Any]
) -> Tensor:
    """Jacobian (D, D) at a point (1, ...): a batch of copies of it, one row from each."""
    _single(point)
    width = point[0].numel()
    parts = []
    for start in range(0, width, CHUNK):
        count = min(CHUNK, width - start)
        x = point.detach().expand(count, *point.shape[1:]).clone().requires_grad_()
        with torch.enable_grad():
            output = function(x, _repeated(cond, count)).flatten(1)
            (rows,) = torch.autograd.grad(output.diagonal(start).sum(), x)
        parts.append(rows.flatten(1))
    return torch.cat(parts)
