r"""Interpolants x_s between a source x_a (s = 0) and a target x_b (s = 1), and the velocity to be learnt.

.. math:: x_s = a(s) x_b + b(s) x_a + c(s) e, \qquad u = a'(s) x_b + b'(s) x_a + c'(s) e

    >>> import torch
    >>> source, target, s = torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([0.25])
    >>> Interpolant().at(source, target, s)
    (tensor([[0.2500, 0.2500]]), tensor([[1., 1.]]))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import Denoiser, LinearVP, Path, RectifiedFlow, Time, Trigonometric
from diffusion_suite.core.schedulers.paths import as_time, per_item

Velocity = Callable[..., Tensor]
InterpolantName = Literal["linear", "trigonometric", "vp", "lipman", "smoothed", "bridge"]


class LipmanPath(Path):
    """The straight path that ends in a little noise: alpha = 1 - t, sigma = t + sigma_min (1 - t).

    Lipman et al. 2023, equation 20, in the time of noise, t = 1 - s.

    Args:
        sigma_min: noise left on the data, in [0, 1).
    """

    def __init__(self, sigma_min: float = 1e-4) -> None:
        if not 0.0 <= sigma_min < 1.0:
            raise ConfigError(f"sigma_min is {sigma_min}", "give one in [0, 1)")
        self.sigma_min = sigma_min

    @override
    def alpha(self, t: Time) -> Tensor:
        return 1.0 - as_time(t)

    @override
    def sigma(self, t: Time) -> Tensor:
        return self.sigma_min + (1.0 - self.sigma_min) * as_time(t)

    @override
    def d_alpha(self, t: Time) -> Tensor:
        return -torch.ones_like(as_time(t))

    @override
    def d_sigma(self, t: Time) -> Tensor:
        return torch.full_like(as_time(t), 1.0 - self.sigma_min)

    @override
    def t_of_logsnr(self, logsnr: Time) -> Tensor:
        inverse = torch.exp(-0.5 * as_time(logsnr))
        return (inverse - self.sigma_min) / (inverse + (1.0 - self.sigma_min))


class Interpolant:
    """The interpolant of a path: alpha is the target's factor, sigma the source's, at the path's t = 1 - s.

    With a standard normal source this is the path itself, walked from noise to data.

    Args:
        path: one whose time runs from 0 (target) to 1 (source); the straight one by default.
    """

    noisy = False
    """Whether `at` needs noise of its own."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = RectifiedFlow() if path is None else path

    def spread(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """c(s) and c'(s), the factor of added noise and its derivative, for float64 times."""
        return torch.zeros_like(s), torch.zeros_like(s)

    def at(
        self, source: Tensor, target: Tensor, s: Time, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """State and velocity.

        Args:
            source: x_a, (batch, ...).
            target: x_b, of the same shape.
            s: times in [0, 1], one or (batch,).
            noise: e, standard normal values of the same shape, for an interpolant that is `noisy`.

        Returns:
            x_s and u, in the source's shape and type.

        Raises:
            ValueError: the shapes differ, or noise is missing or not wanted.
        """
        if source.shape != target.shape:
            raise ValueError(f"source {tuple(source.shape)} and target {tuple(target.shape)} make no pairs")
        if self.noisy != (noise is not None):
            raise ValueError(f"{type(self).__name__} needs {'' if self.noisy else 'no '}noise")
        s = as_time(s)
        factors = self.path.at(1.0 - s, source)
        rates = self.path.derivative_at(1.0 - s, source)
        x = factors[0] * target + factors[1] * source
        velocity = -(rates[0] * target + rates[1] * source)
        if noise is None:
            return x, velocity
        width, widening = (per_item(value, source) for value in self.spread(s))
        return x + width * noise, velocity + widening * noise

    def denoiser(self, velocity: Velocity) -> Denoiser:
        """A model of the velocity as samplers see it, where the source is standard normal noise.

        Args:
            velocity: model (x, s, **cond) -> dx/ds.

        Returns:
            A denoiser on `path`, in its time t = 1 - s. Its `score` and `eps` are those that the velocity
            implies: with p = -u, eps = (alpha' x - alpha p) / (alpha' sigma - alpha sigma').
        """

        def model(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return -velocity(x, 1.0 - t, **cond)

        return Denoiser(model, self.path, "velocity")


class Smoothed(Interpolant):
    """The straight interpolant with constant noise: x_s + sigma e, of the same velocity (Tong et al. 2024).

    Args:
        sigma: standard deviation of the blur, at least 0.
    """

    noisy = True

    def __init__(self, sigma: float = 0.1) -> None:
        super().__init__()
        self.sigma = _checked(sigma)

    @override
    def spread(self, s: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(s, self.sigma), torch.zeros_like(s)


class BrownianBridge(Interpolant):
    """The straight interpolant with the noise of a Brownian bridge, c = sigma sqrt(s (1 - s)).

    The velocity is u = x_b - x_a + (1 - 2s)/(2s(1 - s) + 1e-8) (x_s - s x_b - (1 - s) x_a); the small number
    keeps it finite at the ends.

    Args:
        sigma: noise of the Brownian motion, at least 0.
    """

    noisy = True

    def __init__(self, sigma: float = 0.5) -> None:
        super().__init__()
        self.sigma = _checked(sigma)

    @override
    def spread(self, s: Tensor) -> tuple[Tensor, Tensor]:
        root = torch.sqrt(s * (1.0 - s))
        return self.sigma * root, self.sigma * root * (1.0 - 2.0 * s) / (2.0 * root**2 + 1e-8)


def interpolant(name: InterpolantName, sigma: float | None = None) -> Interpolant:
    """An interpolant by name, as settings give it.

    Args:
        name: `linear`, `trigonometric`, `vp` (beta from 0.1 to 20), `lipman`, `smoothed` or `bridge`.
        sigma: of the last three; None takes the class's default.

    Raises:
        ConfigError: unknown name, or a sigma where none belongs or out of range.
    """
    own = {} if sigma is None else {"sigma": sigma}
    match name:
        case "smoothed":
            return Smoothed(**own)
        case "bridge":
            return BrownianBridge(**own)
        case "lipman":
            return Interpolant(LipmanPath() if sigma is None else LipmanPath(sigma))
    paths = {"linear": RectifiedFlow, "trigonometric": Trigonometric, "vp": LinearVP}
    if name not in paths:
        known = ", ".join(get_args(InterpolantName))
        raise ConfigError(f"unknown interpolant {name!r}", f"use one of {known}")
    if own:
        raise ConfigError(f"the {name} interpolant has no sigma", "leave it out, or use smoothed or bridge")
    return Interpolant(paths[name]())


def _checked(sigma: float) -> float:
    if sigma < 0.0:
        raise ConfigError(f"sigma is {sigma}", "give 0 or more")
    return sigma
