"""The flow between two Gaussians, whose velocity and densities are known: what flow code is tested on.

With x_a ~ N(m_a, C_a), x_b ~ N(m_b, C_b), C_ba = Cov(x_b, x_a) and the straight interpolant,

    m_s = (1-s) m_a + s m_b,    S_s = (1-s)^2 C_a + s^2 C_b + s (1-s) (C_ba + C_ba^T),
    X_s = (1-s) C_ba + s C_b - (1-s) C_a - s C_ba^T,    v(x, s) = m_b - m_a + X_s S_s^-1 (x - m_s).

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.eye(1)
    >>> flow = GaussianFlow.optimal(zero, one, zero + 3.0, 4.0 * one)
    >>> flow.velocity(torch.ones(1, 1), 0.0)  # the map is 3 + 2x
    tensor([[4.]])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from diffusion_suite.core.schedulers import Time


@dataclass(frozen=True)
class GaussianFlow:
    """A pair of coupled Gaussians in d dimensions and the flow between them.

    Attributes:
        source_mean: m_a, (d,).
        source_cov: C_a, (d, d).
        target_mean: m_b, (d,).
        target_cov: C_b, (d, d).
        cross: C_ba = Cov(x_b, x_a), (d, d).
    """

    source_mean: Tensor
    source_cov: Tensor
    target_mean: Tensor
    target_cov: Tensor
    cross: Tensor

    @classmethod
    def independent(
        cls, source_mean: Tensor, source_cov: Tensor, target_mean: Tensor, target_cov: Tensor
    ) -> Self:
        """Source and target drawn apart."""
        return cls(source_mean, source_cov, target_mean, target_cov, torch.zeros_like(source_cov))

    @classmethod
    def optimal(
        cls, source_mean: Tensor, source_cov: Tensor, target_mean: Tensor, target_cov: Tensor
    ) -> Self:
        """Coupled by the optimal map; its paths are straight, so that one Euler step is exact."""
        cross = transport_map(source_cov, target_cov) @ source_cov
        return cls(source_mean, source_cov, target_mean, target_cov, cross)

    @classmethod
    def data_dependent(cls, target_mean: Tensor, target_cov: Tensor, matrix: Tensor, sigma: float) -> Self:
        """The source is made of the target: x_a = matrix x_b + sigma e."""
        identity = torch.eye(len(matrix)).to(matrix)
        cov = matrix @ target_cov @ matrix.T + sigma**2 * identity
        return cls(matrix @ target_mean, cov, target_mean, target_cov, target_cov @ matrix.T)

    def velocity(self, x: Tensor, s: Time) -> Tensor:
        """Exact velocity at points (batch, d) and times in [0, 1], one or (batch,)."""
        s = self._time(s, x)
        mean, cov = self._moments(s)
        rate = (1 - s) * (self.cross - self.source_cov) + s * (self.target_cov - self.cross.T)
        away = torch.linalg.solve(cov, (x - mean).unsqueeze(-1))
        velocity: Tensor = self.target_mean - self.source_mean + (rate @ away).squeeze(-1)
        return velocity

    def log_density(self, x: Tensor, s: Time) -> Tensor:
        """Log-density of x_s at points (batch, d): (batch,)."""
        mean, cov = self._moments(self._time(s, x))
        factor = torch.linalg.cholesky(cov)
        white = torch.linalg.solve_triangular(factor, (x - mean).unsqueeze(-1), upper=False).squeeze(-1)
        logdet = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        density: Tensor = -0.5 * (white.square().sum(-1) + x.shape[1] * math.log(2 * math.pi)) - logdet
        return density

    def sample_source(self, normal: Tensor) -> Tensor:
        """Draws of the source made of standard normal values (batch, d)."""
        draws: Tensor = self.source_mean + normal @ torch.linalg.cholesky(self.source_cov).T
        return draws

    def _moments(self, s: Tensor) -> tuple[Tensor, Tensor]:
        mean = ((1 - s) * self.source_mean + s * self.target_mean).squeeze(-2)
        both = self.cross + self.cross.T
        return mean, (1 - s) ** 2 * self.source_cov + s**2 * self.target_cov + s * (1 - s) * both

    @staticmethod
    def _time(s: Time, x: Tensor) -> Tensor:
        """Times as (batch or 1, 1, 1), in the type and on the device of x."""
        return torch.as_tensor(s, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)


def transport_map(source_cov: Tensor, target_cov: Tensor) -> Tensor:
    """The symmetric matrix T of the optimal map between centred Gaussians, T C_a T = C_b.

    T = C_a^-1/2 (C_a^1/2 C_b C_a^1/2)^1/2 C_a^-1/2 (Peyre, Cuturi 2019, remark 2.31).

    Args:
        source_cov: C_a, (d, d), positive definite.
        target_cov: C_b, (d, d), positive semi-definite.
    """
    root = _root(source_cov)
    inverse = torch.linalg.inv(root)
    matrix: Tensor = inverse @ _root(root @ target_cov @ root) @ inverse
    return matrix


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.T))
    root: Tensor = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
    return root
