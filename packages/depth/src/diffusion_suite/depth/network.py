"""The network of DepthFM with its codec, the source of its flow, and the flow itself.

The flow runs from x_0 = alpha z + sigma e, the noised latent of a picture, at s = 0, to the latent of its
depth at s = 1, along dx/ds = v(x, s; z); z, and the features where there are any, are its condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.flow_matching import cosine_signal, integrate
from diffusion_suite.core.schedulers import FieldStep, Noise, standard_normal
from diffusion_suite.depth.attention import AttentionScale, set_attention_scale
from diffusion_suite.depth.autoencoders import make_autoencoder
from diffusion_suite.depth.codecs import AutoencoderCodec, Codec, MissingCodec, PixelCodec
from diffusion_suite.depth.features import PictureFeatures

OutputKind = Literal["velocity", "depth"]
SCALE = 0.18215
RESOLUTION = 768
"""Longest side in pixels; the data sets that the published network was measured on have 640 to 1216."""


class FlowNetwork(nn.Module):
    """The network with its codec and source: the small form on pixels, or the published one on latents.

    Args:
        unet: settings of diffusers' `UNet2DModel`, or of `UNet2DConditionModel` where they have a
            `cross_attention_dim`; the channels may be left out.
        factor: side of the squares of pixels that make a latent; 0 for latents of an autoencoder.
        noising_step: noise of the source, 0 (none) to 999 (nearly only noise).
        autoencoder: class and settings of a diffusers autoencoder (see `autoencoders.settings`); with factor
            0, None leaves it to `attach_autoencoder`.
        scale_factor: on the latents of an `AutoencoderKL`.
        text_tokens: number of tokens of the constant text embedding that the network attends to; 0 for a
            network without one.
        attention_scale: `standard`, or `token_rescaled` to compare with the published code where it ran
            without xformers.
        output: what the network returns: `velocity`, as published, or the latent of `depth`, from which the
            velocity follows; a small network trained from nothing learns that faster.
        features: settings of `PictureFeatures`, whose maps are a further condition of a network on pixels,
            and `channels` (64), to which they are projected; None for none.
        parameterisation: what the decoded channels mean; `log_depth` is all there is.
        resolution: longest side in pixels of the pictures that the network is at its best with.

    Raises:
        ConfigError: settings that do not go together.
    """

    config: dict[str, Any]
    text_embedding: Tensor | None

    def __init__(
        self,
        unet: Mapping[str, Any],
        factor: int = 4,
        noising_step: int = 400,
        *,
        autoencoder: Mapping[str, Any] | None = None,
        scale_factor: float = SCALE,
        text_tokens: int = 0,
        attention_scale: AttentionScale = "standard",
        output: OutputKind = "velocity",
        features: Mapping[str, Any] | None = None,
        parameterisation: str = "log_depth",
        resolution: int = RESOLUTION,
    ) -> None:
        super().__init__()
        import diffusers

        if output not in get_args(OutputKind):
            raise ConfigError(f"output={output} is unknown", f"use one of {get_args(OutputKind)}")
        if parameterisation != "log_depth":
            raise ConfigError(f"parameterisation={parameterisation} is unknown", "use log_depth")
        if not 0 <= noising_step < 1000:
            raise ConfigError(f"noising_step={noising_step}", "give 0 to 999", key="noising_step")
        text_width = unet.get("cross_attention_dim") or 0
        if (text_tokens > 0) != (text_width > 0):
            raise ConfigError(
                f"text_tokens={text_tokens} with cross_attention_dim={text_width}", "give both or none"
            )
        if factor and autoencoder is not None:
            raise ConfigError(f"factor={factor} does not go with an autoencoder", "give factor=0")
        if features is not None and not factor:
            raise ConfigError("features go with a network on pixels", "leave features out")
        self.config = {
            "unet": dict(unet),
            "factor": factor,
            "noising_step": noising_step,
            "autoencoder": None if autoencoder is None else dict(autoencoder),
            "scale_factor": scale_factor,
            "text_tokens": text_tokens,
            "attention_scale": attention_scale,
            "output": output,
            "features": None if features is None else dict(features),
            "parameterisation": parameterisation,
            "resolution": resolution,
        }
        self.codec: Codec = PixelCodec(factor) if factor else MissingCodec(int(unet.get("out_channels", 4)))
        if autoencoder is not None:
            self.codec = AutoencoderCodec(make_autoencoder(autoencoder), scale_factor)
        self.features: PictureFeatures | None = None
        seen = 0
        if features is not None:
            given = dict(features)
            seen = int(given.pop("channels", 64))
            self.features = PictureFeatures(factor, **given)
            self.project = nn.Conv2d(self.features.channels, seen, 1)
        channels = {"in_channels": 2 * self.codec.channels + seen, "out_channels": self.codec.channels}
        asked = {name: unet.get(name, count) for name, count in channels.items()}
        if asked != channels:
            raise ConfigError(
                f"a network of {asked['in_channels']} channels to {asked['out_channels']} for latents of "
                f"{self.codec.channels}",
                f"it has to be {channels['in_channels']} to {channels['out_channels']}",
            )
        kind = diffusers.UNet2DConditionModel if text_tokens else diffusers.UNet2DModel
        self.unet = kind(**{**unet, **channels})
        self.register_buffer(
            "text_embedding", torch.zeros(1, text_tokens, text_width) if text_tokens else None
        )
        set_attention_scale(self.unet, attention_scale)

    @property
    def resolution(self) -> int:
        """Longest side in pixels of the pictures that the network is at its best with."""
        return int(self.config["resolution"])

    @property
    def multiple(self) -> int:
        """Sides of pictures are padded to multiples of this many pixels, and cropped again."""
        levels = len(self.unet.config["block_out_channels"])
        return self.codec.factor * (1 if self.config["text_tokens"] else 2 ** (levels - 1))

    @property
    def alpha(self) -> float:
        """Factor of the latent in the source: the root of the cosine schedule's abar."""
        return math.sqrt(self._kept())

    @property
    def sigma(self) -> float:
        """Factor of the noise in the source."""
        return math.sqrt(1 - self._kept())

    def _kept(self) -> float:
        step = self.config["noising_step"]
        return float(cosine_signal(step / 1000)) if step else 1.0

    def encode(self, pictures: Tensor) -> Tensor:
        """The condition of the flow: latents of pictures, followed by their features where there are any.

        Args:
            pictures: (batch, 3, height, width) in [-1, 1], sides multiples of `multiple`.
        """
        latent = self.codec.encode(pictures)
        return latent if self.features is None else torch.cat([latent, self.features(pictures)], 1)

    def source(self, latent: Tensor, noise: Noise) -> Tensor:
        """The start of the flow, alpha z + sigma e; of a condition, features are left out."""
        if self.features is not None:
            latent = latent[:, : self.codec.channels]
        return self.alpha * latent + self.sigma * standard_normal(noise, latent) if self.sigma else latent

    def velocity(self, x: Tensor, s: Tensor, latent: Tensor) -> Tensor:
        """dx/ds at states x and times s (batch,) in [0, 1], given what `encode` gives; s < 1 for `depth`."""
        output = self.output(x, s, latent)
        if self.config["output"] == "velocity":
            return output
        return (output.to(x.dtype) - x) / (1 - s[:, None, None, None])

    def output(self, x: Tensor, s: Tensor, latent: Tensor) -> Tensor:
        """What the network itself returns: the velocity, or the latent of depth that it expects."""
        text = self.text_embedding
        if self.features is not None:
            count = self.codec.channels
            latent = torch.cat([latent[:, :count], self.project(latent[:, count:])], 1)
        context = {} if text is None else {"encoder_hidden_states": text.expand(len(x), -1, -1)}
        output: Tensor = self.unet(torch.cat([x.to(latent.dtype), latent], 1), s, **context).sample
        return output

    def flow(
        self,
        start: Tensor,
        latent: Tensor,
        steps: int | Sequence[float] = 2,
        callback: Callable[[FieldStep], None] | None = None,
    ) -> Tensor:
        """Carry sources to the latents of depth, by Euler steps whose state is at least float32.

        Args:
            start: (batch, channels, height, width).
            latent: what `encode` gives, in the type that the network computes in.
            steps: number of equal steps, or the times themselves from 0 to 1.
            callback: called at the start of each step.
        """
        return integrate(lambda x, s: self.velocity(x, s, latent), start, steps, callback=callback)
