"""The eigen-image prior: a small diffusion denoiser for stacks of principal component images.

`EigenPrior(x, sigma, scale)` estimates the clean stack x0 from `x = x0 + sigma n` (variance exploding path,
time = noise level); sigma may differ from pixel to pixel, and is huge where nothing was measured. With
`factor` it estimates x0 from the adjoint of a noisy bicubic downsampling instead. All channels of a stack go
through the network together, so the edges that the strong components show guide the weak ones that drown in
noise. Inputs and outputs are preconditioned per channel as in Karras et al. 2022 (Elucidating the Design
Space, table 1), with sigma_data = the channel's own standard deviation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_suite.core.checkpoints import Pretrained

WEAKEST = 0.03
"""Smallest ratio of signal to noise deviation that the network was trained to tell apart from none."""


class EigenPrior(nn.Module, Pretrained):
    """U-Net denoiser of `channels` eigen-images at once; any height and width.

    Args:
        channels: eigen-images in a stack; fewer are padded with empty ones by `denoise`.
        widths: feature channels of each scale (each half the size of the one before).
        blocks: residual blocks of each scale, in the encoder and again in the decoder.
    """

    starter: ClassVar[str] = "diffusion_suite.geo:starter/eigen_prior"

    def __init__(
        self, channels: int = 8, widths: Sequence[int] = (32, 64, 128), blocks: Sequence[int] = (1, 2, 3)
    ) -> None:
        super().__init__()
        self.config = {"channels": channels, "widths": list(widths), "blocks": list(blocks)}
        self.channels = channels
        self.enter = nn.Conv2d(2 * channels + 1, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(_residual_blocks(w, b) for w, b in zip(widths, blocks, strict=True))
        self.decoder = nn.ModuleList(
            _residual_blocks(w, b) for w, b in zip(widths[:-1], blocks[:-1], strict=True)
        )
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.leave = nn.Conv2d(widths[0], channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, sigma: Tensor | float, scale: Tensor, factor: int = 1) -> Tensor:
        """Estimate the clean stack.

        Args:
            x: noisy stack (batch, channels, height, width); any value where sigma is huge, best 0. For
                factor > 1 the measurement y = A x0 + sigma n taken back to the full size, factor^2 A^T y.
            sigma: noise standard deviation: a number, (batch, channels), or broadcastable to x.
            scale: standard deviation of the clean channels, broadcastable to (batch, channels).
            factor: of the bicubic downsampling that made the measurement; 1 = none.
        """
        scale = scale.to(x).expand(x.shape[:2])[:, :, None, None]
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        sigma = sigma[:, :, None, None] if sigma.ndim == 2 else sigma
        sigma = torch.minimum(sigma, scale / WEAKEST).clamp_min(1e-6)
        total = sigma**2 + scale**2
        level = (torch.log(scale / sigma) / 3).expand_as(x)
        resolution = x.new_full((len(x), 1, *x.shape[2:]), math.log2(factor) / 3)
        residual = self._features(torch.cat([x * total.rsqrt(), level, resolution], dim=1)).to(x.dtype)
        return scale**2 / total * x + sigma * scale * total.rsqrt() * residual

    def _features(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        multiple = 2 ** len(self.down)
        x = _pad_to_multiple(x, multiple)
        x, skips = self.enter(x), []
        for index, block in enumerate(self.encoder):
            x = block(x)
            if index < len(self.down):
                skips.append(x)
                x = self.down[index](x)
        for up, block in zip(reversed(self.up), reversed(self.decoder), strict=True):
            x = block(up(x) + skips.pop())
        residual: Tensor = self.leave(x)
        return residual[..., :height, :width]


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.second(F.relu(self.first(x)))
        return x + residual


def _residual_blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*[_Residual(width) for _ in range(count)])


def _pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    down, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    if not (down or right):
        return x
    mode = "reflect" if down < x.shape[-2] and right < x.shape[-1] else "replicate"
    return F.pad(x, (0, right, 0, down), mode=mode)
