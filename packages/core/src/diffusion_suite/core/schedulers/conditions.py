"""The conditions of a batch, taken apart with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def reordered(cond: Mapping[str, Any], order: Tensor) -> dict[str, Any]:
    """Conditions of a batch, taken in another order or in part.

    Args:
        cond: tensors and sequences with one entry an item, nested mappings of these; numbers, text, None and
            tensors without dimensions hold for all items and stay.
        order: (items,) indices into the batch.
    """
    return {name: _take(value, order) for name, value in cond.items()}


def _take(value: Any, order: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[order.to(value.device)] if value.ndim else value
    if isinstance(value, Mapping):
        return reordered(value, order)
    if isinstance(value, (list, tuple)):
        return type(value)([value[index] for index in order.tolist()])
    return value
