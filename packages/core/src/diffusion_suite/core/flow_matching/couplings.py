"""Couplings: which source x_a belongs to which target x_b. A coupling gives the pairs that a flow learns.

>>> import torch
>>> target = torch.tensor([[0.0], [10.0]])
>>> pairs = optimal_transport()(target, torch.tensor([[9.0], [1.0]]), label=torch.tensor([0, 1]))
>>> pairs.source.flatten().tolist(), pairs.target.flatten().tolist(), pairs.cond["label"].tolist()
([9.0, 1.0], [10.0, 0.0], [1, 0])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from diffusion_suite.core.flow_matching.transport import optimal_pairing
from diffusion_suite.core.schedulers import Noise, standard_normal
from diffusion_suite.core.schedulers.conditions import reordered


class Pairs(NamedTuple):
    """Pairs to learn from.

    Attributes:
        source: x_a, (batch, ...).
        target: x_b, of the same shape; item i belongs to item i of the source.
        cond: conditions by name, item i those of target i.
    """

    source: Tensor
    target: Tensor
    cond: dict[str, Any]


class Coupling(Protocol):
    """What makes pairs of targets."""

    def __call__(self, target: Tensor, noise: Noise, **cond: Any) -> Pairs:
        """Pairs for targets (batch, ...); `noise`: generator(s), or standard normal values of their shape."""
        ...


def independent(target: Tensor, noise: Noise, **cond: Any) -> Pairs:
    """Noise and data drawn apart: the source is standard normal. Values given as `noise` are the source."""
    return Pairs(standard_normal(noise, target), target, cond)


def data_dependent(source: Callable[..., Tensor], alpha: float = 1.0, sigma: float = 0.0) -> Coupling:
    """The source is made of the target or its conditions: x_a = alpha T(x_b, **cond) + sigma e.

    Depth from pictures, super-resolution and other translations live here.

    Args:
        source: T, called as T(target, **cond), e.g. `lambda depth, picture: picture`.
        alpha: factor of T.
        sigma: standard deviation of the noise; with 0 none is drawn.
    """

    def coupling(target: Tensor, noise: Noise, **cond: Any) -> Pairs:
        made = source(target, **cond)
        if made.shape != target.shape:
            raise ValueError(f"a source of {tuple(made.shape)} for targets of {tuple(target.shape)}")
        x = alpha * made
        if sigma:
            x = x + sigma * standard_normal(noise, x)
        return Pairs(x, target, cond)

    return coupling


def optimal_transport(base: Coupling = independent, limit: int = 512) -> Coupling:
    """The pairs of another coupling, targets re-ordered to be nearest to their sources (Tong et al. 2024).

    Every sample is kept exactly once, and conditions go with their targets. The pairing is found on the host.

    Args:
        base: gives the sources; `independent`, or one whose sources do not hang on their targets.
        limit: larger batches are paired in parts of at most this size.
    """

    def coupling(target: Tensor, noise: Noise, **cond: Any) -> Pairs:
        pairs = base(target, noise, **cond)
        order = optimal_pairing(pairs.source, pairs.target, limit)
        return Pairs(pairs.source, pairs.target[order], reordered(pairs.cond, order))

    return coupling
