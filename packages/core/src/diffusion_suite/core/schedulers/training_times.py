"""Training times: where on the path a training step looks.

Every distribution is a map of even draws u in (0, 1), so that stratified draws work for all of them:

    LogitNormal().sample(64, generator)                      # 64 times, one in each 64th of the distribution
    Shifted(LogitNormal(), 3.0).sample(64, generator)        # the same for a larger image
    LogNormal(-0.4, 1.0).sample(64, generator)               # noise levels of EDM2

Times run from 0 (data) to 1 (noise), unless a path of its own time is named.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers.noise import Noise
from diffusion_suite.core.schedulers.paths import EDM, Path, Time, as_time

_EDGE = 1e-6  # draws stay this far from 0 and 1, where some maps and weights are infinite (in float32 too)


def stratified(first: Tensor, count: int) -> Tensor:
    """The draws (u_0 + i/count) mod 1: one in each stratum, from a single even draw u_0 of shape ()."""
    return (as_time(first) + torch.arange(count, dtype=torch.float64, device=first.device) / count) % 1.0


def uniforms(count: int, noise: Noise, *, spread: bool = True) -> Tensor:
    """Even draws in (0, 1), float64, (count,).

    Args:
        count: number of items.
        noise: the draws themselves, (count,); a generator; or one generator an item.
        spread: with one generator, draw stratified (lower variance at no cost). With one generator an item
            draws are independent, since an item may not depend on its batch.

    Raises:
        ValueError: the given values or the number of generators do not fit `count`.
    """
    if isinstance(noise, Tensor):
        if noise.shape != (count,):
            raise ValueError(f"draws of shape {tuple(noise.shape)} given where ({count},) is needed")
        return noise.to(torch.float64)
    if isinstance(noise, torch.Generator):
        draws = _even(noise, 1 if spread else count)
        return (stratified(draws[0], count) if spread else draws).clamp(_EDGE, 1.0 - _EDGE)
    if len(noise) != count:
        raise ValueError(f"{len(noise)} generators given for a batch of {count}")
    return torch.cat([_even(generator, 1) for generator in noise]).clamp(_EDGE, 1.0 - _EDGE)


class Times(ABC):
    """A distribution of training times."""

    @abstractmethod
    def of_uniform(self, u: Tensor) -> Tensor:
        """The times of even draws in (0, 1), monotone in them."""

    @abstractmethod
    def cdf(self, t: Time) -> Tensor:
        """Probability of a smaller time."""

    @abstractmethod
    def log_density(self, t: Time) -> Tensor:
        """Logarithm of the density at t."""

    def density(self, t: Time) -> Tensor:
        """The density at t: divide a weight by it to make the loss an unbiased integral over time."""
        return torch.exp(self.log_density(t))

    def sample(self, count: int, noise: Noise, *, spread: bool = True) -> Tensor:
        """Times (count,) in float32, on the device of `noise`.

        Args:
            count: number of items.
            noise: generator(s), or even draws in (0, 1), see `uniforms`.
            spread: stratified (default) or independent draws.
        """
        return self.of_uniform(uniforms(count, noise, spread=spread)).to(torch.float32)


@dataclass(frozen=True)
class Uniform(Times):
    """Every time between `low` and `high` alike."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ConfigError(f"no time lies between {self.low} and {self.high}", "give low < high")

    @override
    def of_uniform(self, u: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * u

    @override
    def cdf(self, t: Time) -> Tensor:
        return (as_time(t) - self.low) / (self.high - self.low)

    @override
    def log_density(self, t: Time) -> Tensor:
        return torch.full_like(as_time(t), -math.log(self.high - self.low))


@dataclass(frozen=True)
class LogitNormal(Times):
    """t = sigmoid(mean + std z) with z standard normal (Esser et al. 2024)."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _positive(self.std)

    def of_normal(self, z: Tensor) -> Tensor:
        """The times of standard normal draws."""
        return torch.sigmoid(self.mean + self.std * z)

    @override
    def of_uniform(self, u: Tensor) -> Tensor:
        return self.of_normal(torch.special.ndtri(u))

    def _standard(self, t: Time) -> Tensor:
        return (torch.logit(as_time(t)) - self.mean) / self.std

    @override
    def cdf(self, t: Time) -> Tensor:
        return _normal_cdf(self._standard(t))

    @override
    def log_density(self, t: Time) -> Tensor:
        t = as_time(t)
        return _log_normal(self._standard(t)) - math.log(self.std) - torch.log(t * (1.0 - t))


@dataclass(frozen=True)
class Mode(Times):
    """t = 1 - u - k (cos^2(pi u/2) - 1 + u), heavier in the middle the larger k (Esser et al. 2024).

    Raises:
        ConfigError: k outside [-1, 2/(pi - 2)], where the map is not monotone.
    """

    k: float = 1.29

    def __post_init__(self) -> None:
        if not -1.0 <= self.k <= 2.0 / (math.pi - 2.0):
            raise ConfigError(f"a scale of {self.k} folds the map of times", "give -1 <= k <= 1.75")

    @override
    def of_uniform(self, u: Tensor) -> Tensor:
        return 1.0 - u - self.k * (torch.cos(0.5 * math.pi * u) ** 2 - 1.0 + u)

    def _inverse(self, t: Time) -> Tensor:
        """The draw u of a time, by bisection to the last digit."""
        t = as_time(t)
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(53):
            middle = 0.5 * (low + high)
            below = self.of_uniform(middle) > t
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)

    @override
    def cdf(self, t: Time) -> Tensor:
        return 1.0 - self._inverse(t)

    @override
    def log_density(self, t: Time) -> Tensor:
        slope = 1.0 + self.k - 0.5 * self.k * math.pi * torch.sin(math.pi * self._inverse(t))
        return -torch.log(slope)


@dataclass(frozen=True)
class CosMap(Times):
    """t = 1 - 1/(tan(pi u/2) + 1), with density 2/(pi (1 - 2t + 2t^2)) (Esser et al. 2024)."""

    @override
    def of_uniform(self, u: Tensor) -> Tensor:
        return 1.0 - 1.0 / (torch.tan(0.5 * math.pi * u) + 1.0)

    @override
    def cdf(self, t: Time) -> Tensor:
        t = as_time(t)
        return 2.0 / math.pi * torch.atan2(t, 1.0 - t)

    @override
    def log_density(self, t: Time) -> Tensor:
        t = as_time(t)
        return math.log(2.0 / math.pi) - torch.log(1.0 - 2.0 * t + 2.0 * t**2)


@dataclass(frozen=True)
class LogNormal(Times):
    """Log-normal noise levels: ln(sigma/alpha) ~ N(mean, std^2), given as times of a path.

    Defaults are EDM's; EDM2 has (-0.4, 1.0). On the EDM path the time is the noise level itself; a level that
    a path does not reach gets a time outside its range.
    """

    mean: float = -1.2
    std: float = 1.2
    path: Path = field(default_factory=EDM)

    def __post_init__(self) -> None:
        _positive(self.std)

    def of_normal(self, z: Tensor) -> Tensor:
        """The times of standard normal draws."""
        return self.path.t_of_logsnr(-2.0 * (self.mean + self.std * z))

    @override
    def of_uniform(self, u: Tensor) -> Tensor:
        return self.of_normal(torch.special.ndtri(u))

    def _standard(self, t: Time) -> Tensor:
        return (-0.5 * self.path.logsnr(t) - self.mean) / self.std

    @override
    def cdf(self, t: Time) -> Tensor:
        return _normal_cdf(self._standard(t))

    @override
    def log_density(self, t: Time) -> Tensor:
        path = self.path
        slope = path.d_sigma(t) / path.sigma(t) - path.d_alpha(t) / path.alpha(t)
        return _log_normal(self._standard(t)) - math.log(self.std) + torch.log(slope)


def resolution_shift(t: Time, factor: float) -> Tensor:
    """The time k t/(1 + (k - 1) t) whose noise level on the straight path is k times that of t.

    An image of k^2 times the pixels needs it (Esser et al. 2024). An exponent mu is the factor e^mu:
    e^mu/(e^mu + 1/t - 1). Clean and noisy ends stay; 1/k undoes k.
    """
    t = as_time(t)
    return factor * t / (1.0 + (factor - 1.0) * t)


def exponential_shift(t: Time, mu: float) -> Tensor:
    """`resolution_shift` by the factor e^mu."""
    return resolution_shift(t, math.exp(mu))


@dataclass(frozen=True)
class Shifted(Times):
    """Times of another distribution after `resolution_shift` by a factor."""

    base: Times
    factor: float

    def __post_init__(self) -> None:
        _positive(self.factor)

    @override
    def of_uniform(self, u: Tensor) -> Tensor:
        return resolution_shift(self.base.of_uniform(u), self.factor)

    @override
    def cdf(self, t: Time) -> Tensor:
        return self.base.cdf(resolution_shift(t, 1.0 / self.factor))

    @override
    def log_density(self, t: Time) -> Tensor:
        slope = self.factor / (self.factor - (self.factor - 1.0) * as_time(t)) ** 2
        return self.base.log_density(resolution_shift(t, 1.0 / self.factor)) + torch.log(slope)


@dataclass(frozen=True)
class Indices:
    """Whole indices 0 ... steps - 1 of a discrete table, as a distribution on [0, 1] puts them.

    Attributes:
        steps: length of the table.
        base: the distribution of index/steps.
    """

    steps: int
    base: Times = field(default_factory=Uniform)

    def sample(self, count: int, noise: Noise, *, spread: bool = True) -> Tensor:
        """Indices (count,) in int64, on the device of `noise`, drawn as by `Times.sample`."""
        t = self.base.of_uniform(uniforms(count, noise, spread=spread))
        return (t * self.steps).long().clamp(0, self.steps - 1)

    def density(self, t: Tensor) -> Tensor:
        """Probability of each index."""
        t = as_time(t)
        return self.base.cdf((t + 1.0) / self.steps) - self.base.cdf(t / self.steps)


def _positive(value: float) -> None:
    if not value > 0.0:
        raise ConfigError(f"{value} is given where a positive number is needed", "give a positive number")


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-z / math.sqrt(2.0))


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)


def _even(generator: torch.Generator, count: int) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)
