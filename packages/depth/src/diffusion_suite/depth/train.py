"""`diffusion-suite depth train`: DepthFM on drawn pictures and on pictures with depth of one's own."""

from __future__ import annotations

from pathlib import Path

from diffusion_suite.core.checkpoints import Card
from diffusion_suite.core.domain import Request
from diffusion_suite.core.progress import say
from diffusion_suite.core.seeding import seeded
from diffusion_suite.core.training import SuiteDataModule, fit
from diffusion_suite.depth.config import TrainDepthConfig
from diffusion_suite.depth.data import FreshScenes, KeptPictures
from diffusion_suite.depth.module import DepthModule
from diffusion_suite.depth.renderer import Scenes


def run(request: Request) -> None:
    """Train, or go on training; the run folder ends with `last.ckpt` and the network in `export/`."""
    config: TrainDepthConfig = request.config
    folder = Path(request.output or "runs/depth")
    with seeded(config.seed, "weights"):
        module = DepthModule(
            config.widths,
            config.layers,
            config.attention_from,
            config.factor,
            config.noising_step,
            config.side,
        )
    checkpoint = fit(module, data_module(config, folder), config, folder)
    export = module.model.save_pretrained(folder / "export", _card(config))
    say(f"{checkpoint} holds the run, {export} the network: predict with weights={export}")


def data_module(config: TrainDepthConfig, folder: Path) -> SuiteDataModule:
    """Drawn pictures, kept in the run folder or drawn in every step."""
    cache = folder / "drawn"
    validation = (
        KeptPictures(cache, config.validation, config.side, config.seed + 1, changed=False)
        if config.validation
        else None
    )
    if config.drawn:
        return SuiteDataModule(
            KeptPictures(cache, config.drawn, config.side, config.seed), validation, config
        )
    return SuiteDataModule(FreshScenes(config.seed), validation, config, collate=Scenes.stack)


def _card(config: TrainDepthConfig) -> Card:
    return Card(
        title="DepthFM, small",
        summary="Relative depth from one picture by flow matching on pixels.",
        data=f"Drawn pictures; {config.steps} steps of {config.batch_size}, {config.side} pixels a side.",
        command="diffusion-suite depth train -c starter -o runs/depth",
        limits=["Relative depth; has seen no photograph in training."],
        tags=["depth-estimation", "flow-matching"],
    )
