"""Settings of the restoration commands: one dataclass a command, each key with its help.

Numbers that speak of signal (``sigma``, ``nodata``) are in the unit stored in the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffusion_suite.core.config import opt
from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.training.config import TrainConfig

MODES = ("default", "prior", "fit", "subspace", "paper")
TASKS = ("auto", "denoise", "complete", "sr")


@dataclass
class SceneKeys:
    """How to read a scene; shared by the commands that do."""

    key: str | None = opt(None, "variable to read in a .mat, .npz or NetCDF file that holds several")
    nodata: float | None = opt(None, "value of missing samples, where the file does not say or is wrong")


@dataclass
class RestoreKeys(SceneKeys):
    """How to restore; shared by predict and evaluate."""

    rank: int | None = opt(None, "dimension of the spectral subspace; null = estimated from the scene", ge=1)
    steps: int | None = opt(
        None, "steps of the fit (default), of the diffusion (paper); null = the mode's own number", ge=1
    )
    runs: int | None = opt(
        None, "views (default, prior; 8 at most) or runs (paper) averaged; null = the mode's own", ge=1
    )
    weights: str = opt("starter", "weights of the prior: starter, a folder, a hub id or a last.ckpt of ours")
    window: int = opt(
        0, "side of a window in pixels; 0 = the whole scene if small, else what memory allows", ge=0
    )
    overlap: int = opt(32, "pixels by which neighbouring windows overlap and are blended", ge=0)
    seed: int = opt(0, "the same seed gives the same result")
    device: str = opt("auto", "auto, cpu, cuda, cuda:1 or mps", hashed=False)
    precision: str = opt("auto", "arithmetic of the networks", choices=("auto", "32", "bf16", "16"))
    compile: bool = opt(False, "compile the networks: pays on a GPU with many windows", hashed=False)
    overwrite: bool = opt(False, "replace outputs that exist", hashed=False)

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if 0 < self.window < 16:
            raise ConfigError(
                f"window={self.window} is too small", "give 16 pixels or more, or 0", key="window"
            )
        if self.window and 2 * self.overlap > self.window:
            remedy = f"give overlap={self.window // 4} or a larger window"
            raise ConfigError(
                f"overlap={self.overlap} is over half of window={self.window}", remedy, key="overlap"
            )


@dataclass
class PredictConfig(RestoreKeys):
    """Settings of ``geo predict``."""

    mode: str = opt(
        "default",
        "default (measures best: the prior fitted to the scene), prior (pretrained, no fitting), "
        "fit (untrained network fitted to the scene), subspace (classical, seconds), paper (as published)",
        choices=MODES,
    )
    task: str = opt(
        "auto", "auto = sr with a factor, complete if pixels are partly missing, else denoise", choices=TASKS
    )
    factor: int | None = opt(
        None, "super-resolution: the output has this many times more rows and columns", ge=2
    )
    sigma: str | None = opt(
        None,
        "standard deviation of the noise: a number, or a text/csv file with one a band; null = estimated",
    )
    mask: str | None = opt(
        None,
        "file of the scene's size with 1 = observed, 0 = missing; one band, or as many as the scene",
    )
    fill: str = opt(
        "auto",
        "missing samples that come out filled: auto = for task complete, those of the mask and of pixels "
        "observed in another band (the area outside the scene stays nodata); none; all = every pixel",
        choices=("auto", "none", "all"),
    )
    uncertainty: bool = opt(False, "also write NAME_uncertainty: the standard deviation of each sample")
    pictures: bool = opt(True, "also write quick-look, before/after and spectra as PNG", hashed=False)

    def check(self) -> None:
        """Refuse settings that do not go together."""
        super().check()
        if self.factor is not None and self.task not in ("auto", "sr"):
            remedy = "drop the factor or set task=sr"
            raise ConfigError(f"factor={self.factor} does not go with task={self.task}", remedy, key="factor")
        if self.task == "sr" and self.factor is None:
            raise ConfigError("task=sr needs a factor", "add factor=2 (or 3, 4, ...)", key="task")
        level = _number(self.sigma)
        if level is not None and not (math.isfinite(level) and level >= 0):
            remedy = (
                "give a standard deviation of 0 or more in the file's own unit, or sigma=null to estimate it"
            )
            raise ConfigError(f"sigma={self.sigma} cannot be", remedy, key="sigma")


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


@dataclass
class EvaluateConfig(RestoreKeys):
    """Settings of ``geo evaluate``."""

    reference: str | None = opt(None, "clean scene, or folder of clean scenes of the same names")
    before: str | None = opt(None, "the scene before restoration, for the report without a reference")
    simulate: str | None = opt(
        None,
        "degrade the (clean) input and restore it: denoise:0.1 (noise), complete:0.3 (share observed), "
        "sr:4 (factor), stripes:0.2 and dead:0.05 (share of columns), mixed",
    )
    simulate_sigma: float = opt(0.1, "noise of complete, sr, stripes and dead; each band spans [0, 1]", ge=0)
    sigma_known: bool = opt(True, "tell the restoration the simulated noise level; false = it estimates")
    modes: list[str] = opt(["default", "subspace"], "modes compared by simulate", choices=MODES)
    ratio: int = opt(1, "super-resolution factor that ERGAS is divided by", ge=1)

    def check(self) -> None:
        """Refuse settings that do not go together."""
        super().check()
        if self.simulate and (self.reference or self.before):
            remedy = "drop one: simulate makes its own degraded scene"
            raise ConfigError("simulate does not go with reference or before", remedy, key="simulate")
        if not self.modes:
            raise ConfigError("modes is empty", "name at least one, such as modes=[default]", key="modes")


@dataclass
class InfoConfig(SceneKeys):
    """Settings of ``geo info``."""

    json: bool = opt(False, "print JSON instead of a table", hashed=False)


@dataclass
class ConvertConfig(SceneKeys):
    """Settings of ``geo convert``."""

    overwrite: bool = opt(False, "replace the output if it exists", hashed=False)


@dataclass
class TrainPriorConfig(TrainConfig):
    """Settings of ``geo train``: the eigen-image prior behind ``mode=prior``."""

    scenes: int = opt(1200, "procedural scenes drawn for training; 0 = train on the given scenes alone", ge=0)
    photographs: bool = opt(True, "draw part of the procedural scenes from scikit-image's photographs")
    patch: int = opt(96, "side of a training patch in pixels", ge=32, le=160)
    channels: int = opt(8, "eigen-images that the network sees at once", ge=1)
    widths: list[int] = opt([32, 64, 128], "feature channels of each scale")
    blocks: list[int] = opt([1, 2, 3], "residual blocks of each scale, in the encoder and in the decoder")
    validation: int = opt(64, "patches of the validation set", ge=0)

    def check(self) -> None:
        """Refuse a network without scales."""
        super().check()
        if not self.widths or len(self.widths) != len(self.blocks) or min(self.widths + self.blocks) < 1:
            remedy = "give as many blocks as widths, each 1 or more, such as widths=[32,64] blocks=[1,2]"
            raise ConfigError(
                f"widths={self.widths} and blocks={self.blocks} do not go together", remedy, key="widths"
            )
