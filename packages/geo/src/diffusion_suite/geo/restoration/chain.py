"""The reverse process of DDS2M (Miao et al. 2023): a diffusion whose denoiser is fitted while it runs.

Cubes have shape (bands, height, width) inside, values x in [0, 1] or X = 2x - 1 in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import Literal

import torch
from torch import Tensor

from diffusion_suite.core.errors import ConfigError
from diffusion_suite.core.inverse import SpectralOperator, ddrm_start, ddrm_transition
from diffusion_suite.core.schedulers import BetaSchedule, DiscreteVP, Noise, betas
from diffusion_suite.geo.restoration.network import VS2M


@dataclass(frozen=True)
class ChainConfig:
    """Settings of the reverse process.

    Attributes:
        steps: T, length of the noise table.
        visited: number of steps of the table that are visited; None for all.
        start: first visited step (counted from 1) that uses the network; before it the state predicts itself.
        eta: share of fresh noise in coefficients that the data do not decide.
        eta_b: weight of the data where they are better than the state.
        schedule: kind of noise table.
        beta_start: its first variance.
        beta_end: its last variance.
        learning_rate: of Adam.
        inner: Adam steps at every visited step.
        tv: weight of the total variation in the loss.
        average: weight of the past in the running average of the network's cubes.
        precision: "bf16" runs the spatial networks in bfloat16 (about 1.8 times as fast on a CPU that has
            it).
        compile: let torch.compile fuse the network.
        diagnostics: also log the divergence of the implied noise from N(0, 1) at every step.
    """

    steps: int = 2000
    visited: int | None = None
    start: int = 1000
    eta: float = 1.0
    eta_b: float = 1.0
    schedule: BetaSchedule = "linear"
    beta_start: float = 1e-4
    beta_end: float = 5e-3
    learning_rate: float = 5e-4
    inner: int = 1
    tv: float = 0.0
    average: float = 0.98
    precision: Literal["full", "bf16"] = "full"
    compile: bool = False
    diagnostics: bool = False

    def path(self) -> DiscreteVP:
        """The noise table as a path."""
        return DiscreteVP(betas(self.schedule, self.steps, self.beta_start, self.beta_end))

    def indices(self) -> list[int]:
        """Visited step indices from noise to data, followed by -1, the clean end.

        Raises:
            ConfigError: more steps are to be visited than there are.
        """
        visited = self.visited or self.steps
        if not 1 <= visited <= self.steps:
            raise ConfigError(
                f"{visited} steps cannot be visited in a table of {self.steps}", "visit at most all"
            )
        return [*reversed(range(0, self.steps, self.steps // visited)), -1]


@dataclass(frozen=True)
class ChainStep:
    """What a callback sees after a step; tensors stay on the device.

    Attributes:
        index: number of the step, from 1.
        total: number of steps.
        estimate: predicted cube in [0, 1], (bands, height, width).
        loss: loss of the last Adam step; None during the warm-up.
    """

    index: int
    total: int
    estimate: Tensor
    loss: Tensor | None


Callback = Callable[[ChainStep], bool | None]


class Fit:
    """A network with its optimiser, fitted one Adam step at a time to a moving target.

    Args:
        network: called without arguments, returns a cube E in nominal units [0, 1].
        config: learning rate, weight of the total variation, running average, precision, compilation.
    """

    def __init__(self, network: VS2M, config: ChainConfig) -> None:
        self.network, self.config = network, config
        fused = next(network.parameters()).device.type in ("cpu", "cuda")
        self.optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=fused)
        self._evaluate = torch.compile(self._forward) if config.compile else self._forward

    def step(self, x_t: Tensor, scale: Tensor, average: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One Adam step on the loss at x_t.

        Args:
            x_t: state in [-1, 1] units, (bands, height, width).
            scale: sqrt(cumulative alpha) of the state's level, a 0-dimensional tensor.
            average: running average in [0, 1] units, (bands, height, width).

        Returns:
            The average with the network's cube (from before the step) taken in, that cube, and the loss.
        """
        loss, cube = self._evaluate(x_t, scale)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimiser.step()
        cube = cube.detach()
        return torch.lerp(cube, average, self.config.average), cube, loss.detach()

    def _forward(self, x_t: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        half = self.config.precision == "bf16"
        with torch.autocast(x_t.device.type, torch.bfloat16) if half else nullcontext():
            images, spectra = self.network.factors()
        cube = self.network.combine(images.to(x_t.dtype), spectra.to(x_t.dtype))
        clean = 2.0 * cube - 1.0
        loss = (scale * clean - x_t).square().mean()
        if self.config.tv:
            loss = loss + self.config.tv * total_variation(clean)
        return loss, cube


def total_variation(x: Tensor) -> Tensor:
    """The sum 2 [mean (d_h x)^2 + mean (d_w x)^2 + 1/2 mean (d_b x)^2] of a cube (bands, height, width)."""
    bands, rows, columns = x.diff(dim=0), x.diff(dim=1), x.diff(dim=2)
    return 2.0 * (rows.square().mean() + columns.square().mean() + 0.5 * bands.square().mean())


def noise_divergence(x_t: Tensor, clean: Tensor, alpha_bar: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a Gaussian fitted to the implied noise from N(0, 1).

    The noise is (x_t - sqrt(alpha_bar) X) / sqrt(1 - alpha_bar); with its mean m and unbiased variance v the
    divergence is (ln v + (1 + m^2)/v - 1)/2. It is a diagnostic: no setting gives it a weight.
    """
    noise = (x_t - alpha_bar.sqrt() * clean) / (1.0 - alpha_bar).sqrt()
    variance, mean = torch.var_mean(noise)
    return 0.5 * (variance.log() + (1.0 + mean**2) / variance - 1.0)


def reverse_process(
    network: VS2M,
    operator: SpectralOperator,
    y: Tensor,
    sigma: float | Tensor,
    config: ChainConfig,
    noise: torch.Generator | Sequence[Tensor],
    callback: Callback | None = None,
) -> tuple[Tensor, dict[str, list[float]]]:
    """Restore one cube: y = A X + sigma n with X in [-1, 1].

    Everything stays on the device of `y`, and no step waits for it.

    Args:
        network: untrained; it is fitted in place.
        operator: A, in the type and on the device of `y`.
        y: data of shape (1, *operator.data_shape).
        sigma: standard deviation of the data's noise in [-1, 1] units, a number or one a band (bands, 1, 1).
        config: settings.
        noise: source of the noise, or standard normal spectral coefficients (1, bands, height, width): the
            start's first, then those of each transition.
        callback: called after every step; True ends the process with the estimate of that step.

    Returns:
        The cube (bands, height, width) in [0, 1], and the log: `loss`, one value an Adam step, and if asked
        for `noise_divergence`, one a visited step that used the network.

    Raises:
        InputError: the data have another shape or hold values that are not finite.
        ConfigError: the settings visit more steps than there are.
    """
    operator.check_data(y)
    fit, data = Fit(network, config), operator.data_to_spectral(y)
    indices = config.indices()
    alpha_bar = config.path().alpha_bar[torch.tensor(indices) + 1].to(y).unbind()
    total = len(indices) - 1
    drawn: Iterator[Noise] = repeat(noise) if isinstance(noise, torch.Generator) else iter(noise)

    x = ddrm_start(operator, data, sigma, ((1.0 - alpha_bar[0]) / alpha_bar[0]).sqrt(), next(drawn))
    estimate = torch.zeros_like(x[0])
    names = ("loss", "noise_divergence") if config.diagnostics else ("loss",)
    records: dict[str, list[Tensor]] = {name: [] for name in names}
    for index, (now, after) in enumerate(pairwise(alpha_bar), 1):
        loss = None
        if index < config.start:
            clean = x[0]
        else:
            for _ in range(config.inner):
                estimate, _, loss = fit.step(x[0], now.sqrt(), estimate)
                records["loss"].append(loss)
            clean = 2.0 * estimate.clamp(0.0, 1.0) - 1.0
            if config.diagnostics:
                records["noise_divergence"].append(noise_divergence(x[0], clean, now))
        eps = (x - now.sqrt() * clean) / (1.0 - now).sqrt()
        levels = (after.sqrt(), (1.0 - after).sqrt())
        etas = (config.eta, config.eta_b)
        x = ddrm_transition(operator, clean[None], eps, data, *levels, sigma, next(drawn), *etas, strict=True)
        estimate = (0.5 * (clean + 1.0)).clamp(0.0, 1.0)
        if callback is not None and callback(ChainStep(index, total, estimate, loss)):
            x = 2.0 * estimate[None] - 1.0
            break
    log = {name: torch.stack(values).tolist() if values else [] for name, values in records.items()}
    return (0.5 * (x[0] + 1.0)).clamp(0.0, 1.0), log
