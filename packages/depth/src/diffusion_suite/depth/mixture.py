"""Training pictures from several places, each met by its share: folders of one's own, drawn pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.depth.data import recoloured
from diffusion_suite.depth.pairs import Pair
from diffusion_suite.depth.renderer import Scenes

CLOSEST = 0.6
"""Least share of a picture's short side that a crop for training shows."""


class FolderPictures(Dataset[dict[str, Tensor]]):
    """Square crops of pictures with depth.

    Item i depends on (seed, i) alone. Keys: `rgb` (3, side, side) in [0, 1], `depth` (1, side, side), NaN
    where nothing was measured, infinite in the sky.

    Args:
        pairs: where they are.
        side: of the crops in pixels.
        seed: of choice, crop and colours.
        changed: crop, mirror and recolour at random, without end; off takes the middle of each picture.
    """

    def __init__(self, pairs: Sequence[Pair], side: int, seed: int, changed: bool = True) -> None:
        if not pairs:
            raise InputError("a training folder holds no pictures with depth", "leave it out")
        self.pairs, self.side, self.seed, self.endless = pairs, side, seed, changed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not self.endless:
            return self.middle(index)
        rng = numpy_generator(self.seed, "folder", index)
        pair = self.pairs[int(rng.integers(len(self.pairs)))]
        found = pair.read()
        short = min(found.depth.shape)
        size = round(short * rng.uniform(CLOSEST, 1))
        top, left = (int(rng.integers(length - size + 1)) for length in found.depth.shape)
        rgb, depth = cropped(found.rgb, found.depth, (top, left, size), self.side)
        rgb = recoloured(rgb, rng)
        if rng.random() < 0.5:
            rgb, depth = rgb[:, :, ::-1], depth[:, :, ::-1]
        return _item(rgb, depth)

    def middle(self, index: int) -> dict[str, Tensor]:
        """The middle of a picture, as it is."""
        found = self.pairs[index].read()
        height, width = found.depth.shape
        short = min(height, width)
        window = ((height - short) // 2, (width - short) // 2, short)
        return _item(*cropped(found.rgb, found.depth, window, self.side))


def cropped(
    rgb: NDArray[np.uint8], depth: NDArray[np.float32], window: tuple[int, int, int], side: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A square of a picture and its depth at another size; the depth takes the nearest pixel, holes stay.

    Args:
        rgb: (height, width, 3), 8 bit, perhaps of another size than the depth.
        depth: (height, width).
        window: first row, first column and side of the square, in pixels of the depth.
        side: of the result.

    Returns:
        (3, side, side) in [0, 1] and (1, side, side).
    """
    top, left, size = window
    scale = rgb.shape[0] / depth.shape[0], rgb.shape[1] / depth.shape[1]
    box = (left * scale[1], top * scale[0], (left + size) * scale[1], (top + size) * scale[0])
    small = Image.fromarray(rgb).resize((side, side), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)
    places = ((np.arange(side) + 0.5) * size / side).astype(int)
    chosen = depth[np.ix_(top + places, left + places)]
    colours = np.asarray(small, np.float32).transpose(2, 0, 1) / np.float32(255)
    return colours, chosen[None].astype(np.float32)


class Mixture(Dataset[Any]):
    """Endless data sets met by shares; which one item i comes from depends on (seed, i) alone.

    Args:
        parts: data sets without end.
        shares: of each, not all 0; they need not sum to 1.
        seed: of the choice.
    """

    endless = True

    def __init__(self, parts: Sequence[Dataset[Any]], shares: Sequence[float], seed: int) -> None:
        if len(parts) != len(shares):
            raise ValueError(f"{len(shares)} shares for {len(parts)} data sets")
        self.parts, self.seed = parts, seed
        self.bounds = np.cumsum(np.array(shares, np.float64) / sum(shares))

    def __getitem__(self, index: int) -> Any:
        place = numpy_generator(self.seed, "share", index).random()
        return self.parts[int(np.searchsorted(self.bounds, place, side="right"))][index]


def together(items: Sequence[Any]) -> dict[str, Any]:
    """A batch of items of any kinds: scenes, pictures and latents, each kind on its own."""
    batch: dict[str, Any] = {}
    scenes = [item for item in items if isinstance(item, Scenes)]
    if scenes:
        batch["scenes"] = Scenes.stack(scenes)
    for name in ("rgb", "latent"):
        chosen = [item for item in items if isinstance(item, dict) and name in item]
        if chosen:
            batch |= default_collate(chosen)
    return batch


def _item(rgb: NDArray[np.float32], depth: NDArray[np.float32]) -> dict[str, Tensor]:
    return {"rgb": torch.from_numpy(rgb.copy()), "depth": torch.from_numpy(depth.copy())}
