"""Guidance by a second, weaker network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.guidance.base import Guidance, alike
from diffusion_suite.core.schedulers import Denoiser, Time


class AutoGuidance(Guidance):
    """Autoguidance D = D_weak + w (D_main - D_weak) (Karras et al. 2024).

    Both networks are given the same conditions. The weak one solves the same task, but is smaller, trained
    for less time, or averaged over a shorter horizon: an early checkpoint will do. A scale of 1 costs one
    evaluation.

    Args:
        main: the network that is guided.
        weak: on the same path as `main`, of any prediction type.
        scale: w; 2 to 2.5 was best on ImageNet-512.
    """

    def __init__(self, main: Denoiser, weak: Denoiser, scale: float) -> None:
        super().__init__(main)
        self.weak = alike(weak, main)
        self.scale = scale

    @override
    def at_step(self, t: float, index: int, count: int) -> Denoiser:
        main, weak = self.denoiser.at_step(t, index, count), self.weak.at_step(t, index, count)
        if main is self.denoiser and weak is self.weak:
            return self
        return AutoGuidance(main, weak, self.scale)

    @override
    def predict(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        main = self.denoiser.predict(x_t, t, **cond)
        if self.scale == 1.0:
            return main
        return torch.lerp(self.weak.predict(x_t, t, **cond), main, self.scale)
