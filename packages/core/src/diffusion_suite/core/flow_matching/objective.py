"""The flow-matching loss: mean squared error of the velocity (Lipman et al. 2023; Albergo et al. 2023).

>>> import torch
>>> from diffusion_suite.core.flow_matching import independent
>>> pairs = independent(torch.ones(4, 2), torch.zeros(4, 2))
>>> float(flow_loss(lambda x, s: torch.ones_like(x), pairs, torch.rand(4)))
0.0
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_suite.core.flow_matching.couplings import Pairs
from diffusion_suite.core.flow_matching.interpolants import Interpolant, Velocity
from diffusion_suite.core.schedulers import Noise, standard_normal

STRAIGHT = Interpolant()


def flow_loss(
    velocity: Velocity,
    pairs: Pairs,
    s: Tensor,
    interpolant: Interpolant = STRAIGHT,
    *,
    noise: Noise | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean of weight * ||v(x_s, s, **cond) - u||^2 over items and values.

    Args:
        velocity: the model (x, s, **cond) -> dx/ds, called once with s of shape (batch,).
        pairs: what a coupling gave.
        s: (batch,) times in [0, 1], from source to target.
        interpolant: how a pair is joined.
        noise: for an interpolant that is `noisy`.
        weight: (batch,) factors; None for 1.

    Returns:
        A scalar, in the state's type but at least float32.
    """
    source = pairs.source
    extra = None if noise is None else standard_normal(noise, source)
    x, target = interpolant.at(source, pairs.target, s, extra)
    wide = torch.promote_types(x.dtype, torch.float32)
    error = velocity(x, s, **pairs.cond).to(wide) - target.to(wide)
    losses = error.square().flatten(1).mean(1)
    return losses.mean() if weight is None else (weight.to(losses) * losses).mean()
