"""Preconditioning of a network, so that its input, output and target have unit variance at every noise level.

With s = sigma/alpha, on x = x_t/alpha, and sigma_d the standard deviation of the data (Karras et al. 2022):

    D(x; s) = c_skip x + c_out F(c_in x, c_noise)
    c_skip = sigma_d^2 / (s^2 + sigma_d^2)        c_out = s sigma_d / sqrt(s^2 + sigma_d^2)
    c_in = 1 / sqrt(s^2 + sigma_d^2)              c_noise = ln(s) / 4

    denoiser = Preconditioning(EDM())(network)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers.denoiser import Denoiser, Model
from diffusion_suite.core.schedulers.paths import Path, Time, per_item


def c_noise(t: Time, path: Path) -> Tensor:
    """The noise level as a network takes it, ln(sigma/alpha)/4, in float64 and in the shape of `t`."""
    return -0.125 * path.logsnr(t)


@dataclass(frozen=True)
class Preconditioning:
    """Turns a raw network F into a denoiser that predicts x0; a network of any domain, on any path.

    Written for x_t itself, so that it stays finite where no data are left (alpha = 0).

    Attributes:
        path: the path of the data.
        sigma_data: standard deviation of the data.
        sign: -1 for networks whose output is trained with the other sign (`v_prediction`, sigma_data 1).

    Raises:
        ConfigError: `sigma_data` is not positive.
    """

    path: Path
    sigma_data: float = 0.5
    sign: int = 1

    def __post_init__(self) -> None:
        if not self.sigma_data > 0.0:
            raise ConfigError(f"sigma_data is {self.sigma_data}", "give the standard deviation of the data")

    def coefficients(self, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in) of x_t, in float64 and in the shape of `t`; on EDM those of the paper."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        norm = torch.sqrt(sigma**2 + (alpha * self.sigma_data) ** 2)
        skip = alpha * self.sigma_data**2 / norm**2
        return skip, self.sign * sigma * self.sigma_data / norm, 1.0 / norm

    def __call__(self, network: Model) -> Denoiser:
        """The denoiser around a network F(c_in x_t, c_noise, **cond); c_noise reaches it as (batch,)."""

        def model(x_t: Tensor, t: Time, **cond: Any) -> Tensor:
            skip, out, scale = (per_item(value, x_t) for value in self.coefficients(t))
            level = c_noise(t, self.path).to(torch.promote_types(x_t.dtype, torch.float32))
            output: Tensor = network(scale * x_t, level.expand(x_t.shape[0]), **cond)
            return skip * x_t + out * output.to(torch.promote_types(output.dtype, torch.float32))

        return Denoiser(model, self.path, "x0")
