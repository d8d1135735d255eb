"""Diversity of a set: Vendi score, inception score; and a closed sliced Wasserstein distance."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.metrics.features import checked, same_width

Kernel = Literal["linear", "polynomial"]


def vendi_score(
    features: Tensor, order: float = 1.0, *, kernel: Kernel = "linear", weights: Tensor | None = None
) -> float:
    """Effective number of different items (Friedman, Dieng 2023; orders: Pasarkar, Dieng 2024).

    The exponential of the Renyi entropy (order 1: Shannon) of the eigenvalues of K/n, where K holds the
    kernel of rows of length 1. With the linear kernel it lies between 1 (all alike) and min(n, d).

    Args:
        features: (n, d).
        order: of the entropy, at least 0; infinity counts the commonest kind alone.
        kernel: "linear", x.y; "polynomial", (x.y/d + 1)^3, whose trace is not n.
        weights: (n,), how often each item counts; None counts each once.

    Raises:
        InputError: features that are not finite, or an item that is zero throughout.
        ValueError: an order below 0.
    """
    if not order >= 0:
        raise ValueError(f"order {order} is below 0")
    x = checked(features, least=1)
    norms = x.norm(dim=1, keepdim=True)
    if bool((norms == 0).any()):
        raise InputError("an item whose features are all zero has no direction", "leave it out")
    share = torch.ones(len(x)).to(x) if weights is None else weights.to(x)
    root = (share / share.sum()).sqrt()[:, None]
    x = x / norms
    if kernel == "polynomial":
        matrix = (x @ x.T / x.shape[1] + 1.0) ** 3 * root * root.T
    else:
        x = x * root
        matrix = x.T @ x if x.shape[1] < len(x) else x @ x.T
    return _effective_number(torch.linalg.eigvalsh(matrix), order)


def vendi_by_class(
    features: Tensor, labels: Tensor, order: float = 1.0, *, kernel: Kernel = "linear"
) -> dict[int, float]:
    """Vendi score of the items of each class.

    Args:
        features: (n, d).
        labels: (n,), whole numbers.
        order: as in `vendi_score`.
        kernel: as in `vendi_score`.

    Raises:
        ValueError: not one label an item.
    """
    if labels.shape != features.shape[:1]:
        raise ValueError(f"{tuple(labels.shape)} labels for {len(features)} items")
    classes = sorted(set(labels.tolist()))
    return {label: vendi_score(features[labels == label], order, kernel=kernel) for label in classes}


def _effective_number(values: Tensor, order: float) -> float:
    values = values[values > values.max() * len(values) * torch.finfo(values.dtype).eps]
    if order == 1.0:
        return float(torch.exp(-(values * values.log()).sum()))
    if math.isinf(order):
        return float(1.0 / values.max())
    return float(torch.exp((values**order).sum().log() / (1.0 - order)))


def inception_score(probabilities: Tensor, splits: int = 1) -> float:
    """Exponential of the mean divergence of each item's class probabilities from their mean.

    Args:
        probabilities: (n, classes), rows that sum to 1.
        splits: parts, in the order given, whose scores are averaged.

    Returns:
        The score, from 1 to the number of classes.

    Raises:
        InputError: rows that are no probabilities.
        ValueError: more splits than items.
    """
    p = checked(probabilities, least=1, name="class probabilities")
    if bool((p < 0).any()) or bool(((p.sum(1) - 1.0).abs() > 1e-3).any()):
        raise InputError("class probabilities must be at least 0 and sum to 1", "apply a softmax first")
    if not 1 <= splits <= len(p):
        raise ValueError(f"{splits} splits of {len(p)} items")
    scores = []
    for part in p.tensor_split(splits):
        mean = part.mean(0)
        divergence = torch.xlogy(part, part).sum(1) - torch.xlogy(part, mean).sum(1)
        scores.append(divergence.mean().exp())
    return float(torch.stack(scores).mean())


def sliced_wasserstein(first: Tensor, second: Tensor) -> float:
    """Closed approximation of the sliced 2-Wasserstein distance in many dimensions (Nadjahi et al. 2021).

    The square is |mean difference|^2 / d + (s_1 - s_2)^2, where s^2 is the mean variance of a feature:
    projections of many weakly dependent features are nearly Gaussian.

    Args:
        first: features (n, d).
        second: features (m, d).

    Raises:
        InputError: features that are not finite, unequal widths.
    """
    first, second = checked(first), checked(second)
    same_width(first, second)
    shift = (first.mean(0) - second.mean(0)).square().mean()
    spread = [x.var(0, correction=0).mean().sqrt() for x in (first, second)]
    return float((shift + (spread[0] - spread[1]).square()).sqrt())
