"""The network that the key `weights` names, of whichever kind."""

from __future__ import annotations

from pathlib import Path

from diffusion_suite.core.errors import CheckpointError
from diffusion_suite.depth.method import DepthFM
from diffusion_suite.depth.published import is_published

FILES = (".ckpt", ".pt", ".pth")
"""Endings of weights that are one file: of our training, or in the published layout."""


def load_network(weights: str, autoencoder: str | None = None) -> DepthFM:
    """The network with its weights, in evaluation mode, on the CPU.

    Args:
        weights: `starter`, a folder of `save_pretrained`, a hub id, a `last.ckpt` of `depth train` (its
            averaged weights), or a published checkpoint.
        autoencoder: folder, file or hub name of the autoencoder to use, for networks on latents; None for the
            one that is with the weights.

    Raises:
        CheckpointError: nothing is there, it cannot be read, or is for another network.
    """
    if Path(weights).suffix.lower() not in FILES:
        model = DepthFM.from_pretrained(weights)
    elif is_published(weights):
        model = DepthFM.from_published(weights)
    else:
        model = from_training(weights)
    if autoencoder is not None:
        model.attach_autoencoder(autoencoder)
    return model


def from_training(path: str | Path) -> DepthFM:
    """The averaged network of a checkpoint of `depth train`.

    Raises:
        CheckpointError: it is neither of our training nor published.
    """
    from diffusion_suite.core.training.module import read_checkpoint
    from diffusion_suite.depth.module import DepthModule

    content = read_checkpoint(Path(path))
    if not any(name.startswith("model.unet.") for name in content["state_dict"]):
        raise CheckpointError(
            f"{path} is neither a checkpoint of depth train nor a published one",
            "give the last.ckpt of a run folder, or a file with ldm_hparams",
        )
    return DepthModule.from_checkpoint(path).model
