"""Depth as the network sees it: its logarithm, two quantiles at -1 and 1 (section 4); and back."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Normalisation = Literal["range", "quantiles", "none"]
QUANTILES = (0.02, 0.98)
LEAST_SPREAD = 1e-6
"""Below this a picture counts as flat."""
MOST_SORTED = 1 << 24
"""More pixels than these are thinned out before `torch.quantile`, which takes no more."""


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


def depth(y: Tensor, normalisation: Normalisation = "range") -> Tensor:
    """Relative depth exp(y), larger is farther; true up to scale and shift (section 2, step 7).

    Args:
        y: normalised log-depth, (batch, 1, height, width).
        normalisation: by picture, `range` puts the least and greatest depth at 0 and 1 (as published),
            `quantiles` the 2 % and 98 % quantiles, clipped, so that single pixels set nothing; `none` leaves
            exp(y).

    Returns:
        The same shape; 0 where a picture is flat.

    Raises:
        ValueError: unknown normalisation.
    """
    values = y.exp()
    flat = values.flatten(1)
    if normalisation == "none":
        return values
    if normalisation == "range":
        bounds = torch.stack([flat.amin(1), flat.amax(1)])
    elif normalisation == "quantiles":
        sparse = flat[:, :: math.ceil(flat.shape[1] / MOST_SORTED)]
        bounds = sparse.quantile(torch.tensor(QUANTILES, device=y.device, dtype=y.dtype), dim=1)
    else:
        raise ValueError(f"normalisation {normalisation!r}, not one of {get_args(Normalisation)}")
    low, high = bounds.reshape(2, -1, 1, 1, 1)
    spread = high - low
    scaled = (values - low) / spread.clamp_min(LEAST_SPREAD)
    return torch.where(spread > LEAST_SPREAD, scaled, 0.0).clamp(0, 1)
