"""The source of an upsampling flow: a low-resolution latent, enlarged and noised (FM-Boosting).

With z_up = encode(enlarge(decode(z))), the flow starts at x_a = sqrt(abar_k) z_up + sqrt(1 - abar_k) e and
ends at the high-resolution latent; the model also sees the clean z_up beside its state (`WithCondition`).

    >>> import torch
    >>> source = UpsamplingSource()
    >>> round(source.alpha**2 + source.sigma**2, 12)
    1.0
    >>> UpsamplingSource(step=-1)(torch.ones(1, 2), torch.zeros(1, 2))
    tensor([[1., 1.]])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.flow_matching.couplings import Coupling, data_dependent
from diffusion_suite.core.schedulers import Noise, standard_normal


def shifted_cosine(steps: int = 1000, size: int = 64) -> Tensor:
    """Share of signal abar of a cosine table whose noise is shifted to an image size (Hoogeboom et al. 2023).

    abar = sigmoid(-2 ln(tan(pi tau / 2) + 1e-5) + 2 ln(64 / size)), tau = 0, ..., 1 in equal steps.

    Args:
        steps: length of the table, at least 2.
        size: side of the image or latent; 64 shifts nothing, and is what published models were made with.

    Returns:
        (steps,) in float64, falling from nearly 1 to nearly 0.

    Raises:
        ConfigError: fewer than 2 steps, or a size below 1.
    """
    if steps < 2 or size < 1:
        raise ConfigError(
            f"a table of {steps} steps for size {size}", "give 2 steps or more, and size 1 or more"
        )
    return cosine_signal(torch.linspace(0.0, 1.0, steps, dtype=torch.float64), size)


def cosine_signal(tau: Tensor | float, size: int = 64) -> Tensor:
    """Share of signal of `shifted_cosine` at times in [0, 1], in float64."""
    angle = 0.5 * math.pi * torch.as_tensor(tau, dtype=torch.float64)
    return torch.sigmoid(-2.0 * torch.log(torch.tan(angle) + 1e-5) + 2.0 * math.log(64.0 / size))


@dataclass(frozen=True)
class UpsamplingSource:
    """What an upsampling flow starts from.

    Attributes:
        step: index of the noise in the table; -1 for none (the flow starts at z_up), None for noise alone
            (z_up is then a condition only).
        steps: length of the table.
        size: see `shifted_cosine`.
    """

    step: int | None = 400
    steps: int = 1000
    size: int = 64

    def __post_init__(self) -> None:
        if self.step is not None and not -1 <= self.step < self.steps:
            raise ConfigError(
                f"step {self.step} of a table of {self.steps}", "give -1 (no noise) to the last step, or none"
            )

    @property
    def alpha(self) -> float:
        """Factor of z_up."""
        return math.sqrt(self._kept())

    @property
    def sigma(self) -> float:
        """Factor of the noise."""
        return math.sqrt(1.0 - self._kept())

    def __call__(self, enlarged: Tensor, noise: Noise) -> Tensor:
        """The source of z_up, (batch, ...)."""
        return self.alpha * enlarged + self.sigma * standard_normal(noise, enlarged)

    def coupling(self) -> Coupling:
        """Pairs of sources and targets; z_up is given as the condition `condition`, and stays one."""
        return data_dependent(lambda _, condition, **__: condition, self.alpha, self.sigma)

    def _kept(self) -> float:
        if self.step is None:
            return 0.0
        return 1.0 if self.step < 0 else float(shifted_cosine(self.steps, self.size)[self.step])


class WithCondition(nn.Module):
    """A network that sees a condition beside its state, joined along the channels.

    Args:
        network: (x, s, **cond) -> tensor, with twice the input channels (8 for latents of 4).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, s: Tensor, condition: Tensor, **cond: Any) -> Tensor:
        """The network's output.

        Args:
            x: state, (batch, channels, height, width).
            s: (batch,) times.
            condition: of x's shape in all but the channels.
            **cond: passed on.
        """
        output: Tensor = self.network(torch.cat([x, condition.to(x)], 1), s, **cond)
        return output


@torch.no_grad()
def enlarged(
    latent: Tensor,
    size: Sequence[int],
    decode: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor], Tensor],
) -> Tensor:
    """z_up: a latent enlarged by way of its picture.

    Args:
        latent: (batch, channels, height, width).
        size: height and width of the enlarged picture in pixels.
        decode: latents to pictures.
        encode: pictures to latents.

    Returns:
        Latents of the enlarged pictures (bilinear).
    """
    picture = F.interpolate(decode(latent), size=tuple(size), mode="bilinear", align_corners=False)
    return encode(picture)
