"""DepthFM: depth from one picture by flow matching (Gui et al. 2024).

A flow carries the noised latent of the picture to the latent of its depth in a few Euler steps. The mean of
the decoded channels is the normalised log-depth y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from diffusion_suite.core.checkpoints import Pretrained
from diffusion_suite.core.errors import CheckpointError
from diffusion_suite.core.schedulers import Noise, standard_normal
from diffusion_suite.core.seeding import generator, key
from diffusion_suite.depth.attention import AttentionScale
from diffusion_suite.depth.autoencoders import load_autoencoder, settings
from diffusion_suite.depth.codecs import AutoencoderCodec
from diffusion_suite.depth.network import FlowNetwork
from diffusion_suite.depth.normalise import Normalisation, depth


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


class DepthFM(FlowNetwork, Pretrained):
    """Depth of pictures, by ensembles, and weights in and out; its arguments are those of `FlowNetwork`."""

    starter = "diffusion_suite.depth:starter/depth_fm"

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
