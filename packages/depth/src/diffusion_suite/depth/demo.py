"""The demo of the depth domain: photographs in, depth and its uncertainty out, one of them measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffusion_suite.core.config import config_hash
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.gallery import Picture, Section
from diffusion_suite.depth.alignment import Alignment, Estimate, align
from diffusion_suite.depth.config import PredictConfig
from diffusion_suite.depth.io.maps import write_image
from diffusion_suite.depth.metrics import score
from diffusion_suite.depth.outputs import plan_outputs
from diffusion_suite.depth.predict import Job

PHOTOGRAPHS = {
    "astronaut": "A portrait.",
    "coffee": "A table from close by.",
    "chelsea": "A cat.",
    "motorcycle": "A workshop, measured with structured light.",
}
# Middlebury Stereo 2014, "Motorcycle" at a quarter of its size: calibration of its authors.
FOCAL, BASELINE, DISPARITY_OFFSET = 994.978, 0.193001, 31.086
ROWS: dict[Alignment, str] = {
    "affine": "scale and shift of depth",
    "log_affine": "scale and shift of log-depth",
}
_GAP = 6


def run(folder: Path, weights: str = "starter") -> list[Section]:
    """Predict four photographs of scikit-image as the command line does; pictures go into the folder.

    Args:
        folder: for the pictures.
        weights: as the setting of `depth predict`.

    Raises:
        InputError: scikit-image is not installed.
        CheckpointError: the weights are missing.
    """
    photographs, truth = samples()
    inputs = []
    for name, rgb in photographs.items():
        inputs.append(folder / f"{name}.jpg")
        Image.fromarray(rgb).save(inputs[-1], quality=95)
    config = PredictConfig(
        weights=weights, outputs=["npy", "png16", "color", "log_depth", "points"], overwrite=True
    )
    job = Job(config, config_hash(config))
    job.run(plan_outputs(inputs, str(folder)))
    if job.failures:
        raise job.failures[0]
    return [_shown(folder), _measured(folder, truth)]


def samples() -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.float32]]:
    """The photographs by name, and the true depth of the motorcycle in metres, NaN where not measured.

    Raises:
        InputError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise InputError(
            "the demo's photographs come with the package scikit-image, which is not installed",
            "pip install 'diffusion-suite[samples]'",
        ) from error
    left, _, disparity = data.stereo_motorcycle()
    found = {name: np.asarray(getattr(data, name)()) for name in PHOTOGRAPHS if name != "motorcycle"}
    found["motorcycle"] = np.asarray(left)
    measured = np.isfinite(disparity) & (disparity > 0)
    depth = FOCAL * BASELINE / (np.where(measured, disparity, 0) + DISPARITY_OFFSET)
    return found, np.where(measured, depth, np.nan).astype(np.float32)


def _shown(folder: Path) -> Section:
    pictures = []
    for name, caption in PHOTOGRAPHS.items():
        files = (f"{name}.jpg", f"{name}_color.png", f"{name}_uncertainty.png")
        panels = [np.asarray(Image.open(folder / file).convert("RGB")) for file in files]
        path = folder / f"{name}_panels.png"
        write_image(path, side_by_side(panels))
        pictures.append(
            Picture(path, f"{caption} Photograph, depth (red is near), uncertainty (bright is unsure).")
        )
    text = (
        "Depth from one photograph each: relative, so what is farther is known, not how far. Four results "
        "from different noise are averaged; where they differ, the depth is unsure.\n\n"
        "The network was trained on drawn scenes; a frozen classifier of photographs is one of its eyes.\n\n"
        "The same from the command line: diffusion-suite depth predict photo.jpg"
    )
    return Section("Depth from one photograph", text, [], pictures)


def _measured(folder: Path, truth: NDArray[np.float32]) -> Section:
    valid = np.isfinite(truth)
    y = np.load(folder / "motorcycle_log_depth.npy")
    table: list[dict[str, Any]] = []
    for alignment, label in ROWS.items():
        found = score(align(Estimate(y, "log_depth"), truth, valid, alignment).depth, truth, valid)
        table.append({"fitted": label, "AbsRel": f"{found.abs_rel:.3f}", "δ1": f"{found.delta1:.3f}"})
    text = (
        "The motorcycle's true depth is known. After the two numbers that relative depth leaves open are "
        "fitted, AbsRel is the mean error as a share of the distance, δ1 the share of pixels within 25 %."
    )
    return Section("Measured", text, table, [])


def side_by_side(panels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures (height, width, 3) of one height in a row, white between them."""
    gap = np.full((panels[0].shape[0], _GAP, 3), 255, np.uint8)
    parts = [part for panel in panels for part in (gap, panel)]
    return np.concatenate(parts[1:], 1)
