"""EfficientNet-Lite0, a small convolutional encoder of pictures (3.4 M weights without its classifier).

Inverted residual blocks without squeeze-and-excitation, ReLU6 in place of swish. Convolutions pad as
TensorFlow does: what is odd goes to the right and below.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Of each stage: blocks, kernel, stride of its first block, expansion, channels."""

STEM, HEAD = 32, 1280
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""Pictures of 0..255 are normalised as (x - 127) / 128; the statistics of the first layer bear it out."""


class PaddedConv2d(nn.Conv2d):
    """A convolution whose output has the input's sides divided by the stride, rounded up."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        pads: list[int] = []
        for side, kernel, stride in zip(input.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            missing = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            pads += [missing // 2, missing - missing // 2]
        padded = F.pad(input, pads) if any(pads) else input
        out: Tensor = self._conv_forward(padded, self.weight, self.bias)
        return out


class InvertedResidual(nn.Module):
    """Expand, convolve each channel, project; added to the input where sizes allow."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inner * expansion
        parts: list[tuple[str, nn.Module]] = []
        if expansion > 1:
            parts += [("expand", PaddedConv2d(inner, wide, 1, bias=False)), ("norm0", _norm(wide))]
            parts += [("act0", nn.ReLU6())]
        parts += [("depthwise", PaddedConv2d(wide, wide, kernel, stride, groups=wide, bias=False))]
        parts += [("norm1", _norm(wide)), ("act1", nn.ReLU6())]
        parts += [("project", PaddedConv2d(wide, outer, 1, bias=False)), ("norm2", _norm(outer))]
        self.body = nn.Sequential(OrderedDict(parts))
        self.residual = stride == 1 and inner == outer

    @override
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.residual else out


class EfficientNetLite0(nn.Module):
    """The network up to the map before its classifier.

    ``forward(pixel_values)`` of (batch, 3, height, width) gives an object with ``last_hidden_state``
    (batch, 1280, height / 32, width / 32), rounded up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(PaddedConv2d(3, STEM, 3, 2, bias=False), _norm(STEM), nn.ReLU6())
        blocks: list[nn.Module] = []
        channels = STEM
        for count, kernel, stride, expansion, outer in STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(channels, outer, kernel, 1 if index else stride, expansion))
                channels = outer
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Sequential(PaddedConv2d(channels, HEAD, 1, bias=False), _norm(HEAD), nn.ReLU6())

    @override
    def forward(self, pixel_values: Tensor) -> Any:
        x = self.stem(pixel_values)
        for block in self.blocks:
            x = block(x)
        # With its last blocks dropped only what a hook caught is used.
        last = self.head(x) if x.shape[1] == STAGES[-1][-1] else x
        return SimpleNamespace(last_hidden_state=last)

    def maps(self, pixel_values: Tensor, after: Collection[int]) -> list[Tensor]:
        """What comes out of some blocks, by their places in `blocks`, in that order."""
        x, found = self.stem(pixel_values), []
        for place, block in enumerate(self.blocks):
            x = block(x)
            if place in after:
                found.append(x)
        return found


def width_at(layer: int | None) -> int:
    """Channels after a number of blocks; 0 counts the stem alone, negative from the end, None is the head."""
    if layer is None:
        return HEAD
    widths = [STEM] + [outer for count, *_, outer in STAGES for _ in range(count)]
    return widths[layer]


def rename(published: str) -> str | None:
    """Our name of a published weight, None for the classifier's, "" for one that is not known."""
    if published.startswith("_fc."):
        return None
    found = re.fullmatch(r"(_blocks\.\d+\.)?_(\w+)\.(\w+)", published)
    if found is None:
        return ""
    block, part, end = found.groups()
    table = IN_BLOCK if block else OUTSIDE
    return f"{(block or '').replace('_blocks', 'blocks')}{table[part]}.{end}" if part in table else ""


OUTSIDE: Mapping[str, str] = {
    "conv_stem": "stem.0",
    "bn0": "stem.1",
    "conv_head": "head.0",
    "bn1": "head.1",
}
IN_BLOCK: Mapping[str, str] = {
    "expand_conv": "body.expand",
    "bn0": "body.norm0",
    "depthwise_conv": "body.depthwise",
    "bn1": "body.norm1",
    "project_conv": "body.project",
    "bn2": "body.norm2",
}


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
