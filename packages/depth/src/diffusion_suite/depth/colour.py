"""Depth and uncertainty as pictures in colour."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from diffusion_suite.core.config_schema import suggest
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.depth.io.maps import Map, slabs

LEVELS = 1024
NOTHING = (0, 0, 0)
QUANTILES = (0.005, 0.995)


@lru_cache(maxsize=16)
def table(name: str) -> NDArray[np.uint8]:
    """The colours (1024, 3) of a matplotlib colour map.

    Raises:
        ConfigError: there is no colour map of that name.
    """
    from matplotlib import colormaps

    if name not in colormaps:
        raise ConfigError(f"there is no colour map {name!r}", suggest(name, list(colormaps)), key="colormap")
    colours = colormaps[name](np.linspace(0, 1, LEVELS))[:, :3]
    found: NDArray[np.uint8] = (colours * 255).round().astype(np.uint8)
    return found


def coloured(values: Map, low: float, high: float, colormap: str) -> NDArray[np.uint8]:
    """Colours (height, width, 3) of values from low to high, cut there; black where they are not finite."""
    colours = table(colormap)
    factor = (LEVELS - 1) / (high - low) if high > low else 0.0
    picture = np.empty((*values.shape, 3), np.uint8)
    for rows in slabs(values.shape[0]):
        part = values[rows]
        known = np.isfinite(part)
        place = ((np.where(known, part, low) - low) * factor).clip(0, LEVELS - 1).astype(np.intp)
        picture[rows] = colours[place]
        picture[rows][~known] = NOTHING
    return picture


def limits(values: Map, quantiles: tuple[float, float] = QUANTILES) -> tuple[float, float]:
    """Low and high quantiles of what is finite, from at most about a million values; (0, 0) without any."""
    step = max(1, int((values.size / 1e6) ** 0.5))
    sample = values[::step, ::step]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 0.0
    low, high = np.quantile(sample, quantiles)
    return float(low), float(high)
