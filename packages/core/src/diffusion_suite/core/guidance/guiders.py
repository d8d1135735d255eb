"""The guiders of `diffusers` on plain denoisers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.guidance.pairs import PairGuidance
from diffusion_suite.core.schedulers import Denoiser, Time

if TYPE_CHECKING:
    from diffusers.guiders.guider_utils import BaseGuidance


def diffusers_guider(
    guider: BaseGuidance, denoiser: Denoiser, null: Mapping[str, Any], *, batched: bool = True
) -> Denoiser:
    """A guider of diffusers as a guidance: it combines the outputs of `denoiser` with and without conditions.

    Its `start` and `stop` are shares of the sampler's steps, not noise levels (`Interval` limits by those),
    so only samplers can use it. A step in which the guider is off costs one evaluation.

    Args:
        guider: one that combines a conditional and an unconditional prediction, such as
            `TangentialClassifierFreeGuidance()`; it is not altered, save for its momentum.
        denoiser: the network, or a guidance.
        null: see `PairGuidance`.
        batched: see `PairGuidance`.

    Raises:
        ConfigError: the guider changes the layers of a diffusers network, which needs a diffusers pipeline;
            or, when it is used, it is a magnitude-aware guider given more than three dimensions.
    """
    inputs = set(inspect.signature(guider.forward).parameters)
    name = type(guider).__name__
    if inputs != {"pred_cond", "pred_uncond"} or hasattr(guider, "auto_guidance_config"):
        raise ConfigError(
            f"{name} changes layers inside a diffusers network, which a denoiser does not show",
            "use it in a diffusers pipeline, or guide by a second network with AutoGuidance",
        )
    return _Guider(guider, denoiser, null, batched)


class _Guider(PairGuidance):
    def __init__(
        self, guider: BaseGuidance, denoiser: Denoiser, null: Mapping[str, Any], batched: bool
    ) -> None:
        super().__init__(denoiser, null, batched=batched)
        self.guider = guider
        self.stepped = False

    @override
    def at_step(self, t: float, index: int, count: int) -> Denoiser:
        self.guider.set_state(step=index, num_inference_steps=count, timestep=torch.as_tensor(t))
        # Guiders with momentum make it anew here, at step 0 only: `set_state` and `forward` never do.
        self.guider.prepare_inputs({})
        stepped = copy.copy(self._around(self.denoiser.at_step(t, index, count)))
        stepped.guider, stepped.stepped = copy.copy(self.guider), True
        return stepped

    @override
    def predict(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        if not self.stepped:
            raise ValueError("a guider of diffusers acts by step, so a sampler must name it by `at_step`")
        if self.guider.num_conditions > 1:
            return super().predict(x_t, t, **cond)
        plain: Tensor = self.guider.forward(self.denoiser.predict(x_t, t, **cond)).pred
        return plain

    @override
    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        if conditional.ndim > 3 and type(self.guider).__name__ == "MagnitudeAwareGuidance":
            raise ConfigError(
                f"MagnitudeAwareGuidance takes no data of {conditional.ndim} dimensions (its norm is one of"
                " matrices)",
                "use AdaptiveProjected with a norm, which limits the guidance of images and video",
            )
        guided: Tensor = self.guider.forward(conditional, unconditional).pred
        return guided
