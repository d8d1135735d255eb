"""What a classifier of photographs sees, as a further condition of the small network.

A network trained on drawn pictures alone takes their textures for the world's. Maps of an encoder that was
trained on photographs, and is not trained further, look alike in both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from typing_extensions import override

from diffusion_suite.core.checkpoints import load_weights
from diffusion_suite.core.encoders.efficientnet import MEAN, STD, EfficientNetLite0

ENCODERS = ("efficientnet-lite0",)
TAPS = {2: 24, 4: 40, 10: 112, 15: 320}
"""Blocks whose maps are taken, at 1/4, 1/8, 1/16 and 1/32 of the encoder's picture, and their channels."""


class PictureFeatures(nn.Module):
    """Maps of EfficientNet-Lite0 on the grid of the latents; frozen, always in evaluation mode.

    Its weights are random until `load_packaged`, or a checkpoint, fills them.

    Args:
        factor: side in pixels of a cell of the grid.
        scale: by which pictures are enlarged first, so that the coarsest maps have more cells.
    """

    channels = sum(TAPS.values())

    def __init__(self, factor: int, scale: float = 2.0) -> None:
        super().__init__()
        self.factor, self.scale = factor, scale
        self.network = EfficientNetLite0()
        self.network.head = nn.Sequential()
        self.requires_grad_(False).eval()

    @override
    def train(self, mode: bool = True) -> PictureFeatures:
        """Stay in evaluation mode."""
        return super().train(False)

    def load_packaged(self) -> None:
        """Take the weights from the package that holds them.

        Raises:
            CheckpointError: it is not installed.
        """
        from diffusion_suite.core.encoders import load_encoder

        state = load_encoder(ENCODERS[0]).network.state_dict()
        kept = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
        load_weights(self.network, kept, ENCODERS[0])

    @torch.no_grad()
    @override
    def forward(self, pictures: Tensor) -> Tensor:
        """Maps (batch, channels, height / factor, width / factor) of pictures (batch, 3, height, width).

        Args:
            pictures: in [-1, 1], sides multiples of the factor.
        """
        size = [side // self.factor for side in pictures.shape[-2:]]
        mean, std = (pictures.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        enlarged = interpolate(pictures, scale_factor=self.scale, mode="bilinear")
        found = self.network.maps(((enlarged + 1) / 2 - mean) / std, TAPS)
        maps = [
            interpolate(x.float(), size=size, mode="bilinear", antialias=x.shape[-1] > size[-1])
            for x in found
        ]
        return torch.cat(maps, 1).to(pictures.dtype)
