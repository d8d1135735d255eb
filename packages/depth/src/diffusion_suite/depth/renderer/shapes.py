"""Where rays meet boxes, ellipsoids and cylinders.

A ray is eye + t direction; t is no distance unless the direction has length 1. Rays that miss have t = inf.
All functions take the rays in the solid's own axes: `origin` (batch, k, 1 or rays, 3) and `direction`
(batch, k, rays, 3), and `half` (batch, k, 1, 3), and give t (batch, k, rays).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NEAR = 1e-3
"""Least t of a hit: shadows of a surface on itself, and solids around the eye, are no hits."""


def box(origin: Tensor, direction: Tensor, half: Tensor) -> Tensor:
    """First entry into |x_i| <= half_i by the slabs between its faces."""
    inverse = 1.0 / torch.where(direction.abs() < 1e-9, 1e-9, direction)
    centre, reach = -origin * inverse, half * inverse.abs()
    entry, leave = (centre - reach).amax(-1), (centre + reach).amin(-1)
    return torch.where((entry < leave) & (entry > NEAR), entry, torch.inf)


def ellipsoid(origin: Tensor, direction: Tensor, half: Tensor) -> Tensor:
    """First entry into sum x_i^2 / half_i^2 <= 1."""
    origin, direction = origin / half, direction / half
    return _first_root(direction, origin, 1.0)


def cylinder(origin: Tensor, direction: Tensor, half: Tensor) -> Tensor:
    """First entry into x^2 / half_x^2 + z^2 / half_z^2 <= 1, |y| <= half_y."""
    across = torch.tensor([1.0, 0.0, 1.0], device=half.device)
    mantle = _first_root(direction / half * across, origin / half * across, 1.0)
    height = (origin + torch.where(torch.isfinite(mantle), mantle, 0.0)[..., None] * direction)[..., 1]
    mantle = torch.where(height.abs() <= half[..., 1], mantle, torch.inf)
    rise = torch.where(direction[..., 1].abs() < 1e-9, 1e-9, direction[..., 1])
    cap = (-torch.sign(rise) * half[..., 1] - origin[..., 1]) / rise
    at = (origin + cap[..., None] * direction) / half
    inside = (at[..., 0].square() + at[..., 2].square() <= 1) & (cap > NEAR)
    return torch.minimum(mantle, torch.where(inside, cap, torch.inf))


INTERSECT: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "box": box,
    "ellipsoid": ellipsoid,
    "cylinder": cylinder,
}


def normal(kind: Tensor, at: Tensor, half: Tensor) -> Tensor:
    """Outward normal in the solid's own axes.

    Args:
        kind: (...,) index in `KINDS`.
        at: (..., 3) point on the surface, in the solid's own axes.
        half: (..., 3).
    """
    share = at / half
    face = torch.nn.functional.one_hot(share.abs().argmax(-1), 3)
    flat = face * torch.sign(share)
    round_ = at / half.square()
    across = round_ * torch.tensor([1.0, 0.0, 1.0], device=at.device)
    upright = torch.tensor([0.0, 1.0, 0.0], device=at.device) * torch.sign(share)
    capped = (share[..., 1].abs() > 0.9999)[..., None]
    kind = kind[..., None]
    found = torch.where(kind == 0, flat, torch.where(kind == 1, round_, torch.where(capped, upright, across)))
    return torch.nn.functional.normalize(found, dim=-1)


def _first_root(a: Tensor, b: Tensor, radius: float) -> Tensor:
    """Least t > NEAR with |b + t a| = radius where the ray enters."""
    aa = (a * a).sum(-1).clamp_min(1e-12)
    ab = (a * b).sum(-1)
    root = ab.square() - aa * ((b * b).sum(-1) - radius**2)
    t = (-ab - root.clamp_min(0).sqrt()) / aa
    return torch.where((root > 0) & (t > NEAR), t, torch.inf)
