"""Fusing the maps of several layers and times into one map a scale (SatDiFuser; Jia et al. 2025).

channels = [[320, 320], [640, 640]]  # of the maps of each (layer, time), by scale
fused = Fusion(channels, kind="local")(maps)  # one (batch, 384, height, width) a scale
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_suite.core.errors import ConfigError

FusionKind = Literal["global", "local", "experts"]


class Bottleneck(nn.Module):
    """One residual block, 1 x 1, 3 x 3 and 1 x 1 convolutions at a quarter of the width."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        inner = max(width // 4, 1)
        self.short = nn.Conv2d(channels, width, 1)
        self.block = nn.Sequential(
            nn.Conv2d(channels, inner, 1),
            nn.GroupNorm(1, inner),
            nn.SiLU(),
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.GroupNorm(1, inner),
            nn.SiLU(),
            nn.Conv2d(inner, width, 1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (batch, channels, rows, columns) to (batch, width, rows, columns)."""
        fused: Tensor = self.short(maps) + self.block(maps)
        return fused


class Experts(nn.Module):
    """Mixture of experts on maps: the `chosen` best of several perceptrons a map, by a gate on its mean.

    Args:
        width: of the maps.
        experts: number of perceptrons, 1 x 1 convolutions with one hidden layer.
        chosen: how many serve a map.
    """

    def __init__(self, width: int, experts: int = 8, chosen: int = 2) -> None:
        super().__init__()
        self.chosen = chosen
        self.gate = nn.Linear(width, experts)
        self.enter = nn.Parameter(torch.randn(experts, width, width) / width**0.5)
        self.leave = nn.Parameter(torch.randn(experts, width, width) / width**0.5)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (batch, width, rows, columns), each through its experts."""
        logits, which = self.gate(maps.flatten(2).mean(2)).topk(self.chosen, dim=1)
        places = maps.flatten(2)[:, None]
        hidden = F.silu(self.enter[which] @ places)
        mixed: Tensor = (torch.softmax(logits, 1)[..., None, None] * (self.leave[which] @ hidden)).sum(1)
        return mixed.view_as(maps)


class Fusion(nn.Module):
    """Fuses, scale by scale, the maps of several (layer, time) after a bottleneck each.

    `global`: one softmax over scalars of all maps of all scales; the weighted maps of a scale are added.
    `local`: in every pixel a softmax over the maps of the scale, from a 1 x 1 convolution of their mean.
    `experts`: every map passes its two best of eight experts, shared by all; the results are added.

    Args:
        channels: of the maps, by scale and by (layer, time).
        width: of the fused maps.
        kind: see above.

    Raises:
        ConfigError: unknown kind, or a scale without maps.
    """

    def __init__(
        self, channels: Sequence[Sequence[int]], width: int = 384, kind: FusionKind = "global"
    ) -> None:
        super().__init__()
        if kind not in get_args(FusionKind):
            raise ConfigError(f"unknown fusion {kind!r}", f"use one of {', '.join(get_args(FusionKind))}")
        if not channels or not all(channels):
            raise ConfigError("a scale has no maps", "give the channels of at least one map a scale")
        self.kind = kind
        self.bottlenecks = nn.ModuleList(
            nn.ModuleList(Bottleneck(count, width) for count in scale) for scale in channels
        )
        self.counts = [len(scale) for scale in channels]
        if kind == "global":
            self.scalars = nn.Parameter(torch.zeros(sum(self.counts)))
        elif kind == "local":
            self.weights = nn.ModuleList(nn.Conv2d(width, count, 1) for count in self.counts)
        else:
            self.experts = Experts(width)

    def forward(self, maps: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """One fused map (batch, width, rows, columns) a scale.

        Args:
            maps: by scale and by (layer, time), as the channels; those of a scale have one size.
        """
        fused = []
        for scale, (given, blocks) in enumerate(zip(maps, self.bottlenecks, strict=True)):
            assert isinstance(blocks, nn.ModuleList)
            narrow = torch.stack([block(part) for block, part in zip(blocks, given, strict=True)], 1)
            if self.kind == "global":
                shares = torch.split(torch.softmax(self.scalars, 0), self.counts)[scale]
                fused.append(torch.einsum("s,bschw->bchw", shares, narrow))
            elif self.kind == "local":
                weights = torch.softmax(self.weights[scale](narrow.mean(1)), 1)
                fused.append(torch.einsum("bshw,bschw->bchw", weights, narrow))
            else:
                fused.append(self.experts(narrow.flatten(0, 1)).view_as(narrow).sum(1))
        return fused
