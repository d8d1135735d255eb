"""Depth as geometry: points in front of the camera, and the normals of the surfaces that they lie on.

Coordinates are those of the camera: x right, y down, z into the picture, in the unit of the depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffusion_suite.core.files import atomic_path
from diffusion_suite.depth.io.maps import Map, slabs

Vectors = NDArray[np.float32]
_VERTEX = np.dtype([("at", "<f4", 3), ("colour", "u1", 3)])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera whose axis passes through the middle of the picture.

    Attributes:
        width, height: of the picture in pixels.
        focal: focal length in pixels.
        source: where the focal length comes from: given, EXIF or assumed.
    """

    width: int
    height: int
    focal: float
    source: str = "given"

    @classmethod
    def of(cls, size: tuple[int, int], given: float | None, exif: float | None, fov: float) -> Camera:
        """The camera by what is known of it.

        Args:
            size: width and height.
            given: focal length in pixels, or None.
            exif: the same by the picture's EXIF data, or None.
            fov: field of view along the longest side in degrees, taken where both are None.
        """
        if given is not None:
            return cls(*size, given, "given")
        if exif is not None:
            return cls(*size, exif, "EXIF")
        return cls(*size, max(size) / 2 / math.tan(math.radians(fov) / 2), "assumed")

    def points(self, depth: Map, top: int = 0) -> Vectors:
        """Points (rows, width, 3) of depths (rows, width) whose first row is `top`."""
        rows, columns = np.mgrid[top : top + depth.shape[0], : depth.shape[1]].astype(np.float32)
        x = (columns - (self.width - 1) / 2) / self.focal * depth
        y = (rows - (self.height - 1) / 2) / self.focal * depth
        return np.stack([x, y, depth], -1).astype(np.float32)


def normals(depth: Map, camera: Camera) -> Iterator[tuple[slice, Vectors]]:
    """Unit normals of the surfaces, towards the camera, a slab of rows at a time.

    Each tangent is the difference to that neighbour whose depth is nearer, so that a surface's edge does not
    bend its normals.

    Args:
        depth: (height, width) of the whole picture; 0 where the normal is not known (depth not finite).
        camera: of the picture.

    Yields:
        Rows, and the normals there (rows, width, 3).
    """
    for rows in slabs(len(depth)):
        top, bottom = max(0, rows.start - 1), min(len(depth), rows.stop + 1)
        points = camera.points(depth[top:bottom], top)
        down, across = _tangent(points, 0), _tangent(points, 1)
        normal = np.cross(down, across)[rows.start - top : rows.stop - top]
        inside = points[rows.start - top : rows.stop - top]
        normal = np.where((normal * inside).sum(-1, keepdims=True) > 0, -normal, normal)
        length = np.linalg.norm(normal, axis=-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            yield rows, np.nan_to_num(normal / length, posinf=0, neginf=0).astype(np.float32)


def _tangent(points: Vectors, axis: int) -> Vectors:
    if points.shape[axis] == 1:
        step = np.zeros_like(points)
        step[..., 1 - axis] = points[..., 2]
        return step
    forward = np.diff(points, axis=axis)
    first, last = np.take(forward, [0], axis), np.take(forward, [-1], axis)
    ahead, behind = np.concatenate([forward, last], axis), np.concatenate([first, forward], axis)
    nearer = np.abs(ahead[..., 2:]) <= np.abs(behind[..., 2:])
    return np.where(nearer, ahead, behind)


def normal_colours(vectors: Vectors) -> NDArray[np.uint8]:
    """Normals as colours: red right, green up, blue towards the viewer; black where not known."""
    colours = ((vectors * (1, -1, -1) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    colours[(vectors == 0).all(-1)] = 0
    return colours


def write_cloud(path: Path, depth: Map, rgb: NDArray[np.uint8], camera: Camera) -> None:
    """Write coloured points as binary PLY; pixels whose depth is not finite or not above 0 are left out.

    Args:
        path: ending in `.ply`.
        depth: (height, width).
        rgb: (height, width, 3).
        camera: of the picture.
    """
    count = sum(int((np.isfinite(depth[rows]) & (depth[rows] > 0)).sum()) for rows in slabs(len(depth)))
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    with atomic_path(path) as part, part.open("wb") as file:
        file.write("\n".join([*lines, "end_header\n"]).encode())
        for rows in slabs(len(depth)):
            kept = np.isfinite(depth[rows]) & (depth[rows] > 0)
            vertices = np.empty(int(kept.sum()), _VERTEX)
            vertices["at"] = camera.points(depth[rows], rows.start)[kept]
            vertices["colour"] = rgb[rows][kept]
            file.write(vertices.tobytes())
