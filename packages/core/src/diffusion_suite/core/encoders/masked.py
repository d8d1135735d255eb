r"""Masked autoencoding of pictures: most patches are hidden from the encoder, a small decoder draws them.

The loss is the squared error at the hidden patches, each normalised to mean 0 and variance 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from diffusion_suite.core.checkpoints import load_weights
from diffusion_suite.core.encoders.base import Contract
from diffusion_suite.core.encoders.images import IMAGENET, normalised
from diffusion_suite.core.training import SuiteModule

SCALE = Contract(mean=IMAGENET[0], std=IMAGENET[1])
HEAD = 32
"""Values of an attention head of the decoder."""


class MaskedAutoencoder(SuiteModule):
    """A vision transformer that learns from pictures alone.

    Args:
        image_size: side of a training crop in pixels.
        patch_size: side of a patch in pixels.
        width: features of a token.
        depth: layers of the encoder.
        heads: attention heads.
        mask_ratio: share of the patches that are hidden.
    """

    def __init__(
        self,
        image_size: int = 64,
        patch_size: int = 8,
        width: int = 192,
        depth: int = 6,
        heads: int = 6,
        mask_ratio: float = 0.75,
    ) -> None:
        super().__init__()
        from transformers import Dinov2Config, Dinov2Model

        self.patch_size = patch_size
        count = (image_size // patch_size) ** 2
        self.hidden = min(count - 1, max(1, round(mask_ratio * count)))
        self.encoder = Dinov2Model(
            Dinov2Config(
                image_size=image_size,
                patch_size=patch_size,
                hidden_size=width,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                use_mask_token=False,
            )
        )
        self.decoder = Decoder(count, width, width // 2, 3 * patch_size**2)

    @override
    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """The mean squared error at the hidden patches of (batch, 3, height, width) in [0, 1]."""
        embedded = self.encoder.embeddings(normalised(batch, SCALE))
        tokens = embedded[:, 1:]
        order = torch.rand(tokens.shape[:2], generator=generator, device=tokens.device).argsort(1)
        hidden, seen = order[:, : self.hidden], order[:, self.hidden :]
        states = self.encoder.encoder(torch.cat([embedded[:, :1], _pick(tokens, seen)], 1)).last_hidden_state
        drawn = self.decoder(self.encoder.layernorm(states), seen, hidden)
        patches = F.pixel_unshuffle(batch, self.patch_size).flatten(2).transpose(1, 2)
        wanted = _pick(patches, hidden)
        variance, mean = torch.var_mean(wanted, 2, keepdim=True)
        loss: Tensor = (drawn - (wanted - mean) * (variance + 1e-6).rsqrt()).square().mean()
        return loss

    @override
    def start_from(self, source: str) -> None:
        """Start from a checkpoint of this run's kind, or from a DINOv2 encoder in a folder or of the hub."""
        if source.endswith(".ckpt"):
            super().start_from(source)
            return
        from diffusion_suite.core.encoders.load import load_encoder

        load_weights(self.encoder, load_encoder(source, "image").network.state_dict(), source)


class Decoder(nn.Module):
    """Two transformer layers that draw hidden patches from the states of the seen ones.

    Args:
        count: patches of a picture.
        width: features of the encoder's tokens.
        inner: features of the decoder's; rounded down to whole heads.
        values: numbers of a patch.
    """

    def __init__(self, count: int, width: int, inner: int, values: int) -> None:
        super().__init__()
        inner = max(1, inner // HEAD) * HEAD
        self.project = nn.Linear(width, inner)
        self.hidden = nn.Parameter(torch.zeros(1, 1, inner))
        self.positions = nn.Parameter(0.02 * torch.randn(1, count, inner))
        layer = nn.TransformerEncoderLayer(
            inner, inner // HEAD, 4 * inner, 0.0, F.gelu, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(inner), enable_nested_tensor=False)
        self.out = nn.Linear(inner, values)

    @override
    def forward(self, states: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """Values of the hidden patches, (batch, hidden, values).

        Args:
            states: of the class token and the seen patches, (batch, 1 + seen, width).
            seen: numbers of the seen patches, (batch, seen).
            hidden: numbers of the hidden patches, (batch, hidden).
        """
        projected = self.project(states)
        positions = self.positions.expand(len(states), -1, -1)
        known = projected[:, 1:] + _pick(positions, seen)
        asked = self.hidden + _pick(positions, hidden)
        decoded = self.layers(torch.cat([projected[:, :1], known, asked], 1))
        values: Tensor = self.out(decoded[:, -hidden.shape[1] :])
        return values


def _pick(tokens: Tensor, places: Tensor) -> Tensor:
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))
