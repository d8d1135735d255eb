"""Kernel distance: the unbiased squared maximum mean discrepancy under the kernel (x.y/d + 1)^3.

Its expectation does not depend on the sizes of the sets (Binkowski et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_suite.core import seeding
from diffusion_suite.core.metrics.features import BLOCK, checked, same_width

Subsets = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class KernelDistance:
    """Kernel distances of random subsets.

    Attributes:
        value: their mean.
        deviation: their standard deviation (of the values themselves, divided by their number).
        values: one a subset.
        size: items of a set in a subset.
    """

    value: float
    deviation: float
    values: tuple[float, ...]
    size: int


def kernel_distance(
    real: Tensor,
    fake: Tensor,
    *,
    subsets: int = 100,
    size: int = 1000,
    indices: Subsets | None = None,
    seed: int = 0,
) -> KernelDistance:
    """Kernel distance as the mean over random subsets.

    Args:
        real: features (n, d).
        fake: features (m, d).
        subsets: how many subsets.
        size: items a set in each, drawn without replacement; at most the smaller of n and m is taken. Sets
            that both fit whole are compared once.
        indices: the subsets themselves, pairs of indices into `real` and `fake`, instead of random ones.
        seed: of the random subsets.

    Raises:
        InputError: features that are not finite, fewer than 2 items, unequal widths.
    """
    real, fake = _pair(real, fake)
    if indices is None:
        taken = min(size, len(real), len(fake))
        different = 1 if taken == len(real) == len(fake) else subsets
        indices = [_draw(len(real), len(fake), taken, seed, index) for index in range(different)]
    found = [_unbiased(real[a.to(real.device)], fake[b.to(fake.device)], None) for a, b in indices]
    values = torch.cat(found)
    return KernelDistance(
        float(values.mean()),
        float(values.std(unbiased=False)),
        tuple(values.tolist()),
        len(indices[0][0]),
    )


def kernel_distance_full(real: Tensor, fake: Tensor) -> float:
    """Kernel distance of all items at once, for sets of any sizes; it can be a little below 0.

    Args:
        real: features (n, d).
        fake: features (m, d).

    Raises:
        InputError: features that are not finite, fewer than 2 items, unequal widths.
    """
    return float(_unbiased(*_pair(real, fake), None))


def kernel_resamples(real: Tensor, fake: Tensor, counts: tuple[Tensor, Tensor]) -> Tensor:
    """Kernel distances of resampled sets at the price of one.

    A pair of copies of one item counts for nothing in a resample, so that duplicates do not look like a small
    spread.

    Args:
        real: features (n, d).
        fake: features (m, d).
        counts: how often each item is in each resample, (n, resamples) and (m, resamples).

    Returns:
        The distances, (resamples,), float64.
    """
    return _unbiased(*_pair(real, fake), counts)


def _pair(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    real, fake = checked(real), checked(fake)
    same_width(real, fake)
    return real, fake


def _draw(real: int, fake: int, size: int, seed: int, index: int) -> tuple[Tensor, Tensor]:
    draw = seeding.generator(seed, "kernel_distance", index)
    return torch.randperm(real, generator=draw)[:size], torch.randperm(fake, generator=draw)[:size]


def _unbiased(x: Tensor, y: Tensor, counts: tuple[Tensor, Tensor] | None) -> Tensor:
    a, b = (torch.ones(len(side), 1).to(side) for side in (x, y)) if counts is None else counts
    a, b = a.to(x), b.to(y)
    within = _sum(x, x, a, a, own=False) / _pairs(a) + _sum(y, y, b, b, own=False) / _pairs(b)
    return within - 2.0 * _sum(x, y, a, b, own=True) / (a.sum(0) * b.sum(0))


def _pairs(weights: Tensor) -> Tensor:
    """How many ordered pairs of different items the weights hold."""
    return weights.sum(0).square() - weights.square().sum(0)


def _sum(x: Tensor, y: Tensor, a: Tensor, b: Tensor, own: bool) -> Tensor:
    """Sum over pairs of a_i b_j k(x_i, y_j), (resamples,), the diagonal left out unless `own`."""
    total = torch.zeros(a.shape[1]).to(x)
    height = max(1, BLOCK // len(y))
    for start in range(0, len(x), height):
        rows = slice(start, min(start + height, len(x)))
        block = (x[rows] @ y.T / x.shape[1] + 1.0) ** 3
        if not own:
            block[:, rows].fill_diagonal_(0.0)
        total += (a[rows] * (block @ b)).sum(0)
    return total
