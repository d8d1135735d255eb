"""Training examples for the eigen-image prior: noisy and clean stacks of eigen-images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.progress import track
from diffusion_suite.core.seeding import numpy_generator
from diffusion_suite.geo.io import open_scene
from diffusion_suite.geo.restoration.eigen_prior import WEAKEST
from diffusion_suite.geo.restoration.scenes import (
    Image,
    eigen_images,
    eigen_scene,
    photographs,
    random_fields,
)

SIDE = 160
"""Side of a procedural scene in pixels."""

MISSING = 1e4
"""Noise level of a pixel that was not measured."""


class EigenStacks(Dataset[dict[str, Tensor]]):
    """Patches of eigen-images with a random energy profile, signal to noise ratio and map of noise levels.

    Endless; item i depends on (seed, i) alone. Keys: `clean` (channels, patch, patch) in units of the typical
    noise level, `scale` (channels,) deviation of each clean channel, `used` (channels,) 1 where the channel
    holds a component and 0 where it is empty, `level` (1, patch, patch) noise deviation of each pixel,
    `MISSING` where nothing was measured.
    """

    endless = True

    def __init__(self, scenes: Sequence[tuple[Image, Image]], patch: int, seed: int) -> None:
        if not scenes:
            raise InputError(
                "no training scene", "give scenes=1200 (procedural) or name scene files or a folder of them"
            )
        self.scenes = [(stack.astype(np.float16), profile) for stack, profile in scenes]
        self.patch, self.seed = patch, seed

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = numpy_generator(self.seed, "eigen stack", index)
        stack, profile = self.scenes[rng.integers(len(self.scenes))]
        channels, rows, columns = stack.shape
        top, left = rng.integers(rows - self.patch + 1), rng.integers(columns - self.patch + 1)
        patch = stack[:, top : top + self.patch, left : left + self.patch].astype(np.float32)
        patch = np.rot90(patch, int(rng.integers(4)), (1, 2))
        patch = patch[:, :, ::-1] if rng.random() < 0.5 else patch
        scale, used = _signal_to_noise(rng, profile, channels)
        sign = rng.choice(np.array([-1, 1], np.float32), channels)
        item = {
            "clean": patch * (sign * scale * used)[:, None, None],
            "scale": scale,
            "used": used,
            "level": _noise_levels(rng, self.patch)[None],
        }
        return {key: torch.from_numpy(value) for key, value in item.items()}


class ValidationStacks(Dataset[dict[str, Tensor]]):
    """The first `length` items of an endless data set."""

    def __init__(self, stacks: EigenStacks, length: int) -> None:
        self.stacks, self.length = stacks, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.stacks[index]


def _noise_levels(rng: np.random.Generator, side: int) -> Image:
    """Noise deviation of each pixel.

    Mostly 1 everywhere, else uneven, or with lines, pixels or patches missing.
    """
    level = np.ones((side, side), np.float32)
    kind = rng.random()
    if kind < 0.5:
        return level
    if kind < 0.65:
        return np.exp(rng.normal(0, rng.uniform(0.1, 0.7), level.shape)).astype(np.float32)
    if kind < 0.75:
        field = random_fields(rng, side, [rng.uniform(1, 2)])[0]
        return np.asarray(np.exp(field * rng.uniform(0.1, 0.6)), np.float32)
    if kind < 0.87:
        level[:, rng.random(side) < rng.uniform(0.01, 0.2)] = MISSING
        return level.T.copy() if rng.random() < 0.5 else level
    if kind < 0.94:
        level[rng.random(level.shape) < rng.uniform(0.05, 0.7)] = MISSING
        return level
    for _ in range(rng.integers(1, 6)):
        height, width = rng.integers(2, 20, 2)
        top, left = rng.integers(side - height), rng.integers(side - width)
        level[top : top + height, left : left + width] = MISSING
    return level


def _signal_to_noise(rng: np.random.Generator, profile: Image, channels: int) -> tuple[Image, Image]:
    """Deviations of the channels in units of the noise.

    The scene's own profile, sharpened or flattened, or a power law.
    """
    if rng.random() < 0.5:
        relative = profile ** rng.uniform(0.6, 1.6)
    else:
        relative = np.arange(1, channels + 1) ** -rng.uniform(0.5, 3) * np.exp(rng.normal(0, 0.2, channels))
    strongest = np.exp(rng.uniform(np.log(0.4), np.log(80)))
    count = channels if rng.random() < 0.6 else int(rng.integers(1, channels + 1))
    used = (np.arange(channels) < count) & (profile > 1e-3)
    scale = np.where(used, np.maximum(strongest * relative, WEAKEST), WEAKEST)
    return scale.astype(np.float32), used.astype(np.float32)


def procedural_scenes(
    count: int, channels: int, seed: int, with_photographs: bool = True
) -> list[tuple[Image, Image]]:
    """`count` scenes of `scenes.eigen_scene`; scene i depends on (seed, i) alone."""
    pictures = photographs() if with_photographs else []
    return [
        eigen_scene(numpy_generator(seed, "scene", index), SIDE, channels, pictures)
        for index in track(range(count), "drawing scenes")
    ]


def scenes_of_files(paths: Sequence[Path], channels: int, patch: int) -> list[tuple[Image, Image]]:
    """Eigen-images of the user's own clean scenes; missing samples are filled with their band's mean."""
    scenes = []
    for path in paths:
        scene = open_scene(path)
        rows, columns, _ = scene.shape
        if min(rows, columns) < patch:
            raise InputError(
                f"{path}: {rows} x {columns} pixels are fewer than a patch",
                f"give patch={min(rows, columns)}",
            )
        cube, observed = scene.read(slice(0, rows), slice(0, columns))
        scenes.append(eigen_images(_filled(cube, observed), channels))
    return scenes


def _filled(cube: NDArray[np.float32], observed: NDArray[np.bool_]) -> NDArray[np.float32]:
    kept = observed.any((0, 1))
    if not kept.any():
        raise InputError("a training scene holds no observed sample", "leave it out of the inputs")
    cube, observed = cube[..., kept], observed[..., kept]
    mean = np.where(observed, cube, 0).sum((0, 1), dtype=np.float64) / observed.sum((0, 1))
    return np.where(observed, cube, mean).astype(np.float32)
