"""DDS2M.

Restoration of one hyperspectral cube, by fitting a diffusion model to it or from a pretrained prior.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from diffusion_suite.core.errors import InputError
from diffusion_suite.core.seeding import generator, key, numpy_generator
from diffusion_suite.geo.restoration.adapt import Withheld, adapt
from diffusion_suite.geo.restoration.eigen_denoising import ClassicalStack, PriorStack, Stack
from diffusion_suite.geo.restoration.eigen_prior import EigenPrior
from diffusion_suite.geo.restoration.eigen_solver import EigenImages, enlarge, solve, with_scores
from diffusion_suite.geo.restoration.measurement import (
    SMALLEST_NOISE,
    Subspace,
    Whitened,
    clean_measurement,
    signal_subspace,
)
from diffusion_suite.geo.restoration.noise import Flags, Values
from diffusion_suite.geo.restoration.paper import PUBLISHED, PUBLISHED_RANK, restore_paper
from diffusion_suite.geo.restoration.statistics import SceneStatistics, gather

Mode = Literal["default", "prior", "subspace", "paper"]
Task = Literal["auto", "denoise", "complete", "sr"]

WITHHELD = 0.015
"""Share of the observed samples that judge a fit or calibrate the uncertainty."""

CALIBRATION_SIDE = 128


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
    """Restores hyperspectral cubes of any size: noise, missing samples, dead lines and stripes, low
    resolution.

    Args:
        mode: `default` (the prior fitted to the scene, best measured), `prior` (pretrained eigen-image prior,
            no fitting), `subspace` (classical: low-rank spectra and wavelets), `paper` (DDS2M as published).
        rank: dimension of the spectral subspace; None = estimated from the scene (10 for `paper`).
        steps: Adam steps of the fit at most (`default`), diffusion steps (`paper`); None = the mode's own
            number.
        runs: views (turned and mirrored) averaged by `prior` and `default`, at most 8; independent runs
            averaged by `paper`. None = the mode's own number.
        weights: of the prior: "starter", a folder, a hub id, or a Lightning `last.ckpt`.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "auto" (bf16 on CUDA, else 32), "32", "bf16", "16".
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

    @property
    def prior(self) -> EigenPrior:
        """The pretrained network, loaded on first use."""
        if self._prior is None:
            self._prior = load_prior(self.weights).to(self.device).eval()
            if self.compile:
                self._prior.compile()
        return self._prior

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
        task, factor = check_task(task, factor, observed)
        statistics = statistics or gather([(values, observed)])
        levels = check_sigma(sigma, values.shape[-1])
        usable = statistics.usable & observed.any((0, 1))
        log: dict[str, Any] = {"task": task, "mode": self.mode, "factor": factor, "seed": seed}
        if usable.any():
            noise = (statistics.noise if levels is None else levels)[usable]
            noise = np.maximum(noise, SMALLEST_NOISE * statistics.deviation[usable]).astype(np.float32)
            measured = Whitened.of(values[..., usable], observed[..., usable], statistics.mean[usable], noise)
            inner, spread = self._restore(measured, task, factor, seed, levels is None, log)
        else:
            rows, columns = values.shape[0] * factor, values.shape[1] * factor
            inner = spread = np.zeros((rows, columns, 0), np.float32)
        log["seconds"] = time.perf_counter() - started
        return Restoration(*_with_unusable(inner, spread, usable, values, observed), log)

    def _restore(
        self, measured: Whitened, task: str, factor: int, seed: int, refine: bool, log: dict[str, Any]
    ) -> tuple[Values, Values]:
        if self.mode == "paper":
            return self._paper(measured, task, factor, seed, log)
        measured, found = clean_measurement(measured, self.rank)
        log.update(found)
        restored = self._solve(measured, task, factor, seed, refine, log)
        log["rank"] = restored.subspace.rank
        spread = restored.deviation() * self._calibration(measured, seed, refine, log)
        log["noise"] = restored.data.noise.tolist()
        return restored.values(), spread

    def _solve(
        self, measured: Whitened, task: str, factor: int, seed: int, refine: bool, log: dict[str, Any]
    ) -> EigenImages:
        with torch.no_grad():
            quick, best = self._stacks(self.prior if self.mode != "subspace" else None)
            start = signal_subspace(measured, self.rank)
            if self.mode != "default" or factor > 1:
                found = self._eigen_images(measured, start, quick, seed, refine)
                return enlarge(found, best, factor) if factor > 1 else with_scores(found, best)
            hidden = hold_out(measured, seed)
            found = self._eigen_images(measured.hide(hidden), start, quick, seed, refine)
        whole = found.data.like(measured)
        judge = Withheld(hidden, whole.values[hidden])
        prior, fit = adapt(
            self.prior, found, judge, self.steps or 200, generator(seed, "fit"), dtype=self.dtype
        )
        log["fit"] = {"withheld_error": fit.errors, "best_step": fit.best}
        with torch.no_grad():
            quick, best = self._stacks(prior)
            return with_scores(self._eigen_images(whole, found.subspace, quick, seed, False, rounds=0), best)

    def _stacks(self, prior: EigenPrior | None) -> tuple[Stack, Stack]:
        """The denoiser of the iterations and that of the last step."""
        if prior is None:
            return ClassicalStack(1), ClassicalStack(2)
        return PriorStack(prior, 1, self.dtype), PriorStack(prior, self.runs or 8, self.dtype)

    def _eigen_images(
        self, measured: Whitened, start: Subspace, stack: Stack, seed: int, refine: bool, rounds: int = 2
    ) -> EigenImages:
        return solve(measured, start, stack, 4, rounds, generator(seed, "probes"), self.device, refine)

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
            found = self._eigen_images(crop.hide(hidden), start, quick, seed, refine)
        truth = found.data.like(crop).values[hidden]
        judge = Withheld(hidden, truth)
        error = judge.error(found.fitted()) - 1
        predicted = float(np.mean((found.deviation() / found.data.noise)[hidden] ** 2))
        factor = float(np.clip(np.sqrt(max(error, 0) / max(predicted, 1e-12)), 0.5, 3))
        log["calibration"] = {"withheld_error": max(error, 0.0), "predicted": predicted, "factor": factor}
        return factor

    def _paper(
        self, measured: Whitened, task: str, factor: int, seed: int, log: dict[str, Any]
    ) -> tuple[Values, Values]:
        """The published recipe; independent runs are averaged, their spread is the uncertainty (0 for one
        run).

        It works on values in [0, 1] and clips to them: bands that leave [-0.5, 1.5] are scaled by their 0.1
        and 99.9 per cent quantiles first.
        """
        cube = np.where(measured.observed, measured.back(measured.values), np.nan)
        low, high = (np.nanpercentile(cube, share, axis=(0, 1)) for share in (0.1, 99.9))
        nominal = bool((low > -0.5).all() and (high < 1.5).all() and (high > 0.5).any())
        low, span = (0.0, 1.0) if nominal else (low, np.maximum(high - low, 1e-12))
        settings = PUBLISHED[task]
        if self.steps is not None:
            settings = replace(settings, steps=self.steps, start=max(self.steps // 2, 1))
        unit = torch.from_numpy(((cube - low) / span).astype(np.float32))
        level = torch.from_numpy(np.broadcast_to(measured.noise / span, unit.shape[-1:]).astype(np.float32))
        runs = [
            restore_paper(
                unit,
                task,  # type: ignore[arg-type]
                sigma=level,
                factor=factor if factor > 1 else None,
                seed=key(seed, "run", run) if run else seed,
                settings=settings,
                rank=self.rank or PUBLISHED_RANK,
                device=self.device,
            )
            for run in range(self.runs or 1)
        ]
        cubes = np.stack([run.cpu().numpy() for run, _ in runs])
        log.update(
            rank=self.rank or PUBLISHED_RANK, loss=runs[0][1].get("loss", []), noise=measured.noise.tolist()
        )
        mean, spread = cubes.mean(0) * span + low, cubes.std(0) * span
        return mean.astype(np.float32), np.broadcast_to(spread, mean.shape).astype(np.float32)


def hold_out(measured: Whitened, seed: int) -> Flags:
    """Random flags on `WITHHELD` of the observed samples."""
    draw = numpy_generator(seed, "withheld").random(measured.observed.shape, dtype=np.float32)
    return np.asarray((draw < WITHHELD) & measured.observed)


def load_prior(weights: str) -> EigenPrior:
    """The eigen-image prior from "starter", a folder, a hub id or a Lightning checkpoint."""
    if weights.endswith(".ckpt"):
        from diffusion_suite.geo.restoration.module import EigenPriorModule

        if not Path(weights).is_file():
            raise InputError(f"no checkpoint at {weights}", "check weights=")
        return EigenPriorModule.load_from_checkpoint(weights, map_location="cpu", weights_only=True).model
    return EigenPrior.from_pretrained(weights)


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name} cannot be used here", "give device=cpu or device=auto") from error
    return device


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Arithmetic of the networks; "auto" is bf16 on CUDA and float32 elsewhere."""
    known = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
    known["auto"] = torch.bfloat16 if device.type == "cuda" else torch.float32
    if precision not in known:
        raise InputError(f"unknown precision {precision!r}", "use auto, 32, bf16 or 16")
    return known[precision]


def check_cube(cube: ArrayLike, mask: ArrayLike | None) -> tuple[Values, Flags]:
    """Samples (rows, columns, bands) with 0 where missing, and flags of the observed ones."""
    values = np.asarray(cube, np.float32)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or 0 in values.shape:
        raise InputError(f"a cube of shape {values.shape} was given", "give (rows, columns, bands)")
    observed = np.isfinite(values)
    if mask is not None:
        flags = np.asarray(mask) != 0
        flags = flags[..., None] if flags.ndim == 2 else flags
        if flags.shape[:2] != values.shape[:2] or flags.shape[2] not in (1, values.shape[2]):
            raise InputError(
                f"a mask of shape {np.shape(mask)} does not fit a cube of shape {values.shape}",
                "give (rows, columns) or (rows, columns, bands), 1 = observed",
            )
        observed = observed & flags
    if not observed.any():
        raise InputError("no sample of the cube is observed", "check the mask and the nodata value")
    return np.where(observed, values, 0), observed


def check_task(task: str, factor: int | None, observed: Flags) -> tuple[str, int]:
    """The task and its factor, 1 unless it is super-resolution."""
    if task not in get_args(Task):
        raise InputError(f"unknown task {task!r}", f"use one of {', '.join(get_args(Task))}")
    if task == "auto":
        task = "sr" if factor not in (None, 1) else "denoise" if observed.all() else "complete"
    if task != "sr":
        if factor not in (None, 1):
            raise InputError(f"factor={factor} does not go with task={task!r}", "leave one of them out")
        return task, 1
    if factor is None or int(factor) != factor or factor < 2:
        raise InputError(f"factor={factor} is no super-resolution", "give factor=2, 3, 4, ...")
    return task, int(factor)


def check_sigma(sigma: float | ArrayLike | None, bands: int) -> NDArray[np.float32] | None:
    """One noise level a band, or None."""
    if sigma is None:
        return None
    levels = np.asarray(sigma, np.float32)
    if levels.ndim > 1 or levels.size not in (1, bands):
        raise InputError(f"sigma of shape {levels.shape} for {bands} bands", "give one number, or one a band")
    if not (np.isfinite(levels).all() and (levels >= 0).all()):
        raise InputError(
            f"sigma={sigma} is not a noise level", "give a number of 0 or more, or none to estimate it"
        )
    return np.broadcast_to(levels.reshape(-1), (bands,)).copy()


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
