"""The eight symmetries of the square, on the last two axes of an image."""

from __future__ import annotations

import torch
from torch import Tensor

SYMMETRIES = 8


def turned(x: Tensor, turn: int) -> Tensor:
    """Quarter turns, mirrored from `turn` 4 on; 0 leaves x as it is."""
    x = torch.rot90(x, turn % 4, (-2, -1))
    return x.flip(-1) if turn >= 4 else x


def turned_back(x: Tensor, turn: int) -> Tensor:
    """Undoes `turned`."""
    x = x.flip(-1) if turn >= 4 else x
    return torch.rot90(x, -(turn % 4), (-2, -1))
