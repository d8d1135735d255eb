"""Pictures with true depth in folders, of the layouts that people have.

- samples: `NAME/rgb.png`, `NAME/gt.png`, `NAME/meta.json`; the last tells whether `gt` is `depth_m` (metres)
  or `disparity_px` (pixels, larger is nearer), and the `scale` that the stored numbers are divided by.
- folders: `rgb/NAME.jpg` and `depth/NAME.png` (.npy, .tif) in metres, whole numbers in millimetres.
- Hypersim: `ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg` and
  `scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5`, distances to the eye in metres.
- Virtual KITTI 2: `Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg` and `depth/Camera_0/depth_00000.png`,
  centimetres, 65535 in the sky.

A folder is recognised by what it holds; the data sets may lie anywhere below it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffusion_suite.core.errors import InputError
from diffusion_suite.depth.alignment import Mask
from diffusion_suite.depth.io.maps import SUFFIXES as MAP_SUFFIXES
from diffusion_suite.depth.io.maps import read_map
from diffusion_suite.depth.io.pictures import SUFFIXES as PICTURE_SUFFIXES
from diffusion_suite.depth.io.pictures import read_picture

Storage = Literal["map", "disparity", "hypersim", "vkitti"]

HYPERSIM_FOCAL = 886.81
"""Pixels, of pictures 1024 wide."""

HYPERSIM_SPLIT = "metadata_images_split_scene_v1.csv"
VKITTI_SKY = 65535


@dataclass(frozen=True)
class Truth:
    """A picture and what was measured of it.

    Attributes:
        rgb: (height, width, 3), 8 bit.
        depth: (height, width) float32, metres, or in a unit of its own where `relative`; NaN where nothing
            was measured, infinite in the sky where that is known.
        relative: the depth is the inverse of a disparity whose scale and offset are not known.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    relative: bool = False


@dataclass(frozen=True)
class Pair:
    """Where a picture and its true depth are.

    Attributes:
        name: for people and for result files; unique among the pairs of a folder.
        picture: the picture.
        truth: the depth map.
        storage: how the map is stored.
        unit: metres (pixels of disparity) of one unit of the map; None for what `read_map` takes it for.
        crop: (first row, last, first column, last) of the pixels to measure; None for all.
        offset: pixels to add to a disparity, and metres times pixels by which 1 / disparity is multiplied;
            None where they are not known.
        focal: focal length in pixels of the map, or None.
    """

    name: str
    picture: Path
    truth: Path
    storage: Storage = "map"
    unit: float | None = None
    crop: tuple[int, int, int, int] | None = None
    offset: tuple[float, float] | None = None
    focal: float | None = None

    def read(self) -> Truth:
        """Both, in memory.

        Raises:
            InputError: a file is missing or damaged, or the two are of different shapes.
        """
        rgb = read_picture(self.picture).rgb
        depth, relative = _READERS[self.storage](self), False
        if self.storage == "disparity":
            relative = self.offset is None
            offset, factor = self.offset or (0.0, 1.0)
            depth = factor / (depth + offset)
        height, width = depth.shape
        if abs(rgb.shape[0] * width - rgb.shape[1] * height) > 2 * max(height, width):
            raise InputError(
                f"{self.picture} is {rgb.shape[0]} x {rgb.shape[1]} but {self.truth} is {height} x {width}",
                "give pictures and depth of one view",
            )
        return Truth(rgb, depth, relative)

    def counts(self, height: int, width: int) -> Mask:
        """The pixels that the crop leaves, (height, width)."""
        if self.crop is None:
            return np.ones((height, width), bool)
        mask = np.zeros((height, width), bool)
        mask[self.crop[0] : self.crop[1], self.crop[2] : self.crop[3]] = True
        return mask


