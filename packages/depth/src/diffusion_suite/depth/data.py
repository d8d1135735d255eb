"""Pictures with depth to train on: drawn ones, kept on disk or drawn in every step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffusion_suite.core.progress import track
from diffusion_suite.core.seeding import generator, numpy_generator
from diffusion_suite.depth.renderer import Scenes, draw_scene, render

Item = dict[str, Tensor]
BATCH = 8


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
        changed: mirror and recolour; off for validation.
    """

    def __init__(self, folder: Path, count: int, side: int, seed: int, changed: bool = True) -> None:
        self.endless, self.seed, self.count = changed, seed, count
        self.rgb, self.depth = kept(folder, count, side, seed)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        rng = numpy_generator(self.seed, "drawn", index)
        place = int(rng.integers(self.count)) if self.endless else index
        rgb = self.rgb[place].astype(np.float32) / 255
        depth = self.depth[place].astype(np.float32)
        if self.endless:
            rgb = recoloured(rgb, rng)
            if rng.random() < 0.5:
                rgb, depth = rgb[:, :, ::-1], depth[:, :, ::-1]
        return {"rgb": torch.from_numpy(rgb.copy()), "depth": torch.from_numpy(depth.copy())}


def recoloured(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
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


def kept(folder: Path, count: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Arrays (count, 3, side, side) of bytes and (count, 1, side, side) of half-precision metres, on disk.

    Those of a folder made with the same arguments are read; a drawing that was interrupted goes on.
    """
    place = folder / f"drawn-{seed}-{count}-{side}"
    place.mkdir(parents=True, exist_ok=True)
    shapes = {"rgb": ((count, 3, side, side), np.uint8), "depth": ((count, 1, side, side), np.float16)}
    arrays = {}
    for name, (shape, dtype) in shapes.items():
        path = place / f"{name}.npy"
        mode = "r+" if path.exists() else "w+"
        arrays[name] = np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
    finished = place / "finished.txt"
    done = int(finished.read_text()) if finished.exists() else 0
    for first in track(range(done, count, BATCH), "drawing pictures"):
        rgb, depth = draw(seed, range(first, min(first + BATCH, count)), side)
        arrays["rgb"][first : first + len(rgb)] = (rgb * 255).round().byte().numpy()
        arrays["depth"][first : first + len(rgb)] = depth.half().numpy()
        for array in arrays.values():
            array.flush()
        finished.write_text(str(first + len(rgb)))
    return arrays["rgb"], arrays["depth"]


def draw(seed: int, indices: range, side: int) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, side, side) in [0, 1] and depths (n, 1, side, side) of scenes by number."""
    scenes = Scenes.stack([draw_scene(seed, index) for index in indices])
    noise = torch.stack([
        torch.randn(3, side, side, generator=generator(seed, "sensor", index)) for index in indices
    ])  # fmt: skip
    views = render(scenes, side, side, noise)
    return views.rgb, views.depth
