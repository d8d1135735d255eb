"""From what the network saw to depth at the picture's own size: relative, metric or completed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_suite.core.errors import InputError
from diffusion_suite.depth.config import PredictConfig
from diffusion_suite.depth.io.maps import MILLIMETRE, SUFFIXES, Map, read_map, read_points, resized
from diffusion_suite.depth.metric import LogLine, Values, between, complete, fit, known_at
from diffusion_suite.depth.predictor import Seen, Size

KNOWN_SUFFIXES = SUFFIXES | {".csv"}
_MOST_POINTS = 200_000


@dataclass(frozen=True)
class Result:
    """Depth of one picture.

    Attributes:
        y: (height, width) normalised log-depth, at the picture's size.
        spread: its standard deviation over members.
        depth: larger is farther; metres where `metric`.
        metric: whether it is in metres.
        facts: what the depth is, for the file beside it.
    """

    y: Map
    spread: Map
    depth: Map
    metric: bool
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def geometry(self) -> Map:
        """Depth above 0 for points and normals: metres, or exp(y) where only its logarithm's line is open."""
        return self.depth if self.metric else np.exp(self.y)

    @property
    def step(self) -> float:
        """Depth of one level of a 16-bit picture: a millimetre or more where metric."""
        highest = float(self.depth.max(initial=0.0))
        if not self.metric:
            return max(1.0, highest) / 65535
        return float(MILLIMETRE * 10 ** math.ceil(math.log10(max(highest / (65535 * MILLIMETRE), 1))))


def result(seen: Seen, size: Size, config: PredictConfig, known: Values | None = None) -> Result:
    """Depth of a picture.

    Args:
        seen: what the network gave.
        size: width and height of the picture.
        config: relative or metric, and which.
        known: (n, 3) known depths: x, y in pixels of the picture, metres.

    Raises:
        InputError: the known depths lie outside the picture or do not go with it.
    """
    y, spread = resized(seen.y, size), resized(seen.spread, size)
    if not np.isfinite(seen.y).all():
        raise InputError("the network gave no finite depth", "give precision=32, or other weights")
    if known is not None:
        line = fit(known_at(y, known), known[:, 2])
        depth = complete(y, known, line) if config.completion else line.depth(y)
        return Result(y, spread, depth, True, _metric_facts(line, config.completion))
    if config.near is not None and config.far is not None:
        line = between(config.near, config.far)
        return Result(y, spread, line.depth(y), True, _metric_facts(line))
    return relative(y, spread, config.alignment, (float(seen.y.min()), float(seen.y.max())))


def relative(y: Map, spread: Map, alignment: str, limits: tuple[float, float]) -> Result:
    """Relative depth: exp(y), from 0 to 1 where the alignment is `affine`; a flat picture is 0.

    Args:
        y: (height, width), at the picture's size.
        spread: of the same shape.
        alignment: `affine` or `log_affine`.
        limits: least and greatest y at the size at which it was predicted.
    """
    depth: Map = np.exp(y)
    if alignment == "log_affine":
        facts = {"depth": "relative", "meaning": "ln(depth) is true up to an unknown scale and shift"}
        return Result(y, spread, depth, False, facts)
    low, high = np.float32(np.exp(limits[0])), np.float32(np.exp(limits[1]))
    depth = (depth - low) / (high - low) if high - low > 1e-6 else np.zeros_like(depth)
    facts = {
        "depth": "relative",
        "meaning": "true up to an unknown scale and shift; 0 is the nearest point, 1 the farthest",
    }
    return Result(y, spread, depth.clip(0, 1), False, facts)


def _metric_facts(line: LogLine, completed: bool = False) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "depth": "metric",
        "meaning": "metres along the optical axis",
        "fit": {"formula": "ln(depth) = slope * y + shift", "slope": line.slope, "shift": line.shift},
    }
    if line.points:
        facts["fit"] |= {"known_depths": line.points, "median_error_of_log_depth": round(line.error, 5)}
        facts["completed"] = completed
    return facts


def known_depths(picture: Path, size: Size, known: str, unit: float | None) -> Values:
    """The known depths of a picture.

    Args:
        picture: its file; in a folder of known depths, that of the same name is taken.
        size: its width and height.
        known: a map, a table or a folder of these.
        unit: metres of one unit; None as `read_map` takes it.

    Returns:
        (n, 3): x, y in pixels and metres; of a dense map an even share.

    Raises:
        InputError: there is none, or none inside the picture.
    """
    path = Path(known)
    if path.is_dir():
        names = [path / f"{picture.stem}{end}{s}" for end in ("", "_depth") for s in sorted(KNOWN_SUFFIXES)]
        found = next((name for name in names if name.is_file()), None)
        if found is None:
            raise InputError(
                f"{known} holds no known depths of {picture.name}", f"name them {picture.stem}.csv"
            )
        path = found
    if path.suffix.lower() not in KNOWN_SUFFIXES:
        raise InputError(f"known={known} is no {', '.join(sorted(KNOWN_SUFFIXES))} file", "convert it")
    points = read_points(path, unit or 1.0) if path.suffix.lower() == ".csv" else _of_map(path, size, unit)
    width, height = size
    inside = (points[:, 0] > -0.5) & (points[:, 0] < width - 0.5)
    inside &= (points[:, 1] > -0.5) & (points[:, 1] < height - 0.5)
    if not inside.any():
        raise InputError(
            f"no known depth in {path} lies in the picture of {width} x {height}",
            "give x and y in pixels of the picture as it is shown, or a map with depths above 0",
        )
    return points[inside]


def _of_map(path: Path, size: Size, unit: float | None) -> Values:
    depth = read_map(path, unit)
    (height, width), (columns, rows) = depth.shape, size
    if abs(height * columns - width * rows) > 2 * max(rows, columns):
        raise InputError(
            f"{path} is {width} x {height} but its picture is {columns} x {rows}",
            "give a map of the same view",
        )
    at = np.argwhere(np.isfinite(depth))
    at = at[:: -(-len(at) // _MOST_POINTS) or 1]
    places = (at[:, ::-1] + 0.5) * (columns / width, rows / height) - 0.5
    return np.concatenate([places, depth[at[:, 0], at[:, 1], None]], 1).astype(np.float64)
