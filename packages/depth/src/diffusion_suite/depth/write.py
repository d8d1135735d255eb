"""The files of one predicted picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffusion_suite.core.files import atomic_path
from diffusion_suite.depth.colour import coloured, limits
from diffusion_suite.depth.config import PredictConfig
from diffusion_suite.depth.io import maps
from diffusion_suite.depth.io.pictures import Picture
from diffusion_suite.depth.outputs import Outputs
from diffusion_suite.depth.points import Camera, normal_colours, normals, write_cloud
from diffusion_suite.depth.predictor import Seen
from diffusion_suite.depth.result import Result

SPREAD_COLOURS = "magma"


def write_result(
    result: Result, seen: Seen, picture: Picture, outputs: Outputs, config: PredictConfig
) -> None:
    """Write all files of a picture, or none.

    Args:
        result: depth at the picture's size.
        seen: what the network gave, for the 8-bit picture as published.
        picture: the picture.
        outputs: names of the files.
        config: which are written.
    """
    camera = Camera.of(picture.size, config.focal, picture.focal, config.fov)
    kinds = outputs.kinds(config)
    facts = {
        **result.facts,
        "uncertainty": "standard deviation of y over members" if "uncertainty" in kinds else None,
        "png16": f"depth = {result.step:.9g} * value",
        "focal": {"pixels": round(camera.focal, 3), "source": camera.source},
        "points": "metres"
        if result.metric
        else "of exp(y): shapes are true up to the unknown scale and shift",
    }
    writers: dict[str, Callable[[Path], None]] = {
        "npy": lambda path: maps.write_npy(path, result.depth),
        "tiff": lambda path: maps.write_tiff(path, result.depth, result.facts),
        "png16": lambda path: maps.write_image(path, maps.levels16(result.depth, 1 / result.step)),
        "color": lambda path: maps.write_image(path, depth_colours(result, config.colormap)),
        "grey8": lambda path: maps.write_image(path, published_grey(seen, picture.size)),
        "log_depth": lambda path: maps.write_npy(path, result.y),
        "uncertainty": lambda path: maps.write_npy(path, result.spread),
        "uncertainty_picture": lambda path: maps.write_image(path, spread_colours(result.spread)),
        "normals": lambda path: _write_normals(path, outputs.path("normals_picture"), result, camera),
        "points": lambda path: write_cloud(path, result.geometry, picture.rgb, camera),
        "facts": lambda path: maps.write_json(path, {k: v for k, v in facts.items() if v is not None}),
    }
    first, *others = [kind for kind in kinds if kind in writers]
    try:
        for kind in (*others, first):
            writers[kind](outputs.path(kind))
    except BaseException:
        for kind in kinds:
            outputs.path(kind).unlink(missing_ok=True)
        raise


def depth_colours(result: Result, colormap: str) -> np.ndarray:
    """Depth in colour, by its logarithm, so that near and far parts have as many colours each."""
    logs: maps.Map = np.log(result.depth) if result.metric else result.y
    return coloured(logs, *limits(logs), colormap)


def spread_colours(spread: maps.Map) -> np.ndarray:
    """The uncertainty in colour, bright where the members differ."""
    return coloured(spread, 0.0, max(limits(spread)[1], 1e-6), SPREAD_COLOURS)


def published_grey(seen: Seen, size: tuple[int, int]) -> np.ndarray:
    """The published 8-bit picture: depth cut to bytes at the processing size, then resized, bilinear."""
    from PIL import Image

    depth = np.exp(seen.y)
    span = float(depth.max() - depth.min())
    levels = ((depth - depth.min()) / span * 255 if span > 1e-6 else np.zeros_like(depth)).astype(np.uint8)
    return np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR))


def _write_normals(path: Path, picture: Path, result: Result, camera: Camera) -> None:
    """Normals as an array, slab by slab, and as a picture."""
    shape = (*result.depth.shape, 3)
    colours = np.empty(shape, np.uint8)
    with atomic_path(path) as part:
        array = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
        for rows, vectors in normals(result.geometry, camera):
            array[rows] = vectors
            colours[rows] = normal_colours(vectors)
        array.flush()
        del array
    maps.write_image(picture, colours)
