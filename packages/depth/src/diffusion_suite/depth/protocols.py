"""How the field's data sets are measured: range of valid depth, crop of the picture, part of it that counts.

The table is that of Marigold's public evaluation. A set's own files are not read here: give pictures and true
depth as `references` describes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_suite.core.errors import InputError
from diffusion_suite.depth.alignment import Mask

KITTI_SIZE = (352, 1216)
USUAL_VIEW = math.radians(55)
"""Angle of view along the longest side where the focal length is not known."""


@dataclass(frozen=True)
class Protocol:
    """One data set's rules.

    Attributes:
        nearest: least valid depth in metres, excluded.
        farthest: greatest valid depth in metres, excluded.
        side: longest side in pixels at which the network sees the picture; 0 for its own.
        cut: picture and truth are cut to this (height, width), at the bottom and in the middle, before
            anything else; None for no cut.
        rows: first and last share of the rows that count, of what is left by the cut.
        columns: first and last share of the columns that count.
        size: (height, width) that the rows and columns refer to, for an exact crop; None for any.
        fit_side: the alignment is fitted at this longest side, on the nearest pixels; None for all pixels.
    """

    nearest: float = 1e-3
    farthest: float = math.inf
    side: int | None = None
    cut: tuple[int, int] | None = None
    rows: tuple[float, float] = (0.0, 1.0)
    columns: tuple[float, float] = (0.0, 1.0)
    size: tuple[int, int] | None = None
    fit_side: int | None = None

    def cut_window(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns that the cut keeps.

        Raises:
            InputError: the picture is smaller than the cut, or not of the protocol's size.
        """
        if self.size is not None and (height, width) != self.size:
            raise InputError(
                f"a picture of {height} x {width} under a protocol for {self.size[0]} x {self.size[1]}",
                "give the set's own pictures, or another protocol",
            )
        if self.cut is None:
            return slice(0, height), slice(0, width)
        rows, columns = self.cut
        if height < rows or width < columns:
            raise InputError(
                f"a picture of {height} x {width} cannot be cut to {rows} x {columns}",
                "give the set's own pictures, or another protocol",
            )
        left = (width - columns) // 2
        return slice(height - rows, height), slice(left, left + columns)

    def counts(self, height: int, width: int) -> Mask:
        """The pixels that count, (height, width), after the cut."""
        mask = np.zeros((height, width), bool)
        mask[
            int(self.rows[0] * height) : int(self.rows[1] * height),
            int(self.columns[0] * width) : int(self.columns[1] * width),
        ] = True
        return mask

    def valid(self, truth: NDArray[np.floating]) -> Mask:
        """The pixels of a true depth map (after the cut) that are measured: in range, and counting."""
        with np.errstate(invalid="ignore"):
            measured = np.isfinite(truth) & (truth > self.nearest) & (truth < self.farthest)
        valid: Mask = measured & self.counts(*truth.shape)
        return valid

    def fitted(self, height: int, width: int) -> Mask | None:
        """The pixels that the alignment is fitted to, (height, width); None for all."""
        if self.fit_side is None or max(height, width) <= self.fit_side:
            return None
        share = self.fit_side / max(height, width)
        rows, columns = (
            np.minimum((np.arange(int(n * share)) / share).astype(int), n - 1) for n in (height, width)
        )
        mask = np.zeros((height, width), bool)
        mask[np.ix_(rows, columns)] = True
        return mask


PROTOCOLS = {
    "nyu": Protocol(
        1e-3, 10.0, 0, rows=(45 / 480, 471 / 480), columns=(41 / 640, 601 / 640), size=(480, 640)
    ),
    "kitti": Protocol(
        1e-5,
        80.0,
        0,
        cut=KITTI_SIZE,
        rows=(0.3324324, 0.91351351),
        columns=(0.0359477, 0.96405229),
    ),
    "eth3d": Protocol(1e-5, math.inf, 756, fit_side=1024),
    "scannet": Protocol(1e-3, 10.0, 0),
    "diode": Protocol(0.6, 350.0, 640),
}
"""By the name that the setting `protocol` takes."""


def lidar(
    depth_shape: tuple[int, int],
    focal: float | None = None,
    beams: int = 64,
    elevations: tuple[float, float] = (-24.9, 2.0),
    azimuth_step: float = 0.16,
) -> Mask:
    """The pixels that a turning scanner at the camera's place would measure.

    Args:
        depth_shape: height and width of the picture.
        focal: in pixels; the axis passes through the middle of the picture. None for a view of 55 degrees.
        beams: scan lines, evenly over the elevations.
        elevations: lowest and highest beam in degrees, above the horizon positive; the defaults are those of
            a 64-beam scanner.
        azimuth_step: degrees between the points of a line.

    Returns:
        (height, width), True where a point falls. At most one point a pixel.
    """
    height, width = depth_shape
    if focal is None:
        focal = max(depth_shape) / 2 / math.tan(USUAL_VIEW / 2)
    half = math.degrees(math.atan(width / 2 / focal))
    azimuths = np.radians(np.arange(-half, half, azimuth_step))
    slopes = np.tan(np.radians(np.linspace(*elevations, beams)))
    azimuth, slope = np.meshgrid(azimuths, slopes)
    x = focal * np.tan(azimuth) + width / 2
    y = height / 2 - focal * slope / np.cos(azimuth)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    mask = np.zeros(depth_shape, bool)
    mask[y[inside].astype(int), x[inside].astype(int)] = True
    return mask
