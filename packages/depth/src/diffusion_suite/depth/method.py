"""DepthFM: depth from one picture by flow matching (Gui et al. 2024).

A network carries the noised latent of the picture, at s = 0, to the latent of its depth, at s = 1,
in a few Euler steps. The clean latent of the picture is its condition. The mean of the decoded channels is
the normalised log-depth y.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from diffusion_suite.core.checkpoints import Pretrained
from diffusion_suite.core.errors import CheckpointError, ConfigError
from diffusion_suite.core.flow_matching import cosine_signal, integrate
from diffusion_suite.core.schedulers import FieldStep, Noise, standard_normal
from diffusion_suite.core.seeding import generator, key
from diffusion_suite.depth.attention import AttentionScale, set_attention_scale
from diffusion_suite.depth.autoencoders import load_autoencoder, make_autoencoder, settings
from diffusion_suite.depth.codecs import AutoencoderCodec, Codec, MissingCodec, PixelCodec
from diffusion_suite.depth.features import PictureFeatures
from diffusion_suite.depth.normalise import Normalisation, depth

OutputKind = Literal["velocity", "depth"]
SCALE = 0.18215
RESOLUTION = 768
"""Longest side in pixels; the data sets that the published network was measured on have 640 to 1216."""


@dataclass(frozen=True)
class Prediction:
    """Depth of pictures.

    Attributes:
        log_depth: normalised log-depth y, the mean over the members, (batch, 1, height, width).
        spread: standard deviation of y over the members, of the same shape; 0 for one member.
    """

    log_depth: Tensor
    spread: Tensor

    def depth(self, normalisation: Normalisation = "range") -> Tensor:
        """Relative depth exp(y), larger is farther, see `normalise.depth`."""
        return depth(self.log_depth, normalisation)


class DepthFM(nn.Module, Pretrained):
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
            and `channels`, to which they are projected; None for none.
        parameterisation: what the decoded channels mean; `log_depth` is all there is.
        resolution: longest side in pixels of the pictures that the network is at its best with.

    Raises:
        ConfigError: settings that do not go together.
    """

    starter = "diffusion_suite.depth:starter/depth_fm"
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

    @classmethod
    def from_published(
        cls,
        path: str | Path,
        autoencoder: str | Path | nn.Module | None = None,
        *,
        attention_scale: AttentionScale = "standard",
        local_files_only: bool = True,
    ) -> Self:
        """The network of a checkpoint in the published layout, in evaluation mode, in float32.

        Args:
            path: the file, e.g. `depthfm-v1.ckpt`; no code in it is run.
            autoencoder: Stable Diffusion's, which is not in the file: see `attach_autoencoder`. None leaves
                it out; pictures then cannot be encoded.
            attention_scale: see the class.
            local_files_only: take a hub name from the local cache only.

        Raises:
            CheckpointError: the file or the autoencoder cannot be read or is for another network.
        """
        from diffusion_suite.depth.published import read_published

        found = read_published(path)
        tokens = found.text_embedding.shape[1]
        try:
            with torch.device("meta"):
                model = cls(
                    found.unet, 0, found.noising_step, text_tokens=tokens, attention_scale=attention_scale
                )
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} asks for a network that cannot be ({error})", "fetch it again"
            ) from error
        found.fill(model.unet)
        model.text_embedding = found.text_embedding
        if autoencoder is not None:
            model.attach_autoencoder(autoencoder, local_files_only=local_files_only)
        return model.eval()

    def attach_autoencoder(
        self, autoencoder: str | Path | nn.Module, *, local_files_only: bool = True
    ) -> None:
        """Encode and decode with this autoencoder from now on; an `AutoencoderTiny` is fast and less exact.

        Args:
            autoencoder: a diffusers `AutoencoderKL` or `AutoencoderTiny`, or where it is: a folder, a file or
                a hub name (see `autoencoders.load_autoencoder`).
            local_files_only: take a hub name from the local cache only.

        Raises:
            CheckpointError: it cannot be read, or its latents are not those of this network.
        """
        if self.config["factor"]:
            raise CheckpointError("this network works on pixels", "leave the autoencoder out")
        if not isinstance(autoencoder, nn.Module):
            autoencoder = load_autoencoder(autoencoder, local_files_only)
        described = settings(autoencoder)
        codec = AutoencoderCodec(autoencoder, self.config["scale_factor"])
        if (codec.channels, codec.factor) != (self.codec.channels, self.codec.factor):
            raise CheckpointError(
                f"the autoencoder makes latents of {codec.channels} channels at 1/{codec.factor} size, "
                f"the network takes {self.codec.channels} at 1/{self.codec.factor}",
                "give the autoencoder of Stable Diffusion 1 or 2",
            )
        like = next(self.unet.parameters())
        self.codec = codec.to(like.device, like.dtype)
        self.config["autoencoder"] = described

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

    def forward(self, pictures: Tensor, noise: Noise, steps: int = 2) -> Tensor:
        """Normalised log-depth y of pictures.

        Args:
            pictures: (batch, 3, height, width) in [-1, 1], of any size.
            noise: generator(s), or values of the latents' shape (see `latent_shape`).
            steps: Euler steps.

        Returns:
            (batch, 1, height, width), about -1 (near) to 1 (far), at least float32.
        """
        return self._carry(self._encode(pictures), noise, steps, pictures.shape[-2:])

    @torch.no_grad()
    def ensemble(self, pictures: Tensor, noise: Tensor, steps: int = 2, at_once: int = 8) -> Tensor:
        """Log-depth y of every member; each picture is encoded once.

        Args:
            pictures: (batch, 3, height, width) in [-1, 1], of any size.
            noise: values, (batch, members, *latent_shape); see `draw_noise`.
            steps: Euler steps.
            at_once: pictures encoded, and members carried and decoded, at a time.

        Returns:
            (batch, members, 1, height, width).

        Raises:
            ValueError: noise of another shape.
        """
        size = pictures.shape[-2:]
        shape = (len(pictures), noise.shape[1], *self.latent_shape(*size))
        if noise.shape != shape:
            raise ValueError(f"noise of shape {tuple(noise.shape)} given where {shape} is needed")
        members = shape[1]
        latents = torch.cat([self._encode(part) for part in torch.split(pictures, at_once)])
        drawn = 1 if self.sigma == 0 else members  # without noise, members are the same
        repeated = torch.split(latents.repeat_interleave(drawn, 0), at_once)
        values = torch.split(noise[:, :drawn].flatten(0, 1), at_once)
        parts = [self._carry(z, e, steps, size) for z, e in zip(repeated, values, strict=True)]
        return torch.cat(parts).view(-1, drawn, 1, *size).expand(-1, members, -1, -1, -1)

    def predict(
        self,
        pictures: Tensor,
        *,
        steps: int = 2,
        members: int = 4,
        seeds: int | Sequence[int] = 0,
        noise: Tensor | None = None,
        at_once: int = 8,
    ) -> Prediction:
        """Mean and spread of log-depth over an ensemble.

        Member m of a picture depends on (its seed, m) alone, not on its batch or the other members.

        Args:
            pictures: (batch, 3, height, width) in [-1, 1], of any size.
            steps: Euler steps.
            members: results from different noise.
            seeds: one for each picture; or one number, which is drawn from for each place in the batch.
            noise: the values themselves instead, (batch, members, *latent_shape).
            at_once: pictures encoded, and members carried and decoded, at a time.

        Raises:
            ValueError: another number of seeds than pictures, or noise of another shape.
        """
        if noise is None:
            if isinstance(seeds, int):
                seeds = [key(seeds, "picture", place) for place in range(len(pictures))]
            noise = self.draw_noise(seeds, members, pictures.shape[-2:])
        y = self.ensemble(pictures, noise.to(pictures.device), steps, at_once)
        return Prediction(y.mean(1), y.std(1, correction=0))

    def draw_noise(self, seeds: Sequence[int], members: int, size: Sequence[int]) -> Tensor:
        """Noise of every member, drawn on the CPU, so that all devices see the same.

        Args:
            seeds: one for each picture.
            members: of the ensemble.
            size: height and width of the pictures.

        Returns:
            (batch, members, *latent_shape), float32.
        """
        like = torch.empty(members, *self.latent_shape(*size))
        return torch.stack([
            standard_normal([generator(seed, "member", place) for place in range(members)], like)
            for seed in seeds
        ])  # fmt: skip

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latent of a picture, with its padding."""
        rows, columns = (
            math.ceil(side / self.multiple) * self.multiple // self.codec.factor for side in (height, width)
        )
        return self.codec.channels, rows, columns

    def _encode(self, pictures: Tensor) -> Tensor:
        height, width = pictures.shape[-2:]
        below, right = -height % self.multiple, -width % self.multiple
        if below or right:
            pictures = pad(pictures, (0, right, 0, below), mode="replicate")
        return self.encode(pictures.to(next(self.unet.parameters()).dtype))

    def _carry(self, latent: Tensor, noise: Noise, steps: int, size: Sequence[int]) -> Tensor:
        wide = torch.promote_types(latent.dtype, torch.float32)
        end = self.flow(self.source(latent.to(wide), noise), latent, steps)
        y = self.codec.decode(end.to(latent.dtype)).to(wide).mean(1, keepdim=True)
        return y[..., : size[0], : size[1]]
