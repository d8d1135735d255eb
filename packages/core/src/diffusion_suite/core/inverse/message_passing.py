"""Vector approximate message passing: the posterior mean from a denoiser, with nothing to tune.

Two estimators exchange what each has learned that the other does not know: the linear one (the measurement
under a Gaussian prior) hands the denoiser a pseudo-measurement `r = x0 + sigma n`, whose noise level it
knows; the denoiser hands back its estimate freed of what it was told. Other than in proximal plug-and-play no
schedule or weight has to be chosen, and the denoiser always sees the noise level that it is told. (Rangan,
Schniter, Fletcher: Vector approximate message passing, IEEE Trans. Inf. Theory 65(10), 2019, algorithm 1;
divergence by one random probe.)

It holds for measurements that mix, such as masks; not for blurs, whose error is far from white.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from diffusion_suite.core.schedulers import Denoiser

Callback = Callable[[dict[str, Any]], None]

UNMEASURED = 1e4
"""Noise level, in deviations of the data, of pixels that were not measured at all."""


class LinearEstimator(Protocol):
    """The measurement as vector approximate message passing asks for it.

    Attributes:
        measured: boolean (1, 1, height, width), pixels that the measurement says anything about.
    """

    measured: Tensor

    def __call__(self, mean: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and marginal variances under the prior N(mean, 1 / precision).

        Args:
            mean: (1, channels, height, width).
            precision: (1, channels, 1, 1), one a channel.
        """
        ...


@dataclass(frozen=True)
class MessagePassing:
    """What `vamp` returns; all of shape (1, channels, height, width).

    Attributes:
        x0: posterior mean.
        variance: posterior variance of each entry, from the local divergence of the denoiser.
        pseudo: pseudo-measurement, x0 + sigma n; 0 where not measured.
        sigma: its noise level, the same in all measured pixels of a channel, huge elsewhere.
    """

    x0: Tensor
    variance: Tensor
    pseudo: Tensor
    sigma: Tensor


def vamp(
    denoiser: Denoiser,
    estimator: LinearEstimator,
    variance: Tensor,
    shape: tuple[int, int, int, int],
    steps: int,
    generator: torch.Generator,
    damping: float = 0.8,
    smooth: Callable[[Tensor], Tensor] | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> MessagePassing:
    """Run `steps` exchanges, each of two evaluations of the denoiser (estimate and divergence).

    Args:
        denoiser: on a path with alpha = 1, where the time is the noise level; called with a map of levels.
        estimator: the measurement.
        variance: of the data, (1, channels, 1, 1): the Gaussian prior of the first exchange.
        shape: (1, channels, height, width).
        steps: number of exchanges, 1 or more.
        generator: of the probes.
        damping: share of the new message, in (0, 1].
        smooth: local average that turns the probe's divergence into a map; None = the mean of each channel.
        callback: called after each exchange with `step`, `x0`, `sigma`.
        cond: passed on to the denoiser.
    """
    prior_precision = 1 / variance
    measured = estimator.measured.to(variance)
    told, mean = prior_precision, torch.zeros(shape, dtype=variance.dtype, device=variance.device)
    pseudo, precision = mean, prior_precision
    for step in range(steps):
        estimate, spread = estimator(mean, told)
        fresh = (1 / _mean(spread, measured) - told).clamp_min(1e-4 * prior_precision)
        message = measured * (estimate + (estimate - mean) * told / fresh)
        share = damping if step else 1.0
        precision, pseudo = torch.lerp(precision, fresh, share), torch.lerp(pseudo, message, share)
        sigma = torch.where(estimator.measured, precision.rsqrt(), UNMEASURED * variance.sqrt())
        x0 = denoiser.x0(pseudo, sigma, **cond)
        local = _divergence(denoiser, pseudo, sigma, x0, generator, cond)
        slope = _mean(local, measured).clamp(1e-3, 0.999)
        if callback is not None:
            callback({"step": step, "x0": x0, "sigma": sigma})
        own = precision * (1 / slope - 1)
        told, own = (
            torch.lerp(told, own.clamp_min(0.5 * prior_precision), share),
            own.clamp_min(0.5 * prior_precision),
        )
        mean = torch.lerp(mean, x0 + measured * (x0 - pseudo) * precision / own, share)
    divergence = slope.expand(shape) if smooth is None else smooth(local)
    posterior = torch.minimum(sigma**2 * divergence.clamp(1e-6, 1), variance)
    return MessagePassing(x0, posterior, pseudo, sigma)


def _mean(map_of: Tensor, measured: Tensor) -> Tensor:
    """Mean of each channel over the measured pixels."""
    return (map_of * measured).sum((2, 3), keepdim=True) / measured.sum().clamp_min(1)


def _divergence(
    denoiser: Denoiser, r: Tensor, sigma: Tensor, x0: Tensor, generator: torch.Generator, cond: dict[str, Any]
) -> Tensor:
    """Unbiased estimate of the diagonal of the denoiser's Jacobian (Hutchinson, signs, finite difference)."""
    signs = torch.randint(0, 2, r.shape, generator=generator, device=generator.device).to(r) * 2 - 1
    step = 0.1 * sigma.amin(dim=(2, 3), keepdim=True)
    return signs * (denoiser.x0(r + step * signs, sigma, **cond) - x0) / step
