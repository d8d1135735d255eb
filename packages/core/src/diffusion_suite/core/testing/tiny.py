"""A class-conditional diffusion transformer that trains in seconds on a CPU, for tests and examples."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANGES = 6  # shift, scale and gate, of the attention and of the perceptron


class TinyTransformer(nn.Module):
    """A transformer on patches whose blocks are modulated by time and class (adaLN-Zero; Peebles, Xie 2023).

    With the defaults it has 0.32 million weights. Its output is zero at the start.

    Args:
        channels: of the pictures.
        classes: number of classes; label `classes` means no class.
        width: of the tokens, a multiple of 4 and of `heads`.
        depth: number of blocks.
        heads: of the attention.
        patch: side of a patch in pixels.
        time_range: the largest time, e.g. 1 for the continuous paths, 1000 for steps of a table.

    Attributes:
        blocks: the blocks in order; each maps tokens (batch, rows * columns, width) and a condition
            (batch, width) to tokens.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 10,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        patch: int = 2,
        time_range: float = 1.0,
    ) -> None:
        super().__init__()
        self.classes, self.width, self.patch, self.time_range = classes, width, patch, time_range
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        self.guidance = nn.Linear(width, width, bias=False)
        self.blocks = nn.ModuleList(TinyBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.change = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, channels * patch**2)
        for layer in (self.guidance, self.change, self.head):
            _zero(layer)

    def forward(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, guidance: Tensor | None = None
    ) -> Tensor:
        """The network's output, of the shape and type of `x_t`.

        Args:
            x_t: (batch, channels, height, width), sides divisible by the patch.
            t: (batch,), from 0 to `time_range`.
            label: (batch,) integers up to and with `classes`; None means no class for the whole batch.
            guidance: (batch,) guidance weights of a distilled student, around 1 to 10; None for none.

        Raises:
            ValueError: the sides are not divisible by the patch.
        """
        if x_t.shape[-2] % self.patch or x_t.shape[-1] % self.patch:
            raise ValueError(f"sides {tuple(x_t.shape[-2:])} are not divisible by the patch {self.patch}")
        if label is None:
            label = torch.full((x_t.shape[0],), self.classes, device=x_t.device)
        dtype = self.head.weight.dtype
        condition = self.time(_waves(t / self.time_range, self.width).to(dtype)) + self.label(label)
        if guidance is not None:
            condition = condition + self.guidance(_waves(guidance / 10.0, self.width).to(dtype))
        tokens = self.embed(x_t.to(dtype))
        rows, columns = tokens.shape[-2:]
        tokens = tokens.flatten(2).transpose(1, 2) + _places(rows, columns, self.width, tokens)
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.change(F.silu(condition))[:, None].chunk(2, -1)
        patches = self.head(self.norm(tokens) * (1 + scale) + shift)
        picture = patches.transpose(1, 2).unflatten(-1, (rows, columns))
        output: Tensor = F.pixel_shuffle(picture, self.patch).to(x_t.dtype)
        return output


class TinyBlock(nn.Module):
    """Attention and a perceptron, both modulated by a condition and closed at the start."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.change = nn.Linear(width, CHANGES * width)
        _zero(self.change)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Tokens (batch, count, width) and a condition (batch, width) to tokens."""
        shift, scale, gate, shift2, scale2, gate2 = self.change(F.silu(condition))[:, None].chunk(CHANGES, -1)
        tokens = tokens + gate * self._attend(self.norm(tokens) * (1 + scale) + shift)
        changed: Tensor = tokens + gate2 * self.mlp(self.norm(tokens) * (1 + scale2) + shift2)
        return changed

    def _attend(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed: Tensor = self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return mixed


def _zero(layer: nn.Linear) -> None:
    for weight in layer.parameters():
        nn.init.zeros_(weight)


def _waves(t: Tensor, width: int) -> Tensor:
    """Fourier features (batch, width) of numbers around 0 to 1, periods from 8 to 1/64."""
    frequencies = 2 * math.pi * 2.0 ** torch.linspace(-3, 6, width // 2, device=t.device)
    angles = t.to(frequencies)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def _places(rows: int, columns: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of the places of a grid, (rows * columns, width), half of them for the rows."""
    rates = 100.0 ** -torch.linspace(0, 1, width // 4, device=like.device)
    row, column = (
        torch.cat([angles.sin(), angles.cos()], 1)
        for angles in (torch.arange(count, device=like.device)[:, None] * rates for count in (rows, columns))
    )
    grid = torch.cat([row[:, None].expand(-1, columns, -1), column[None].expand(rows, -1, -1)], -1)
    return grid.flatten(0, 1).to(like.dtype)
