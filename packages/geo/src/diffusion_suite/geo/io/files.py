"""One door to every scene format: by suffix to the reader, by the input's format to the writer."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_suite.core.errors import InputError, OutputError
from diffusion_suite.core.files import atomic_path
from diffusion_suite.geo.io import arrays, raster
from diffusion_suite.geo.io.scene import Scene, SceneWriter, fitting

RASTERS = {
    ".tif": "GTiff",
    ".tiff": "GTiff",
    ".hdr": "ENVI",
    ".img": "ENVI",
    ".dat": "ENVI",
    ".bsq": "ENVI",
    ".bil": "ENVI",
    ".bip": "ENVI",
    ".nc": "netCDF",
    ".nc4": "netCDF",
}
ARRAYS = {".mat": "mat", ".npz": "npz", ".npy": "npy"}
SUFFIXES = frozenset(RASTERS) | frozenset(ARRAYS)


def data_file(path: Path) -> Path:
    """The file that holds the samples: for an ENVI header the binary file beside it, else the path itself.

    Raises:
        InputError: the header stands alone.
    """
    if path.suffix.lower() != ".hdr":
        return path
    base = path.with_suffix("")
    names = [base, *(base.with_suffix(s) for s in (".img", ".dat", ".bsq", ".bil", ".bip", ".raw", ".bin"))]
    for name in names:
        if name.is_file():
            return name
    raise InputError(
        f"{path}: no data file beside this ENVI header", f"put {base.name}.img or {base.name}.dat there"
    )


def sidecars(path: Path) -> list[Path]:
    """Files that belong to a scene file of this name beside it (the ENVI header)."""
    return [path.with_suffix(".hdr")] if RASTERS.get(path.suffix.lower()) == "ENVI" else []


def open_scene(path: str | Path, key: str | None = None, nodata: float | None = None) -> Scene:
    """Open a scene for reading.

    Args:
        path: file, or ``file#key`` for one variable of a .mat, .npz or NetCDF file.
        key: the variable, when the file holds several.
        nodata: value of missing samples; overrides what the file says.

    Returns:
        The open scene; use it as a context manager.

    Raises:
        InputError: no such file, unreadable, several variables and no key, or not a cube.
    """
    text = str(path)
    if "#" in text and not Path(text).exists():
        text, _, key = text.rpartition("#")
    file = Path(text)
    if not file.exists():
        raise InputError(f"{file}: no such file", "check the name and the folder")
    if file.is_dir():
        raise InputError(f"{file} is a folder, not a scene", "name a file in it")
    if not file.stat().st_size:
        raise InputError(f"{file} is empty (0 bytes)", "copy or download it again")
    suffix = file.suffix.lower()
    scene: Scene
    if suffix in ARRAYS:
        scene = arrays.open_array(file, ARRAYS[suffix], key)
    else:
        file = data_file(file)
        scene = raster.open_raster(file, key)
    if nodata is not None:
        scene.nodata = fitting(np.full(scene.shape[2], float(nodata)), scene.dtype)
        if scene.nodata is None and nodata == nodata:
            raise InputError(
                f"nodata={nodata:g} cannot occur in {scene.dtype} samples", "give a value of that type"
            )
    if min(scene.shape) < 1:
        raise InputError(
            f"{file} holds no samples (shape {scene.shape})", "give a scene of rows x columns x bands"
        )
    return scene


def check_space(path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any], copies: int = 1) -> None:
    """Make sure before any work that a scene fits on the disk, even if it cannot be compressed.

    Raises:
        OutputError: when there is less room.
    """
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    needed, free = copies * math.prod(shape) * dtype.itemsize, shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{path.name} may take {_size(needed)} and {_size(free)} are free in {folder}",
            "free some space, or choose another output with -o",
        )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


@contextmanager
def create_scene(
    path: Path,
    like: Scene,
    *,
    factor: int = 1,
    dtype: Any = None,
    nodata: float | None = None,
    spread: bool = False,
) -> Iterator[SceneWriter]:
    """Write a scene with the format that ``path`` names and the metadata of ``like``.

    The file appears under its name only when the block ends without an error.

    Args:
        path: output file; its suffix chooses the format.
        like: scene whose metadata, type and nodata are taken over.
        factor: how many times more rows and columns the output has; the transform follows.
        dtype: type of the stored samples, when another than that of ``like``.
        nodata: value of missing samples, when another than that of ``like``.
        spread: the samples are standard deviations, to which the offset of the bands does not apply.

    Raises:
        OutputError: a format that cannot be written, or the disk said no.
    """
    suffix = path.suffix.lower()
    rows, cols, bands = like.shape
    shape = (rows * factor, cols * factor, bands)
    meta = like.meta.enlarged(factor)
    if spread:
        meta = replace(meta, offsets=())
    stored = np.dtype(like.dtype if dtype is None else dtype)
    marks = fitting(like.nodata if nodata is None else np.full(bands, float(nodata)), stored)
    if suffix not in SUFFIXES or suffix == ".hdr":
        raise OutputError(
            f"cannot write {path.name}", f"end the name in {' '.join(sorted(SUFFIXES - {'.hdr'}))}"
        )
    check_space(path, shape, stored, 2 if suffix in (".mat", ".nc", ".nc4") else 1)
    with ExitStack() as stack:
        asides = [stack.enter_context(atomic_path(aside)) for aside in sidecars(path)]
        temporary = stack.enter_context(atomic_path(path))
        writer: SceneWriter
        if suffix in ARRAYS:
            writer = arrays.ArrayWriter(temporary, ARRAYS[suffix], shape, stored, marks, like)
        else:
            driver = RASTERS[suffix]
            if driver == "GTiff" and like.format == "COG":
                driver = "COG"
            if like.format != RASTERS[suffix] and like.format != driver:
                meta = replace(meta, layout={})
            writer = raster.create_raster(temporary, driver, shape, stored, marks, meta, path.name)
        try:
            yield writer
            writer.finish()
        except BaseException:
            writer.discard()
            for aside in sidecars(temporary):
                aside.unlink(missing_ok=True)
            raise
        for aside in asides:
            temporary.with_suffix(aside.suffix).replace(aside)
