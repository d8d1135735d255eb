"""DDS2M.

Restoration of one hyperspectral cube, by fitting a diffusion model to it or from a pretrained prior.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike

from diffusion_suite.core.devices import pick_device
from diffusion_suite.core.errors import InputError
from diffusion_suite.core.seeding import generator, key
from diffusion_suite.geo.restoration.adapt import adapt
from diffusion_suite.geo.restoration.checks import (
    Job,
    Task,
    check_cube,
    check_sigma,
    check_task,
    load_prior,
    pick_dtype,
)
from diffusion_suite.geo.restoration.eigen_denoising import ClassicalStack, PriorStack, Stack
from diffusion_suite.geo.restoration.eigen_prior import EigenPrior
from diffusion_suite.geo.restoration.eigen_solver import EXCHANGES, EigenImages, enlarge, solve, with_scores
from diffusion_suite.geo.restoration.fit import restore_fit
from diffusion_suite.geo.restoration.measurement import (
    DENSE,
    SMALLEST_NOISE,
    Subspace,
    Whitened,
    clean_measurement,
    signal_subspace,
    weighed,
)
from diffusion_suite.geo.restoration.noise import Flags, Values
from diffusion_suite.geo.restoration.paper import PUBLISHED_RANK, restore_measured
from diffusion_suite.geo.restoration.statistics import SceneStatistics, gather
from diffusion_suite.geo.restoration.symmetries import SYMMETRIES
from diffusion_suite.geo.restoration.withheld import Withheld, calibration, hold_out

__all__ = ["DDS2M", "Mode", "Restoration", "Task", "load_prior"]

Mode = Literal["default", "prior", "fit", "subspace", "paper"]

ADAPT_STEPS = 160
CALIBRATION_SIDE = 128
MANY_PIXELS = 256 * 256


@dataclass(frozen=True)
class Restoration:
    """A restored cube.

    Attributes:
        cube: (rows, columns, bands) float32 in the unit of the input, NaN in bands that were never observed.
        uncertainty: same shape, standard deviation of the error, calibrated on withheld samples.
        log: what was estimated and done: task, mode, noise, rank, seconds, ...
    """

    cube: Values
    uncertainty: Values
    log: dict[str, Any] = field(default_factory=dict)


class DDS2M:
    """Restores hyperspectral cubes of any size: noise, gaps, dead lines, stripes, low resolution.

    Args:
        mode: `default` (the prior fitted to the scene, best measured), `prior` (pretrained eigen-image prior,
            no fitting), `fit` (untrained network fitted to the scene), `subspace` (classical: low-rank
            spectra and wavelets), `paper` (DDS2M as published).
        rank: dimension of the spectral subspace; None = estimated from the scene (10 for `paper`).
        steps: Adam steps of the fit at most (`default`, `fit`), diffusion steps (`paper`); None = the mode's
            own number.
        runs: views (turned and mirrored) averaged by `prior` and `default`, at most 8; independent runs
            averaged by `fit` and `paper`. None = the mode's own number (8 views; 2 above 256 x 256 pixels).
        weights: of the prior: "starter", a folder, a hub id, or a Lightning `last.ckpt`.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "auto" (bf16 on CUDA and on CPUs that have it, else 32), "32", "bf16", "16".
        compile: compile the prior's network.

    Example:
        >>> restored = DDS2M(mode="subspace").restore(np.random.rand(32, 32, 6), sigma=0.1)
        >>> restored.cube.shape
        (32, 32, 6)
    """

    def __init__(
        self,
        mode: Mode = "default",
        *,
        rank: int | None = None,
        steps: int | None = None,
        runs: int | None = None,
        weights: str = "starter",
        device: str = "auto",
        precision: str = "auto",
        compile: bool = False,
    ) -> None:
        if mode not in get_args(Mode):
            raise InputError(f"unknown mode {mode!r}", f"use one of {', '.join(get_args(Mode))}")
        for name, value in (("rank", rank), ("steps", steps), ("runs", runs)):
            if value is not None and value < 1:
                raise InputError(f"{name}={value} is below 1", f"give {name}=1 or more, or leave it out")
        self.mode, self.rank, self.steps, self.runs, self.weights = mode, rank, steps, runs, weights
        self.device = pick_device(device)
        self.dtype = pick_dtype(precision, self.device)
        self.compile = compile
        self._prior: EigenPrior | None = None
        self._scene_prior: EigenPrior | None = None

    @property
    def prior(self) -> EigenPrior:
        """The pretrained network, loaded on first use."""
        if self._prior is None:
            self._prior = (
                load_prior(self.weights).to(self.device).to(memory_format=torch.channels_last).eval()
            )
            if self.compile:
                self._prior.compile()
        return self._prior

    def fit_scene(
        self,
        samples: Iterable[ArrayLike],
        statistics: SceneStatistics,
        sigma: float | ArrayLike | None = None,
        seed: int = 0,
    ) -> None:
        """Fit the prior of mode `default` once to parts of a scene; `restore` then does not fit it again.

        Args:
            samples: cubes (rows, columns, bands) of the scene, a few hundred pixels a side; NaN = missing.
            statistics: of the whole scene.
            sigma: as in `restore`.
            seed: the fit is a function of samples and seed.
        """
        prior = self.prior
        for index, sample in enumerate(samples):
            values, observed = check_cube(sample, None)
            measured = self._whitened(values, observed, statistics, sigma)
            if measured is not None:
                measured, _ = clean_measurement(measured, self.rank)
                prior, _, _ = self._adapted(prior, measured, key(seed, "sample", index), sigma is None, {})
        self._scene_prior = prior

    def restore(
        self,
        cube: ArrayLike,
        task: Task = "auto",
        mask: ArrayLike | None = None,
        sigma: float | ArrayLike | None = None,
        factor: int | None = None,
        seed: int = 0,
        statistics: SceneStatistics | None = None,
    ) -> Restoration:
        """Restore a cube; no clean one is needed anywhere.

        Args:
            cube: (rows, columns, bands) or (rows, columns), any unit; NaN and infinite samples are missing.
            task: "denoise", "complete" (fill what is missing and denoise) or "sr"; "auto" = sr if a factor is
                given, else complete if samples are missing, else denoise.
            mask: 1 = observed, (rows, columns, bands) or (rows, columns).
            sigma: noise standard deviation in the cube's unit, one number or one a band; None = estimated.
            factor: of the super-resolution, 2 or more.
            seed: the result is a function of cube and seed.
            statistics: of the whole scene when the cube is a window of it.

        Raises:
            InputError: shapes that do not fit, no observed sample, a negative sigma, a factor below 2.
        """
        started = time.perf_counter()
        values, observed = check_cube(cube, mask)
        job, factor = check_task(task, factor, observed)
        statistics = statistics or gather([(values, observed)])
        log: dict[str, Any] = {"task": job, "mode": self.mode, "factor": factor, "seed": seed}
        usable = statistics.usable & observed.any((0, 1))
        measured = self._whitened(values, observed, statistics, sigma)
        if measured is not None:
            inner, spread = self._restore(measured, job, factor, seed, sigma is None, log)
        else:
            inner = spread = np.zeros((values.shape[0] * factor, values.shape[1] * factor, 0), np.float32)
        log["seconds"] = time.perf_counter() - started
        return Restoration(*_with_unusable(inner, spread, usable, values, observed), log)

    def _whitened(
        self,
        values: Values,
        observed: Flags,
        statistics: SceneStatistics,
        sigma: float | ArrayLike | None,
    ) -> Whitened | None:
        """The bands that can be restored in units of their noise; None if there are none."""
        levels = check_sigma(sigma, values.shape[-1])
        usable = statistics.usable & observed.any((0, 1))
        if not usable.any():
            return None
        noise = (statistics.noise if levels is None else levels)[usable]
        noise = np.maximum(noise, SMALLEST_NOISE * statistics.deviation[usable]).astype(np.float32)
        return Whitened.of(values[..., usable], observed[..., usable], statistics.mean[usable], noise)

    def _restore(
        self, measured: Whitened, task: Job, factor: int, seed: int, refine: bool, log: dict[str, Any]
    ) -> tuple[Values, Values]:
        if self.mode == "paper":
            log.update(rank=self.rank or PUBLISHED_RANK, noise=measured.noise.tolist())
            return restore_measured(
                measured, task, factor, seed, log, self.steps, self.runs or 1, log["rank"], self.device
            )
        measured, found = clean_measurement(measured, self.rank)
        log.update(found)
        refine = refine or found.get("striped_columns", 0) + found.get("striped_rows", 0) > 0
        full_of_holes = measured.observed.mean() < DENSE
        if self.mode == "fit" or (self.mode == "default" and factor == 1 and full_of_holes):
            restored = self._fitted(measured, factor, seed, refine, log)
            spread = restored.deviation()
        else:
            restored = self._solved(measured, factor, seed, refine, log)
            spread = restored.deviation() * self._calibration(measured, seed, refine, log)
        data = restored.data
        log.update(rank=restored.subspace.rank, noise=data.noise.tolist())
        if factor > 1:
            return restored.values(), spread
        fitted, spread = weighed(restored.fitted(), spread / data.noise, data)
        return data.back(fitted), spread * data.noise

    def _fitted(
        self, measured: Whitened, factor: int, seed: int, refine: bool, log: dict[str, Any]
    ) -> EigenImages:
        """A network fitted to the samples left out of its input: untrained, or the prior in `default`."""
        restored, log["fit"] = restore_fit(
            measured,
            signal_subspace(measured, self.rank),
            factor,
            seed,
            steps=self.steps,
            runs=self.runs if self.mode == "fit" else None,
            refine_noise=refine,
            prior=self.prior if self.mode == "default" else None,
            device=self.device,
            dtype=self.dtype,
        )
        return restored

    def _solved(
        self, measured: Whitened, factor: int, seed: int, refine: bool, log: dict[str, Any]
    ) -> EigenImages:
        """Message passing with the mode's denoiser, in `default` the prior fitted to the scene first."""
        if self.mode == "default" and factor == 1 and self._scene_prior is None:
            prior, found, whole = self._adapted(self.prior, measured, seed, refine, log)
            with torch.no_grad():
                quick, best = self._stacks(prior)
                found = self._eigen_images(whole, found.subspace, quick, seed, False, rounds=0)
                return with_scores(found, best)
        with torch.no_grad():
            network = None if self.mode == "subspace" else self._scene_prior or self.prior
            quick, best = self._stacks(network, measured.observed[..., 0].size * factor**2)
            found = self._eigen_images(measured, signal_subspace(measured, self.rank), quick, seed, refine)
            return enlarge(found, best, factor) if factor > 1 else with_scores(found, best)

    def _adapted(
        self, prior: EigenPrior, measured: Whitened, seed: int, refine: bool, log: dict[str, Any]
    ) -> tuple[EigenPrior, EigenImages, Whitened]:
        """The prior fitted to a measurement, what it started from, and the measurement in those units."""
        quick = self._stacks(prior)[0]
        hidden = hold_out(measured, seed)
        with torch.no_grad():
            start = signal_subspace(measured, self.rank)
            found = self._eigen_images(measured.hide(hidden), start, quick, seed, refine)
        whole = found.data.like(measured)
        judge = Withheld(hidden, whole.values[hidden])
        draws = generator(seed, "fit", device=self.device)
        fitted, fit = adapt(prior, found, judge, self.steps or ADAPT_STEPS, draws, dtype=self.dtype)
        log["fit"] = {"withheld_error": fit.errors, "best_step": fit.best}
        return fitted, found, whole

    def _stacks(self, prior: EigenPrior | None, pixels: int = 0) -> tuple[Stack, Stack]:
        """The denoiser of the iterations, and that of the last step: fewer views of many pixels."""
        if prior is None:
            return ClassicalStack(1), ClassicalStack(2)
        views = self.runs or (SYMMETRIES if pixels <= MANY_PIXELS else 2)
        return PriorStack(prior, 1, self.dtype), PriorStack(prior, views, self.dtype)

    def _eigen_images(
        self, measured: Whitened, start: Subspace, stack: Stack, seed: int, refine: bool, rounds: int = 2
    ) -> EigenImages:
        draws = generator(seed, "probes", device=self.device)
        return solve(measured, start, stack, EXCHANGES, rounds, draws, self.device, refine)

    def _calibration(self, measured: Whitened, seed: int, refine: bool, log: dict[str, Any]) -> float:
        """Factor on the standard deviation.

        Error found on withheld samples of a crop over the predicted one.
        """
        crop = measured.middle(CALIBRATION_SIDE)
        hidden = hold_out(crop, seed)
        if hidden.sum() < 50:
            return 1.0
        with torch.no_grad():
            quick, _ = self._stacks(self.prior if self.mode != "subspace" else None)
            start = signal_subspace(crop, self.rank)
            rounds = 0 if crop.observed.mean() >= DENSE else 2
            found = self._eigen_images(crop.hide(hidden), start, quick, seed, refine, rounds)
        truth = found.data.like(crop).values[hidden]
        judge = Withheld(hidden, truth)
        error = judge.error(found.fitted()) - 1
        predicted = float(np.mean((found.deviation() / found.data.noise)[hidden] ** 2))
        factor = calibration(error, predicted, int(hidden.sum()), "estimated" if refine else "given")
        log["calibration"] = {"withheld_error": max(error, 0.0), "predicted": predicted, "factor": factor}
        return factor


def _with_unusable(
    inner: Values, spread: Values, usable: Flags, values: Values, observed: Flags
) -> tuple[Values, Values]:
    """Bands that were not restored: constant ones keep their value, those without a sample are NaN."""
    shape = (*inner.shape[:2], values.shape[-1])
    cube, uncertainty = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    for band in np.flatnonzero(~usable & observed.any((0, 1))):
        cube[..., band] = values[..., band][observed[..., band]][0]
        uncertainty[..., band] = 0
    cube[..., usable], uncertainty[..., usable] = inner, spread
    return cube, uncertainty
