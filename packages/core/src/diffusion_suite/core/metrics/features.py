"""What every metric asks of features: a finite matrix in float64; and distances between their rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from diffusion_suite.core.errors import InputError

BLOCK = 1 << 24
"""Distances that are held at once."""

CANCELLED = 1e-4
"""Squared distances below this share of the squared norms lose digits in |x|^2 - 2 xy + |y|^2."""


def checked(features: Tensor, least: int = 2, name: str = "features") -> Tensor:
    """Features (n, d) as float64, on their device where it has float64.

    Raises:
        InputError: fewer than `least` items, or values that are not finite.
        ValueError: not a matrix.
    """
    if features.ndim != 2:
        raise ValueError(f"{name} have shape {tuple(features.shape)}, not (items, width)")
    if len(features) < least:
        raise InputError(f"{name}: {len(features)} item(s) where {least} are needed", "give more items")
    exact = (features.cpu() if features.device.type == "mps" else features).detach().to(torch.float64)
    # A sum is not finite where an entry is not, and fast; it may also overflow, so that it only rules out.
    if not bool(torch.isfinite(exact.sum())) and not bool(torch.isfinite(exact).all()):
        bad = int((~torch.isfinite(exact)).any(1).sum())
        raise InputError(f"{name}: {bad} of {len(exact)} items hold NaN or infinity", "leave those items out")
    return exact


def same_width(first: Tensor, second: Tensor) -> None:
    """Refuse sets of unequal widths.

    Raises:
        InputError: they are.
    """
    if first.shape[-1] != second.shape[-1]:
        raise InputError(
            f"one set has {first.shape[-1]} features an item, the other {second.shape[-1]}",
            "take both from one encoder at one size of picture",
        )


def squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances between rows of x (n, d) and of y (m, d), block by block of rows of x.

    A matrix product where it keeps ten digits, differences elsewhere: near-duplicates keep theirs too.

    Yields:
        The rows of the block, and its distances (rows, m).
    """
    centre = y.mean(0)
    x, y = x - centre, y - centre
    y_norms = y.square().sum(1)
    height = max(1, BLOCK // max(1, len(y)))
    for start in range(0, len(x), height):
        rows = slice(start, min(start + height, len(x)))
        norms = x[rows].square().sum(1)[:, None] + y_norms
        squares = torch.addmm(norms, x[rows], y.T, alpha=-2.0)
        _refine(squares, norms, x[rows], y)
        yield rows, squares


def _refine(squares: Tensor, norms: Tensor, x: Tensor, y: Tensor) -> None:
    i, j = torch.nonzero(squares <= CANCELLED * norms, as_tuple=True)
    count = max(1, BLOCK // x.shape[1])
    for start in range(0, len(i), count):
        a, b = i[start : start + count], j[start : start + count]
        squares[a, b] = (x[a] - y[b]).square().sum(1)


def nearest(x: Tensor, y: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Distances (n, k) from rows of x to their k nearest rows of y, ascending, and those rows' indices.

    Raises:
        ValueError: y has fewer than k rows.
    """
    if len(y) < k:
        raise ValueError(f"{k} neighbours asked for among {len(y)}")
    found = [squares.topk(k, 1, largest=False) for _, squares in squared_distances(x, y)]
    return torch.cat([part.values for part in found]).sqrt(), torch.cat([part.indices for part in found])


def nearest_others(x: Tensor, k: int = 1) -> Tensor:
    """Distances (n, k) from each row of x to its k nearest other rows, ascending.

    Raises:
        InputError: no more than k rows.
    """
    if len(x) <= k:
        raise InputError(f"{len(x)} items where {k + 1} are needed for {k} neighbours", "give more items")
    found = []
    for rows, squares in squared_distances(x, x):
        own = torch.arange(rows.start, rows.stop, device=x.device)
        squares[own - rows.start, own] = torch.inf
        found.append(squares.topk(k, 1, largest=False).values)
    return torch.cat(found).sqrt()
