"""Priors learned from measurements only (Tewari et al. 2023: diffusion with forward models)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from diffusion_suite.core.inverse.operators import LinearOperator
from diffusion_suite.core.schedulers import Denoiser, Path, Time, times


class ForwardDenoiser(Denoiser):
    """A denoiser of observations whose clean observation is a forward model of the network's signal.

    x0 = forward(network(o_t, t, **cond)) for a noisy observation o_t. Trained by |x0 - o_0|^2 (see
    `schedulers.denoising_loss`), it learns signals although none was ever seen; samplers denoise
    observations, and `signal` reads the signal off.

    Args:
        network: callable (o_t, t, **cond) -> signal.
        forward: an operator, or any differentiable function, from signals to observations.
        path: of the observations.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        forward: LinearOperator | Callable[[Tensor], Tensor],
        path: Path,
    ) -> None:
        self.network = network
        self.forward = forward.A if isinstance(forward, LinearOperator) else forward
        super().__init__(self._observation, path, "x0")

    def signal(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        """The signal that the network sees behind noisy observations."""
        return self.network(x_t, times(t, x_t), **cond)

    def _observation(self, x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.forward(self.network(x_t, t, **cond))
