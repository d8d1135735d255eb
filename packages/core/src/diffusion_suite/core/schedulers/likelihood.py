"""Change of log-density along a field: d/dt ln p(x_t) = -div f(x_t, t).

>>> import torch
>>> grid = [0.0, 0.5, 1.0]
>>> end, change = transported(lambda x, t: 0.0 * x + x, torch.ones(1, 2), grid, "rk4")
>>> round(float(change), 6)  # the field x in two dimensions has divergence 2
-2.0
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffusion_suite.core.schedulers.integrators import Field, Method, integrate_grid


def divergence(field: Field, x: Tensor, t: float, probes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A field's value and its divergence, by automatic differentiation.

    Args:
        field: (x, t) -> slope of x's shape; no item may depend on another.
        x: points, (batch, ...).
        t: time.
        probes: vectors (probes, *x.shape) of independent entries with mean 0 and variance 1: the divergence
            is then the mean of z . J z (Hutchinson 1989). None computes it exactly, by one backward pass for
            each value of an item.

    Returns:
        The value, of x's shape, and the divergence, (batch,), both without a graph.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x, t)
        if not value.requires_grad:
            return value, torch.zeros(len(x), dtype=value.dtype, device=x.device)
        total = torch.zeros(len(x), dtype=value.dtype, device=x.device)
        for z in _basis(x) if probes is None else probes.to(x) / len(probes) ** 0.5:
            row = torch.autograd.grad(value, x, z.to(value), retain_graph=True, materialize_grads=True)[0]
            total += (row * z).flatten(1).sum(1)
    return value.detach(), total


def _basis(x: Tensor) -> Iterator[Tensor]:
    """One vector for each value of an item, 1 there and 0 elsewhere, in the shape of x."""
    vector = torch.zeros_like(x)
    flat = vector.view(len(x), -1)
    for index in range(flat.shape[1]):
        vector.zero_()
        flat[:, index] = 1.0
        yield vector


def transported(
    field: Field, x: Tensor, times: Sequence[float], method: Method = "rk4", probes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Follow a field and the log-density with it.

    Args:
        field: (x, t) -> slope of x's shape; no item may depend on another.
        x: points at the first time, (batch, ...); kept at least in float32.
        times: as for `integrate_grid`.
        method: as for `integrate_grid`.
        probes: as for `divergence`.

    Returns:
        The points at the last time, and ln p_last(x_last) - ln p_first(x_first) of each, (batch,).
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    state = integrate_grid(with_density(field, x, probes), widened(x), times, method)
    return state[:, :-1].view_as(x), state[:, -1]


def with_density(field: Field, like: Tensor, probes: Tensor | None = None) -> Field:
    """The field of states (batch, values + 1): a flattened point of `like`'s shape, and its log-density."""

    def both(state: Tensor, t: float) -> Tensor:
        value, spread = divergence(field, state[:, :-1].view_as(like), t, probes)
        return torch.cat([value.flatten(1), -spread[:, None]], 1)

    return both


def widened(x: Tensor) -> Tensor:
    """The state of `with_density` at points x, with log-density 0."""
    return torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], 1)
