"""Training crops of pictures; item i depends on (seed, i) alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from diffusion_suite.core.encoders.config import PretrainConfig
from diffusion_suite.core.encoders.pictures import read_picture
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.progress import say, track
from diffusion_suite.core.seeding import generator


class Crops(Dataset[Tensor]):
    """Random crops, each picture once an epoch, (3, image_size, image_size) in [0, 1].

    Args:
        paths: picture files.
        config: size of a crop, smallest area, mirroring, seed, memory to keep pictures in.
    """

    endless = True

    def __init__(self, paths: Sequence[Path], config: PretrainConfig) -> None:
        self.config = config
        self.shorter_side = math.ceil(config.image_size / math.sqrt(config.crop_area))
        self.paths: list[Path] = []
        self.kept: list[Tensor | None] = []
        room, skipped = config.memory * 2**20, []
        for path in track(paths, "reading pictures"):
            try:
                picture = self._read(path)
            except InputError as error:
                if config.unreadable == "refuse":
                    raise
                skipped.append(error.problem)
                continue
            room -= picture.numel()
            self.paths.append(path)
            self.kept.append(picture if room >= 0 else None)
        for problem in skipped[:5]:
            say(f"left out: {problem}")
        if len(skipped) > 5:
            say(f"left out: {len(skipped) - 5} more files that cannot be read")
        if not self.paths:
            raise InputError(f"none of {len(paths)} pictures can be read", "name a folder of sound pictures")

    def _read(self, path: Path) -> Tensor:
        return (read_picture(path, self.shorter_side) * 255).round().to(torch.uint8)

    def __getitem__(self, index: int) -> Tensor:
        epoch, place = divmod(index, len(self.paths))
        order = torch.randperm(len(self.paths), generator=generator(self.config.seed, "order", epoch))
        which = int(order[place])
        kept = self.kept[which]
        picture = self._read(self.paths[which]) if kept is None else kept
        return random_crop(picture, self.config, generator(self.config.seed, "crop", index))


def random_crop(picture: Tensor, config: PretrainConfig, rng: torch.Generator) -> Tensor:
    """A crop of random area and aspect (3:4 to 4:3), brought to the training size, mirrored or not."""
    height, width = picture.shape[-2:]
    area, aspect, down, across, mirror = torch.rand(5, generator=rng).tolist()
    side = math.sqrt((config.crop_area + (1 - config.crop_area) * area) * height * width)
    ratio = (4 / 3) ** (aspect - 0.5)
    rows, columns = max(1, min(height, round(side * ratio))), max(1, min(width, round(side / ratio)))
    top, left = int(down * (height - rows + 1)), int(across * (width - columns + 1))
    part = picture[:, top : top + rows, left : left + columns].float()[None] / 255
    size = (config.image_size, config.image_size)
    crop = F.interpolate(part, size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    return crop.flip(-1) if config.flip and mirror < 0.5 else crop
