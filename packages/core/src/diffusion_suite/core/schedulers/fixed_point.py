"""Solves z = F(z) for every item of a batch by itself, plainly or with Anderson's mixing.

>>> import torch
>>> found, residual = fixed_point(torch.cos, torch.zeros(1, 1, dtype=torch.float64), 1e-12)
>>> round(float(found), 9), bool(residual < 1e-12)
(0.739085133, True)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def fixed_point(
    function: Callable[[Tensor], Tensor], z: Tensor, tolerance: float, iterations: int = 100, memory: int = 0
) -> tuple[Tensor, Tensor]:
    """Iterates z <- F(z) until F moves no entry of an item by more than the tolerance.

    An item is finished by its own residual and not changed after that, so that it does not depend on its
    neighbours. The test waits for the device once an evaluation.

    Args:
        function: F, each item by itself, (batch, ...) -> (batch, ...).
        z: first guess.
        tolerance: of max |F(z) - z| / max(1, max |F(z)|).
        iterations: most evaluations.
        memory: earlier iterates that Anderson's method mixes in; 0 is plain iteration.

    Returns:
        For each item the F(z) with the smallest residual, and that residual, (batch,): infinite where none is
        finite.
    """
    best = z
    smallest = torch.full(z.shape[:1], torch.inf, dtype=z.dtype, device=z.device)
    done = torch.zeros(z.shape[:1], dtype=torch.bool, device=z.device)
    past: list[tuple[Tensor, Tensor]] = []
    for _ in range(iterations):
        moved = function(z)
        residual = _largest(moved - z) / _largest(moved).clamp(min=1.0)
        better = (residual < smallest) & ~done
        best = torch.where(better.view(-1, *[1] * (z.ndim - 1)), moved, best)
        smallest = torch.where(better, residual, smallest)
        done = done | (residual <= tolerance)
        if bool(done.all()):
            break
        past = [*past[-memory:], (z, moved)] if memory else [(z, moved)]
        z = _mixed(past)
    return best, smallest


def _mixed(past: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The next iterate: that combination of the F(z) whose residuals nearly cancel (Anderson 1965)."""
    z, moved = past[-1]
    if len(past) == 1:
        return moved
    moves = torch.stack([value.flatten(1) for _, value in past], 1).diff(dim=1)
    residuals = torch.stack([(value - guess).flatten(1) for guess, value in past], 1)
    changes = residuals.diff(dim=1).double()
    gram = changes @ changes.mT
    scale = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    ridge = 1e-12 * scale + torch.finfo(gram.dtype).tiny
    ridged = gram + ridge * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    right = changes @ residuals[:, -1, :, None].double()
    weights = torch.linalg.solve(ridged, right).to(z.dtype)
    step: Tensor = (weights.mT @ moves).view_as(z)
    return moved - step


def _largest(x: Tensor) -> Tensor:
    largest: Tensor = x.flatten(1).abs().amax(1)
    return largest