def pairs_in(folder: str | Path, unit: float | None = None, split: str = "train") -> list[Pair]:
    """The pairs of a folder, sorted by name.

    Args:
        folder: of one of the layouts above, or one sample.
        unit: metres of one unit of the maps of the layout `folders`; None takes 0.001 for whole numbers.
        split: part of Hypersim (`train`, `val`, `test`), where its table of splits lies in the folder.

    Raises:
        InputError: there is none, or a `meta.json` that cannot be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", "name a folder of pictures with depth")
    layouts = (_samples(folder), _folders(folder, unit), _vkitti(folder), _hypersim(folder, split))
    for layout in layouts:
        found = sorted(layout, key=lambda pair: pair.name)
        if found:
            return found
    raise InputError(
        f"{folder} holds no picture with depth",
        "give NAME/rgb.png with gt.png and meta.json, rgb/ beside depth/, Hypersim or Virtual KITTI 2",
    )


def beside(pictures: list[Path], reference: Path, unit: float | None = None) -> list[Pair]:
    """Pairs of pictures and the maps of their names in another folder.

    Args:
        pictures: the pictures.
        reference: folder of maps NAME.png, .npy or .tif, or NAME_depth.png and so on.
        unit: metres of one unit of a map.

    Raises:
        InputError: a picture has no map.
    """
    if not reference.is_dir():
        raise InputError(f"reference={reference} is no folder", "name a folder of true depth maps")
    maps = {path.stem: path for path in sorted(reference.iterdir()) if path.suffix.lower() in MAP_SUFFIXES}
    pairs = []
    for picture in pictures:
        truth = maps.get(picture.stem) or maps.get(f"{picture.stem}_depth")
        if truth is None:
            raise InputError(
                f"{reference} holds no depth map for {picture.name}", f"name it {picture.stem}.png or .npy"
            )
        pairs.append(Pair(picture.stem, picture, truth, unit=unit))
    return pairs


def _samples(folder: Path) -> Iterator[Pair]:
    metas = [folder / "meta.json"] if (folder / "meta.json").is_file() else sorted(folder.glob("*/meta.json"))
    for meta in metas:
        place = meta.parent
        truth = next((place / f"gt{s}" for s in sorted(MAP_SUFFIXES) if (place / f"gt{s}").is_file()), None)
        picture = next((p for p in sorted(place.glob("rgb.*")) if p.suffix.lower() in PICTURE_SUFFIXES), None)
        if truth is None or picture is None:
            raise InputError(
                f"{place} holds meta.json but no {'gt.png' if truth is None else 'rgb.png'}", "add it"
            )
        yield _sample(place.resolve().name, picture, truth, meta)


def _sample(name: str, picture: Path, truth: Path, meta: Path) -> Pair:
    try:
        facts: dict[str, Any] = json.loads(meta.read_text(encoding="utf-8"))
        kind, unit = facts["kind"], 1 / float(facts.get("scale", 1))
        crop = facts.get("eval_crop")
        window = None if crop is None else tuple(int(side) for side in crop)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise InputError(
            f"{meta} cannot be used ({type(error).__name__}: {error})", "give kind and scale"
        ) from error
    if kind not in ("depth_m", "disparity_px"):
        raise InputError(f"{meta} is of kind {kind!r}", "give depth_m or disparity_px")
    if window is not None and len(window) != 4:
        raise InputError(f"{meta} has an eval_crop of {len(window)} numbers", "give [row0, row1, col0, col1]")
    storage: Storage = "map" if kind == "depth_m" else "disparity"
    return Pair(name, picture, truth, storage, unit, window, _calibration(facts), _focal(facts))


def _calibration(facts: dict[str, Any]) -> tuple[float, float] | None:
    """Disparity offset and baseline times focal length, where `meta.json` tells both."""
    focal = _focal(facts)
    if focal is None or "baseline" not in facts or "disparity_offset" not in facts:
        return None
    return float(facts["disparity_offset"]), float(facts["baseline"]) * focal


def _focal(facts: dict[str, Any]) -> float | None:
    intrinsics = facts.get("intrinsics")
    focal = facts.get("focal", intrinsics.get("fx") if isinstance(intrinsics, dict) else None)
    return None if focal is None else float(focal)


def _hypersim(folder: Path, split: str) -> Iterator[Pair]:
    left_out = _left_out_of_hypersim(folder, split)
    for picture in folder.rglob("images/scene_cam_*_final_preview/frame.*.tonemap.jpg"):
        camera = picture.parent.name.removeprefix("scene_").removesuffix("_final_preview")
        scene, frame = picture.parents[2].name, picture.name.split(".")[1]
        geometry = picture.parents[1] / f"scene_{camera}_geometry_hdf5"
        truth = geometry / f"frame.{frame}.depth_meters.hdf5"
        if truth.is_file() and (scene, camera, int(frame)) not in left_out:
            yield Pair(f"{scene}_{camera}_{frame}", picture, truth, "hypersim")


def _left_out_of_hypersim(folder: Path, split: str) -> set[tuple[str, str, int]]:
    """Frames that the data set's own table leaves out or puts in another split, where the table is there."""
    table = next(
        iter(sorted(folder.glob(HYPERSIM_SPLIT)) or sorted(folder.parent.glob(HYPERSIM_SPLIT))), None
    )
    if table is None:
        return set()
    with table.open(encoding="utf-8", newline="") as file:
        return {
            (row["scene_name"], row["camera_name"], int(row["frame_id"]))
            for row in csv.DictReader(file)
            if row["included_in_public_release"] != "True" or row["split_partition_name"] != split
        }


