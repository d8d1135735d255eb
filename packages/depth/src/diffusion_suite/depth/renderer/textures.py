"""Colours of solids from patterns and grain, functions of the place alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_suite.depth.renderer.scenes import PATTERN


def value_noise(at: Tensor, seed: Tensor, octaves: int = 3) -> Tensor:
    """Smooth noise in [0, 1]: random values on a lattice, interpolated, over octaves of halved size.

    Args:
        at: (..., 3) places, in units of the largest lattice.
        seed: (...,) whole numbers that tell one noise from another.
        octaves: number of lattices.
    """
    total, weight, sum_of_weights = torch.zeros_like(at[..., 0]), 1.0, 0.0
    for octave in range(octaves):
        total = total + weight * _lattice(at * 2.0**octave, seed + octave)
        sum_of_weights += weight
        weight *= 0.6
    return total / sum_of_weights


def _lattice(at: Tensor, seed: Tensor) -> Tensor:
    corner = at.floor()
    part = at - corner
    part = part * part * (3 - 2 * part)
    corner = corner.to(torch.int64)
    values = []
    for offset in range(8):
        shift = [offset & 1, (offset >> 1) & 1, (offset >> 2) & 1]
        values.append(random_at(corner + torch.tensor(shift, device=at.device), seed))
    x, y, z = part.unbind(-1)
    along_x = [torch.lerp(values[i], values[i + 1], x) for i in (0, 2, 4, 6)]
    along_y = [torch.lerp(along_x[0], along_x[1], y), torch.lerp(along_x[2], along_x[3], y)]
    return torch.lerp(along_y[0], along_y[1], z)


def random_at(cell: Tensor, seed: Tensor) -> Tensor:
    """A number in [0, 1) for each cell of whole coordinates (..., 3), by an integer hash."""
    mixed = cell[..., 0] * 73856093 ^ cell[..., 1] * 19349663 ^ cell[..., 2] * 83492791
    mixed = mixed ^ seed.to(torch.int64) * 2654435761
    for _ in range(2):
        mixed = (mixed ^ (mixed >> 15)) * 0x2C1B3C6D & 0x7FFFFFFF
        mixed = (mixed ^ (mixed >> 12)) * 0x297A2D39 & 0x7FFFFFFF
    return (mixed & 0xFFFFFF).to(torch.float32) / 0x1000000


def colours(
    at: Tensor, normal: Tensor, half: Tensor, colour: Tensor, pattern: Tensor, texture: Tensor
) -> Tensor:
    """Linear colour at points on surfaces, in the solids' own axes.

    Args:
        at: (..., 3) metres.
        normal: (..., 3).
        half: (..., 3) metres.
        colour: (..., 2, 3).
        pattern: (...,).
        texture: (..., 4), see `Scenes`.
    """
    size, contrast, grain, seed = texture.unbind(-1)
    seed = seed.to(torch.int64)
    noise = value_noise(at / grain[..., None], seed)
    u, v = _surface(at, normal, half)
    share = _pattern(u / size, v / size, at / size[..., None], pattern, seed, normal)
    mixed = torch.lerp(colour[..., 0, :], colour[..., 1, :], share[..., None])
    return mixed * (1 + contrast * (2 * noise - 1))[..., None]


def _surface(at: Tensor, normal: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Two coordinates along the surface in metres: those of the face, or around and along a round solid."""
    x, y, z = at.unbind(-1)
    axis = normal.abs().argmax(-1)
    upright = normal[..., 1].abs() > 0.7
    u = torch.where(upright, x, torch.where(axis == 0, z, x))
    v = torch.where(upright, z, y)
    round_ = normal.abs().amax(-1) < 0.999
    around = torch.atan2(z / half[..., 2], x / half[..., 0]) * (half[..., 0] + half[..., 2]) / 2
    return torch.where(round_ & ~upright, around, u), v


def _pattern(u: Tensor, v: Tensor, at: Tensor, pattern: Tensor, seed: Tensor, normal: Tensor) -> Tensor:
    """Share of the second colour."""
    tone = _cell(u.floor(), v.floor(), seed)
    wall = normal[..., 1].abs() < 0.5
    row = v * 2.0
    shifted = u + 0.5 * (row.floor() % 2)
    planks = _cell((v * 3).floor(), (u * 0.4 + 0.37 * (v * 3).floor()).floor(), seed)
    noise = value_noise(at, seed + 11, octaves=2)
    options = {
        "plain": torch.zeros_like(u),
        "tiles": torch.maximum(_gap(u, 0.03), torch.maximum(_gap(v, 0.03), 0.5 * tone)),
        "planks": torch.maximum(0.6 * planks, _gap(v * 3, 0.05)),
        "bricks": torch.maximum(
            torch.maximum(_gap(shifted, 0.05), _gap(row, 0.1)),
            0.4 * _cell(shifted.floor(), row.floor(), seed),
        ),
        "windows": (wall & (_inside(u, 0.22, 0.78) & _inside(v, 0.2, 0.75))).float() * (0.6 + 0.4 * tone),
        "blotches": torch.sigmoid(25 * (noise - 0.5)),
        "veins": (0.5 + 0.5 * torch.sin(2 * math.pi * (u + 4 * noise))).square(),
        "stripes": _inside(u, 0.0, 0.5).float(),
    }
    found = torch.zeros_like(u)
    for name, share in options.items():
        found = torch.where(pattern == PATTERN[name], share, found)
    return found


def _cell(first: Tensor, second: Tensor, seed: Tensor) -> Tensor:
    cell = torch.stack([first, second, torch.zeros_like(first)], -1).to(torch.int64)
    return random_at(cell, seed)


def _gap(x: Tensor, width: float) -> Tensor:
    return (torch.remainder(x, 1.0) < width).float()


def _inside(x: Tensor, low: float, high: float) -> Tensor:
    part = torch.remainder(x, 1.0)
    return (part >= low) & (part < high)
