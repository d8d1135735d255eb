"""Training of DepthFM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_suite.core.flow_matching import Pairs, flow_loss
from diffusion_suite.core.training import SuiteModule
from diffusion_suite.depth.method import DepthFM
from diffusion_suite.depth.normalise import log_depth
from diffusion_suite.depth.renderer import Scenes, render


class DepthModule(SuiteModule):
    """Flow matching from the noised latent of a picture to that of its normalised log-depth.

    Args:
        widths, layers, attention_from: of the network.
        factor, noising_step: see `DepthFM`.
        side: of the pictures that are drawn in a step, pixels.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 192, 256),
        layers: int = 2,
        attention_from: int = 2,
        factor: int = 4,
        noising_step: int = 400,
        side: int = 128,
    ) -> None:
        super().__init__()
        self.side = side
        unet = {
            "block_out_channels": list(widths),
            "layers_per_block": layers,
            "down_block_types": _blocks("Down", len(widths), attention_from),
            "up_block_types": _blocks("Up", len(widths), attention_from)[::-1],
            "attention_head_dim": 32,
            "norm_num_groups": 16,
        }
        model = DepthFM(unet, factor, noising_step, resolution=side)
        self.model = model.to(memory_format=torch.channels_last)

    def loss(self, batch: dict[str, Tensor] | Scenes, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the velocity."""
        rgb, depth = self._pictures(batch, generator)
        latent = self.model.codec.encode(2 * rgb - 1)
        target = self.model.codec.encode(log_depth(depth).expand(-1, 3, -1, -1))
        noise = torch.randn(latent.shape, generator=generator, device=latent.device)
        pairs = Pairs(self.model.source(latent, noise), target, {"latent": latent})
        s = torch.rand(len(latent), generator=generator, device=latent.device)
        return {"loss": flow_loss(self.model.velocity, pairs, s)}

    def validation_loss(
        self, batch: dict[str, Tensor] | Scenes, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The training loss, and the mean error of y after two steps."""
        rgb, depth = self._pictures(batch, generator)
        y = self.model(2 * rgb - 1, generator, steps=2)
        return self.loss(batch, generator) | {"error": (y - log_depth(depth)).abs().mean()}

    def _pictures(
        self, batch: dict[str, Tensor] | Scenes, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        if not isinstance(batch, Scenes):
            return batch["rgb"], batch["depth"]
        shape = (len(batch), 3, self.side, self.side)
        views = render(
            batch, self.side, self.side, torch.randn(shape, generator=generator, device=self.device)
        )
        return views.rgb, views.depth


def _blocks(way: str, levels: int, attention_from: int) -> list[str]:
    return [f"{'Attn' if level >= attention_from else ''}{way}Block2D" for level in range(levels)]
