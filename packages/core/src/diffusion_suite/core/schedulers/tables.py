"""What follows from a table of variances: zero terminal SNR, and the posterior of a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """The table changed so that its last step holds no data, and its first is as it was.

    With a_i = sqrt(alpha_bar_i), a'_i = (a_i - a_{T-1}) a_0 / (a_0 - a_{T-1}) (Lin et al. 2023). Networks on
    such a table predict `v` or `x0`: at the last step the noise says nothing about the data.

    Args:
        betas: variances (T,), as from `betas`, T at least 2.

    Returns:
        float64 variances (T,); the last is 1.

    Raises:
        ConfigError: fewer than two steps.
    """
    if len(betas) < 2:
        raise ConfigError("a table of one step cannot be rescaled to zero terminal SNR", "give two or more")
    root = _alpha_bar(betas).sqrt()
    moved = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return 1.0 - torch.cat([moved[:1], moved[1:] / moved[:-1]])


@dataclass(frozen=True)
class Posterior:
    """q(x_{i-1} | x_i, x0) = N(of_x0 x0 + of_x_t x_i, variance) of each step i; all float64, (T,)."""

    variance: Tensor
    of_x0: Tensor
    of_x_t: Tensor


def posterior(betas: Tensor) -> Posterior:
    """The Gaussian of the previous state given the data (Ho et al. 2020, equation 7).

    Args:
        betas: variances (T,), as from `betas`.

    Returns:
        The coefficients; at step 0 the previous state is the data itself, with no variance.
    """
    betas = betas.detach().to("cpu", torch.float64)
    after = _alpha_bar(betas)
    before = torch.cat([torch.ones(1, dtype=torch.float64), after[:-1]])
    return Posterior(
        variance=betas * (1.0 - before) / (1.0 - after),
        of_x0=before.sqrt() * betas / (1.0 - after),
        of_x_t=torch.sqrt(1.0 - betas) * (1.0 - before) / (1.0 - after),
    )


def _alpha_bar(betas: Tensor) -> Tensor:
    return torch.cumprod(1.0 - betas.detach().to("cpu", torch.float64), 0)
