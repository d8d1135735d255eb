"""The scale of self-attention in the published code where the package xformers is missing (section 3.3).

With xformers the scores are divided by sqrt(d) as everywhere; without, they are multiplied by
sqrt(ln n / ln(4 n) / d) for n tokens of heads of width d, which softens them. Cross-attention is as usual.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_suite.core.errors import ConfigError

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

AttentionScale = Literal["standard", "token_rescaled"]


class TokenRescaled:
    """Attention processor of diffusers: self-attention scaled by the number of tokens."""

    def __call__(self, attention: Attention, hidden_states: Tensor, **_: Any) -> Tensor:
        """Tokens (batch, n, channels) to tokens; 0 scale, that is their mean value, where n is 1."""
        query, key, value = (
            layer(hidden_states).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for layer in (attention.to_q, attention.to_k, attention.to_v)
        )
        scale = token_scale(hidden_states.shape[1], query.shape[-1])
        mixed = F.scaled_dot_product_attention(query, key, value, scale=scale).transpose(1, 2).flatten(2)
        for layer in attention.to_out:
            mixed = layer(mixed)
        return mixed


def token_scale(tokens: int, width: int) -> float:
    """sqrt(ln n / ln(4 n) / d) of n tokens and heads of width d."""
    return math.sqrt(math.log(tokens) / math.log(4 * tokens) / width)


def set_attention_scale(unet: Any, scale: AttentionScale) -> None:
    """Give every self-attention of a `UNet2DConditionModel` its scale.

    Raises:
        ConfigError: an unknown scale, or a network that the published code has not.
    """
    if scale not in get_args(AttentionScale):
        raise ConfigError(
            f"attention_scale={scale} is unknown", f"use one of {', '.join(get_args(AttentionScale))}"
        )
    if scale == "standard":
        return
    own = {
        name: module.attn1
        for name, module in unet.named_modules()
        if isinstance(getattr(module, "attn1", None), nn.Module)
    }
    if not own:
        raise ConfigError(
            f"attention_scale={scale} is for networks with a text embedding", "use attention_scale=standard"
        )
    for attention in own.values():
        attention.set_processor(TokenRescaled())
