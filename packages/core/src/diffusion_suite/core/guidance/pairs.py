"""Guidance by the difference between a conditional and an unconditional prediction of one network.

Everywhere w = 1 is the conditional model, p = p_u + w (p_c - p_u); others count w - 1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from diffusion_suite.core.guidance.base import Guidance
from diffusion_suite.core.schedulers import Denoiser, Time

_APART = object()  # the mark of conditions that cannot be evaluated as one batch


class PairGuidance(Guidance):
    """A guidance that combines a network's outputs with the given conditions and with null conditions.

    Args:
        denoiser: the network, or a guidance.
        null: what replaces conditions of the same name in the unconditional evaluation: tensors with or
            without the batch dimension (or with one item), or numbers, which fill a tensor of the
            condition's shape, as the number of the null class does.
        batched: evaluate both as one batch of twice the size wherever the conditions allow. Tensors and
            sequences as long as the batch have one entry an item; all else must be the same in both.
            Switch it off to halve the memory.
    """

    def __init__(self, denoiser: Denoiser, null: Mapping[str, Any], *, batched: bool = True) -> None:
        super().__init__(denoiser)
        self.null = null
        self.batched = batched

    @abstractmethod
    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """The guided output, from both outputs (batch, ...)."""

    @override
    def predict(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        return self.combine(*self.pair(x_t, t, cond))

    def pair(self, x_t: Tensor, t: Time, cond: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Outputs with the given and with the null conditions."""
        batch = x_t.shape[0]
        null = {name: _filled(value, cond.get(name), batch) for name, value in self.null.items()}
        null = {**cond, **null}
        joined = _joined(cond, null, batch) if self.batched else None
        if joined is None:
            return self.denoiser.predict(x_t, t, **cond), self.denoiser.predict(x_t, t, **null)
        twice = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        conditional, unconditional = self.denoiser.predict(torch.cat([x_t, x_t]), twice, **joined).chunk(2)
        return conditional, unconditional


class ClassifierFree(PairGuidance):
    """Classifier-free guidance p = p_u + w (p_c - p_u) (Ho, Salimans 2022), optionally rescaled.

    A rescale r replaces p by r p std(p_c)/std(p) + (1 - r) p (Lin et al. 2024) on the network's own output;
    `Viewed` asks for another one. A scale of 1 costs one evaluation.

    Args:
        denoiser: the network, or a guidance.
        scale: w.
        null: see `PairGuidance`.
        rescale: r in [0, 1]; 0.7 is usual for large scales.
        batched: see `PairGuidance`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float,
        null: Mapping[str, Any],
        rescale: float = 0.0,
        *,
        batched: bool = True,
    ) -> None:
        super().__init__(denoiser, null, batched=batched)
        self.scale = scale
        self.rescale = rescale

    @override
    def predict(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        if self.scale == 1.0:
            return self.denoiser.predict(x_t, t, **cond)
        return super().predict(x_t, t, **cond)

    @override
    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        guided = torch.lerp(unconditional, conditional, self.scale)
        return rescaled(guided, conditional, self.rescale) if self.rescale else guided


class ZeroStar(PairGuidance):
    """CFG-Zero* (Fan et al. 2025): classifier-free guidance from the best multiple of p_u.

    p = s p_u + w (p_c - s p_u) with s = <p_c, p_u> / |p_u|^2 of each item. In the first steps of a sampler
    the output is zero and the network is not asked: made for networks that predict a velocity.

    Args:
        denoiser: the network, or a guidance.
        scale: w.
        null: see `PairGuidance`.
        zero_steps: number of steps without movement.
        batched: see `PairGuidance`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float,
        null: Mapping[str, Any],
        zero_steps: int = 1,
        *,
        batched: bool = True,
    ) -> None:
        super().__init__(denoiser, null, batched=batched)
        self.scale = scale
        self.zero_steps = zero_steps

    @override
    def at_step(self, t: float, index: int, count: int) -> Denoiser:
        stepped = super().at_step(t, index, count)
        return _Zero(self) if index < self.zero_steps else stepped

    @override
    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        share = dot(conditional, unconditional) / (dot(unconditional, unconditional) + 1e-8)
        return torch.lerp(share * unconditional, conditional, self.scale)


class _Zero(Guidance):
    """A denoiser whose own output is zero."""

    @override
    def predict(self, x_t: Tensor, t: Time, **cond: Any) -> Tensor:
        return torch.zeros_like(x_t, dtype=torch.promote_types(x_t.dtype, torch.float32))


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Inner product of each item of two tensors (batch, ...), as (batch, 1, ..., 1)."""
    return (first * second).sum(tuple(range(1, first.ndim)), keepdim=True)


def rescaled(guided: Tensor, conditional: Tensor, rescale: float) -> Tensor:
    """The guided output with part of its unbiased standard deviation taken from the conditional one."""
    others = tuple(range(1, guided.ndim))
    ratio = conditional.std(others, keepdim=True) / guided.std(others, keepdim=True)
    return guided * (rescale * ratio + (1.0 - rescale))


def _filled(value: Any, condition: Any, batch: int) -> Any:
    """A null condition in the shape of the condition that it replaces."""
    if not isinstance(condition, Tensor):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return torch.full_like(condition, value)
    if isinstance(value, Tensor):
        if value.ndim == condition.ndim - 1:
            value = value.unsqueeze(0)
        if value.ndim and value.shape[0] == 1 and condition.shape[0] == batch:
            return value.expand(batch, *value.shape[1:])
    return value


def _joined(cond: Mapping[str, Any], null: Mapping[str, Any], batch: int) -> dict[str, Any] | None:
    """Both sets of conditions as those of one batch of twice the size, None where that cannot be."""
    if cond.keys() != null.keys():
        return None
    joined = {name: _join(first, null[name], batch) for name, first in cond.items()}
    return None if any(value is _APART for value in joined.values()) else joined


def _join(first: Any, second: Any, batch: int) -> Any:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        nested = _joined(first, second, batch)
        return _APART if nested is None else nested
    if _by_item(first, batch) and _by_item(second, batch):
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            alike = first.shape == second.shape and first.dtype == second.dtype
            return torch.cat([first, second]) if alike else _APART
        return _APART if isinstance(first, Tensor) or isinstance(second, Tensor) else [*first, *second]
    # What holds for all items must be the same for both halves.
    return first if first is second else _APART


def _by_item(value: Any, batch: int) -> bool:
    """Whether a condition has one entry an item."""
    if isinstance(value, Tensor):
        return bool(value.ndim) and value.shape[0] == batch
    return isinstance(value, (list, tuple)) and len(value) == batch
