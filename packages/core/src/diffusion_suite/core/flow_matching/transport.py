"""Optimal transport between two batches: the exact assignment, and the entropic plan."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError


def squared_distances(source: Tensor, target: Tensor) -> Tensor:
    """Squared Euclidean distances of all items of two batches, (n, m), in float64.

    Args:
        source: (n, ...).
        target: (m, ...), items of the same shape.

    Raises:
        ValueError: the items differ in shape.
    """
    if source.shape[1:] != target.shape[1:]:
        raise ValueError(f"items of {tuple(source.shape[1:])} and {tuple(target.shape[1:])} have no distance")
    first, second = source.flatten(1).double(), target.flatten(1).double()
    middle = first.mean(0)
    first, second = first - middle, second - middle
    squares: Tensor = first.square().sum(1)[:, None] + second.square().sum(1) - 2.0 * first @ second.T
    return squares.clamp(min=0.0)


@torch.no_grad()
def optimal_pairing(source: Tensor, target: Tensor, limit: int = 512) -> Tensor:
    """The permutation of targets that minimises the sum of squared distances to the sources.

    Args:
        source: (batch, ...).
        target: of the same shape.
        limit: batches larger than this are paired in consecutive parts of at most this size, since the cost
            grows with the cube.

    Returns:
        (batch,) int64 on the source's device: item i of the source belongs to item `result[i]` of the target.

    Raises:
        ConfigError: a limit below 1.
        ValueError: the shapes differ.
    """
    from scipy.optimize import linear_sum_assignment

    if limit < 1:
        raise ConfigError(f"parts of {limit} items cannot be paired", "give a limit of at least 1")
    if len(source) != len(target):
        raise ValueError(f"{len(source)} sources and {len(target)} targets make no pairs")
    parts = []
    for first in range(0, len(source), limit):
        part = slice(first, first + limit)
        costs = squared_distances(source[part], target[part]).cpu().numpy()
        parts.append(torch.from_numpy(linear_sum_assignment(costs)[1]) + first)
    return torch.cat(parts).to(source.device)


@torch.no_grad()
def entropic_plan(
    cost: Tensor, regularisation: float, *, tolerance: float = 1e-9, iterations: int = 10_000
) -> Tensor:
    """The plan with uniform marginals that minimises <plan, cost> - regularisation * entropy.

    Sinkhorn's iteration on logarithms, so that a small regularisation does not underflow (Peyre, Cuturi 2019,
    section 4.4).

    Args:
        cost: (n, m); often divided by its maximum, so that the regularisation has a scale.
        regularisation: weight of the entropy, above 0.
        tolerance: stop when the row sums are this near to 1/n in the Euclidean norm.
        iterations: at most so many.

    Returns:
        (n, m), in the cost's type; columns sum to 1/m exactly, rows to 1/n within the tolerance.

    Raises:
        ConfigError: a regularisation that is not positive, or one so small that the iteration does not end.
    """
    if not regularisation > 0.0:
        raise ConfigError(f"a regularisation of {regularisation}", "give one above 0, or use optimal_pairing")
    rows, columns = cost.shape
    kernel = -cost.double() / regularisation
    left = kernel.new_zeros(rows)
    right = kernel.new_zeros(columns)
    for _ in range(iterations):
        left = -math.log(rows) - torch.logsumexp(kernel + right, 1)
        right = -math.log(columns) - torch.logsumexp(kernel + left[:, None], 0)
        plan = torch.exp(kernel + left[:, None] + right)
        if float((plan.sum(1) - 1.0 / rows).norm()) < tolerance:
            return plan.to(cost.dtype)
    raise ConfigError(
        f"the entropic plan is not found in {iterations} iterations", "raise the regularisation or iterations"
    )
