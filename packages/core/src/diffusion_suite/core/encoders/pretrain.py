"""`diffusion-suite core pretrain`: an encoder from folders of pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from diffusion_suite.core.checkpoints import Card
from diffusion_suite.core.domain import Request
from diffusion_suite.core.encoders.config import PretrainConfig
from diffusion_suite.core.encoders.data import Pictures, split
from diffusion_suite.core.encoders.families import quiet
from diffusion_suite.core.encoders.images import IMAGENET
from diffusion_suite.core.encoders.masked import MaskedAutoencoder
from diffusion_suite.core.encoders.pictures import find_pictures
from diffusion_suite.core.progress import say
from diffusion_suite.core.seeding import seeded
from diffusion_suite.core.training import SuiteDataModule, fit
from diffusion_suite.core.training.logger import main_process


def run(request: Request) -> None:
    """Train, or go on training; the run folder ends with `last.ckpt` and the encoder in `encoder/`."""
    config: PretrainConfig = request.config
    folder = Path(request.output or "runs/encoder")
    pictures = Pictures(find_pictures(request.inputs), config)
    crops, held_out = split(pictures, config)
    with seeded(config.seed, "weights"):
        module = MaskedAutoencoder(
            config.image_size, config.patch_size, config.width, config.depth, config.heads, config.mask_ratio
        )
    checkpoint = fit(module, SuiteDataModule(crops, held_out, config), config, folder)
    if main_process():
        export = save(module, config, folder / "encoder", len(crops.which))
        say(f'{checkpoint} holds the run, {export} the encoder: load_encoder("{export}")')


def save(module: MaskedAutoencoder, config: PretrainConfig, folder: Path, count: int) -> Path:
    """Write the encoder in the layout of `transformers`, with what it needs of pictures and a card.

    Args:
        module: holds the encoder.
        config: the run's settings.
        folder: replaced as a whole.
        count: pictures trained on.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with quiet():
        module.encoder.save_pretrained(part)
    preprocessor = {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "resample": 3,
        "size": {"shortest_edge": config.image_size},
        "do_center_crop": True,
        "crop_size": {"height": config.image_size, "width": config.image_size},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(IMAGENET[0]),
        "image_std": list(IMAGENET[1]),
    }
    text = json.dumps(preprocessor, indent=2) + "\n"
    (part / "preprocessor_config.json").write_text(text, encoding="utf-8")
    (part / "README.md").write_text(_card(config, count).to_markdown(), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder


def _card(config: PretrainConfig, count: int) -> Card:
    return Card(
        title="Encoder of pictures",
        summary=f"Vision transformer of {config.depth} layers and {config.width} features, trained without "
        "labels by masked autoencoding.",
        data=f"{count} pictures; {config.steps} steps of {config.batch_size} crops of {config.image_size} "
        f"pixels in patches of {config.patch_size}.",
        command="diffusion-suite core pretrain FOLDER -o runs/encoder",
        licence="other",
        limits=["Knows the kind of pictures it was trained on, and no other."],
        tags=["self-supervised", "image-feature-extraction"],
    )
