"""An untrained network fitted to the one cube at hand: what DDS2M (Miao et al., ICCV 2023) does, cheaper.

As there, a cube is a sum of images times spectra, the images come from an untrained encoder-decoder, and
nothing but the degraded cube is needed. What differs gives, taken together, less error in less time:

- The spectra are those of the signal's subspace instead of being fitted from noise.
- One network makes all images, and sees what was measured instead of fixed noise: the eigen-images that a
  part of the samples gives. Its loss is the squared error on the samples left out, whose noise is independent
  of its input, so it cannot learn that noise from it (noise2self, Batson and Royer 2019). That replaces the
  diffusion chain, whose part was to keep the network from fitting noise.
- Another small share of the samples is seen by neither; the averaged weights that predict it best are kept.
- Folds, turns and independent runs are averaged; their spread, scaled to the error on the withheld samples,
  is the uncertainty.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_suite.core.inverse import BicubicDownsampling
from diffusion_suite.core.seeding import generator, seeded
from diffusion_suite.core.training.averaging import MovingAverage
from diffusion_suite.core.training.config import TrainConfig, rate_factor
from diffusion_suite.geo.restoration.eigen_denoising import ClassicalStack, PriorStack, Stack
from diffusion_suite.geo.restoration.eigen_prior import EigenPrior
from diffusion_suite.geo.restoration.eigen_solver import EXCHANGES, EigenImages, solve, unseen_detail
from diffusion_suite.geo.restoration.left_out import Fold, split
from diffusion_suite.geo.restoration.measurement import Subspace, Whitened
from diffusion_suite.geo.restoration.noise import Values
from diffusion_suite.geo.restoration.symmetries import SYMMETRIES, turned, turned_back
from diffusion_suite.geo.restoration.withheld import Withheld, hold_out

FOLDS = 4
WIDTHS, BLOCKS = (32, 64), (2, 2)
WARMUP = 10
AVERAGE = 0.98
PATCH = 128
CHECK_EVERY = 25
PATIENCE = 4
"""Checks without a better average that end a run."""
FEWEST = 50
"""Withheld samples; with fewer nothing is withheld, and the fit runs to its end."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast a network is fitted: Adam steps of a run, runs that are averaged, peak rate."""

    steps: int
    runs: int
    learning_rate: float


UNTRAINED = Plan(steps=300, runs=2, learning_rate=3e-3)
PRETRAINED = Plan(steps=150, runs=1, learning_rate=3e-4)

Callback = Callable[[int, Values], None]


def restore_fit(
    measured: Whitened,
    subspace: Subspace,
    factor: int = 1,
    seed: int = 0,
    *,
    steps: int | None = None,
    runs: int | None = None,
    refine_noise: bool = False,
    prior: EigenPrior | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    callback: Callback | None = None,
) -> tuple[EigenImages, dict[str, Any]]:
    """Restore a cube by networks fitted to it.

    Args:
        measured: the cube in units of its noise; any samples may be missing.
        subspace: its spectra.
        factor: super-resolution, 1 = none.
        seed: key of the weights, folds and crops.
        steps: Adam steps of a run at most; None = 300, or 150 from a prior.
        runs: independent networks that are averaged; None = 2, or 1 from a prior.
        refine_noise: whether the noise levels are estimates that missing samples may have spoilt.
        prior: pretrained network that each run starts from; None = an untrained one.
        device: where to work.
        dtype: arithmetic of the network.
        callback: called after each check with the number of Adam steps so far and the averaged network's cube
            in its own unit.

    Returns:
        The restored eigen-images with calibrated variance, and the log: `withheld_error` by step and
        `best_step` of each run, `calibration` of the standard deviation.
    """
    device, plan = torch.device(device), UNTRAINED if prior is None else PRETRAINED
    steps, runs = steps or plan.steps, runs or plan.runs
    stack: Stack = ClassicalStack(1) if prior is None else PriorStack(prior, 1, dtype)
    hidden, joint = hold_out(measured, seed), not measured.complete
    if hidden.sum() < FEWEST:
        hidden = np.zeros_like(hidden)
    data = measured.hide(hidden)
    if joint:
        with torch.no_grad():
            start = solve(
                data,
                subspace,
                stack,
                EXCHANGES,
                2,
                generator(seed, "probes"),
                device,
                refine_noise,
            )
        data, subspace = start.data, start.subspace
    judge = Withheld(hidden, data.like(measured).values[hidden]) if hidden.any() else None
    log: dict[str, Any] = {"withheld_error": [], "best_step": []}
    members = _Members()
    for run in range(runs):
        with torch.no_grad():
            folds = split(data, subspace, stack if joint else None, FOLDS, (seed, run), device)
        fit = _Fit(data, subspace, folds, judge, factor, dtype, prior)
        network, errors, best = fit.run(steps, (seed, run), callback, run * steps)
        log["withheld_error"].append(errors)
        log["best_step"].append(best)
        for images in fit.views(network):
            members.add(images)
    pseudo, sigma = (
        torch.stack([getattr(fold, name) for fold in folds]).mean(0) for name in ("pseudo", "sigma")
    )
    found = EigenImages(data, subspace, members.mean(), members.variance(), pseudo, sigma)
    log["calibration"] = scale = fit.calibration(found)
    variance = found.variance * scale**2 + unseen_detail(found.scores, factor)
    return replace(found, variance=variance), log


