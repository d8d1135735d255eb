"""Probability paths x_t = alpha(t) x0 + sigma(t) eps between data and noise.

Time is the amount of noise: data at the smallest t, noise at the largest. Coefficients are computed in
float64 from times of any type; callers cast them once, where they meet the state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

Time = Tensor | float | int


def as_time(t: Time) -> Tensor:
    """A time, or a tensor of times, as float64."""
    return torch.as_tensor(t, dtype=torch.float64)


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """Values () or (batch,) in the type and on the device of `like`, to be multiplied with it."""
    if values.ndim == 0 and values.device.type == "cpu":
        # A scalar on the host goes along with every kernel; moving it would wait for the device.
        return values.to(like.dtype)
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim)).to(like)


class Path(ABC):
    """Coefficients of a path, their derivatives in time, and the logarithm of alpha^2/sigma^2."""

    @abstractmethod
    def alpha(self, t: Time) -> Tensor:
        """Factor of the data."""

    @abstractmethod
    def sigma(self, t: Time) -> Tensor:
        """Factor of the noise."""

    @abstractmethod
    def d_alpha(self, t: Time) -> Tensor:
        """Time derivative of `alpha`."""

    @abstractmethod
    def d_sigma(self, t: Time) -> Tensor:
        """Time derivative of `sigma`."""

    def logsnr(self, t: Time) -> Tensor:
        """ln(alpha^2 / sigma^2); +inf where there is no noise, -inf where there is no data."""
        return 2.0 * (torch.log(self.alpha(t)) - torch.log(self.sigma(t)))

    @abstractmethod
    def t_of_logsnr(self, logsnr: Time) -> Tensor:
        """Inverse of `logsnr`."""

    def at(self, t: Time, like: Tensor) -> tuple[Tensor, Tensor]:
        """Both factors in the type and on the device of `like`, one an item if `t` has shape (batch,)."""
        return per_item(self.alpha(t), like), per_item(self.sigma(t), like)

    def derivative_at(self, t: Time, like: Tensor) -> tuple[Tensor, Tensor]:
        """Both derivatives, cast as by `at`."""
        return per_item(self.d_alpha(t), like), per_item(self.d_sigma(t), like)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """The state x_t = alpha x0 + sigma eps."""
        alpha, sigma = self.at(t, x0)
        return alpha * x0 + sigma * eps


class RectifiedFlow(Path):
    """The straight path alpha = 1 - t, sigma = t on [0, 1]."""

    @override
    def alpha(self, t: Time) -> Tensor:
        return 1.0 - as_time(t)

    @override
    def sigma(self, t: Time) -> Tensor:
        return as_time(t)

    @override
    def d_alpha(self, t: Time) -> Tensor:
        return -torch.ones_like(as_time(t))

    @override
    def d_sigma(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    @override
    def t_of_logsnr(self, logsnr: Time) -> Tensor:
        return torch.sigmoid(-0.5 * as_time(logsnr))


class Trigonometric(Path):
    """The circular path alpha = cos(pi t/2), sigma = sin(pi t/2) on [0, 1]."""

    @override
    def alpha(self, t: Time) -> Tensor:
        return torch.cos(0.5 * math.pi * as_time(t))

    @override
    def sigma(self, t: Time) -> Tensor:
        return torch.sin(0.5 * math.pi * as_time(t))

    @override
    def d_alpha(self, t: Time) -> Tensor:
        return -0.5 * math.pi * self.sigma(t)

    @override
    def d_sigma(self, t: Time) -> Tensor:
        return 0.5 * math.pi * self.alpha(t)

    @override
    def t_of_logsnr(self, logsnr: Time) -> Tensor:
        return 2.0 / math.pi * torch.atan(torch.exp(-0.5 * as_time(logsnr)))


class LinearVP(Path):
    """The VP-SDE with beta(t) = beta_0 + (beta_1 - beta_0) t on [0, 1] (Song et al. 2021).

    alpha = exp(-integral of beta / 2), sigma^2 = 1 - alpha^2.
    """

    def __init__(self, beta_start: float = 0.1, beta_end: float = 20.0) -> None:
        self.beta_start = beta_start
        self.slope = beta_end - beta_start

    def _log_alpha(self, t: Time) -> Tensor:
        t = as_time(t)
        return -0.25 * t**2 * self.slope - 0.5 * t * self.beta_start

    def _d_log_alpha(self, t: Time) -> Tensor:
        return -0.5 * (as_time(t) * self.slope + self.beta_start)

    @override
    def alpha(self, t: Time) -> Tensor:
        return torch.exp(self._log_alpha(t))

    @override
    def sigma(self, t: Time) -> Tensor:
        return torch.sqrt(-torch.expm1(2.0 * self._log_alpha(t)))

    @override
    def d_alpha(self, t: Time) -> Tensor:
        return self.alpha(t) * self._d_log_alpha(t)

    @override
    def d_sigma(self, t: Time) -> Tensor:
        return -(self.alpha(t) ** 2) * self._d_log_alpha(t) / self.sigma(t)

    @override
    def t_of_logsnr(self, logsnr: Time) -> Tensor:
        area = torch.nn.functional.softplus(-as_time(logsnr))
        root = torch.sqrt(self.beta_start**2 + 2.0 * self.slope * area)
        return 2.0 * area / (self.beta_start + root)


class CosineVP(Path):
    """The cosine path; an offset keeps its first steps from being too small (Nichol, Dhariwal 2021).

    alpha = cos(a + r t)/cos(a) with a the angle of the offset, written as cos(r t) - tan(a) sin(r t) so that
    sigma is exact at the clean end too; alpha^2 + sigma^2 = 1.
    """

    def __init__(self, offset: float = 0.008) -> None:
        self.offset = offset
        self._rate = 0.5 * math.pi / (1.0 + offset)
        self._tan = math.tan(offset * self._rate)

    def _missing(self, t: Time) -> Tensor:
        """1 - alpha."""
        turned = self._rate * as_time(t)
        return (2.0 * torch.sin(0.5 * turned) ** 2 + self._tan * torch.sin(turned)).clamp(max=1.0)

    @override
    def alpha(self, t: Time) -> Tensor:
        return 1.0 - self._missing(t)

    @override
    def sigma(self, t: Time) -> Tensor:
        missing = self._missing(t)
        return torch.sqrt(missing * (2.0 - missing))

    @override
    def d_alpha(self, t: Time) -> Tensor:
        turned = self._rate * as_time(t)
        return -self._rate * (torch.sin(turned) + self._tan * torch.cos(turned))

    @override
    def d_sigma(self, t: Time) -> Tensor:
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)

    @override
    def t_of_logsnr(self, logsnr: Time) -> Tensor:
        alpha = torch.exp(0.5 * torch.nn.functional.logsigmoid(as_time(logsnr)))
        first = self.offset * self._rate
        return (torch.acos((alpha * math.cos(first)).clamp(max=1.0)) - first) / self._rate


class VE(Path):
    """Exploding noise on clean data: alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t on [0, 1]."""

    def __init__(self, sigma_min: float = 0.02, sigma_max: float = 100.0) -> None:
        self.sigma_min = sigma_min
        self._log_ratio = math.log(sigma_max / sigma_min)

    @override
    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    @override
    def sigma(self, t: Time) -> Tensor:
        return self.sigma_min * torch.exp(self._log_ratio * as_time(t))

    @override
    def d_alpha(self, t: Time) -> Tensor:
        return torch.zeros_like(as_time(t))

    @override
    def d_sigma(self, t: Time) -> Tensor:
        return self._log_ratio * self.sigma(t)

    @override
    def t_of_logsnr(self, logsnr: Time) -> Tensor:
        return (-0.5 * as_time(logsnr) - math.log(self.sigma_min)) / self._log_ratio


class EDM(Path):
    """Noise level as time: alpha = 1, sigma = t (Karras et al. 2022)."""

    @override
    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    @override
    def sigma(self, t: Time) -> Tensor:
        return as_time(t)

    @override
    def d_alpha(self, t: Time) -> Tensor:
        return torch.zeros_like(as_time(t))

    @override
    def d_sigma(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    @override
    def t_of_logsnr(self, logsnr: Time) -> Tensor:
        return torch.exp(-0.5 * as_time(logsnr))


class DiscreteVP(Path):
    """The path of a table of variances; time is the index of a step, and index -1 is the clean end.

    Between two indices alpha is interpolated linearly, so every real t in [-1, T-1] has a value, tables that
    end without any data (zero terminal SNR) included. At an index the derivative is that of the step which
    enters it.

    Args:
        betas: variances of shape (T,), as from `betas`.
    """

    def __init__(self, betas: Tensor) -> None:
        kept = torch.cumprod(1.0 - betas.detach().to("cpu", torch.float64), 0)
        self.alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), kept])
        self._tables = {torch.device("cpu"): torch.stack([self.alpha_bar.sqrt(), 1.0 - self.alpha_bar])}

    def __len__(self) -> int:
        return len(self.alpha_bar) - 1

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        return self._tables[device]

    def _segment(self, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        """Place within the step that holds t, and (alpha, sigma^2) at both its ends."""
        t = as_time(t)
        table = self._table(t.device)
        entered = t.ceil().long().clamp(0, len(self) - 1)
        return t - (entered - 1), table[:, entered], table[:, entered + 1]

    @override
    def alpha(self, t: Time) -> Tensor:
        part, before, after = self._segment(t)
        return torch.lerp(before[0], after[0], part)

    @override
    def sigma(self, t: Time) -> Tensor:
        part, before, after = self._segment(t)
        bend = part * (1.0 - part) * (after[0] - before[0]) ** 2
        return torch.sqrt(torch.lerp(before[1], after[1], part) + bend)

    @override
    def d_alpha(self, t: Time) -> Tensor:
        _, before, after = self._segment(t)
        return after[0] - before[0]

    @override
    def d_sigma(self, t: Time) -> Tensor:
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)

    @override
    def t_of_logsnr(self, logsnr: Time) -> Tensor:
        alpha = torch.sqrt(torch.sigmoid(as_time(logsnr)))
        table = self._table(alpha.device)[0]
        entered = torch.searchsorted(-table, -alpha).clamp(1, len(self))
        before, after = table[entered - 1], table[entered]
        return (entered - 2) + (before - alpha) / (before - after)
