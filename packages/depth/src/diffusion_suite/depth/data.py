"""Pictures with depth to train on: drawn ones, kept on disk or drawn in every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from diffusion_suite.core.seeding import generator, numpy_generator
from diffusion_suite.depth.kept import Arrays, kept_arrays
from diffusion_suite.depth.renderer import Scenes, draw_scene, render

Item = dict[str, Tensor]
CLOSEST = 0.6
"""Least share of a picture's short side that a crop for training shows."""


class FreshScenes(Dataset[Scenes]):
    """Drawn scenes without end, for a module that renders them itself; item i depends on (seed, i) alone."""

    endless = True

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getitem__(self, index: int) -> Scenes:
        return draw_scene(self.seed, index)


class KeptPictures(Dataset[Item]):
    """Pictures drawn once and kept on disk, met again mirrored and in other colours.

    Item i depends on (seed, i) alone. Keys: `rgb` (3, side, side) in [0, 1], `depth` (1, side, side) metres,
    infinite in the sky.

    Args:
        folder: where the pictures are, or are drawn to.
        count: how many.
        side: height and width in pixels.
        seed: of scenes and changes.
        changed: crop, mirror and recolour; off for validation.
        drawn_side: height and width at which they are drawn and kept; None for `side`.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        side: int,
        seed: int,
        changed: bool = True,
        drawn_side: int | None = None,
    ) -> None:
        self.endless, self.seed, self.count, self.side = changed, seed, count, side
        self.rgb, self.depth = kept(folder, count, drawn_side or side, seed)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        if not self.endless:
            window = (0, 0, self.rgb.shape[-1])
            return as_item(*cropped(self._colours(index), self.depth[index, 0], window, self.side))
        rng = numpy_generator(self.seed, "drawn", index)
        place = int(rng.integers(self.count))
        least = self.side / self.rgb.shape[-1]
        return as_item(*changed(self._colours(place), self.depth[place, 0], self.side, rng, least))

    def _colours(self, place: int) -> NDArray[np.uint8]:
        return np.asarray(self.rgb[place].transpose(1, 2, 0))


def as_item(rgb: NDArray[np.float32], depth: NDArray[np.float32]) -> Item:
    """Tensors of a picture and its depth, as a module trains on them."""
    return {"rgb": torch.from_numpy(rgb.copy()), "depth": torch.from_numpy(depth.copy())}


def changed(
    rgb: NDArray[np.uint8],
    depth: NDArray[Any],
    side: int,
    rng: np.random.Generator,
    least: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A random square of a picture and its depth, perhaps mirrored, in other colours; see `cropped`.

    Args:
        rgb: as in `cropped`.
        depth: as in `cropped`.
        side: of the result.
        rng: of the changes.
        least: share of the short side that the square shows at least, beside CLOSEST.
    """
    short = min(depth.shape)
    size = round(short * rng.uniform(max(least, CLOSEST), 1))
    top, left = (int(rng.integers(length - size + 1)) for length in depth.shape)
    colours, distances = cropped(rgb, depth, (top, left, size), side)
    colours = recoloured(colours, rng)
    if rng.random() < 0.5:
        return colours[:, :, ::-1], distances[:, :, ::-1]
    return colours, distances


def cropped(
    rgb: NDArray[np.uint8], depth: NDArray[Any], window: tuple[int, int, int], side: int
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


def recoloured(rgb: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Other brightness, contrast, saturation, balance and grain, in [0, 1]."""
    gain = np.exp(rng.normal(0, 0.15)) * np.exp(rng.normal(0, 0.06, (3, 1, 1)))
    grey = rgb.mean(0, keepdims=True)
    saturation = 0.0 if rng.random() < 0.04 else np.exp(rng.normal(0, 0.3))
    level = rgb.mean()
    changed = grey + saturation * (rgb - grey)
    changed = level + np.exp(rng.normal(0, 0.15)) * (changed - level)
    changed = np.clip(gain * changed, 0, 1) ** np.exp(rng.normal(0, 0.15))
    changed = changed + rng.uniform(0, 0.02) * rng.standard_normal(rgb.shape)
    return np.asarray(np.clip(changed, 0, 1), np.float32)


def kept(folder: Path, count: int, side: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Arrays (count, 3, side, side) of bytes and (count, 1, side, side) of half-precision metres, on disk.

    Those of a folder made with the same arguments are read; a drawing that was interrupted goes on.
    """
    kinds = {"rgb": ((count, 3, side, side), np.uint8), "depth": ((count, 1, side, side), np.float16)}

    def compute(arrays: Arrays, items: range) -> None:
        rgb, depth = draw(seed, items, side)
        arrays["rgb"][items.start : items.stop] = (rgb * 255).round().byte().numpy()
        arrays["depth"][items.start : items.stop] = depth.half().numpy()

    arrays = kept_arrays(folder / f"drawn-{seed}-{count}-{side}", kinds, count, "drawing pictures", compute)
    return arrays["rgb"], arrays["depth"]


def draw(seed: int, indices: range, side: int) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, side, side) in [0, 1] and depths (n, 1, side, side) of scenes by number."""
    scenes = Scenes.stack([draw_scene(seed, index) for index in indices])
    noise = torch.stack([
        torch.randn(3, side, side, generator=generator(seed, "sensor", index)) for index in indices
    ])  # fmt: skip
    views = render(scenes, side, side, noise)
    return views.rgb, views.depth
