"""Training of DepthFM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from diffusion_suite.core.flow_matching import Interpolant
from diffusion_suite.core.training import SuiteModule
from diffusion_suite.depth.method import DepthFM
from diffusion_suite.depth.network import SCALE, OutputKind
from diffusion_suite.depth.normal_loss import masked_mean, normal_loss
from diffusion_suite.depth.normalise import log_depth
from diffusion_suite.depth.renderer import Scenes, render

Batch = Mapping[str, Any]
STRAIGHT = Interpolant()


class DepthModule(SuiteModule):
    """Flow matching from the noised latent of a picture to that of its normalised log-depth.

    A batch holds one or several of: `scenes` to be drawn; `rgb` (batch, 3, height, width) in [0, 1] with
    `depth` (batch, 1, height, width), NaN where nothing was measured and infinite in the sky; `latent` and
    `target` with `cells`, see `latents`.

    Args:
        widths, layers, attention_from: of the small network.
        factor, noising_step, autoencoder, scale_factor: see `DepthFM`.
        output: what the small network returns, see `DepthFM`.
        features: settings of what the small network sees besides pixels, see `DepthFM`.
        time_power: times are u^time_power with u even in [0, 1]; above 1 there are more early ones, where a
            result of few steps is decided.
        side: of the pictures that are drawn in a step, pixels.
        normals_weight: of the surface-normal loss.
        normals_from: time from which on it counts, when the one-step estimate of depth is good.
        network: settings of a `DepthFM` to train instead of the small one.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 192, 256),
        layers: int = 2,
        attention_from: int = 2,
        factor: int = 4,
        noising_step: int = 400,
        output: OutputKind = "depth",
        features: Mapping[str, Any] | None = None,
        autoencoder: Mapping[str, Any] | None = None,
        scale_factor: float = SCALE,
        time_power: float = 1.0,
        side: int = 128,
        normals_weight: float = 0.0,
        normals_from: float = 0.5,
        network: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.side, self.time_power = side, time_power
        self.normals_weight, self.normals_from = normals_weight, normals_from
        if network is None:
            unet = small_unet(widths, layers, attention_from)
            made = DepthFM(
                unet,
                factor,
                noising_step,
                autoencoder=autoencoder,
                scale_factor=scale_factor,
                output=output,
                features=features,
                resolution=side,
            )
        else:
            made = DepthFM(**network)
        self.model = made.to(memory_format=torch.channels_last)
        if gradient_checkpointing:
            self.model.unet.enable_gradient_checkpointing()

    def compiled_parts(self) -> Iterable[nn.Module]:
        """The network that is called in a step."""
        return [self.model.unet]

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the network over measured cells, and the error of normals."""
        latent, target, cells = self.latents(batch, generator)
        noise = torch.randn(target.shape, generator=generator, device=target.device)
        s = torch.rand(len(latent), generator=generator, device=latent.device) ** self.time_power
        return self.objective(latent, target, cells, noise, s)

    def objective(
        self, latent: Tensor, target: Tensor, cells: Tensor, noise: Tensor, s: Tensor
    ) -> dict[str, Tensor]:
        """The loss for given draws.

        Args:
            latent: of the pictures, with their features if the network sees them.
            target: latents of depth.
            cells: (batch, 1, h, w) bool, those that count.
            noise: standard normal values of the targets' shape.
            s: (batch,) times in [0, 1].
        """
        wide = torch.promote_types(target.dtype, torch.float32)
        target = target.to(wide)
        source = self.model.source(latent.to(wide), noise)
        x, velocity = STRAIGHT.at(source, target, s)
        says_depth = self.model.config["output"] == "depth"
        found = self.model.output(x, s, latent).to(wide)
        goal = target if says_depth else velocity
        flow = masked_mean((found - goal).square(), cells).mean()
        if not self.normals_weight:
            return {"loss": flow}
        end = found if says_depth else x + (1 - s[:, None, None, None]) * found
        normals = self._normals(end, target, cells, s >= self.normals_from)
        return {"loss": flow + self.normals_weight * normals, "flow": flow, "normals": normals}

    def _normals(self, end: Tensor, target: Tensor, cells: Tensor, late: Tensor) -> Tensor:
        """The normal loss of the one-step estimates of the late items, over the whole batch's number."""
        codec = self.model.codec
        if not bool(late.any()):
            return end.sum() * 0
        with torch.no_grad():
            truth = codec.decode(target[late]).float().mean(1, keepdim=True)
        y = codec.decode(end[late].to(target.dtype)).float().mean(1, keepdim=True)
        valid = interpolate(cells[late].float(), scale_factor=codec.factor, mode="nearest") > 0
        return normal_loss(y, truth, valid).sum() / len(end)

    def validation_loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The training loss, and the mean error of y after two steps."""
        values = self.loss(batch, generator)
        if "rgb" not in batch:
            return values
        y = self.model(2 * batch["rgb"] - 1, generator, steps=2)
        depth = batch["depth"]
        return values | {"error": masked_mean((y - log_depth(depth)).abs(), ~torch.isnan(depth)).mean()}

    def latents(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents of pictures and of depth, and which of their cells were wholly measured.

        Returns:
            (batch, channels, h, w) twice, and (batch, 1, h, w) bool.
        """
        found = []
        if "scenes" in batch:
            found.append(self._encoded(*self._drawn(batch["scenes"], generator)))
        if "rgb" in batch:
            found.append(self._encoded(batch["rgb"], batch["depth"]))
        if "latent" in batch:
            like = next(self.model.unet.parameters())
            pair = [batch[name].to(like.dtype) for name in ("latent", "target")]
            found.append((pair[0], pair[1], batch["cells"]))
        latent, target, cells = (torch.cat(parts) for parts in zip(*found, strict=True))
        return latent, target, cells

    def _encoded(self, rgb: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return encoded(self.model, rgb, depth)

    def _drawn(self, scenes: Scenes, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shape = (len(scenes), 3, self.side, self.side)
        noise = torch.randn(shape, generator=generator, device=self.device)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            views = render(scenes, self.side, self.side, noise)
        return views.rgb, views.depth


@torch.no_grad()
def encoded(model: DepthFM, rgb: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of pictures and of their normalised log-depth, and the cells without an unmeasured pixel.

    Unmeasured pixels are filled with the far end before they are encoded.

    Args:
        model: gives the codec.
        rgb: (batch, 3, height, width) in [0, 1].
        depth: (batch, 1, height, width), NaN where nothing was measured, infinite in the sky.
    """
    codec = model.codec
    latent = model.encode(2 * rgb - 1)
    target = codec.encode(log_depth(depth).expand(-1, 3, -1, -1))
    holes = torch.isnan(depth).float()
    return latent, target, avg_pool2d(holes, codec.factor) == 0


def small_unet(widths: Sequence[int], layers: int, attention_from: int) -> dict[str, Any]:
    """Settings of the small network, a `UNet2DModel`."""
    return {
        "block_out_channels": list(widths),
        "layers_per_block": layers,
        "down_block_types": _blocks("Down", len(widths), attention_from),
        "up_block_types": _blocks("Up", len(widths), attention_from)[::-1],
        "attention_head_dim": 32,
        "norm_num_groups": 16,
    }


def _blocks(way: str, levels: int, attention_from: int) -> list[str]:
    return [f"{'Attn' if level >= attention_from else ''}{way}Block2D" for level in range(levels)]
