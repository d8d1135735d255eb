"""Adaptive projected guidance: large scales without oversaturation."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.guidance.pairs import PairGuidance, dot
from diffusion_suite.core.schedulers import Denoiser


class AdaptiveProjected(PairGuidance):
    """Adaptive projected guidance (Sadat et al. 2024).

    d = p_c - p_u + m d_before, clipped to a norm, is split into parts parallel and orthogonal to p_c, and
    p = p_u + w (d_orthogonal + eta d_parallel). Norms are of each item. The authors project the data, which
    `Viewed(denoiser, "x0")` does for any network.

    The momentum lasts from step to step of one sampler run, starts at its first step, and moves once a step
    however often the step evaluates; one object serves one run at a time. Outside a sampler there is none.

    Args:
        denoiser: the network, or a guidance.
        scale: w.
        null: see `PairGuidance`.
        eta: share of the parallel part that is kept; 1 with no `norm` and no momentum is classifier-free.
        norm: largest norm of d; None does not clip.
        momentum: m, as a rule negative (-0.5 to -0.75).
        batched: see `PairGuidance`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float,
        null: Mapping[str, Any],
        *,
        eta: float = 0.0,
        norm: float | None = None,
        momentum: float = 0.0,
        batched: bool = True,
    ) -> None:
        super().__init__(denoiser, null, batched=batched)
        self.scale = scale
        self.eta = eta
        self.norm = norm
        self.momentum = momentum
        self._run = _Run()
        self._before: Tensor | None = None
        self._index: int | None = None

    @override
    def at_step(self, t: float, index: int, count: int) -> Denoiser:
        if index == 0:
            self._run.index = self._run.latest = None
        stepped = copy.copy(self._around(self.denoiser.at_step(t, index, count)))
        stepped._index, stepped._before = index, self._run.latest
        return stepped

    @override
    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        difference = self._remembered(conditional - unconditional)
        if self.norm is not None:
            length = dot(difference, difference).sqrt()
            difference = difference * (self.norm / length.clamp(min=1e-12)).clamp(max=1.0)
        square = dot(conditional, conditional).clamp(min=1e-24)
        parallel = dot(difference, conditional) / square * conditional
        return unconditional + self.scale * (difference - (1.0 - self.eta) * parallel)

    def _remembered(self, difference: Tensor) -> Tensor:
        """The difference with the momentum of earlier steps; the first one of a step is kept for the next."""
        if not self.momentum or self._index is None:
            return difference
        if self._before is not None:
            if self._before.shape != difference.shape:
                raise ValueError(
                    f"momentum of a batch {tuple(self._before.shape)} meets one of {tuple(difference.shape)}:"
                    " one guidance with momentum serves one batch at a time"
                )
            difference = difference + self.momentum * self._before
        if self._run.index != self._index:
            self._run.index, self._run.latest = self._index, difference.detach()
        return difference


class _Run:
    """What the steps of one sampler run share."""

    def __init__(self) -> None:
        self.index: int | None = None
        self.latest: Tensor | None = None
