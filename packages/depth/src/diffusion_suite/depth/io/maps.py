"""Depth maps: `.npy`, float TIFF and 16-bit PNG in and out, and tables of a few known depths."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.files import atomic_path

Map = NDArray[np.float32]
SUFFIXES = frozenset({".npy", ".png", ".tif", ".tiff"})
"""Endings of the depth maps that are read."""

MILLIMETRE = 0.001

# Of PNG: twice as fast as the usual 6, and a hundredth (16 bits) to a quarter (colour) larger.
_COMPRESSION = 3


def read_map(path: str | Path, unit: float | None = None) -> Map:
    """Read a depth map.

    Args:
        path: `.npy`, `.png` or `.tif`.
        unit: metres of one unit; None takes 0.001 for whole numbers and 1 for others.

    Returns:
        (height, width) in metres; NaN where nothing is known: 0, negative, infinite or NaN in the file.

    Raises:
        InputError: the file is missing, damaged, or holds no map.
    """
    stored = read_numbers(path)
    if unit is None:
        unit = 1.0 if stored.dtype.kind == "f" else MILLIMETRE
    depth = stored.astype(np.float32) * np.float32(unit)
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    return depth


def read_numbers(path: str | Path) -> NDArray[Any]:
    """The numbers of a map as they are stored, (height, width).

    Raises:
        InputError: the file is missing, damaged, or holds no map.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist", "check the path")
    try:
        stored = _stored(path)
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path} cannot be read as a depth map ({reason})", "fetch it again") from error
    stored = stored[..., 0] if stored.ndim == 3 and stored.shape[-1] == 1 else np.squeeze(stored)
    if stored.ndim != 2 or stored.dtype.kind not in "uif":
        raise InputError(
            f"{path} holds an array of shape {stored.shape} and type {stored.dtype}, no depth map",
            "give one number a pixel",
        )
    return stored


def _stored(path: Path) -> NDArray[Any]:
    if path.suffix.lower() == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        return np.asarray(tifffile.imread(path, key=0))
    with Image.open(path) as image:
        return np.asarray(image)


def read_points(path: str | Path, unit: float = 1.0) -> NDArray[np.float64]:
    """Read a table of known depths.

    Args:
        path: `.csv` with columns x, y (pixels from the left upper corner's centre) and depth; without a
            header the first three columns are those.
        unit: metres of one unit of depth.

    Returns:
        (points, 3): x, y, depth in metres.

    Raises:
        InputError: a row is no three numbers, or there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist", "check the path")
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if any(row)]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error})", "save it as UTF-8 text") from error
    columns = [0, 1, 2]
    if rows and not _is_number(rows[0][0]):
        names = [name.strip().lower() for name in rows.pop(0)]
        if not {"x", "y", "depth"} <= set(names):
            raise InputError(f"{path} has columns {', '.join(names)}", "name them x, y and depth")
        columns = [names.index(name) for name in ("x", "y", "depth")]
    points = []
    for number, row in enumerate(rows, 1):
        try:
            points.append([float(row[column]) for column in columns])
        except (ValueError, IndexError) as error:
            raise InputError(
                f"{path} has no three numbers in entry {number}", "give x, y and depth"
            ) from error
    table = np.array(points, np.float64).reshape(-1, 3) * (1, 1, unit)
    table = table[np.isfinite(table).all(1) & (table[:, 2] > 0)]
    if not len(table):
        raise InputError(f"{path} holds no known depth", "give rows of x, y and a depth above 0")
    return table


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """Write an array as `.npy`, whole or not at all."""
    with atomic_path(path) as part, part.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_tiff(path: Path, depth: Map, facts: Mapping[str, Any]) -> None:
    """Write a float32 TIFF, deflated, with the facts as JSON in its description."""
    import tifffile

    with atomic_path(path) as part:
        tifffile.imwrite(
            part,
            depth,
            compression="zlib",
            rowsperstrip=64,
            photometric="minisblack",
            description=json.dumps(facts),
            metadata=None,
        )


def levels16(values: Map, scale: float) -> NDArray[np.uint16]:
    """`scale * values`, rounded and cut to 0 to 65535; 0 where not finite."""
    levels = np.zeros(values.shape, np.uint16)
    for rows in slabs(values.shape[0]):
        scaled = np.nan_to_num(values[rows] * np.float32(scale), nan=0.0, posinf=0.0, neginf=0.0)
        levels[rows] = scaled.clip(0, 65535).round()
    return levels


def write_image(path: Path, levels: NDArray[Any]) -> None:
    """Write an 8-bit grey or RGB picture, or a 16-bit grey one, as PNG."""
    with atomic_path(path) as part:
        Image.fromarray(levels).save(part, "PNG", compress_level=_COMPRESSION)


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts as JSON."""
    with atomic_path(path) as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def slabs(rows: int, thickness: int = 256) -> Iterator[slice]:
    """Slices that go through the rows of an array, so that temporary arrays stay small."""
    return (slice(top, min(rows, top + thickness)) for top in range(0, rows, thickness))


def resized(values: Map, size: tuple[int, int]) -> Map:
    """A map at another size (width, height), bilinear; averaged where it shrinks."""
    if values.shape == (size[1], size[0]):
        return values
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32)
