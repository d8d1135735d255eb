"""A DepthFM on the latents of an autoencoder, of a few thousand weights, for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from diffusion_suite.core.seeding import seeded

HPARAMS: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 8,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": [1],
    "dropout": 0.0,
    "channel_mult": [1, 1],
    "num_heads": 2,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 6,
    "legacy": False,
}
"""Published settings of a network of two levels."""


def autoencoder(**changes: Any) -> nn.Module:
    from diffusers import AutoencoderKL

    sizes = {"block_out_channels": [4, 4, 4, 8], "norm_num_groups": 2, "latent_channels": 4}
    down, up = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    with seeded("autoencoder"):
        return AutoencoderKL(**{"down_block_types": down, "up_block_types": up, **sizes, **changes}).eval()


def tiny_autoencoder() -> nn.Module:
    from diffusers import AutoencoderTiny

    sizes = {"encoder_block_out_channels": [4] * 4, "decoder_block_out_channels": [4] * 4}
    layers = {"num_encoder_blocks": [1] * 4, "num_decoder_blocks": [1] * 4}
    with seeded("tiny autoencoder"):
        return AutoencoderTiny(**sizes, **layers).eval()


def latent_network(**changes: Any) -> Any:
    """The published kind, with random weights, its text and an autoencoder."""
    from diffusion_suite.depth.method import DepthFM
    from diffusion_suite.depth.published_unet import unet_settings

    with seeded("network"):
        model = DepthFM(unet_settings(HPARAMS), 0, **{"text_tokens": 3, "resolution": 64, **changes}).eval()
        model.text_embedding = torch.randn(1, 3, 6)
    model.attach_autoencoder(autoencoder())
    return model
