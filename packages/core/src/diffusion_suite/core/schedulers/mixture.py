"""Gaussian mixtures, whose denoiser is known exactly: what samplers and solvers are tested on.

A standard normal distribution, for one, is denoised by x0 = alpha x_t / (alpha^2 + sigma^2):

    mixture = Mixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    mixture.denoiser(RectifiedFlow()).x0(torch.ones(1, 2), 0.5)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from diffusion_suite.core.schedulers.denoiser import Denoiser, PredictionType, target
from diffusion_suite.core.schedulers.paths import Path, Time

Level = Tensor | float


@dataclass(frozen=True)
class Mixture:
    """A mixture of K Gaussians in d dimensions; a single Gaussian is the case K = 1.

    Attributes:
        weights: (K,), summing to 1.
        means: (K, d).
        covariances: (K, d, d).
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @classmethod
    def recorded(cls, tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype | None = None) -> Self:
        """The mixture that a golden case holds as `name.weights`, `name.means`, `name.covs`."""
        return cls(*(tensors[f"{name}.{part}"].to(dtype) for part in ("weights", "means", "covs")))

    def restricted(self, components: Sequence[int]) -> Mixture:
        """The mixture of some components, as a model that is told the class sees it."""
        chosen = torch.as_tensor(components)
        weights = self.weights[chosen]
        return Mixture(weights / weights.sum(), self.means[chosen], self.covariances[chosen])

    def log_density(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        """Logarithm of the density of alpha x0 + sigma eps at points (batch, d); levels () or (batch,)."""
        return torch.logsumexp(self._joint(x, *self._noisy(x, alpha, sigma)), 1)

    def responsibilities(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        """Posterior of the components at noisy points (batch, d): (batch, K)."""
        return torch.softmax(self._joint(x, *self._noisy(x, alpha, sigma)), 1)

    def x0(self, x: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """Posterior mean of the data at noisy points (batch, d)."""
        away, covariances = self._noisy(x, alpha, sigma)
        solved = torch.linalg.solve(covariances, away.unsqueeze(-1)).squeeze(-1)
        gain = torch.einsum("kij,bkj->bki", self.covariances, solved)
        means = self.means + _column(alpha, x)[..., None] * gain
        responsibilities = torch.softmax(self._joint(x, away, covariances), 1)
        mean: Tensor = (responsibilities[..., None] * means).sum(1)
        return mean

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws, (count, d)."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], 1, generator=generator, dtype=self.means.dtype)
        away: Tensor = (torch.linalg.cholesky(self.covariances)[chosen] @ noise)[..., 0]
        return self.means[chosen] + away

    def denoiser(self, path: Path, kind: PredictionType = "x0") -> Denoiser:
        """The exact denoiser on a path, as a model of any prediction type.

        Data have any shape (batch, ...) with d values an item; times are one for the batch or one an item.
        """

        def model(x: Tensor, t: Time, **_: object) -> Tensor:
            flat, t = x.flatten(1), torch.as_tensor(t)
            alpha, sigma = path.at(t, flat)
            x0 = self.x0(flat, alpha, sigma)
            output = x0 if kind == "x0" else target(x0, (flat - alpha * x0) / sigma, t, path, kind)
            return output.view_as(x)

        return Denoiser(model, path, kind)

    def _noisy(self, x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor]:
        """Differences from the noisy means (batch, K, d), and the noisy covariances (batch or 1, K, d, d)."""
        alpha, sigma = (_column(level, x)[..., None] for level in (alpha, sigma))
        identity = torch.eye(x.shape[1]).to(x)
        away = x[:, None] - alpha * self.means
        return away, alpha[..., None] ** 2 * self.covariances + sigma[..., None] ** 2 * identity

    def _joint(self, x: Tensor, away: Tensor, covariances: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(covariances)
        factor = factor.expand(len(x), *factor.shape[1:])
        white = torch.linalg.solve_triangular(factor, away.unsqueeze(-1), upper=False).squeeze(-1)
        logdet = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * x.shape[1] * math.log(2 * math.pi)
        joint: Tensor = self.weights.log() - logdet - constant - 0.5 * white.square().sum(-1)
        return joint


def _column(level: Level, x: Tensor) -> Tensor:
    """A level as (batch or 1, 1), in the type and on the device of x."""
    return torch.as_tensor(level, dtype=x.dtype, device=x.device).reshape(-1, 1)
