"""Pictures for training: read once, kept in memory as far as they fit, cropped at random."""

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
from diffusion_suite.core.errors import ConfigError, InputError
from diffusion_suite.core.progress import say, track
from diffusion_suite.core.seeding import generator

SHOWN = 5
"""Files left out that are named one by one."""


class Pictures:
    """Pictures of files, each (3, height, width), float16 in [0, 1], no larger than crops of them need.

    All files are read once at the start, so that broken ones are known before training.

    Args:
        paths: picture files.
        config: size of a crop, smallest area, memory, and what to do with broken files.

    Raises:
        InputError: when none can be read, or one cannot and ``unreadable`` is ``refuse``.
    """

    def __init__(self, paths: Sequence[Path], config: PretrainConfig) -> None:
        self.shorter_side = math.ceil(config.image_size / math.sqrt(config.crop_area))
        self.paths: list[Path] = []
        self.kept: list[Tensor | None] = []
        room, broken = config.memory * 2**20, []
        for path in track(paths, "reading pictures"):
            try:
                picture = self._read(path)
            except InputError as error:
                if config.unreadable == "refuse":
                    raise
                broken.append(error.problem)
                continue
            room -= picture.numel() * picture.element_size()
            self.paths.append(path)
            self.kept.append(picture if room >= 0 else None)
        for problem in broken[:SHOWN]:
            say(f"left out: {problem}")
        if len(broken) > SHOWN:
            say(f"left out: {len(broken) - SHOWN} more files that cannot be read")
        if not self.paths:
            raise InputError(f"none of {len(paths)} pictures can be read", "name a folder of sound pictures")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        kept = self.kept[index]
        return self._read(self.paths[index]) if kept is None else kept

    def _read(self, path: Path) -> Tensor:
        return read_picture(path, self.shorter_side).half()


class Crops(Dataset[Tensor]):
    """Random crops, each picture once an epoch; item i depends on (seed, i) alone.

    An item is (3, image_size, image_size), float32 in [0, 1].

    Args:
        pictures: where they come from.
        which: numbers of the pictures to use.
        config: size of a crop, smallest area, mirroring, seed.
    """

    endless = True

    def __init__(self, pictures: Pictures, which: Sequence[int], config: PretrainConfig) -> None:
        self.pictures, self.which, self.config = pictures, list(which), config
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __getitem__(self, index: int) -> Tensor:
        epoch, place = divmod(index, len(self.which))
        if self._order[0] != epoch:
            rng = generator(self.config.seed, "order", epoch)
            self._order = epoch, torch.randperm(len(self.which), generator=rng)
        picture = self.pictures[self.which[int(self._order[1][place])]]
        return random_crop(picture, self.config, generator(self.config.seed, "crop", index))


class Wholes(Dataset[Tensor]):
    """Whole pictures brought to the training size, (3, image_size, image_size), for validation."""

    def __init__(self, pictures: Pictures, which: Sequence[int], config: PretrainConfig) -> None:
        self.pictures, self.which, self.config = pictures, list(which), config

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, index: int) -> Tensor:
        return resized(self.pictures[self.which[index]], self.config.image_size)


def split(pictures: Pictures, config: PretrainConfig) -> tuple[Crops, Wholes | None]:
    """Training crops, and the held-out pictures where any are asked for.

    Raises:
        ConfigError: when as many are to be held out as there are.
    """
    if config.validation >= len(pictures):
        raise ConfigError(
            f"validation={config.validation} holds out all of {len(pictures)} pictures",
            f"give validation={len(pictures) // 10}",
            key="validation",
        )
    order = torch.randperm(len(pictures), generator=generator(config.seed, "held out")).tolist()
    held, rest = order[: config.validation], order[config.validation :]
    return Crops(pictures, sorted(rest), config), Wholes(pictures, held, config) if held else None


def random_crop(picture: Tensor, config: PretrainConfig, rng: torch.Generator) -> Tensor:
    """A crop of random area and aspect (3:4 to 4:3), brought to the training size, mirrored or not.

    Args:
        picture: (3, height, width) in [0, 1].
        config: smallest area, size and mirroring.
        rng: source of the five numbers that are drawn.
    """
    height, width = picture.shape[-2:]
    area, aspect, down, across, mirror = torch.rand(5, generator=rng).tolist()
    side = math.sqrt((config.crop_area + (1 - config.crop_area) * area) * height * width)
    ratio = (4 / 3) ** (aspect - 0.5)
    rows, columns = max(1, min(height, round(side * ratio))), max(1, min(width, round(side / ratio)))
    top, left = int(down * (height - rows + 1)), int(across * (width - columns + 1))
    crop = resized(picture[:, top : top + rows, left : left + columns], config.image_size)
    return crop.flip(-1) if config.flip and mirror < 0.5 else crop


def resized(picture: Tensor, size: int) -> Tensor:
    """A picture (3, height, width) as a square of that side, bicubic, antialiased, float32 in [0, 1]."""
    return F.interpolate(picture.float()[None], (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
