"""Small pictures and a small network for the tests of the depth commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffusion_suite.core.seeding import numpy_generator, seeded


def save_network(folder: Path, **settings: Any) -> Path:
    """Write a network of two levels that was never trained."""
    from diffusion_suite.depth.method import DepthFM

    unet = {
        "block_out_channels": [16, 16],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D"] * 2,
        "up_block_types": ["UpBlock2D"] * 2,
        "norm_num_groups": 4,
    }
    with seeded("test network"):
        model = DepthFM(unet, **{"factor": 4, "resolution": 64, **settings})
    return model.save_pretrained(folder)


def drawn(height: int = 40, width: int = 56, seed: int = 0) -> NDArray[np.uint8]:
    """An RGB picture: a slope of colours with squares on it."""
    rng = numpy_generator("picture", seed)
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    picture = np.stack([rows, columns, 1 - rows], -1) * rng.uniform(0.5, 1, 3)
    for _ in range(3):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        picture[top : top + height // 3, left : left + width // 3] = rng.random(3)
    return (picture * 255).round().astype(np.uint8)


def write(path: Path, picture: NDArray[Any] | None = None, **how: Any) -> Path:
    """Write a picture in the format of the path's ending."""
    Image.fromarray(drawn() if picture is None else picture).save(path, **how)
    return path
