"""From the maps and tokens of a layer to vectors, token sequences and small grids."""

from __future__ import annotations

from math import isqrt

import torch.nn.functional as F
from torch import Tensor

from diffusion_suite.core.errors import ConfigError

Pooling = str | int


def pool(values: Tensor, how: Pooling, like: Tensor) -> Tensor:
    """A layer's output in the form that a head takes.

    Args:
        values: maps (batch, channels, height, width), tokens (batch, tokens, width), or vectors (batch,
            width), which stay as they are.
        how: `"mean"` for vectors (batch, width), `"tokens"` for (batch, tokens, width), `"map"` for (batch,
            width, height, width), an integer p for a map averaged to (batch, width, p, p), `"none"` for the
            values themselves.
        like: the data, whose last two sides tell how tokens lie in rows and columns.

    Raises:
        ConfigError: unknown pooling, or tokens that make no grid of the data's shape.
    """
    if values.ndim == 2 or how == "none":
        return values
    if how == "mean":
        return values.mean(1) if values.ndim == 3 else values.flatten(2).mean(2)
    if how == "tokens":
        return values if values.ndim == 3 else values.flatten(2).transpose(1, 2)
    if isinstance(how, str) and how != "map":
        raise ConfigError(f"unknown pooling {how!r}", "use mean, tokens, map, none or the side of a grid")
    maps = to_map(values, like) if values.ndim == 3 else values
    return F.adaptive_avg_pool2d(maps, how) if isinstance(how, int) else maps


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Tokens (batch, tokens, width) as a map (batch, width, rows, columns) of the shape of data `like`.

    Raises:
        ConfigError: the number of tokens makes no such grid.
    """
    rows, columns = token_grid(tokens.shape[1], like.shape[-2], like.shape[-1])
    return tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns)


def token_grid(count: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of `count` tokens that lie over data of height x width.

    Tokens lie a whole stride apart, the last of a row or column perhaps over the edge; failing that, in the
    proportion of the sides.

    Raises:
        ConfigError: no such grid has so many tokens.
    """
    for stride in range(1, max(height, width) + 1):
        rows, columns = -(-height // stride), -(-width // stride)
        if rows * columns == count:
            return rows, columns
    rows = isqrt(count * height // width)
    if rows == 0 or rows * rows * width != count * height or count % rows:
        raise ConfigError(
            f"{count} tokens make no grid over data of {height} x {width}", "pool by mean or tokens"
        )
    return rows, count // rows


def resize_tokens(tokens: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Tokens on one grid interpolated to another: (batch, rows * columns, width), bilinear.

    Towards fewer tokens the means over the cells of the new grid are taken where it divides the old one.

    Args:
        tokens: (batch, rows * columns, width).
        grid: their rows and columns.
        to: the rows and columns wanted.

    Raises:
        ValueError: the number of tokens is not that of the grid.
    """
    if tokens.shape[1] != grid[0] * grid[1]:
        raise ValueError(f"{tokens.shape[1]} tokens do not lie on a grid of {grid[0]} x {grid[1]}")
    if grid == to:
        return tokens
    maps = tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)
    if grid[0] % to[0] == 0 and grid[1] % to[1] == 0:
        maps = F.adaptive_avg_pool2d(maps, to)
    else:
        maps = F.interpolate(maps, to, mode="bilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2)
