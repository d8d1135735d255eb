"""Paths towards a data-dependent prior: x_t = alpha x0 + k mu + sigma eps.

mu is a coarse version of the data that is known beforehand: the reconstruction of a smaller model
(DiffuseVAE, k = 1), an average voice or a low-resolution picture (k = 1 - alpha: the noisy end is
N(mu, sigma^2)). Samplers, solvers and losses see the centred state x_t - k mu, which lies on the plain path;
the network sees x_t. So all of them serve such models unchanged:

    denoiser = OffsetDenoiser(network, OffsetPath(LinearVP(), "complement"), "eps")
    loss = denoising_loss(denoiser, x0, t, generator, mu=mu)
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers.denoiser import Denoiser, Model, PredictionType
from diffusion_suite.core.schedulers.paths import Path, Time, per_item

Offset = Literal["constant", "complement"]


class OffsetPath(Path):
    """A path with an offset k(t) mu; as a `Path` it is that of the centred state.

    Args:
        base: the path of data and noise.
        offset: `constant` (k = 1) or `complement` (k = 1 - alpha).

    Raises:
        ConfigError: unknown offset.
    """

    def __init__(self, base: Path, offset: Offset = "complement") -> None:
        if offset not in get_args(Offset):
            raise ConfigError(f"unknown offset {offset!r}", f"use one of {', '.join(get_args(Offset))}")
        self.base = base
        self.offset = offset

    def k(self, t: Time) -> Tensor:
        """Factor of mu."""
        alpha = self.base.alpha(t)
        return torch.ones_like(alpha) if self.offset == "constant" else 1.0 - alpha

    def d_k(self, t: Time) -> Tensor:
        """Time derivative of `k`."""
        slope = self.base.d_alpha(t)
        return torch.zeros_like(slope) if self.offset == "constant" else -slope

    def shifted(self, centred: Tensor, t: Time, mu: Tensor) -> Tensor:
        """The state x_t that the network sees, from a centred one."""
        return centred + per_item(self.k(t), centred) * mu

    def centred(self, x_t: Tensor, t: Time, mu: Tensor) -> Tensor:
        """The state of samplers and solvers, from the one that the network sees."""
        return x_t - per_item(self.k(t), x_t) * mu

    @override
    def alpha(self, t: Time) -> Tensor:
        return self.base.alpha(t)

    @override
    def sigma(self, t: Time) -> Tensor:
        return self.base.sigma(t)

    @override
    def d_alpha(self, t: Time) -> Tensor:
        return self.base.d_alpha(t)

    @override
    def d_sigma(self, t: Time) -> Tensor:
        return self.base.d_sigma(t)

    @override
    def logsnr(self, t: Time) -> Tensor:
        return self.base.logsnr(t)

    @override
    def t_of_logsnr(self, logsnr: Time) -> Tensor:
        return self.base.t_of_logsnr(logsnr)


class OffsetDenoiser(Denoiser):
    """A network on an offset path, seen as a denoiser of the centred state.

    Every view takes `mu=`, in the shape of the data, beside other conditions. The network is called with
    (x_t, t, mu=mu, **cond); a `velocity` network predicts dx_t/dt with the motion of k mu in it.

    Args:
        model: the network.
        path: its path.
        prediction_type: what it returns.
    """

    def __init__(self, model: Model, path: OffsetPath, prediction_type: PredictionType) -> None:
        super().__init__(model, path, prediction_type)
        self.offset_path = path

    @override
    def predict(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        """The network's output for the centred state; a velocity is that of the centred state.

        Raises:
            ValueError: no `mu` among the conditions.
        """
        mu: Tensor | None = cond.get("mu")
        if mu is None:
            raise ValueError("a denoiser on an offset path needs mu=")
        output = super().predict(self.offset_path.shifted(x_t, t, mu), t, **cond)
        if self.prediction_type != "velocity":
            return output
        return output - per_item(self.offset_path.d_k(t), x_t) * mu
