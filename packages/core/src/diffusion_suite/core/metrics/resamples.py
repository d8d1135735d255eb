"""Standard errors by the bootstrap: the spread of a figure over sets drawn from the given ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffusion_suite.core import seeding


class Resamples:
    """Random choices of items with replacement, keyed by what they are for.

    Args:
        count: how many; 0 for no standard errors.
        seed: of the choices.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def indices(self, name: str, items: int, index: int) -> Tensor:
        """The items of one resample, (items,)."""
        draw = seeding.generator(self.seed, "bootstrap", name, index)
        return torch.randint(items, (items,), generator=draw)

    def counts(self, name: str, items: int) -> Tensor:
        """How often each item is in each resample, (items, count), float64."""
        drawn = [self.indices(name, items, index) for index in range(self.count)]
        return torch.stack([torch.bincount(one, minlength=items) for one in drawn], 1).double()

    def error(self, name: str, statistic: Callable[..., float], *sets: Tensor) -> float | None:
        """Standard error of a statistic of sets (items, ...), each resampled by itself."""
        values = []
        for index in range(self.count):
            drawn = [
                self.indices(f"{name} {place}", len(part), index).to(part.device)
                for place, part in enumerate(sets)
            ]
            values.append(statistic(*(part[chosen] for part, chosen in zip(sets, drawn, strict=True))))
        return spread(values)


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation of the finite values; None of fewer than two."""
    finite = [value for value in values if math.isfinite(value)]
    return float(torch.tensor(finite, dtype=torch.float64).std()) if len(finite) > 1 else None
