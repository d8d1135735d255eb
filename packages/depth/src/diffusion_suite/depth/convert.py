"""`diffusion-suite depth convert`: published weights to ours, ours to the published layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_suite.core.domain import Request
from diffusion_suite.core.errors import CheckpointError, InputError, OutputError
from diffusion_suite.core.files import prepare_output
from diffusion_suite.core.progress import say
from diffusion_suite.depth.config import ConvertConfig

if TYPE_CHECKING:
    from diffusion_suite.depth.method import DepthFM


def run(request: Request) -> None:
    """Convert the one set of weights that the request names.

    To a folder of ours, or, where the output ends in `.ckpt`, to the published layout.

    Raises:
        SuiteError: not one input, no output, weights that cannot be read, or that the layout cannot hold.
    """
    import torch

    from diffusion_suite.depth.load import FILES, load_network

    config: ConvertConfig = request.config
    if len(request.inputs) != 1:
        raise InputError(
            f"convert takes one input, not {len(request.inputs)}",
            "name one: a published .ckpt, a last.ckpt of ours, a folder, a hub id or starter",
        )
    if request.output is None:
        raise OutputError(
            "convert needs an output", "add -o FOLDER, or -o NAME.ckpt for the published layout"
        )
    source, target = request.inputs[0], Path(request.output)
    model = load_network(source, config.autoencoder)
    if target.suffix.lower() in FILES:
        prepare_output([target], config.overwrite)
        count = to_published(model, target)
    else:
        prepare_output([target / "config.json"], config.overwrite)
        count = len(model.unet.state_dict())
        model.save_pretrained(
            target,
            dtype=torch.float16 if config.precision == "16" else None,
            file_size=None if config.file_size is None else int(config.file_size * 1e6),
        )
    say(f"{source}: all {count} tensors of the network matched; wrote {target}")


def to_published(model: DepthFM, path: str | Path) -> int:
    """Write a network on latents in the published layout; the autoencoder is no part of that.

    Returns:
        How many tensors of the network were written.

    Raises:
        CheckpointError: the layout cannot hold this network.
        OutputError: nothing can be written there.
    """
    from diffusion_suite.depth.published import write_published

    if model.text_embedding is None:
        raise CheckpointError(
            "the published layout is for networks with a text embedding, which this one has not",
            "convert it to a folder",
        )
    config = model.config
    return write_published(path, model.unet, config["unet"], config["noising_step"], model.text_embedding)
