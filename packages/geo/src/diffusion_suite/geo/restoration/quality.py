"""What can be said about a scene without a clean one: noise, stripes, gaps, roughness of its spectra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusion_suite.geo.io import Scene
from diffusion_suite.geo.restoration.noise import band_noise

Values = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]

SIDE = 512


@dataclass(frozen=True)
class Quality:
    """No-reference figures of a scene, from its middle (at most 512 x 512 pixels).

    Attributes:
        noise_bands: noise standard deviation of each band in the unit of the file, NaN where unknown.
        noise: median over bands of noise / standard deviation of the band.
        striping: median over bands of the share of a band's variance that lies in offsets of single columns.
        missing: share of samples missing.
        dead_bands: bands (1 = first) without any sample.
        roughness: mean size of the second spectral difference, bands scaled to unit standard deviation.
    """

    noise_bands: list[float]
    noise: float
    striping: float
    missing: float
    dead_bands: list[int]
    roughness: float

    def summary(self) -> dict[str, float]:
        """The single figures, by name."""
        named = {"noise": self.noise, "striping": self.striping, "missing": self.missing}
        return {**named, "roughness": self.roughness}


def assess(scene: Scene) -> Quality:
    """The figures of a scene; reads its middle only."""
    rows, cols, _ = scene.shape
    top, left = max(0, (rows - SIDE) // 2), max(0, (cols - SIDE) // 2)
    values, seen = scene.read(slice(top, min(rows, top + SIDE)), slice(left, min(cols, left + SIDE)))
    return measure(values, seen)


def measure(values: Values, seen: Flags) -> Quality:
    """The figures of a cube.

    Args:
        values: (rows, cols, bands) in any unit.
        seen: the same shape, True = observed.
    """
    live = seen.any(axis=(0, 1))
    cube = np.where(seen, values, np.nan)[..., live].astype(np.float32)
    flags = seen[..., live]
    levels = np.full(live.size, np.nan)
    noise = striping = roughness = float("nan")
    if live.any():
        count = flags.sum(axis=(0, 1))
        mean = np.where(flags, cube, 0).sum(axis=(0, 1), dtype=np.float64) / count
        centred = np.where(flags, cube - mean, 0)
        deviation = np.sqrt((centred**2).sum(axis=(0, 1)) / count)
        levels[live] = band_noise(cube, flags)
        varied = deviation > 0
        noise = _median((levels[live] / np.where(varied, deviation, np.nan))[varied])
        unit = np.where(flags, centred / np.where(varied, deviation, 1), np.nan)[..., varied]
        striping = _striping(unit)
        roughness = _roughness(unit)
    return Quality(
        noise_bands=[float(x) for x in levels],
        noise=noise,
        striping=striping,
        missing=float(1 - seen.mean()),
        dead_bands=[int(band) + 1 for band in np.flatnonzero(~live)],
        roughness=roughness,
    )


def _striping(unit: Values) -> float:
    """Median over bands of the variance of column means about the mean of their two neighbours, above chance.

    Differences of neighbouring columns are averaged along the column: an offset of a column stays, noise and
    texture average out; what chance leaves is the variance of the differences over their number.
    """
    if unit.shape[1] < 3 or unit.shape[0] < 2 or unit.shape[2] == 0:
        return float("nan")
    bend = unit[:, 1:-1] - 0.5 * (unit[:, :-2] + unit[:, 2:])
    known = np.isfinite(bend)
    count = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, bend, 0)
    mean = filled.sum(axis=0) / count
    chance = np.where(known, (bend - mean) ** 2, 0).sum(axis=0) / count / np.maximum(count - 1, 1)
    return float(np.median(np.maximum(((mean**2) - chance).mean(axis=0) / 1.5, 0)))


def _roughness(unit: Values) -> float:
    if unit.shape[2] < 3:
        return float("nan")
    bend = np.abs(np.diff(unit, n=2, axis=2))
    known = np.isfinite(bend)
    return float(bend[known].mean()) if known.any() else float("nan")


def _median(values: Values) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else float("nan")
