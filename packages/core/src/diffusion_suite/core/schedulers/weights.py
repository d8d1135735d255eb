"""Loss weights, each defined on the squared error of x0 and converted to what the network predicts.

At a fixed x_t an error of x0 and one of any other prediction are proportional. With SNR = alpha^2/sigma^2:

    |eps - eps'|^2 = SNR |x0 - x0'|^2                |v - v'|^2 = ((alpha^2 + sigma^2)/sigma)^2 |x0 - x0'|^2
    |score - score'|^2 = (alpha/sigma^2)^2 |x0 - x0'|^2
    |velocity - velocity'|^2 = (alpha' - alpha sigma'/sigma)^2 |x0 - x0'|^2

So one weight means the same training whatever the network predicts, on any path:

    on_prediction(MinSNR(5.0), t, path, "v")
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers.denoiser import PredictionType
from diffusion_suite.core.schedulers.offset import OffsetPath
from diffusion_suite.core.schedulers.paths import DiscreteVP, Path, Time, as_time

Weight = Callable[[Time, Path], Tensor]
"""A weight on the squared error of x0: (t, path) -> float64 values in the shape of t."""


def error_factor(t: Time, path: Path, kind: PredictionType) -> Tensor:
    """How many times the squared error of x0 that of another prediction is; float64, in the shape of t."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    match kind:
        case "x0":
            return torch.ones_like(sigma)
        case "eps":
            return (alpha / sigma) ** 2
        case "v":
            return ((alpha**2 + sigma**2) / sigma) ** 2
        case "score":
            return (alpha / sigma**2) ** 2
        case "velocity":
            return (path.d_alpha(t) - alpha * path.d_sigma(t) / sigma) ** 2


def on_prediction(weight: Weight, t: Time, path: Path, kind: PredictionType) -> Tensor:
    """The weight on the squared error of a prediction of another type; float64, in the shape of t.

    Raises:
        ConfigError: `eps` or `score` on a table with zero terminal SNR, whose last step says nothing of x0.
    """
    check_prediction(path, kind)
    if isinstance(weight, Plain) and weight.kind == kind:
        return torch.ones_like(as_time(t))
    return weight(t, path) / error_factor(t, path, kind)


def check_prediction(path: Path, kind: PredictionType) -> None:
    """Refuse to train `eps` or `score` where the last step of a table holds no data.

    Raises:
        ConfigError: as said.
    """
    table = path.base if isinstance(path, OffsetPath) else path
    if kind in ("eps", "score") and isinstance(table, DiscreteVP) and float(table.alpha_bar[-1]) == 0.0:
        raise ConfigError(
            f"a network that predicts {kind} cannot be trained on a table with zero terminal SNR, whose last"
            " step holds no data: the weight is 0/0 there",
            "predict v or x0, or use a table that keeps some data",
        )


@dataclass(frozen=True)
class Plain:
    """The squared error of one prediction, unweighted: SNR for `eps`; SNR + 1 for `v` on a VP path."""

    kind: PredictionType

    def __call__(self, t: Time, path: Path) -> Tensor:
        """The weight on x0."""
        return error_factor(t, path, self.kind)


@dataclass(frozen=True)
class MinSNR:
    """min(SNR, gamma) (Hang et al. 2023). On v of a VP path: min(SNR, gamma)/(SNR + 1)."""

    gamma: float = 5.0

    def __call__(self, t: Time, path: Path) -> Tensor:
        """The weight on x0."""
        return _snr(t, path).clamp(max=self.gamma)


@dataclass(frozen=True)
class TruncatedSNR:
    """max(SNR, 1) (Salimans, Ho 2022), as progressive distillation uses it."""

    def __call__(self, t: Time, path: Path) -> Tensor:
        """The weight on x0."""
        return _snr(t, path).clamp(min=1.0)


@dataclass(frozen=True)
class P2:
    """SNR/(k + SNR)^gamma (Choi et al. 2022); (k + SNR)^-gamma on eps."""

    k: float = 1.0
    gamma: float = 1.0

    def __call__(self, t: Time, path: Path) -> Tensor:
        """The weight on x0."""
        snr = _snr(t, path)
        return snr / (self.k + snr) ** self.gamma


@dataclass(frozen=True)
class EDMWeight:
    """(s^2 + sigma_d^2)/(s sigma_d)^2 with s = sigma/alpha (Karras et al. 2022).

    Unit weight on the raw output of a network under `Preconditioning`; goes with `LogNormal` times.
    """

    sigma_data: float = 0.5

    def __call__(self, t: Time, path: Path) -> Tensor:
        """The weight on x0."""
        return _snr(t, path) + self.sigma_data**-2


@dataclass(frozen=True)
class SigmaSqrt:
    """sigma^-2 on the velocity (Esser et al. 2024)."""

    def __call__(self, t: Time, path: Path) -> Tensor:
        """The weight on x0."""
        return error_factor(t, path, "velocity") / path.sigma(t) ** 2


@dataclass(frozen=True)
class CosMapWeight:
    """2/(pi (1 - 2t + 2t^2)) on the velocity, for times in [0, 1] (Esser et al. 2024)."""

    def __call__(self, t: Time, path: Path) -> Tensor:
        """The weight on x0."""
        t = as_time(t)
        return error_factor(t, path, "velocity") * 2.0 / (math.pi * (1.0 - 2.0 * t + 2.0 * t**2))


@dataclass(frozen=True)
class Likelihood:
    """-dSNR/dt / 2, the weight of the likelihood bound (Kingma et al. 2021), over the density of the times.

    Attributes:
        density: density of the training times, such as `times.density`; None for even times on [0, 1].
    """

    density: Callable[[Time], Tensor] | None = None

    def __call__(self, t: Time, path: Path) -> Tensor:
        """The weight on x0."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        weight = alpha * (alpha * path.d_sigma(t) / sigma - path.d_alpha(t)) / sigma**2
        return weight if self.density is None else weight / self.density(t)


def _snr(t: Time, path: Path) -> Tensor:
    return (path.alpha(t) / path.sigma(t)) ** 2