def _vkitti(folder: Path) -> Iterator[Pair]:
    for picture in folder.rglob("frames/rgb/Camera_*/rgb_*.jpg"):
        camera, frames = picture.parent.name, picture.parents[2]
        truth = frames / "depth" / camera / f"depth_{picture.stem.removeprefix('rgb_')}.png"
        if truth.is_file():
            scene, variation = frames.parents[1].name, frames.parent.name
            yield Pair(f"{scene}_{variation}_{camera}_{picture.stem[4:]}", picture, truth, "vkitti")


def _folders(folder: Path, unit: float | None) -> Iterator[Pair]:
    if not ((folder / "rgb").is_dir() and (folder / "depth").is_dir()):
        return
    maps = {path.stem: path for path in (folder / "depth").iterdir() if path.suffix.lower() in MAP_SUFFIXES}
    for picture in (folder / "rgb").iterdir():
        if picture.suffix.lower() in PICTURE_SUFFIXES and picture.stem in maps:
            yield Pair(picture.stem, picture, maps[picture.stem], unit=unit)


def _read_hypersim(pair: Pair) -> NDArray[np.float32]:
    """Depth along the axis, from distances to the eye; NaN where the ray met nothing."""
    import h5py

    try:
        with h5py.File(pair.truth, "r") as file:
            distance = np.asarray(file["dataset"], np.float32)
    except (OSError, KeyError) as error:
        raise InputError(f"{pair.truth} cannot be read ({error})", "fetch it again") from error
    height, width = distance.shape
    focal = HYPERSIM_FOCAL * width / 1024
    rows = np.arange(height, dtype=np.float32)[:, None] + 0.5 - height / 2
    columns = np.arange(width, dtype=np.float32) + 0.5 - width / 2
    depth = distance * (focal / np.sqrt(rows**2 + columns**2 + focal**2)).astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float32)


def _read_vkitti(pair: Pair) -> NDArray[np.float32]:
    """Depth from centimetres; the sky is infinite."""
    stored = read_map(pair.truth, 1.0)
    return np.where(stored >= VKITTI_SKY, np.inf, stored / 100).astype(np.float32)


_READERS: dict[Storage, Callable[[Pair], NDArray[np.float32]]] = {
    "map": lambda pair: read_map(pair.truth, pair.unit),
    "disparity": lambda pair: read_map(pair.truth, pair.unit),
    "hypersim": _read_hypersim,
    "vkitti": _read_vkitti,
}