class _Members:
    """Mean and variance of equally good estimates."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor) -> None:
        self.count, self.total, self.squares = (
            self.count + 1,
            self.total.to(x) + x,
            self.squares.to(x) + x.square(),
        )

    def mean(self) -> Tensor:
        return self.total / self.count

    def variance(self) -> Tensor:
        return (self.squares / self.count - self.mean().square()).clamp_min(0)


class _Fit:
    """One network, its folds and its judge.

    Args:
        data: the measurement without the withheld samples.
        subspace: its spectra.
        folds: of the samples.
        judge: withheld samples; None if the cube has too few to withhold any.
        factor: super-resolution.
        dtype: arithmetic of the network.
        prior: pretrained network to start from, if any.
    """

    def __init__(
        self,
        data: Whitened,
        subspace: Subspace,
        folds: list[Fold],
        judge: Withheld | None,
        factor: int,
        dtype: torch.dtype,
        prior: EigenPrior | None,
    ) -> None:
        self.plan, self.prior = UNTRAINED if prior is None else PRETRAINED, prior
        self.data, self.folds, self.judge, self.factor, self.dtype = data, folds, judge, factor, dtype
        self.device = folds[0].pseudo.device
        self.scale = torch.from_numpy(subspace.deviation)[None].to(self.device)
        self.loadings = torch.from_numpy(subspace.loadings).to(self.device)

    def run(
        self, steps: int, key: tuple[int, int], callback: Callback | None, before: int
    ) -> tuple[EigenPrior, dict[int, float], int]:
        """The averaged network that predicts the withheld samples best, the errors by step, its step."""
        network = self._start(key)
        average, draws = MovingAverage(network, AVERAGE), generator(*key, "fit")
        optimiser = torch.optim.Adam(network.parameters(), lr=self.plan.learning_rate)
        rates = TrainConfig(steps=steps, warmup_steps=WARMUP)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: rate_factor(done, rates))
        errors: dict[int, float] = {}
        best = 0
        for step, fold in zip(range(1, steps + 1), itertools.cycle(self.folds), strict=False):
            first, second, turn = torch.randint(1 << 30, (3,), generator=draws).tolist()
            part = fold.cut(PATCH, (first, second, turn), self.factor)
            loss = part.error(self._values(self._images(network, part)), self.factor)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            average.update()
            if step % CHECK_EVERY == 0 or step == steps:
                cube = self._check(average.network)
                errors[step] = self.judge.error(self._at_measured(cube)) if self.judge else 0.0
                if callback is not None:
                    callback(before + step, self.data.back(cube))
                if not best or errors[step] < errors[best] or self.judge is None:
                    best = step
                    average.keep()
                if step - best >= PATIENCE * CHECK_EVERY:
                    break
        return average.best(), errors, best

    def _start(self, key: tuple[int, int]) -> EigenPrior:
        if self.prior is not None:
            return copy.deepcopy(self.prior).train()
        with seeded(*key, "fit weights"):
            return EigenPrior(self.loadings.shape[1], WIDTHS, BLOCKS).to(self.device)

    @torch.no_grad()
    def views(self, network: EigenPrior) -> Iterator[Tensor]:
        """Restored images from each fold in each of the eight orientations."""
        for fold, turn in itertools.product(self.folds, range(SYMMETRIES)):
            whole = Fold(*(turned(x, turn) for x in vars(fold).values()))
            yield turned_back(self._images(network, whole), turn)

    def calibration(self, found: EigenImages) -> float:
        """Factor that makes the standard deviation the error on the withheld samples; 1 without them."""
        if self.judge is None:
            return 1.0
        error = self.judge.error(self._at_measured(_numpy(self._values(found.scores)))) - 1
        variance = torch.einsum("br,nrhw->nbhw", self.loadings**2, found.variance)
        predicted = float(self._at_measured(_numpy(variance))[self.judge.flags].mean())
        return float(np.clip(np.sqrt(max(error, 0.0) / max(predicted, 1e-12)), 0.5, 5))

    @torch.no_grad()
    def _check(self, network: EigenPrior) -> Values:
        images = torch.stack([self._images(network, fold) for fold in self.folds]).mean(0)
        return _numpy(self._values(images))

    def _images(self, network: EigenPrior, fold: Fold) -> Tensor:
        pseudo, sigma = fold.enlarged(self.factor)
        return PriorStack(network, 1, self.dtype)(pseudo, sigma, self.scale)

    def _values(self, images: Tensor) -> Tensor:
        return torch.einsum("br,nrhw->nbhw", self.loadings, images)

    def _at_measured(self, cube: Values) -> Values:
        """A restored cube on the grid of the measurement."""
        if self.factor == 1:
            return cube
        rows, columns, bands = cube.shape
        image = torch.from_numpy(cube).permute(2, 0, 1)[None]
        return _numpy(BicubicDownsampling(self.factor, rows, columns, bands).A(image))


def _numpy(image: Tensor) -> Values:
    return image[0].permute(1, 2, 0).cpu().numpy()
