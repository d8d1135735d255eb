"""The demo of the geo domain: a real AVIRIS scene, degraded on purpose, restored, compared."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusion_suite.core.config import config_hash
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.gallery import Picture, Section
from diffusion_suite.geo.io import open_scene
from diffusion_suite.geo.restoration.config import EvaluateConfig, PredictConfig
from diffusion_suite.geo.restoration.evaluate import compare_modes
from diffusion_suite.geo.restoration.outputs import Outputs
from diffusion_suite.geo.restoration.plots import Look, save_panels
from diffusion_suite.geo.restoration.predict import restore_file
from diffusion_suite.geo.restoration.quality import assess
from diffusion_suite.geo.restoration.simulate import parse

# The part of the scene and the bands with little noise that the suite's published figures are measured on.
CROP = slice(8, 136)
QUIET_BANDS = [
    6, 23, 27, 40, 43, 48, 51, 65, 68, 107, 110, 114, 117, 121, 124, 128,
    132, 135, 139, 147, 153, 156, 160, 163, 167, 170, 174, 177, 181, 184, 189,
]  # fmt: skip
SEED = 0
ROWS = {
    "degraded": "degraded",
    "subspace": "subspace: classical",
    "prior": "prior: pretrained",
    "default": "default: pretrained, fitted to the scene",
}


@dataclass(frozen=True)
class Loss:
    """A loss made on purpose: its heading, what was done to the scene, and the modes that undo it."""

    title: str
    text: str
    modes: list[str]


LOSSES = {
    "denoise:0.1": Loss(
        "Noise removed",
        "White noise of a tenth of each band's range was added to 31 quiet bands of the scene Indian Pines. "
        "The restoration was not told how strong it is, and never saw the clean scene.\n\n"
        "The mode default fits the pretrained prior to the scene; the demo does so only here, to stay short.",
        ["subspace", "default"],
    ),
    "mixed:0.1": Loss(
        "Stripes and dead columns repaired",
        "Noise of another strength in each band, stripes in some columns, columns without any signal: what "
        "push-broom sensors do. None of it was told to the restoration.",
        ["subspace", "prior"],
    ),
    "complete:0.3": Loss(
        "Gaps filled",
        "Seven samples of ten were taken away, others in each band; the rest got white noise as at the top.",
        ["subspace", "prior"],
    ),
    "sr:4": Loss(
        "Pixels made finer",
        "The scene was shrunk to a quarter of its rows and columns, noise was added, and it was enlarged "
        "again. What is lost at this noise stays lost; what comes back is where fields end.",
        ["subspace", "prior"],
    ),
}


def run(folder: Path) -> list[Section]:
    """Restore Indian Pines from losses made on purpose and as it is; pictures go into the folder.

    Raises:
        InputError: the package that carries the scene is not installed.
    """
    cube, wavelengths = indian_pines()
    quiet = folder / "indian_pines_quiet.npz"
    np.savez(quiet, cube=cube[CROP, CROP][:, :, QUIET_BANDS], wavelengths=wavelengths[QUIET_BANDS])
    whole = folder / "indian_pines.npz"
    np.savez(whole, cube=cube, wavelengths=wavelengths)
    return [compared(quiet, loss, folder) for loss in LOSSES] + [as_measured(whole, wavelengths)]


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
    """One loss made on purpose, restored by its modes."""
    shown = LOSSES[loss]
    config = EvaluateConfig(simulate=loss, modes=shown.modes, sigma_known=False, seed=SEED)
    with open_scene(file) as scene:
        rows = compare_modes(scene, parse(loss), config, folder)
    table = [
        {
            "": ROWS[row["mode"]],
            "PSNR, dB": f"{row['psnr']:.2f}",
            "SSIM": f"{row['ssim']:.3f}",
            "SAM, degrees": f"{row['sam']:.2f}",
            "ERGAS": f"{row['ergas']:.2f}",
            "seconds": f"{row['seconds']:.1f}" if row["mode"] != "degraded" else None,
        }
        for row in rows
    ]
    stem = f"{file.stem}_{loss.replace(':', '_')}"
    captions = {
        "compared": "Colours: short-wave infrared, near infrared and red.",
        "spectra": "Spectra of three pixels; dots: degraded, lines: restored.",
        "psnr": "PSNR of each band; more is better.",
    }
    pictures = [Picture(folder / f"{stem}_{name}.png", caption) for name, caption in captions.items()]
    return Section(shown.title, shown.text, table, pictures)


def as_measured(file: Path, wavelengths: npt.NDArray[np.float64]) -> Section:
    """The scene as the sensor gave it, all bands, through the same path as ``geo predict``."""
    outputs = Outputs(file.with_name(f"{file.stem}_restored.npz"))
    config = PredictConfig(mode="subspace", overwrite=True, seed=SEED)
    start = time.perf_counter()
    restore_file(str(file), outputs, config, config_hash(config))
    seconds = time.perf_counter() - start
    table: list[dict[str, Any]] = []
    cubes, found = [], []
    for name, path in (("before", file), ("after", outputs.scene)):
        with open_scene(path) as scene:
            cubes.append(scene.sample()[0])
            found.append(assess(scene))
        table.append(
            {"": name, "noise / signal": f"{found[-1].noise:.3f}", "roughness": f"{found[-1].roughness:.3f}"}
        )
    picture = file.with_name(f"{file.stem}_noisy_bands.png")
    _noisy_bands(picture, cubes, np.array(found[0].noise_bands), wavelengths)
    text = (
        "All 200 bands as AVIRIS measured them, nothing added: the noise is the sensor's own, strong where "
        "the atmosphere leaves little light. There is no clean scene; these figures need none.\n\n"
        f"The same from the command line, {seconds:.0f} s here: "
        f"diffusion-suite geo predict {file.name} -c subspace"
    )
    pictures = [
        Picture(picture, "Two of the noisiest bands, each in the range that it has when restored."),
        Picture(outputs.picture("before_after"), "Natural colour."),
        Picture(outputs.picture("spectra"), "Spectra of three pixels; dots: before, lines: after."),
    ]
    return Section("As measured", text, table, pictures)


def _noisy_bands(
    path: Path,
    cubes: list[npt.NDArray[Any]],
    noise: npt.NDArray[np.float64],
    wavelengths: npt.NDArray[np.float64],
) -> None:
    """Before and after of the noisiest band of each half of the spectrum."""
    before, after = cubes
    ratio = np.nan_to_num(noise / before.std(axis=(0, 1)))
    half = len(ratio) // 2
    panels = {}
    for band in (int(ratio[:half].argmax()), half + int(ratio[half:].argmax())):
        look = Look.at(after, band)
        for name, cube in (("before", before), ("after", after)):
            panels[f"{wavelengths[band]:.0f} nm, {name}"] = look.image(cube)
    save_panels(path, panels)
