"""Autoencoders of Stable Diffusion from a folder, a file or a hub name, without running code from them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_suite.core.checkpoints import load_published, load_weights
from diffusion_suite.core.checkpoints.pretrained import hub_folder, read_config
from diffusion_suite.core.errors import CheckpointError

KINDS = ("AutoencoderKL", "AutoencoderTiny")
STABLE_DIFFUSION = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
"""Settings of the autoencoder of Stable Diffusion 1 and 2 (section 3.1)."""

_NAMES = ("diffusion_pytorch_model*.safetensors", "*.safetensors", "diffusion_pytorch_model*.bin", "*.bin")
_HUB = (
    "config.json",
    "vae/config.json",
    *(f"{at}diffusion_pytorch_model.safetensors" for at in ("", "vae/")),
)
_LATENT_DIFFUSION = (
    (r"^first_stage_model\.", ""),
    (r"\bdown\.(\d+)\.block\.(\d+)", r"down_blocks.\1.resnets.\2"),
    (r"\bdown\.(\d+)\.downsample", r"down_blocks.\1.downsamplers.0"),
    (r"\bup\.(\d+)\.block\.(\d+)", r"up_blocks.\1.resnets.\2"),
    (r"\bup\.(\d+)\.upsample", r"up_blocks.\1.upsamplers.0"),
    (r"\bmid\.block_1", "mid_block.resnets.0"),
    (r"\bmid\.block_2", "mid_block.resnets.1"),
    (r"\bmid\.attn_1\.norm", "mid_block.attentions.0.group_norm"),
    (r"\bmid\.attn_1", "mid_block.attentions.0"),
    (r"\bnin_shortcut", "conv_shortcut"),
    (r"\bnorm_out", "conv_norm_out"),
)
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"} | {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


def load_autoencoder(source: str | Path, local_files_only: bool = True) -> nn.Module:
    """An `AutoencoderKL` or `AutoencoderTiny` with its weights, in evaluation mode, in float32.

    Args:
        source: a folder in the layout of diffusers (an autoencoder's, or a pipeline's with `vae/`), a file of
            weights (with its `config.json` beside it, else of Stable Diffusion 1 or 2; names of diffusers or
            of the original code, where a whole Stable Diffusion checkpoint will do), or a hub name.
        local_files_only: take a hub name from the local cache only; False lets it be downloaded.

    Raises:
        CheckpointError: nothing is there, it is no such autoencoder, or names or shapes differ.
    """
    path = Path(source)
    if not path.is_file():
        folder = path if path.is_dir() else hub_folder(str(source), None, local_files_only, _HUB)
        folder = folder if (folder / "config.json").is_file() else folder / "vae"
        path = _weights(folder, str(source))
    beside = (path.parent / "config.json").is_file()
    model = make_autoencoder(read_config(path.parent) if beside else STABLE_DIFFUSION)
    state = load_published(path)
    if any(".down." in name for name in state):
        state = from_latent_diffusion(state)
    load_weights(model, _renewed(state), str(path))
    return model.eval()


def make_autoencoder(config: Mapping[str, Any]) -> nn.Module:
    """The module of a diffusers configuration, with random weights.

    Raises:
        CheckpointError: another class than an autoencoder of pictures.
    """
    import diffusers

    name = config.get("_class_name")
    if name not in KINDS:
        raise CheckpointError(f"the autoencoder is of class {name}", f"give one of {' or '.join(KINDS)}")
    kind = getattr(diffusers, name)
    known = inspect.signature(kind.__init__).parameters
    model: nn.Module = kind(**{key: value for key, value in config.items() if key in known})
    return model


def settings(autoencoder: Any) -> dict[str, Any]:
    """Class and settings of an autoencoder, plain, for `make_autoencoder`.

    Raises:
        CheckpointError: another class than an autoencoder of pictures.
    """
    name = type(autoencoder).__name__
    if name not in KINDS:
        raise CheckpointError(f"the autoencoder is of class {name}", f"give one of {' or '.join(KINDS)}")
    values = {key: value for key, value in dict(autoencoder.config).items() if key[0] != "_"}
    return {"_class_name": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}


def scale_of(autoencoder: Any) -> float:
    """Factor that gives its latents about unit variance, 0.18215 for Stable Diffusion 1 and 2."""
    return float(dict(autoencoder.config)["scaling_factor"])


def from_latent_diffusion(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an autoencoder by their names in diffusers, from those in the original code.

    Args:
        state: of the autoencoder, or of a whole checkpoint, where its names begin with `first_stage_model.`.
    """
    prefix = "first_stage_model."
    whole = any(name.startswith(prefix) for name in state)
    names = [name for name in state if name.startswith(prefix)] if whole else list(state)
    levels = 1 + max(int(found[1]) for name in names if (found := re.search(r"\bup\.(\d+)\.", name)))
    renamed = {}
    for name in names:
        if name.removeprefix(prefix).startswith(("loss.", "model_ema.")):
            continue
        ours = re.sub(r"\bup\.(\d+)\.", lambda m: f"up.{levels - 1 - int(m[1])}.", name)
        for pattern, replacement in _LATENT_DIFFUSION:
            ours = re.sub(pattern, replacement, ours)
        renamed[ours] = state[name]
    return renamed


def _renewed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float32 weights with today's names in the attention, whose projections once were convolutions."""
    renamed = {}
    for name, tensor in state.items():
        found = re.match(r"(.*\.attentions\.\d+)\.(\w+)\.(weight|bias)$", name)
        ours = name
        if found and found[2] in _ATTENTION:
            ours = f"{found[1]}.{_ATTENTION[found[2]]}.{found[3]}"
        if found and tensor.ndim == 4:
            tensor = tensor[:, :, 0, 0]
        renamed[ours] = tensor.to(torch.float32)
    return renamed


def _weights(folder: Path, source: str) -> Path:
    for pattern in _NAMES:
        for path in sorted(folder.glob(pattern)):
            return path
    raise CheckpointError(
        f"{source} holds no autoencoder", "give its folder, with config.json and weights, or its file"
    )
