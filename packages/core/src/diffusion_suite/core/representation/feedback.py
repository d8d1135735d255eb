"""Feedback of a frozen denoiser to an encoder (DIVA; Wang et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from diffusion_suite.core.schedulers import Denoiser, Noise, Time, Weight, denoising_loss


def feedback_loss(
    denoiser: Denoiser,
    encoder: Callable[[Tensor], Tensor],
    projector: Callable[[Tensor], Tensor],
    x: Tensor,
    t: Time,
    *,
    noise: Noise,
    weight: Weight | None = None,
    latents: Tensor | None = None,
    name: str = "encoder_hidden_states",
    **cond: Any,
) -> Tensor:
    """The denoising loss as a function of the encoder: how much its features tell the denoiser of the data.

    The gradient reaches encoder and projector. Freeze the denoiser (`requires_grad_(False)`), and pass only
    the weights of the other two to the optimiser.

    Args:
        denoiser: frozen, conditional.
        encoder: x -> features, e.g. tokens (batch, tokens, width).
        projector: features -> the condition, of the width of the denoiser's texts.
        x: data (batch, ...) as the encoder takes them.
        t: times (batch,), or one for all.
        noise: generator(s), or values of the shape of the denoised data.
        weight: see `denoising_loss`.
        latents: what is denoised where that is not `x` itself.
        name: of the denoiser's argument for the condition.
        cond: other conditions for the denoiser.

    Returns:
        A scalar.
    """
    condition = {name: projector(encoder(x))}
    return denoising_loss(denoiser, x if latents is None else latents, t, noise, weight, **condition, **cond)
