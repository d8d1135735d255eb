"""Depth as geometry: planes come out as planes, whatever the camera."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from diffusion_suite.depth.points import Camera, normal_colours, normals, write_cloud


def whole(depth: np.ndarray, camera: Camera) -> np.ndarray:
    return np.concatenate([vectors for _, vectors in normals(depth, camera)])


def plane(normal: np.ndarray, camera: Camera, distance: float = 3.0) -> np.ndarray:
    """Depth of the plane normal . p = -distance."""
    rays = camera.points(np.ones((camera.height, camera.width), np.float32))
    return (-distance / (rays @ normal)).astype(np.float32)


@pytest.mark.parametrize("size", [(40, 30), (30, 600)])
@pytest.mark.parametrize("tilt", [(0.0, 0.0, -1.0), (0.3, 0.0, -1.0), (0.2, -0.5, -1.0)])
def test_normals_of_planes(size: tuple[int, int], tilt: tuple[float, float, float]) -> None:
    normal = np.array(tilt) / np.linalg.norm(tilt)
    camera = Camera(*size, focal=800.0)
    found = whole(plane(normal, camera), camera)
    assert found.shape == (size[1], size[0], 3)
    np.testing.assert_allclose(found, np.broadcast_to(normal, found.shape), atol=2e-3)


def test_an_edge_does_not_bend_normals() -> None:
    camera = Camera(40, 30, 60.0)
    depth = np.where(np.arange(40) < 20, 2.0, 5.0).astype(np.float32) * np.ones((30, 1), np.float32)
    np.testing.assert_allclose(whole(depth, camera)[..., 2], -1, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_pictures_of_few_pixels(shape: tuple[int, int]) -> None:
    camera = Camera(shape[1], shape[0], 10.0)
    found = whole(np.full(shape, 2.0, np.float32), camera)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)


def test_unknown_depth_has_no_normal() -> None:
    depth = np.full((5, 5), 2.0, np.float32)
    depth[2, 2] = np.nan
    found = whole(depth, Camera(5, 5, 10.0))
    assert (found[2, 2] == 0).all()
    assert (normal_colours(found)[2, 2] == 0).all()
    assert normal_colours(found)[0, 0].tolist() == [128, 128, 255]


def test_where_the_focal_length_comes_from() -> None:
    assert Camera.of((80, 60), 100.0, 90.0, 55) == Camera(80, 60, 100.0, "given")
    assert Camera.of((80, 60), None, 90.0, 55) == Camera(80, 60, 90.0, "EXIF")
    found = Camera.of((60, 80), None, None, 90)
    assert (found.focal, found.source) == (pytest.approx(40 / math.tan(math.pi / 4)), "assumed")


def test_clouds(tmp_path: Path) -> None:
    depth = np.array([[1.0, 2.0, np.nan], [0.0, 3.0, 4.0]], np.float32)
    rgb = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    camera = Camera(3, 2, 2.0)
    write_cloud(tmp_path / "a.ply", depth, rgb, camera)
    head, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex 4\n" in head
    assert head.startswith(b"ply\nformat binary_little_endian 1.0\n")
    vertices = np.frombuffer(body, np.dtype([("at", "<f4", 3), ("colour", "u1", 3)]))
    assert vertices["at"][:, 2].tolist() == [1, 2, 3, 4]
    assert vertices["at"][3].tolist() == [(2 - 1) / 2 * 4, (1 - 0.5) / 2 * 4, 4]
    assert vertices["colour"][3].tolist() == rgb[1, 2].tolist()
