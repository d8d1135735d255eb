"""The demo of the geo domain: a real AVIRIS scene, degraded on purpose, restored, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusion_suite.core.config import config_hash
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.gallery import Section
from diffusion_suite.geo.io import open_scene
from diffusion_suite.geo.restoration.config import EvaluateConfig, PredictConfig
from diffusion_suite.geo.restoration.evaluate import compare_modes
from diffusion_suite.geo.restoration.outputs import Outputs
from diffusion_suite.geo.restoration.predict import restore_file
from diffusion_suite.geo.restoration.quality import assess
from diffusion_suite.geo.restoration.simulate import parse

# The part of the scene and the bands with little noise that the suite's published figures are measured on.
CROP = slice(8, 136)
QUIET_BANDS = [
    6, 23, 27, 40, 43, 48, 51, 65, 68, 107, 110, 114, 117, 121, 124, 128,
    132, 135, 139, 147, 153, 156, 160, 163, 167, 170, 174, 177, 181, 184, 189,
]  # fmt: skip
MODES = ["subspace", "default"]
SEED = 0

LOSSES = {
    "denoise:0.1": (
        "Noise removed",
        "White noise of a tenth of each band's range was added to the 31 quietest bands of the scene. "
        "The restoration was not told how strong it is.",
    ),
    "complete:0.3": (
        "Gaps filled",
        "Seven samples of ten were taken away, others in each band, and noise was added to those left.",
    ),
    "sr:4": (
        "Pixels made finer",
        "The scene was shrunk to a quarter of its rows and columns, noise was added; it was enlarged again.",
    ),
}


def run(folder: Path) -> list[Section]:
    """Restore Indian Pines in three ways and as it is; pictures go into the folder.

    Raises:
        InputError: the package that carries the scene is not installed.
    """
    cube, wavelengths = indian_pines()
    quiet = folder / "indian_pines_quiet.npz"
    np.savez(quiet, cube=cube[CROP, CROP][:, :, QUIET_BANDS], wavelengths=wavelengths[QUIET_BANDS])
    whole = folder / "indian_pines.npz"
    np.savez(whole, cube=cube, wavelengths=wavelengths)
    return [compared(quiet, loss, folder) for loss in LOSSES] + [as_measured(whole)]


def indian_pines() -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float64]]:
    """The AVIRIS scene Indian Pines, water absorption bands left out.

    Returns:
        The cube (145, 145, 200) and the band centres in nanometres (200,).

    Raises:
        InputError: tensorly is not installed.
    """
    try:
        from tensorly.datasets import load_indian_pines
    except ImportError as error:
        raise InputError(
            "the demo scene Indian Pines comes with the package tensorly, which is not installed",
            "pip install 'diffusion-suite[samples]'",
        ) from error
    scene = load_indian_pines()
    return np.asarray(scene["tensor"]).astype(np.uint16), np.asarray(scene["ticks"][1], dtype=np.float64)


def compared(file: Path, loss: str, folder: Path) -> Section:
    """One loss made on purpose, restored by the baseline and by the default."""
    title, text = LOSSES[loss]
    config = EvaluateConfig(simulate=loss, modes=MODES, sigma_known=False, seed=SEED)
    with open_scene(file) as scene:
        rows = compare_modes(scene, parse(loss), config, folder)
    names = {
        "psnr": "PSNR, dB",
        "ssim": "SSIM",
        "sam": "SAM, degrees",
        "ergas": "ERGAS",
        "seconds": "seconds",
    }
    table = [{"": row["mode"], **{label: row[name] for name, label in names.items()}} for row in rows]
    stem = f"{file.stem}_{loss.replace(':', '_')}"
    return Section(title, text, table, [folder / f"{stem}_compared.png", folder / f"{stem}_spectra.png"])


def as_measured(file: Path) -> Section:
    """The scene as the sensor gave it, all bands, through the same path as ``geo predict``."""
    outputs = Outputs(file.with_name(f"{file.stem}_restored.npz"))
    config = PredictConfig(mode="subspace", overwrite=True, seed=SEED)
    restore_file(str(file), outputs, config, config_hash(config))
    table: list[dict[str, Any]] = []
    for name, path in (("before", file), ("after", outputs.scene)):
        with open_scene(path) as scene:
            found = assess(scene)
        table.append(
            {
                "": name,
                "noise / signal": found.noise,
                "striping": found.striping,
                "roughness": found.roughness,
            }
        )
    text = (
        "All 200 bands as AVIRIS measured them, nothing added: noise and stripes are the sensor's own. "
        "There is no clean scene to compare with; the figures need none.\n\n"
        f"The same from the command line: diffusion-suite geo predict {file.name} -c subspace"
    )
    return Section("As measured", text, table, [outputs.picture("before_after"), outputs.picture("spectra")])
