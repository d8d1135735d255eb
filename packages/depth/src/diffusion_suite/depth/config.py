"""Settings of the depth commands: one dataclass a command, each key with its help."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_suite.core.config import opt
from diffusion_suite.core.training.config import TrainConfig


@dataclass
class TrainDepthConfig(TrainConfig):
    """Settings of ``depth train``."""

    drawn: int = opt(
        8000, "drawn pictures kept on disk and met again; 0 draws new ones in every step (for a GPU)", ge=0
    )
    validation: int = opt(96, "drawn pictures to validate on", ge=0)
    side: int = opt(128, "height and width of training pictures in pixels", ge=32)
    factor: int = opt(4, "side of the squares of pixels that make one latent", ge=1)
    widths: list[int] = opt([64, 128, 192, 256], "channels of the network's levels, finest first")
    layers: int = opt(2, "residual blocks a level", ge=1)
    attention_from: int = opt(2, "level, from 0, from which on the blocks attend", ge=0)
    noising_step: int = opt(400, "noise of the flow's start, of 1000", ge=0, lt=1000)
    normals_weight: float = opt(0.0, "weight of the surface-normal loss", ge=0)
