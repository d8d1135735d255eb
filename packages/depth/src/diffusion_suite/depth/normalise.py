"""Depth as the network sees it: its logarithm, the 2 % and 98 % quantiles at -1 and 1 (section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

QUANTILES = (0.02, 0.98)
LEAST_SPREAD = 1e-6
"""Below this a picture counts as flat."""


def log_depth(depth: Tensor, quantiles: tuple[float, float] = QUANTILES) -> Tensor:
    """Normalised log-depth y = 2 (ln d - q_low) / (q_high - q_low) - 1, clipped to [-1, 1], by picture.

    Args:
        depth: (batch, 1, height, width), larger is farther. Infinite (sky) becomes 1 and is no part of the
            quantiles; 0, negative and NaN mean "not measured" and become 1.
        quantiles: low and high.

    Returns:
        The same shape; 0 where a picture has no or but one depth.
    """
    measured = torch.isfinite(depth) & (depth > 0)
    logs = torch.where(measured, depth, 1.0).log()
    y = between_quantiles(logs, measured, quantiles).clamp(-1, 1)
    return torch.where(measured, y, 1.0)


def between_quantiles(values: Tensor, measured: Tensor, quantiles: tuple[float, float] = QUANTILES) -> Tensor:
    """2 (v - q_low) / (q_high - q_low) - 1 with the quantiles of the measured pixels, by picture.

    Args:
        values: (batch, 1, height, width).
        measured: of that shape, bool.
        quantiles: low and high.

    Returns:
        The same shape, not clipped; 0 where a picture has no or but one measured value.
    """
    bounds = torch.tensor(quantiles, device=values.device, dtype=values.dtype)
    known = torch.where(measured, values, torch.nan).flatten(1)
    low, high = torch.nanquantile(known, bounds, dim=1).nan_to_num()[:, :, None, None, None]
    spread = high - low
    y = 2 * (values - low) / spread.clamp_min(LEAST_SPREAD) - 1
    return torch.where(spread > LEAST_SPREAD, y, 0.0)
