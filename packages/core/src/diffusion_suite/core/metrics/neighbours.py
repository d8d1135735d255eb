"""Fidelity and diversity from balls that reach to the k-th nearest neighbour.

Kynkäänniemi et al. 2019 (precision, recall, realism), Naeem et al. 2020 (density, coverage). A ball does not
count its own centre as a neighbour, and holds what lies strictly inside; a distance within 1e-9 of the radius
counts as on the ball, so that rounding does not decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.metrics.features import checked, nearest_others, same_width, squared_distances

INSIDE = 1.0 - 1e-9


@dataclass(frozen=True)
class Fidelity:
    """What each item says; the metrics are means.

    Attributes:
        inside: (m,), 1 where a generated item lies in some real ball.
        reached: (n,), 1 where a real item lies in some generated ball.
        balls: (m,), number of real balls around a generated item over k.
        covered: (n,), 1 where a real ball holds some generated item.
    """

    inside: Tensor
    reached: Tensor
    balls: Tensor
    covered: Tensor

    @property
    def precision(self) -> float:
        """Share of generated items inside real balls, 0 to 1."""
        return float(self.inside.mean())

    @property
    def recall(self) -> float:
        """Share of real items inside generated balls, 0 to 1."""
        return float(self.reached.mean())

    @property
    def density(self) -> float:
        """Mean number of real balls around a generated item over k; 1 for two equal distributions."""
        return float(self.balls.mean())

    @property
    def coverage(self) -> float:
        """Share of real balls that hold a generated item, 0 to 1."""
        return float(self.covered.mean())


def fidelity(real: Tensor, fake: Tensor, k: int = 5) -> Fidelity:
    """Precision, recall, density and coverage.

    Args:
        real: features (n, d).
        fake: features (m, d).
        k: neighbours, below n and m.

    Raises:
        InputError: features that are not finite, no more than k items, unequal widths.
    """
    real, fake = _pair(real, fake)
    real_reach = nearest_others(real, k)[:, -1].square() * INSIDE
    fake_reach = nearest_others(fake, k)[:, -1].square() * INSIDE
    balls, covered = [], torch.zeros(len(real), dtype=torch.bool, device=real.device)
    reached = torch.zeros_like(covered)
    for _, squares in squared_distances(fake, real):
        held = squares < real_reach
        balls.append(held.sum(1))
        covered |= held.any(0)
    for rows, squares in squared_distances(real, fake):
        reached[rows] = (squares < fake_reach).any(1)
    count = torch.cat(balls).double()
    return Fidelity((count > 0).double(), reached.double(), count / k, covered.double())


def realism(real: Tensor, fake: Tensor, k: int = 5) -> Tensor:
    """How far inside the real items each generated one lies: the largest ratio of radius to distance.

    Only balls with a radius below the median count, so that lone real items make no large balls.

    Args:
        real: features (n, d).
        fake: features (m, d).
        k: neighbours, below n.

    Returns:
        (m,), above 1 inside some ball, infinity at the centre of one.

    Raises:
        InputError: features that are not finite, no more than k real items, unequal widths, or radii that are
            all equal.
    """
    real, fake = _pair(real, fake)
    radii = nearest_others(real, k)[:, -1]
    kept = radii < _median(radii)
    balls, radii = real[kept], radii[kept]
    if not len(balls):
        raise InputError(
            "all real items have one distance to their neighbours, no ball is small", "add items"
        )
    found = []
    for _, squares in squared_distances(fake, balls):
        ratios = radii / squares.sqrt()
        found.append(torch.nan_to_num(ratios, nan=0.0, posinf=torch.inf).amax(1))
    return torch.cat(found)


def _median(values: Tensor) -> Tensor:
    """The median, of an even number of values the mean of the middle two."""
    ordered, count = values.sort().values, len(values)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2.0


def _pair(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    real, fake = checked(real), checked(fake)
    same_width(real, fake)
    return real, fake
