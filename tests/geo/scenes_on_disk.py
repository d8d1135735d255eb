"""Small scenes for the tests of the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin

ROWS, COLS, BANDS = 24, 20, 6
NODATA = -9999


def low_rank(seed: int = 0, rows: int = ROWS, cols: int = COLS, bands: int = BANDS) -> np.ndarray:
    """Three materials with smooth spectra and a little noise, (rows, cols, bands), about 500 to 4000."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :cols] / max(rows, cols)
    maps = np.stack([np.sin(3 * x + seed) + 1.2, np.cos(4 * y) + 1.2, (x + y > 0.9) + 0.2], axis=-1)
    spectra = 400 * (1.2 + np.sin(np.arange(3)[:, None] + 0.7 * np.arange(bands)))
    return maps @ spectra + 20 * rng.standard_normal((rows, cols, bands))


def write_tif(path: Path, cube: np.ndarray, **more: Any) -> Path:
    """A GeoTIFF in UTM with wavelengths."""
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": cube.shape[0],
        "width": cube.shape[1],
        "count": cube.shape[2],
        "dtype": cube.dtype.name,
        "crs": "EPSG:32633",
        "transform": from_origin(365055, 5807085, 30, 30),
        "nodata": NODATA,
    } | more
    with rasterio.open(path, "w", **profile) as target:
        target.write(np.moveaxis(cube, -1, 0))
        for band in range(1, cube.shape[2] + 1):
            target.update_tags(band, wavelength=str(400 + 100 * band), wavelength_units="Nanometers")
    return path


def with_border(dtype: str = "int16") -> np.ndarray:
    """A scene whose left columns lie outside the swath and whose band 2 has a dead stretch."""
    cube = low_rank().round().astype(dtype)
    cube[:, :3] = NODATA
    cube[5:9, 10, 2] = NODATA
    return cube


def read_tif(path: Path) -> np.ndarray:
    """All samples, (rows, cols, bands)."""
    with rasterio.open(path) as source:
        return np.moveaxis(source.read(), 0, -1)
