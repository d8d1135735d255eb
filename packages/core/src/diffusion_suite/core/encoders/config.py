"""Settings of ``core pretrain``. Imports no torch, so that ``--help`` stays fast."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_suite.core.config import opt
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.training.config import TrainConfig

UNREADABLE = ("skip", "refuse")


@dataclass
class PretrainConfig(TrainConfig):
    """Settings of ``core pretrain``: an encoder of pictures from a folder, without labels."""

    image_size: int = opt(64, "side in pixels to which a crop is brought for training", ge=8)
    patch_size: int = opt(8, "side in pixels of a patch, which becomes a token", ge=1)
    width: int = opt(192, "features of a token", ge=8)
    depth: int = opt(6, "transformer layers", ge=1)
    heads: int = opt(6, "attention heads; divides the width", ge=1)
    mask_ratio: float = opt(0.75, "share of the patches that are hidden", gt=0, lt=1)
    crop_area: float = opt(0.4, "smallest share of a picture's area that a crop takes", gt=0, le=1)
    flip: bool = opt(True, "mirror half of the crops; false where left and right differ, as for digits")
    unreadable: str = opt(
        "skip", "what to do with a file that cannot be read: skip (and say so) or refuse", choices=UNREADABLE
    )
    memory: int = opt(2048, "MiB of pictures kept in memory; others are read each time", ge=0)
    validation: int = opt(0, "pictures held out, on which the loss is reported", ge=0)

    steps: int = opt(2000, "optimiser steps in all, those of a resumed run among them", ge=1)
    batch_size: int = opt(64, "pictures a device and micro-batch", ge=1)
    learning_rate: float = opt(1e-3, "peak learning rate of AdamW", gt=0)
    warmup_steps: int = opt(100, "steps of linear warm-up of the learning rate", ge=0)
    weight_decay: float = opt(0.05, "weight decay of AdamW, on matrices and kernels only", ge=0)
    ema_decay: float = opt(
        0.99, "decay of the averaged weights, which are saved and used; 0 keeps none", ge=0, lt=1
    )

    def check(self) -> None:
        """Refuse a network whose parts do not fit together."""
        super().check()
        if self.image_size % self.patch_size or self.image_size // self.patch_size < 2:
            raise ConfigError(
                f"image_size={self.image_size} is not two or more patches of {self.patch_size} pixels",
                f"give image_size={max(2, round(self.image_size / self.patch_size)) * self.patch_size}",
                key="image_size",
            )
        if self.width % self.heads:
            raise ConfigError(
                f"width={self.width} is no multiple of heads={self.heads}",
                f"give width={max(1, round(self.width / self.heads)) * self.heads}",
                key="width",
            )
