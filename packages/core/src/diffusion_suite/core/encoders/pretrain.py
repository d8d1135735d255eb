"""`diffusion-suite core pretrain`: an encoder from a folder of pictures."""

from __future__ import annotations

from pathlib import Path

from diffusion_suite.core.domain import Request
from diffusion_suite.core.encoders.config import PretrainConfig
from diffusion_suite.core.encoders.data import Crops
from diffusion_suite.core.encoders.masked import MaskedAutoencoder
from diffusion_suite.core.encoders.pictures import find_pictures
from diffusion_suite.core.progress import say
from diffusion_suite.core.seeding import seeded
from diffusion_suite.core.training import SuiteDataModule, fit


def run(request: Request) -> None:
    """Train, or go on training; the run folder ends with `last.ckpt` and the encoder in `encoder/`."""
    config: PretrainConfig = request.config
    folder = Path(request.output or "runs/encoder")
    with seeded(config.seed, "weights"):
        module = MaskedAutoencoder(
            config.image_size, config.patch_size, config.width, config.depth, config.heads, config.mask_ratio
        )
    crops = Crops(find_pictures(request.inputs), config)
    checkpoint = fit(module, SuiteDataModule(crops, None, config), config, folder)
    export = folder / "encoder"
    module.encoder.save_pretrained(export)
    say(f"{checkpoint} holds the run, {export} the encoder: load_encoder({str(export)!r})")
