"""DepthFM: depth from one picture by flow matching (Gui et al. 2024).

A velocity network carries the noised latent of the picture, at s = 0, to the latent of its depth, at s = 1,
in a few Euler steps. The clean latent of the picture is its condition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_suite.core.checkpoints import Pretrained
from diffusion_suite.core.flow_matching import cosine_signal, integrate
from diffusion_suite.core.schedulers import Noise, standard_normal
from diffusion_suite.depth.codecs import Codec, PixelCodec


class DepthFM(nn.Module, Pretrained):
    """The network with its codec and source.

    Args:
        unet: settings of diffusers' `UNet2DModel`, without the channels.
        factor: side of the squares of pixels that make a latent.
        noising_step: noise of the source, 0 (none) to 999 (nearly only noise).
    """

    starter = "diffusion_suite.depth:starter/depth_fm"

    def __init__(self, unet: Mapping[str, Any], factor: int = 4, noising_step: int = 400) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.config = {"unet": dict(unet), "factor": factor, "noising_step": noising_step}
        self.codec: Codec = PixelCodec(factor)
        channels = self.codec.channels
        self.unet = UNet2DModel(in_channels=2 * channels, out_channels=channels, **dict(unet))
        signal = float(cosine_signal(noising_step / 1000)) if noising_step else 1.0
        self.alpha, self.sigma = math.sqrt(signal), math.sqrt(1 - signal)

    def source(self, latent: Tensor, noise: Noise) -> Tensor:
        """The start of the flow, alpha z + sigma e."""
        return self.alpha * latent + self.sigma * standard_normal(noise, latent) if self.sigma else latent

    def velocity(self, x: Tensor, s: Tensor, latent: Tensor) -> Tensor:
        """dx/ds at states x and times s (batch,), given the picture's latent."""
        output: Tensor = self.unet(torch.cat([x, latent], 1), s).sample
        return output

    def forward(self, pictures: Tensor, noise: Noise, steps: int = 2) -> Tensor:
        """Normalised log-depth y of pictures.

        Args:
            pictures: (batch, 3, height, width) in [-1, 1], sides multiples of what the network divides by.
            noise: generator(s), or values of the latents' shape.
            steps: Euler steps.

        Returns:
            (batch, 1, height, width), about -1 (near) to 1 (far).
        """
        latent = self.codec.encode(pictures)
        start = self.source(latent, noise).float()

        def field(x: Tensor, s: Tensor) -> Tensor:
            return self.velocity(x.to(latent.dtype), s, latent).float()

        end = integrate(field, start, steps)
        return self.codec.decode(end.to(latent.dtype)).float().mean(1, keepdim=True)
