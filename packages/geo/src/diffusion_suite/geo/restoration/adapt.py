"""The prior fitted to one scene without a clean one: the idea of DDS2M with a head start.

Recorrupted-to-recorrupted training (Pang et al., CVPR 2021): from a pseudo-measurement r = x0 + sigma n two
with independent noise are made, r + a sigma m and r - sigma m / a with fresh m ~ N(0, I). Regressing the
second on the first has the same minimiser as regressing the clean images. Withheld samples tell when to stop.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffusion_suite.core.training.averaging import MovingAverage
from diffusion_suite.geo.restoration.eigen_prior import EigenPrior
from diffusion_suite.geo.restoration.eigen_solver import EigenImages
from diffusion_suite.geo.restoration.withheld import Withheld

RECORRUPTION = 0.5
AVERAGE = 0.95
PATCH = 128
MEASURED = 1e3
"""Noise levels above this belong to pixels that were not measured."""


@dataclass
class AdaptLog:
    """Withheld error by step; `best` is the step whose weights were kept (0 = those of the start)."""

    errors: dict[int, float] = field(default_factory=dict)
    best: int = 0


def adapt(
    prior: EigenPrior,
    found: EigenImages,
    withheld: Withheld,
    steps: int,
    generator: torch.Generator,
    learning_rate: float = 3e-4,
    check_every: int = 20,
    dtype: torch.dtype = torch.float32,
) -> tuple[EigenPrior, AdaptLog]:
    """A copy of the prior fitted to the pseudo-measurement of a scene.

    Args:
        prior: the pretrained network; unchanged.
        found: restored without the withheld samples.
        withheld: samples that judge the fit; the weights of the best check are kept.
        steps: Adam steps at most; stops when the error has not fallen for three checks.
        generator: of crops and noise.
        learning_rate: of Adam.
        check_every: steps between checks.
        dtype: arithmetic of the network.
    """
    width = min(prior.channels, found.pseudo.shape[1])
    scale = torch.from_numpy(found.subspace.deviation[:width])[None].to(found.pseudo)
    network = copy.deepcopy(prior).train()
    average = MovingAverage(network, AVERAGE)
    log = AdaptLog({0: _check(prior, found, scale, withheld, width)})
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    for step in range(1, steps + 1):
        r, sigma = _crop(found.pseudo[:, :width], found.sigma[:, :width], generator)
        loss = _recorrupted_loss(network, r, sigma, scale, generator, dtype)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        average.update()
        if step % check_every == 0:
            log.errors[step] = _check(average.network, found, scale, withheld, width)
            if log.errors[step] < log.errors[log.best]:
                log.best = step
                average.keep()
            if step - log.best >= 3 * check_every:
                break
    return average.best(), log


def _recorrupted_loss(
    network: EigenPrior,
    r: Tensor,
    sigma: Tensor,
    scale: Tensor,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Tensor:
    measured = sigma < MEASURED
    noise = torch.where(measured, sigma, 0.0) * torch.randn(r.shape, generator=generator, device=r.device)
    source, target = r + RECORRUPTION * noise, r - noise / RECORRUPTION
    level = torch.where(measured, sigma * (1 + RECORRUPTION**2) ** 0.5, sigma)
    with torch.autocast(r.device.type, dtype, enabled=dtype != torch.float32):
        estimate = _apply(network, source, level, scale)
    error = torch.where(measured, (estimate - target) / sigma, 0.0)
    return error.square().mean()


def _apply(network: EigenPrior, r: Tensor, sigma: Tensor, scale: Tensor) -> Tensor:
    empty = network.channels - r.shape[1]
    if empty:
        r = torch.nn.functional.pad(r, (0, 0, 0, 0, 0, empty))
        sigma = torch.nn.functional.pad(sigma, (0, 0, 0, 0, 0, empty), value=1.0)
        scale = torch.nn.functional.pad(scale, (0, empty), value=0.03)
    images: Tensor = network(r, sigma, scale)
    return images[:, : network.channels - empty]


def _crop(r: Tensor, sigma: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same random crop of at most PATCH pixels a side, turned or mirrored at random."""
    sigma = sigma.expand(r.shape)
    rows, columns = r.shape[2:]
    height, width = min(rows, PATCH), min(columns, PATCH)
    draw = torch.randint(1 << 30, (3,), generator=generator, device=generator.device).tolist()
    top, left, turn = draw[0] % (rows - height + 1), draw[1] % (columns - width + 1), draw[2] % 8
    views = [x[..., top : top + height, left : left + width] for x in (r, sigma)]
    views = [torch.rot90(x, turn % 4, (2, 3)) for x in views]
    views = [x.flip(3) if turn >= 4 else x for x in views]
    return views[0].contiguous(), views[1].contiguous()


@torch.no_grad()
def _check(network: EigenPrior, found: EigenImages, scale: Tensor, withheld: Withheld, width: int) -> float:
    scores = found.scores.clone()
    scores[:, :width] = _apply(
        network, found.pseudo[:, :width], found.sigma[:, :width].expand_as(scores[:, :width]), scale
    )
    loadings = torch.from_numpy(found.subspace.loadings).to(scores)
    values = (scores[0].flatten(1).T @ loadings.T).reshape(*scores.shape[-2:], -1)
    return withheld.error(values.cpu().numpy())
