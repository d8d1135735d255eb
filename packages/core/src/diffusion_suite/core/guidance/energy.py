"""Guidance by an energy of the clean data: any differentiable wish, without training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.guidance.score import ScoreGuided, gradient
from diffusion_suite.core.schedulers import Denoiser, Path, Time

Energy = Callable[[Tensor], Tensor]


class EnergyGuided(ScoreGuided):
    """Energy (universal) guidance eps <- eps + w sigma grad_{x_t} E(x0(x_t)) (Bansal et al. 2023).

    Backward guidance moves the predicted data too: d descends E(x0 + d) for some steps from 0, and
    eps <- eps - (alpha/sigma) d, which is x0 <- x0 + d.

    Args:
        denoiser: the network, or a guidance.
        energy: x0 (batch, ...) -> (batch,); each item's energy depends on that item alone.
        scale: w, or one for each step of a sampler.
        jacobian: differentiate through the denoiser. False takes the gradient at x0, divided by alpha: no
            graph of the network is kept.
        backward_steps: number of descents on d; 0 is forward guidance only.
        backward_rate: step length of the descent.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        energy: Energy,
        scale: float | Sequence[float] = 1.0,
        *,
        jacobian: bool = True,
        backward_steps: int = 0,
        backward_rate: float = 0.1,
    ) -> None:
        score = functools.partial(_force, energy, denoiser.path)
        super().__init__(denoiser, score, scale=scale, jacobian=jacobian)
        self.energy = energy
        self.backward_steps = backward_steps
        self.backward_rate = backward_rate

    @override
    def guide(self, x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        forward = super().guide(x_t, x0, t)
        if not self.backward_steps:
            return forward
        start, moved = x0.detach(), x0.detach()
        for _ in range(self.backward_steps):
            moved = moved - self.backward_rate * energy_gradient(self.energy, moved)
        alpha, sigma = self.path.at(t, start)
        return forward + alpha / sigma**2 * (moved - start)


def energy_gradient(energy: Energy, x: Tensor) -> Tensor:
    """Gradient of each item's energy at x, without a graph."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return gradient(energy(x), x)


def _force(energy: Energy, path: Path, x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
    """-grad E by x_t through the denoiser where there is a graph, else by x0 and divided by alpha."""
    if x0.requires_grad:
        return -gradient(energy(x0), x_t)
    return -energy_gradient(energy, x0) / path.at(t, x0)[0]
