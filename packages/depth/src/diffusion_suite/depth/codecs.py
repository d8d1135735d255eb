"""Pictures and depth maps as latents: pixels rearranged (no weights), or Stable Diffusion's autoencoder."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from diffusion_suite.core.errors import CheckpointError
from diffusion_suite.depth.autoencoders import scale_of


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
        scale: factor on the encoder's latents, 0.18215 for Stable Diffusion 1 and 2. An `AutoencoderTiny` has
            its own (1: its latents are those of the other, scaled).
    """

    def __init__(self, autoencoder: Any, scale: float = 0.18215) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder.requires_grad_(False).eval()
        config = dict(autoencoder.config)
        tiny = "encoder_block_out_channels" in config
        levels = config["encoder_block_out_channels" if tiny else "block_out_channels"]
        self.scale = scale_of(autoencoder) if tiny else scale
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


class MissingCodec(nn.Module):
    """In the place of an autoencoder that did not come with the weights.

    Args:
        channels: of the latents.
        factor: side of the squares of pixels that make a latent.
    """

    def __init__(self, channels: int, factor: int = 8) -> None:
        super().__init__()
        self.channels, self.factor = channels, factor

    def encode(self, pictures: Tensor) -> NoReturn:
        """Refuse.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(
            "these weights came without their autoencoder",
            "give autoencoder=FOLDER: that of Stable Diffusion 1 or 2, in the layout of diffusers, or a hub "
            "name such as stable-diffusion-v1-5/stable-diffusion-v1-5",
        )

    decode = encode
