"""Pictures and depth maps as latents: pixels rearranged (no weights), or Stable Diffusion's autoencoder."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


class Codec(Protocol):
    """Pictures (batch, 3, height, width) in [-1, 1] to latents (batch, channels, height / f, width / f).

    Attributes:
        channels: of the latents.
        factor: f.
    """

    channels: int
    factor: int

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents; the mode where the encoder gives a distribution."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents, not clipped."""
        ...


class PixelCodec(nn.Module):
    """Each square of `factor` x `factor` pixels as the channels of one latent; exact both ways."""

    def __init__(self, factor: int = 4) -> None:
        super().__init__()
        self.factor, self.channels = factor, 3 * factor**2

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents."""
        return pixel_unshuffle(pictures, self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures."""
        return pixel_shuffle(latents, self.factor)


class AutoencoderCodec(nn.Module):
    """A diffusers autoencoder (`AutoencoderKL` or `AutoencoderTiny`) with its scale; never trained.

    Args:
        autoencoder: the module.
        scale: factor on the encoder's latents, 0.18215 for Stable Diffusion 1 and 2.
    """

    def __init__(self, autoencoder: Any, scale: float = 0.18215) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder.requires_grad_(False).eval()
        self.scale = scale
        config = dict(autoencoder.config)
        levels = config.get("block_out_channels") or config["encoder_block_out_channels"]
        self.channels, self.factor = int(config["latent_channels"]), 2 ** (len(levels) - 1)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents: scale times the mode."""
        found = self.autoencoder.encode(pictures)
        latents: Tensor = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
        return self.scale * latents

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures."""
        pictures: Tensor = self.autoencoder.decode(latents / self.scale).sample
        return pictures
