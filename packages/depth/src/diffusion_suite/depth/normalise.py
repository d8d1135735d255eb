"""Depth as the network sees it: its logarithm, the 2 % and 98 % quantiles at -1 and 1 (section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

QUANTILES = (0.02, 0.98)


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
    bounds = torch.tensor(quantiles, device=depth.device, dtype=logs.dtype)
    flat = torch.where(measured, logs, torch.nan).flatten(1)
    low, high = torch.nanquantile(flat, bounds, dim=1).nan_to_num()[:, :, None, None, None]
    spread = high - low
    y = (2 * (logs - low) / spread.clamp_min(1e-6) - 1).clamp(-1, 1)
    return torch.where(measured, torch.where(spread > 1e-6, y, 0.0), 1.0)
