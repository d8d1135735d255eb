"""An embedding whose parts belong to noise levels (DiTi; Yue et al. 2024).

Fine attributes are lost at small times, coarse ones at large times. An embedding is cut into segments, and
at time t only those up to t are shown: the segment of t learns what the frozen denoiser has lost just there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.schedulers import Denoiser, Noise, standard_normal


def segment_mask(t: Tensor, width: int, segments: int, longest: float = 1.0) -> Tensor:
    """1 for the values of an embedding that are shown at times t, else 0: (batch, width).

    Args:
        t: (batch,), from 0 to `longest`.
        width: of the embedding, a multiple of `segments`.
        segments: how many equal parts the times and the embedding are cut into.
        longest: the largest time.

    Raises:
        ConfigError: the width is no multiple of the segments.
    """
    if segments < 1 or width % segments:
        raise ConfigError(f"a width of {width} has no {segments} equal segments", "give a divisor")
    last = (t / longest * segments).long().clamp(0, segments - 1)
    segment = torch.arange(width, device=t.device) // (width // segments)
    return (segment <= last[:, None]).to(torch.get_default_dtype())


def compensation_loss(
    denoiser: Denoiser,
    encoder: Callable[[Tensor], Tensor],
    decoder: Callable[[Tensor, Tensor, Tensor], Tensor],
    x0: Tensor,
    t: Tensor,
    *,
    noise: Noise,
    segments: int,
    longest: float = 1.0,
    **cond: Any,
) -> Tensor:
    """Mean squared error of x0 from the frozen prediction and what the shown part of the embedding adds.

    Args:
        denoiser: frozen, of the data.
        encoder: x0 -> embedding (batch, width).
        decoder: (x_t, t, shown embedding) -> the compensation of the predicted x0, of its shape.
        x0: data (batch, ...).
        t: times (batch,).
        noise: generator(s), or values of x0's shape.
        segments: as for `segment_mask`.
        longest: as for `segment_mask`.
        cond: conditions for the denoiser.
    """
    x_t = denoiser.path.add_noise(x0, standard_normal(noise, x0), t)
    with torch.no_grad():
        predicted = denoiser.x0(x_t, t, **cond)
    embedding = encoder(x0)
    shown = embedding * segment_mask(t, embedding.shape[1], segments, longest).to(embedding)
    return (predicted + decoder(x_t, t, shown) - x0).square().mean()
