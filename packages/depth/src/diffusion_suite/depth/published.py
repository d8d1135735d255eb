"""The published checkpoint, in and out (section 3.4).

The file holds `noising_step`, `empty_text_embedding`, `ldm_hparams` (settings of the UNet) and `state_dict`
(its weights).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_suite.core.checkpoints import match_keys, read_pickled, save_pickled
from diffusion_suite.core.errors import CheckpointError
from diffusion_suite.depth.pickled import ALLOWED, plain
from diffusion_suite.depth.published_unet import key_table, ldm_hparams, unet_settings

ENTRIES = ("noising_step", "empty_text_embedding", "ldm_hparams", "state_dict")


@dataclass(frozen=True)
class Published:
    """What a published checkpoint holds.

    Attributes:
        noising_step: of the flow's source.
        text_embedding: of the empty text, (1, tokens, width), float32.
        unet: settings of the `UNet2DConditionModel`.
        state: weights of the UNet by their published names.
        source: the file, for messages.
    """

    noising_step: int
    text_embedding: Tensor
    unet: dict[str, Any]
    state: Mapping[str, Tensor]
    source: str = "the file"

    def fill(self, unet: nn.Module) -> int:
        """Put the weights into a network made with `unet` (on any device, the meta device too), in float32.

        Returns:
            How many tensors it took.

        Raises:
            CheckpointError: naming the keys that miss, are left over, or have another shape.
        """
        ours = match_keys(self.state, key_table(self.unet), unet.state_dict(), self.source)
        unet.load_state_dict({name: tensor.to(torch.float32) for name, tensor in ours.items()}, assign=True)
        return len(ours)


def is_published(path: str | Path) -> bool:
    """Whether a file of `torch.save` has the entries of a published checkpoint."""
    content = read_pickled(path, ALLOWED)
    return isinstance(content, Mapping) and "ldm_hparams" in content


def read_published(path: str | Path) -> Published:
    """Read a published checkpoint with `weights_only=True`; NumPy arrays and omegaconf settings may be in it.

    Raises:
        CheckpointError: the file is missing or damaged, holds any other object (it is named) or lacks an
            entry, or its settings are of a network that DepthFM has not.
    """
    content = read_pickled(path, ALLOWED)
    missing = [name for name in ENTRIES if not isinstance(content, Mapping) or name not in content]
    if missing:
        raise CheckpointError(
            f"{path} is no published DepthFM checkpoint: it has no {', '.join(missing)}",
            f"give a file with {', '.join(ENTRIES)}",
        )
    hparams, state = plain(content["ldm_hparams"]), content["state_dict"]
    if not isinstance(hparams, Mapping):
        raise CheckpointError(f"ldm_hparams in {path} is a {type(hparams).__name__}", "fetch the file again")
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"state_dict in {path} is no mapping of tensors", "fetch the file again")
    unet = unet_settings(hparams, str(path))
    embedding = _embedding(content["empty_text_embedding"], unet["cross_attention_dim"], str(path))
    step = plain(content["noising_step"])
    if not isinstance(step, int) or not 0 <= step < 1000:
        raise CheckpointError(f"noising_step in {path} is {step}", "it has to be a number from 0 to 999")
    return Published(step, embedding, unet, state, str(path))


def _embedding(value: Any, width: int, source: str) -> Tensor:
    """The text embedding, a tensor or an array in the file, as float32 (1, tokens, width)."""
    shape = tuple(value.shape) if isinstance(value, (Tensor, np.ndarray)) else type(value).__name__
    if not isinstance(shape, tuple) or len(shape) != 3 or shape[0] != 1 or shape[2] != width:
        raise CheckpointError(
            f"empty_text_embedding in {source} is {shape}", f"it has to be (1, tokens, {width})"
        )
    return torch.as_tensor(value).float()


def write_published(
    path: str | Path, unet: nn.Module, settings: Mapping[str, Any], noising_step: int, text_embedding: Tensor
) -> int:
    """Write a network in the published layout.

    Args:
        path: the file.
        unet: the `UNet2DConditionModel`.
        settings: it was made with.
        noising_step: of the flow's source.
        text_embedding: (1, tokens, width).

    Returns:
        How many tensors of the network were written.

    Raises:
        CheckpointError: the published code cannot make this network.
    """
    ours = {name: tensor.detach().cpu().contiguous() for name, tensor in unet.state_dict().items()}
    rename = key_table(settings, back=True)
    names = {name: rename(name) for name in ours}
    lost = [name for name, theirs in names.items() if not theirs]
    if lost:
        raise CheckpointError(f"the published network has no {lost[0]}", "keep it in our format")
    content = {
        "noising_step": noising_step,
        "empty_text_embedding": text_embedding.detach().cpu().clone(),
        "ldm_hparams": ldm_hparams(settings),
        "state_dict": {theirs: ours[name] for name, theirs in names.items()},
    }
    save_pickled(path, content)
    return len(names)
