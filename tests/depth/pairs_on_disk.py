"""Small folders of pictures with depth, in every layout that is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pictures_on_disk import drawn
from PIL import Image

from diffusion_suite.core.seeding import numpy_generator

SCALE = 5000


def room(height: int = 40, width: int = 56, seed: int = 0) -> NDArray[np.float64]:
    """Depth of a floor and a wall with boxes before it, metres."""
    rng = numpy_generator("room", seed)
    rows = np.linspace(0, 1, height)[:, None]
    depth = np.minimum(4.0, 1.2 / np.maximum(rows, 0.2)) * np.ones((height, width))
    for _ in range(3):
        top, left = int(rng.integers(height // 2)), int(rng.integers(width))
        depth[top : top + height // 3, left : left + width // 4] = rng.uniform(1, 3)
    return depth


def sample(
    folder: Path, seed: int = 0, holes: bool = True, size: tuple[int, int] = (40, 56), **meta: Any
) -> Path:
    """One sample: rgb.png, gt.png of 16 bits, meta.json."""
    folder.mkdir(parents=True)
    Image.fromarray(drawn(*size, seed)).save(folder / "rgb.png")
    facts = {"name": folder.name, "kind": "depth_m", "scale": SCALE, **meta}
    values = room(*size, seed)
    if facts["kind"] == "disparity_px":
        values = 30 / values - 2
    stored = (values * facts["scale"]).round().astype(np.uint16)
    if holes:
        stored[:5, :14] = 0
    Image.fromarray(stored).save(folder / "gt.png")
    (folder / "meta.json").write_text(json.dumps(facts))
    return folder


def samples(folder: Path, count: int = 2, **how: Any) -> Path:
    """A folder of samples."""
    for number in range(count):
        sample(folder / f"s{number}", number, **how)
    return folder


def parallel(folder: Path, names: tuple[str, ...] = ("a", "b")) -> Path:
    """rgb/ beside depth/, in millimetres."""
    (folder / "rgb").mkdir(parents=True)
    (folder / "depth").mkdir()
    for seed, name in enumerate(names):
        Image.fromarray(drawn(40, 56, seed)).save(folder / "rgb" / f"{name}.jpg")
        Image.fromarray((1000 * room(40, 56, seed)).round().astype(np.uint16)).save(
            folder / "depth" / f"{name}.png"
        )
    return folder


def virtual_kitti(folder: Path) -> Path:
    """Two frames of one camera; the sky is 65535 centimetres."""
    frames = folder / "Scene01" / "fog" / "frames"
    for number in range(2):
        rgb = frames / "rgb" / "Camera_0" / f"rgb_{number:05d}.jpg"
        depth = frames / "depth" / "Camera_0" / f"depth_{number:05d}.png"
        for path in (rgb, depth):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn(36, 60, number)).save(rgb)
        stored = (100 * room(36, 60, number)).round().astype(np.uint16)
        stored[:6] = 65535
        Image.fromarray(stored).save(depth)
    return folder


def hypersim(folder: Path, split: bool = True) -> Path:
    """Three frames of one scene, with the table of splits; distances to the eye, NaN where nothing is."""
    import h5py

    images = folder / "ai_001_001" / "images"
    lines = ["scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name"]
    for number, (released, part) in enumerate((("True", "train"), ("False", ""), ("True", "test"))):
        rgb = images / "scene_cam_00_final_preview" / f"frame.{number:04d}.tonemap.jpg"
        depth = images / "scene_cam_00_geometry_hdf5" / f"frame.{number:04d}.depth_meters.hdf5"
        for path in (rgb, depth):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn(48, 64, number)).save(rgb)
        focal = 886.81 * 64 / 1024
        rows, columns = np.mgrid[:48, :64] + 0.5
        stretch = np.sqrt((rows - 24) ** 2 + (columns - 32) ** 2 + focal**2) / focal
        distance = (3.0 * stretch).astype(np.float16)
        distance[0, 0] = np.nan
        with h5py.File(depth, "w") as file:
            file["dataset"] = distance
        lines.append(f"ai_001_001,cam_00,{number},{released},,{part}")
    if split:
        (folder / "metadata_images_split_scene_v1.csv").write_text("\n".join(lines) + "\n")
    return folder
