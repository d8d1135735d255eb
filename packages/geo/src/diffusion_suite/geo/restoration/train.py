"""`diffusion-suite geo train`: the eigen-image prior, on procedural scenes and on scenes of one's own."""

from __future__ import annotations

from pathlib import Path

from diffusion_suite.core.checkpoints import Card
from diffusion_suite.core.domain import Request
from diffusion_suite.core.files import expand_inputs
from diffusion_suite.core.progress import say
from diffusion_suite.core.seeding import seeded
from diffusion_suite.core.training import SuiteDataModule, fit
from diffusion_suite.geo.io import SUFFIXES
from diffusion_suite.geo.restoration.config import TrainPriorConfig
from diffusion_suite.geo.restoration.data import (
    EigenStacks,
    ValidationStacks,
    procedural_scenes,
    scenes_of_files,
)
from diffusion_suite.geo.restoration.module import EigenPriorModule

VALIDATION_SCENES = 40


def run(request: Request) -> None:
    """Train, or go on training; the run folder ends with `last.ckpt` and the network in `export/`."""
    config: TrainPriorConfig = request.config
    folder = Path(request.output or "runs/eigen_prior")
    with seeded(config.seed, "weights"):
        module = EigenPriorModule(config.channels, config.widths, config.blocks)
    checkpoint = fit(module, data_module(config, request.inputs), config, folder)
    export = module.model.save_pretrained(folder / "export", _card(config, request.inputs))
    say(f"{checkpoint} holds the run, {export} the network: predict with weights={export}")


def data_module(config: TrainPriorConfig, inputs: list[str]) -> SuiteDataModule:
    """Procedural scenes and those of the files together, each scene as likely as another."""
    scenes = procedural_scenes(config.scenes, config.channels, config.seed, config.photographs)
    if inputs:
        scenes += scenes_of_files(expand_inputs(inputs, SUFFIXES), config.channels, config.patch)
    held_out = (
        procedural_scenes(VALIDATION_SCENES, config.channels, config.seed + 1, False)
        if config.validation
        else []
    )
    validation = (
        ValidationStacks(EigenStacks(held_out, config.patch, config.seed + 1), config.validation)
        if held_out
        else None
    )
    return SuiteDataModule(EigenStacks(scenes, config.patch, config.seed), validation, config)


def _card(config: TrainPriorConfig, inputs: list[str]) -> Card:
    """What the weights were trained on; measured figures are added by hand when they are shipped."""
    photographs = " and scikit-image's photographs" if config.photographs else ""
    sources = (
        [f"{config.scenes} procedural scenes (parcels, dead leaves, random fields){photographs}"]
        if config.scenes
        else []
    )
    sources += [f"scenes of {', '.join(inputs)}"] if inputs else []
    return Card(
        title="Eigen-image prior",
        summary=f"Denoiser of up to {config.channels} eigen-images of a hyperspectral scene at once, "
        "for any noise level.",
        data=f"{' and '.join(sources)}; {config.steps} steps of {config.batch_size} patches of "
        f"{config.patch} pixels.",
        command="diffusion-suite geo train -c starter -o runs/eigen_prior",
        limits=[
            "Trained at spatial scales of airborne and 30 m satellite scenes; no thermal or radar data.",
            "Smooths texture that cannot be told from noise; never a replacement for a better measurement.",
        ],
        tags=["hyperspectral", "denoising", "remote-sensing"],
    )
