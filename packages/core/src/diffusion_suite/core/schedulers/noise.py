"""Randomness as an argument: every stochastic function takes generators or the noise itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Noise = torch.Generator | Sequence[torch.Generator] | Tensor


def standard_normal(noise: Noise, like: Tensor) -> Tensor:
    """Standard normal values with the shape, type and device of `like`.

    Args:
        noise: the values themselves (returned after a check of their shape), one generator for the whole
            batch, or one generator an item, so that an item's values do not depend on its batch.
        like: tensor of shape (batch, ...).

    Raises:
        ValueError: the given values or the number of generators do not fit `like`.
    """
    if isinstance(noise, Tensor):
        if noise.shape != like.shape:
            raise ValueError(f"noise of shape {tuple(noise.shape)} given where {tuple(like.shape)} is needed")
        return noise.to(like)
    if isinstance(noise, torch.Generator):
        return _draw(noise, like.shape, like)
    if len(noise) != like.shape[0]:
        raise ValueError(f"{len(noise)} generators given for a batch of {like.shape[0]}")
    return torch.stack([_draw(generator, like.shape[1:], like) for generator in noise])


def step_noise(noise: Noise, index: int, like: Tensor) -> Tensor:
    """The noise of one step of a sampler, as `standard_normal`.

    Args:
        noise: generator(s), drawn from in the order of the steps, or all values, (steps, *like.shape).
        index: of the step, from 0.
        like: tensor of shape (batch, ...).

    Raises:
        ValueError: the given values or the number of generators do not fit `like`.
    """
    return standard_normal(noise[index] if isinstance(noise, Tensor) else noise, like)


def _draw(generator: torch.Generator, shape: torch.Size, like: Tensor) -> Tensor:
    values = torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype)
    return values.to(like.device, non_blocking=True)
