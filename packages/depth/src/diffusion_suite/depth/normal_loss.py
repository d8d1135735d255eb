"""Surface normals as a second look at a depth map: a loss on its slopes (section 4).

The normals are those of the relief that y makes over the picture, with the longest side from -1 to 1. They
are not those of the scene, for which depth would have to be metric.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def relief_normals(y: Tensor) -> Tensor:
    """Normals normalise(-dy/du, -dy/dv, 1) by forward differences.

    Args:
        y: (batch, 1, height, width).

    Returns:
        (batch, 3, height - 1, width - 1), unit vectors.
    """
    half = max(y.shape[-2:]) / 2
    across = (y[..., :-1, 1:] - y[..., :-1, :-1]) * half
    down = (y[..., 1:, :-1] - y[..., :-1, :-1]) * half
    return normalize(torch.cat([-across, -down, torch.ones_like(across)], 1), dim=1)


def normal_loss(y: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """1 - cos of the angle between the normals of two maps, the mean by picture.

    Args:
        y: (batch, 1, height, width).
        truth: of the same shape.
        valid: of the same shape, bool; a normal counts where all three of its pixels are valid.

    Returns:
        (batch,); 0 for a picture without a valid normal.
    """
    counts = valid[..., :-1, :-1] & valid[..., :-1, 1:] & valid[..., 1:, :-1]
    off = 1 - (relief_normals(y) * relief_normals(truth)).sum(1, keepdim=True)
    return masked_mean(off, counts)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over all but the first axis where a mask is True, by item; 0 for an item without one.

    Args:
        values: (batch, channels, height, width).
        mask: (batch, 1, height, width), bool.
    """
    share = mask.to(values.dtype)
    return (values * share).flatten(1).sum(1) / (share.flatten(1).sum(1) * values.shape[1]).clamp_min(1)
