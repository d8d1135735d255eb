"""DepthFM started from a network that generates pictures (section 3.5): its first convolution is widened.

The network then sees the state and the picture's latent, both through the old weights divided by two, so that
at the start it computes what it did for their mean.
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_suite.core.checkpoints import load_weights
from diffusion_suite.core.checkpoints.pretrained import hub_folder, read_config
from diffusion_suite.core.errors import CheckpointError
from diffusion_suite.depth.autoencoders import load_autoencoder, scale_of, settings
from diffusion_suite.depth.method import DepthFM
from diffusion_suite.depth.network import SCALE

KINDS = ("UNet2DConditionModel", "UNet2DModel")
_MORE_INPUTS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
_HUB = tuple(
    f"{part}/{name}"
    for part, names in (
        ("unet", ("config.json", "diffusion_pytorch_model.safetensors")),
        ("vae", ("config.json", "diffusion_pytorch_model.safetensors")),
        ("text_encoder", ("config.json", "model.safetensors")),
        ("tokenizer", ("*",)),
    )
    for name in names
)


def from_image_diffusion(
    source: str | Path | nn.Module,
    *,
    autoencoder: str | Path | nn.Module | None = None,
    text_embedding: Tensor | None = None,
    noising_step: int = 400,
    resolution: int = 512,
    local_files_only: bool = True,
) -> DepthFM:
    """A DepthFM to be trained, with the weights of an image-diffusion UNet of diffusers.

    Args:
        source: a `UNet2DConditionModel` or `UNet2DModel`; its folder; the folder of a pipeline such as Stable
            Diffusion 2.1 (with `unet/`); or a hub name of one.
        autoencoder: see `DepthFM.attach_autoencoder`; None takes the pipeline's `vae/`. A network of 3, 12,
            27, ... output channels without one works on squares of 1, 2, 3, ... pixels.
        text_embedding: (1, tokens, width) of the empty text, for networks that attend to a text; None makes
            it with the pipeline's `text_encoder/` and `tokenizer/`.
        noising_step: of the flow's source.
        resolution: longest side in pixels of the pictures it will be trained with.
        local_files_only: take hub names from the local cache only.

    Raises:
        CheckpointError: nothing is there, it is another network, or a part is missing.
    """
    folder = None if isinstance(source, nn.Module) else _folder(source, local_files_only)
    unet = source if isinstance(source, nn.Module) else _unet(folder)
    if type(unet).__name__ not in KINDS:
        raise CheckpointError(f"the network is a {type(unet).__name__}", f"give a {' or '.join(KINDS)}")
    if autoencoder is None and folder is not None and (folder / "vae").is_dir():
        autoencoder = folder / "vae"
    if autoencoder is not None and not isinstance(autoencoder, nn.Module):
        autoencoder = load_autoencoder(autoencoder, local_files_only)
    kept = unet_settings(unet)
    for name in _MORE_INPUTS:
        if kept.get(name):
            raise CheckpointError(
                f"the network takes more inputs than a text ({name}={kept[name]})",
                "give one such as Stable Diffusion 1 or 2",
            )
    if text_embedding is None and kept.get("cross_attention_dim"):
        text_embedding = _empty_text(folder)
    model = DepthFM(
        kept,
        0 if autoencoder is not None else _side(unet),
        noising_step,
        autoencoder=None if autoencoder is None else settings(autoencoder),
        scale_factor=SCALE if autoencoder is None else scale_of(autoencoder),
        text_tokens=0 if text_embedding is None else text_embedding.shape[1],
        resolution=resolution,
    )
    state = unet.state_dict()
    state["conv_in.weight"] = widened(state["conv_in.weight"], model.unet.conv_in.in_channels)
    load_weights(model.unet, state, str(source) if folder else "the network")
    if autoencoder is not None:
        model.attach_autoencoder(autoencoder)
    if text_embedding is not None:
        model.text_embedding = text_embedding.detach().float().clone()
    return model


def widened(weight: Tensor, channels: int) -> Tensor:
    """A convolution's weight for m times the input channels: m copies, each divided by m.

    Args:
        weight: (out, in, height, width).
        channels: input channels wanted, m times `in`.

    Raises:
        CheckpointError: they are no multiple.
    """
    copies, rest = divmod(channels, weight.shape[1])
    if rest or not copies:
        raise CheckpointError(
            f"the network's first convolution has {weight.shape[1]} input channels; {channels} are needed",
            "give a network that takes the latents alone (not one for inpainting)",
        )
    return torch.cat([weight / copies] * copies, 1)


def unet_settings(unet: Any) -> dict[str, Any]:
    """Settings of a diffusers UNet for `DepthFM`, plain, without its channels."""
    named = inspect.signature(type(unet).__init__).parameters
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dict(unet.config).items()
        if name in named and name not in ("in_channels", "out_channels")
    }


def _folder(source: str | Path, local_files_only: bool) -> Path:
    path = Path(source)
    return path if path.is_dir() else hub_folder(str(source), None, local_files_only, _HUB)


def _unet(folder: Path | None) -> Any:
    import diffusers

    assert folder is not None
    place = folder / "unet" if (folder / "unet").is_dir() else folder
    name = read_config(place).get("_class_name")
    if name not in KINDS:
        raise CheckpointError(f"{place} holds a {name}", f"give a {' or '.join(KINDS)}")
    try:
        unet = getattr(diffusers, name).from_pretrained(place, local_files_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{place} cannot be read ({reason})", "fetch the folder again") from error
    return unet.float()


def _side(unet: Any) -> int:
    channels = int(unet.config["out_channels"])
    side = math.isqrt(channels // 3)
    if not side or 3 * side**2 != channels:
        raise CheckpointError(
            f"the network makes latents of {channels} channels, and there is no autoencoder for them",
            "give autoencoder=FOLDER",
        )
    return side


def _empty_text(folder: Path | None) -> Tensor:
    if folder is None or not (folder / "text_encoder").is_dir() or not (folder / "tokenizer").is_dir():
        raise CheckpointError(
            "the network attends to a text, and there is no text encoder to make the empty one with",
            "give the folder of the whole pipeline (unet, vae, text_encoder, tokenizer), or text_embedding",
        )
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"the text encoder in {folder} cannot be read ({reason})", "fetch the folder again"
        ) from error
    tokens = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
    with torch.no_grad():
        embedding: Tensor = encoder.eval()(tokens.input_ids).last_hidden_state
    return embedding
